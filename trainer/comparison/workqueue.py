"""Cells done one after another, by this process alone or by several that share a folder: no cell is done twice.

A cell that somebody works at is locked by a file that the system lets go of however its process ends. So a worker that
was killed leaves its cell to the others, and nobody has to be told.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from waveft_core import WaveFTError

from ..evaluation.networks import Networks
from ..system.console import say
from ..system.errors import TrainingStopped, UserError, reason
from ..system.files import InUse, locked
from . import doing
from .cells import Cell
from .doing import Place, Train

# What one training can raise and another need not: the rest of the cells goes on.
FAILURES = (UserError, TrainingStopped, WaveFTError, RuntimeError, OSError, MemoryError, ValueError)
WAIT_S = 2.0


def work(place: Place, cells: Sequence[Cell], networks: Callable[[], Networks], train: Train) -> int:
    """Does every cell that nobody has done or is doing; returns how many it did."""
    held: Networks | None = None
    done = 0
    for number, cell in enumerate(cells, 1):
        if doing.is_done(place, cell):
            continue
        try:
            lock, _ = locked(claim(place, cell))
        except InUse:
            continue
        with lock:
            if doing.is_done(place, cell):  # somebody finished it while it was being claimed
                continue
            say(f"cell {number} of {len(cells)}: {cell.name}")
            held = held or networks()
            attempt(place, cell, held, train)
            done += 1
    return done


def attempt(place: Place, cell: Cell, networks: Networks, train: Train) -> None:
    """Does one cell; where that fails, the reason is its result."""
    try:
        doing.do(place, cell, networks, train)
    except FAILURES as error:
        say(f"cell {cell.name} failed: {reason(error)}")
        doing.failed(place, cell, reason(error))
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def finish(place: Place, cells: Sequence[Cell], networks: Callable[[], Networks], train: Train) -> None:
    """Does what is left until every cell is done, waiting for those that others work at."""
    while not all(doing.is_done(place, cell) for cell in cells):
        if not work(place, cells, networks, train):
            time.sleep(WAIT_S)


def claim(place: Place, cell: Cell) -> Path:
    """Returns the file by which a cell is claimed, its folder made."""
    folder = place.out / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f".{cell.name}.lock"
