"""What holds for every test: a module is compiled once, the cores are shared, and Ctrl-C is not ignored."""

import gc
import os
import signal
import sys

# The nodes' modules are imported anew by every test of theirs, and hundreds of tests start a Python: without bytecode
# on the disk each compiles all of it again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if "PYTEST_XDIST_WORKER" in os.environ:  # a core for each worker and for what it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Started in the background or by `nohup`, this process ignores what the tests of interrupted runs send.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish():
    """Leaves what was imported, some 600,000 objects, out of every collection of garbage to come."""
    gc.collect()
    gc.freeze()
