"""Trains WaveFT adapters for SDXL: `python -m trainer --config job.toml`."""
