"""Runs in the training's own process: `python -m trainer`, which stops and saves when its standard input ends.

    python child.py --config JOB.TOML [--resume latest]

WaveFT Train holds the other end of standard input. Closing it works on every system alike, where Windows knows no
Ctrl-C for one process of a console; and the system closes it when ComfyUI dies, however that happens.
"""

import _thread
import os
import runpy
import signal
import sys
import threading
from pathlib import Path


def watch() -> None:
    """Waits for the end of standard input, then does what Ctrl-C does."""
    # not sys.stdin, whose lock would still be held when the process ends
    while os.read(0, 1 << 10):
        pass
    _thread.interrupt_main(signal.SIGINT)


def main() -> None:
    """Runs the trainer of the clone that this file belongs to."""
    # the folder of this file comes off: its modules are no top-level ones
    sys.path[:] = [str(Path(__file__).resolve().parents[2]), *sys.path[1:]]
    # where ComfyUI was started in a shell's background, SIGINT came here ignored, and nothing would stop us
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=watch, daemon=True).start()
    runpy.run_module("trainer", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
