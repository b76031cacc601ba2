"""The `adapter_config.json` of PEFT's WaveFT: every value checked on the way in, and what we write."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..basis.atoms import IDENTITY
from ..errors import WaveFTError
from ..format.adapter import Adapter
from ..format.disk import is_file, read_json, what_lies_at
from .names import pattern_value

CONFIG = "adapter_config.json"
WORKING = (
    *(f"db{order}" for order in range(1, 11)),
    *(f"sym{order}" for order in range(2, 11)),
    *(f"coif{order}" for order in range(1, 4)),
)  # of those that PEFT's config accepts, the ones that it computes, with the wavelet's own filters
_FLAGS = {"use_idwt": True, "proportional_parameters": False, "fan_in_fan_out": False}


@dataclass(frozen=True)
class Config:
    """What PEFT's config says of the update; `wavelet` is ours, `identity` where `use_idwt` is false."""

    wavelet: str
    scaling: float
    seed: int
    coefficients: int
    patterns: Mapping[str, object]
    proportional: bool
    transposed: bool

    def counts(self, paths: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
        """Returns how many values PEFT gives each layer, by our names.

        Args:
            paths, shapes: of each layer, by our name.

        Raises:
            WaveFTError: a pattern that gives no whole number.
        """
        if self.proportional:  # its budget is spread over the sizes of all its layers
            whole = sum(math.prod(shape) for shape in shapes.values())
            budget = self.coefficients * len(shapes)
            return {name: max(1, round(math.prod(shape) / whole * budget)) for name, shape in shapes.items()}
        counts = {}
        for name, path in paths.items():
            found = pattern_value(self.patterns, path)
            counts[name] = self.coefficients if found is None else _whole("n_frequency_pattern", found)
        return counts


def read_config(folder: Path) -> Config:
    """Returns the folder's config, every value of it checked.

    Raises:
        WaveFTError: no config, one of another kind, or a wavelet that PEFT computes wrongly or not at all.
    """
    path = folder / CONFIG
    if not is_file(path):
        raise WaveFTError(f'folder "{folder}": expected PEFT\'s {CONFIG}, got {what_lies_at(path)}. Check the path.')
    found = read_json(path, "PEFT's config")
    if not isinstance(found, dict) or found.get("peft_type") != "WAVEFT":
        got = found.get("peft_type") if isinstance(found, dict) else type(found).__name__
        raise WaveFTError(f'file "{path}", peft_type: expected "WAVEFT", got {got!r}. Use `extract` for a LoRA.')
    for key in ("modules_to_save", "bias"):
        if found.get(key) not in (None, [], "none"):
            raise WaveFTError(f'file "{path}", {key}: expected none, got {found[key]!r}. Merge it into the base first.')
    flags = {key: found.get(key, default) for key, default in _FLAGS.items()}
    scaling, seed = found.get("scaling", 25.0), found.get("random_loc_seed", 777)
    patterns = found.get("n_frequency_pattern") or {}
    faults = [f"{key} {value!r}" for key, value in flags.items() if not isinstance(value, bool)]
    if type(scaling) not in (int, float) or not abs(scaling) <= torch.finfo(torch.float32).max:
        faults.append(f"scaling {scaling!r}")
    if type(seed) is not int or not -(2**63) <= seed < 2**63:
        faults.append(f"random_loc_seed {seed!r}")
    if faults:
        raise WaveFTError(f'file "{path}": expected a WaveFT config, got {", ".join(faults)}. It is damaged.')
    wavelet = _wavelet(path, found.get("wavelet_family", "db1")) if flags["use_idwt"] else IDENTITY
    count = _whole("n_frequency", found.get("n_frequency", 2592))
    return Config(
        wavelet, float(scaling), seed, count, patterns, flags["proportional_parameters"], flags["fan_in_fan_out"]
    )


def _wavelet(path: Path, wavelet: Any) -> str:
    if wavelet in WORKING:
        return str(wavelet)
    why = {
        "coif4": "whose filters in PEFT are not those of the wavelet (they are not even orthonormal)",
        "coif5": "whose filters in PEFT are not those of the wavelet (48 taps in place of 30)",
    }.get(str(wavelet), "which PEFT cannot compute")
    raise WaveFTError(
        f'file "{path}", wavelet_family: expected one of {", ".join(WORKING)}, got {wavelet!r}, {why}. Train it anew.'
    )


def _whole(what: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise WaveFTError(f"{CONFIG}, {what}: expected a whole number of at least 1, got {value!r}. It is damaged.")
    return value


def written_config(adapter: Adapter, seed: int, transposed: bool, counts: Mapping[str, int]) -> dict[str, object]:
    """Returns PEFT's config; `counts`: module path -> p."""
    most = Counter(counts.values()).most_common(1)[0][0]
    return {
        "base_model_name_or_path": "",
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_weights": True,
        "modules_to_save": None,
        "n_frequency": most,
        # PEFT matches a pattern against a path's end: ^ holds it to the whole
        "n_frequency_pattern": {f"^{re.escape(path)}": p for path, p in sorted(counts.items()) if p != most},
        "peft_type": "WAVEFT",
        "proportional_parameters": False,
        "random_loc_seed": seed,
        "scaling": adapter.scaling,
        "target_modules": sorted(counts),
        "task_type": None,
        "use_idwt": adapter.wavelet != IDENTITY,
        "wavelet_family": "db1" if adapter.wavelet == IDENTITY else adapter.wavelet,
    }
