"""`python -m trainer`."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - the core runs on 3.10, and this would end over tomllib
    got = ".".join(map(str, sys.version_info[:3]))
    sys.exit(f"trainer: Python: expected 3.11 or newer, got {got} ({sys.executable}). Use: python3 start.py train ...")

from trainer.cli import main

if __name__ == "__main__":
    sys.exit(main())
