"""What asks a run to stop, kept until the step or the writing at hand is done, so that what was trained is saved."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self

# Ctrl-C, `kill`, a connection or a terminal that is gone, and Windows' Ctrl-Break: those that the system has.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
HANGUP = getattr(signal, "SIGHUP", None)
CLOSED = 2  # Windows' CTRL_CLOSE_EVENT; 5 and 6 are the user who logs off and the system that shuts down
MESSAGE = b"\nstopping after this step, then saving; once more to stop at once\n"


class StopRequest:
    """While entered, the first signal is remembered in `signal_number`; the same again has its usual effect at once.

    A connection that drops sends SIGHUP twice, from the system and from the shell, and services follow it with SIGTERM:
    none of these is somebody who is impatient.

    Handlers can be set in a process's main thread alone. Where training runs in another one, signals do what they did
    before, and who started it asks by `ask`.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = _handled_by(self._remember)
        if self._before:
            _on_console_close(self.ask)
        return self

    def __exit__(self, *_: object) -> None:
        _put_back(self._before)
        if HANGUP is not None and self.signal_number == HANGUP and HANGUP in self._before:
            signal.signal(HANGUP, signal.SIG_IGN)  # it comes again, and what follows is the saving

    def ask(self, number: int = signal.SIGTERM) -> None:
        """Asks for a stop as the signal of that number does; from any thread."""
        self.signal_number = number

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.ask(number)
        with suppress(OSError):  # nobody may be listening; and print is not safe here
            os.write(2, MESSAGE)
        if number != HANGUP and (before := self._before.get(signal.Signals(number))) is not None:
            signal.signal(number, before)  # the system's own then, which needs no Python that is at work


@contextmanager
def deferred() -> Iterator[None]:
    """Holds signals back while it is entered; the last one that came has its effect when it is left."""
    held: list[int] = []
    before = _handled_by(lambda number, _: held.append(number))
    try:
        yield
    finally:
        _put_back(before)
        if held:
            signal.raise_signal(held[-1])


def _handled_by(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Sets the handler of every signal that is not ignored, as in a shell's background; returns those before it."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in SIGNALS}
    # None: a handler that was not set from Python, which could not be put back
    found = {number: before for number, before in found.items() if before not in (signal.SIG_IGN, None)}
    for number in found:
        signal.signal(number, handler)
    return found


def _put_back(handlers: dict[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


_kept: list[Any] = []  # Windows calls the handler for as long as the process lives


def _on_console_close(ask: Callable[[], None]) -> None:
    """Asks for a stop when Windows closes the console, logs off or shuts down; elsewhere SIGHUP tells of it.

    Windows ends the process when the handler returns, or after some five seconds: it is given all of them, in which the
    step at hand and the saving after it may get done.
    """
    if sys.platform == "win32":
        import ctypes

        def handle(event: int) -> bool:
            if event < CLOSED:  # Ctrl-C and Ctrl-Break are signals to Python
                return False
            ask()
            threading.Event().wait()
            return True

        handler = ctypes.WINFUNCTYPE(ctypes.c_bool, ctypes.c_uint)(handle)
        if ctypes.windll.kernel32.SetConsoleCtrlHandler(handler, True):
            _kept.append(handler)
