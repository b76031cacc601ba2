"""Ctrl-C and SIGTERM, kept until the step at hand is done, so that what was trained can be saved."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While entered, the first signal is remembered in `signal_number`; a second one has its usual effect at once."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # only there may handlers be set
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _remember(self, number: int, _: FrameType | None) -> None:
        self.signal_number = number
        os.write(2, b"\nstopping after this step, then saving; once more to stop at once\n")  # print is not safe here
        signal.signal(number, self._before[signal.Signals(number)])  # type: ignore[arg-type]
