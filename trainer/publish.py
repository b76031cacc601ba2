"""`python -m trainer.publish`: uploads a finished run (result/publish.py)."""

import sys

from trainer.result.publish import main

if __name__ == "__main__":
    sys.exit(main())
