"""The command line, `python -m waveft_core`: its words, what its commands do, and what it prints."""
