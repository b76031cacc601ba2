"""`python -m waveft_core`."""

import sys

from .cli.parser import main

sys.exit(main())
