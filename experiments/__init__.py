"""The WaveFT paper's tables and figures, each by one command: `python -m experiments list`."""
