"""pytest-xdist's workers, forked off the server of `processes.py`: what they need is imported once for all of them.

xdist starts a worker as a command and speaks to it through that command's streams. The command is this file: it hands
its streams to a process that the server forked, and waits for its end.
"""

import gc
import os
import shlex
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path


def command():
    """Has a worker forked, which waits for its streams; returns the command that brings them, as execnet's `python`."""
    from tests.processes import prepared

    address = str(Path(tempfile.mkdtemp(prefix="waveft-worker-"), "streams"))  # in a folder that is ours alone
    with socket.create_server(address, family=socket.AF_UNIX) as listener:
        prepared().Process(target=work, args=(listener,)).start()
    return shlex.join([sys.executable, "-S", __file__, address])


def work(listener):
    """What the forked process does: as a Python that execnet starts does, with the streams of the command."""
    from multiprocessing import connection, forkserver, parent_process

    ready = connection.wait([listener, parent_process().sentinel])
    shutil.rmtree(Path(listener.getsockname()).parent)
    if listener not in ready:
        return  # pytest ended before it started its workers
    held, _ = listener.accept()
    _, streams, _, _ = socket.recv_fds(held, 1, 3)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process lives
    # The tests' processes come from the server that this one came from. multiprocessing promises so in this very
    # method, and starts another server.
    forkserver._forkserver.ensure_running = lambda: None
    gc.freeze()  # what was imported stays shared with the server: no collection of garbage touches it
    exec(eval(sys.stdin.readline()), {"__name__": "__main__"})


if __name__ == "__main__":
    address, *arguments = sys.argv[1:]
    if not Path(address).exists():  # in the place of a worker that crashed, a Python that imports all itself
        os.execv(sys.executable, [sys.executable, *arguments])
    with socket.socket(socket.AF_UNIX) as worker:
        worker.connect(address)
        socket.send_fds(worker, [b"."], [0, 1, 2])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the worker's
        worker.recv(1)  # until that ends
