"""Adapters as they lie on the disk now, with a prompt's multipliers in them; the last few stay in memory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .core import Adapter, Emptied, Kept, Multipliers, WaveFTError, load, stamp
from .tags import ONLY, WITHOUT

TEXT_ENCODERS = ("lora_te_", "lora_te1_", "lora_te2_")  # kohya's names for one encoder, and for SDXL's two
# Of the adapters in use, on the device. Kept from the first picture on: the next is likely to have another strength,
# which then takes a quarter of the first's time.
PLANS = Kept(256 << 20, at_once=True)


@dataclass(frozen=True, eq=False)
class Loaded:
    """An adapter, ready to be applied.

    Attributes:
        adapter: with the multipliers in it; None where they leave nothing.
        whole: without them: what the model must fit.
        name: what the prompt calls it.
        token: changes whenever the file or the multipliers do. The UIs know a file by its name alone.
        factors: the multipliers, as a tag says them; "" for none.
    """

    adapter: Adapter | None
    whole: Adapter
    name: str
    token: str
    factors: str = ""

    @property
    def title(self) -> str:
        """What it is called with its multipliers: with them it is no file's any more."""
        return f"{self.name} with {self.factors}" if self.factors else self.name

    def has(self, layer: str) -> bool:
        """Says whether the layer is one that is left."""
        return self.adapter is not None and layer in self.adapter.layers


def read(path: str, name: str, multipliers: Multipliers | None = None) -> Loaded:
    """Returns the adapter in the file at `path`.

    Args:
        name: for messages, which call the file so.
        multipliers: None for none.

    Raises:
        WaveFTError: no such file, not an adapter, or multipliers that it cannot take.
    """
    said = "{}" if multipliers is None else json.dumps(multipliers.said(), sort_keys=True)
    try:
        mark = stamp(Path(path))
    except OSError as error:
        raise WaveFTError(
            f'adapter "{name}", file: expected one at {path}, got {error.strerror}. Refresh the list, or put it there.'
        ) from None
    try:
        return _multiplied(path, mark, name, said)
    except WaveFTError as error:
        raise WaveFTError(str(error).replace(path, name)) from None


@lru_cache(maxsize=4)  # 12 MB each for SDXL at the paper's budget
def _whole(path: str, _mark: str) -> Adapter:
    return load(path)


@lru_cache(maxsize=8)
def _multiplied(path: str, mark: str, name: str, said: str) -> Loaded:
    """Returns the adapter; `said` is what its multipliers say of themselves, which a cache can compare."""
    whole = _whole(path, mark)
    token = hashlib.sha256(f"{mark} {said}".encode()).hexdigest()[:8]
    factors = json.loads(said)
    if not factors:
        return Loaded(whole, whole, name, token)
    only, without = factors.pop("only_layers", ""), factors.pop("except_layers", "")
    parts = {**{group: f"{factor:g}" for group, factor in factors.items()}, ONLY: only, WITHOUT: without}
    tag = " ".join(f"{group}={value}" for group, value in parts.items() if value)
    try:
        return Loaded(Multipliers(factors, only, without).apply(whole, name), whole, name, token, tag)
    except Emptied:  # all turned down to 0, as a strength can be
        return Loaded(None, whole, name, token, tag)
