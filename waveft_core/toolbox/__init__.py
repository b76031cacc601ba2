"""Arithmetic on adapters and whole checkpoints."""
