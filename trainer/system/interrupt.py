"""Ctrl-C and SIGTERM, kept until the step or the writing at hand is done, so that what was trained can be saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)
MESSAGE = b"\nstopping after this step, then saving; once more to stop at once\n"


class StopRequest:
    """While entered, the first signal is remembered in `signal_number`; a second one has its usual effect at once.

    Handlers can be set in a process's main thread alone. Where training runs in another one, signals do what they did
    before, and who started it asks by `ask`.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = _handled_by(self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        _put_back(self._before)

    def ask(self, number: int = signal.SIGTERM) -> None:
        """Asks for a stop as the signal of that number does; from any thread."""
        self.signal_number = number

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.ask(number)
        with suppress(OSError):  # nobody may be listening; and print is not safe here
            os.write(2, MESSAGE)
        if (before := self._before.get(signal.Signals(number))) is not None:  # it may come while handlers are being set
            signal.signal(number, before)


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
