"""The one lock of the process around every change of a model's weights, its hooks and its ledgers.

Threads of a server may merge, dial, undo, attach and detach on one model at the same time: each call is whole before
the next begins, so that all succeed and the last one out leaves the base bit for bit.  One lock for all models rather
than one for each: a weight may belong to several (tied ones, state dicts of a model), and with one lock nobody can wait
for another's.  It is held for as long as weights change and never while code of the caller's runs; what finds nothing
to do (each layer's forward, nearly always) does not take it.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

LOCK = threading.RLock()

if hasattr(os, "register_at_fork"):  # a child must not begin in the middle of another thread's change
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def locked(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Returns `function` as one step, which no other thread's change of weights comes between."""

    @functools.wraps(function)
    def whole(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with LOCK:
            return function(*args, **kwargs)

    return whole
