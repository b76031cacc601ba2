"""HF PEFT, whose classes the other methods are: asked for only when a job does, and said in one line where it lacks."""

from __future__ import annotations

import importlib
import re
from importlib import metadata, util
from typing import Any

from ..system import commandline
from ..system.errors import UserError, reason

PEFT = "peft"
LEAST = (0, 18)  # the oldest release that has every class here with the arguments that are given


def fault(method: str) -> str | None:
    """Returns what to install before a method can train, None where all is there; PEFT is not imported."""
    least = ".".join(map(str, LEAST))
    command = commandline.install(f"{PEFT}>={least}")
    where = f'[network] method: "{method}" is a class of the package peft'
    if util.find_spec(PEFT) is None:
        return f"{where}, which is not installed. Run: {command}"
    found = metadata.version(PEFT)
    numbers = tuple(int(part) for part in re.findall(r"\d+", found)[: len(LEAST)])
    if numbers < LEAST:
        return f"{where}: expected version {least} or later, got {found}. Run: {command}"
    return None


def load(method: str) -> Any:
    """Returns the package; UserError where it is missing, too old, or does not work here."""
    if text := fault(method):
        raise UserError(text)
    try:
        return importlib.import_module(PEFT)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise UserError(
            f'[network] method: "{method}" is a class of the package peft, which cannot be imported here '
            f"({reason(error)}). Run: {commandline.install(PEFT)}"
        ) from None
