"""Adapters and samples as pictures."""
