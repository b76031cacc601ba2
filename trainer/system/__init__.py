"""Processes, signals, files that are whole or absent, random draws."""
