"""`python -m waveft`."""

import sys

from waveft.cli import main

if __name__ == "__main__":
    sys.exit(main())
