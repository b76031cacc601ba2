"""Full weight differences: an adapter as `<layer>.diff` tensors, which ComfyUI, A1111, Forge and reForge load.

Lossless but for the rounding to the file's dtype; the size is the model's own, since every weight of a layer is there,
nearly all of them 0.  There is no low-rank form: the update's rank is about that of a full matrix.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..basis.plan import arithmetic_dtype
from ..errors import WaveFTError
from ..format.adapter import Adapter
from ..format.container import Entry, write_container
from ..format.header import is_finite
from ..toolbox.algebra import check_entries

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def write_diff(
    adapter: Adapter,
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float16,
    strength: float = 1.0,
    metadata: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Writes strength * dW of each layer, in the weight's own shape: one dense layer in memory at a time.

    Names are the adapter's, which are kohya's and LyCORIS's. A1111 lists a file under SDXL by its metadata
    `ss_base_model_version` (`sdxl_base_v1-0`): give it where the adapter has none.

    Args:
        dtype: float16, bfloat16 or float32.
        metadata: strings over the adapter's own.
        progress: told the bytes of every layer that is written; see `diff_size`.

    Raises:
        WaveFTError: a dtype that the UIs do not read, a strength that is not finite, metadata that are not strings, or
            a difference that `dtype` cannot hold; nothing is written then.
        OSError: it cannot be written; what was at `path` stands.
    """
    _check_dtype(dtype)
    check_entries(adapter)
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not is_finite(strength):
        raise WaveFTError(f"strength: expected a finite number, got {strength!r}. Give, say, 1.")
    strings = _metadata(adapter, strength, metadata or {})
    for name in adapter.layers:
        _check_range(adapter, name, strength, dtype)
    entries = [
        Entry.of(f"{name}.diff", dtype, layer.shape, _maker(adapter, name, strength))
        for name, layer in sorted(adapter.layers.items())
    ]
    write_container(path, entries, strings, progress)


def diff_size(adapter: Adapter, dtype: torch.dtype = torch.float16) -> int:
    """Returns the bytes of all tensors that `write_diff` writes.

    Raises:
        WaveFTError: a dtype that the UIs do not read.
    """
    _check_dtype(dtype)
    width = torch.empty(0, dtype=dtype).element_size()
    return width * sum(math.prod(layer.shape) for layer in adapter.layers.values())


def _maker(adapter: Adapter, name: str, strength: float) -> Callable[[], Tensor]:
    """Returns what makes a layer's strength * dW, in the dtype of the arithmetic."""

    def make() -> Tensor:
        wide = arithmetic_dtype(adapter.layers[name].values.dtype)
        return adapter.delta(name, wide, "cpu").mul_(strength)

    return make


def _check_range(adapter: Adapter, name: str, strength: float, dtype: torch.dtype) -> None:
    """Refuses a dW with entries beyond `dtype`; it is made only where the values' norm, its bound, leaves a doubt."""
    most = torch.finfo(dtype).max
    bound = abs(strength * adapter.scaling) * float(adapter.layers[name].values.detach().double().norm())
    if bound < 0.99 * most:  # ||dW||_F <= scaling * ||values||: the atoms are orthonormal, or a cropped tight frame
        return
    if not bool(torch.isfinite(_maker(adapter, name, strength)().to(dtype)).all()):
        called = f'adapter "{adapter.source}"' if adapter.source else "adapter"
        raise WaveFTError(
            f'{called}, layer "{name}": expected differences within {dtype} (at most {most:g}), got larger ones. '
            "Use bfloat16, or a smaller strength."
        )


def _metadata(adapter: Adapter, strength: float, metadata: Mapping[str, str]) -> dict[str, str]:
    """Returns the file's strings: the adapter's, less hashes of another file, and what was exported."""
    carried = {key: value for key, value in adapter.metadata.items() if not key.startswith(("sshs_", "waveft"))}
    kind = carried.get("modelspec.architecture", "")
    if kind.endswith("/waveft"):
        carried["modelspec.architecture"] = kind.removesuffix("waveft") + "lora"  # the word that the UIs know
    said = {"waveft.diff_of": adapter.header.to_json(), "waveft.diff_strength": repr(float(strength))}
    strings = {**carried, **said, **metadata}
    wrong = [key for key, value in strings.items() if not isinstance(value, str)]
    if wrong:
        raise WaveFTError(f"metadata: expected strings, got other values under {', '.join(wrong)}. Use str().")
    return strings


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in DTYPES:
        raise WaveFTError(f"dtype: expected float16, bfloat16 or float32, got {dtype}. Use float16.")
