"""`python -m waveft_core`."""

import sys

from .cli import main

sys.exit(main())
