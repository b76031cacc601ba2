"""The front door: one command, `waveft WORD ...`, for the trainer's words and the toolbox's."""
