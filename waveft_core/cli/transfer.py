"""What `extract` and `convert` do: an adapter out of models and other files, and other tools' files out of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import Refusal, WaveFTError, plural
from ..format.adapter import Adapter
from ..format.container import read_layout
from ..format.disk import exists, is_file, is_folder, size_of
from ..format.file import load
from ..format.header import HEADER
from ..toolbox.outputs import check_new, check_space, replacing_folder
from ..toolbox.precision import TakenForRounding
from ..toolbox.weights import Weights
from .console import progress_bar, say, size_text
from .writing import check_file, count, say_zeros, stored_dtype, write_adapter

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_FOREIGN = (".lora_", ".lora.", "_lora.", ".hada_", ".lokr_")  # in names of differences, not of a model's tensors
_CONFIG = "adapter_config.json"
WORST = 3  # layers that are shown: those of which least was kept


def extract(
    base: Path,
    tuned: Path,
    coefficients: int | None,
    energy: float | None,
    total: int | None,
    wavelet: str,
    scaling: float,
    targets: Sequence[str] | None,
    verbose: bool,
    out: Path,
    overwrite: bool,
) -> None:
    """Writes the adapter that comes closest to the difference of two models."""
    from ..toolbox.extract import extract_deltas

    check_file(out, overwrite)
    told: list[tuple[str, float, float]] = []
    rounded = TakenForRounding()
    with progress_bar("extracting", "layer") as tell, rounded.blamed():

        def report(name: str, kept: float, whole: float) -> None:
            told.append((name, kept, whole))
            tell(1, 0)

        weights = Weights.open(base)
        made = extract_deltas(
            differences_to(tuned, weights, None if targets is None else tuple(targets), rounded),
            coefficients=coefficients,
            energy=energy,
            total=total,
            wavelet=wavelet,
            scaling=scaling,
            metadata=trained_on(weights, tuned),
            report=report,
        )
    worst = sorted((line for line in told if line[2]), key=lambda line: line[1] / line[2])
    for name, kept, whole in told if verbose else worst[:WORST]:
        count = made.layers[name].values.numel() if name in made.layers else 0
        say(f"{_share(kept, whole):>8} of the energy, {plural(count, 'coefficient')}: {name}")
    if not verbose and len(told) > len(worst[:WORST]):
        others = plural(len(told) - len(worst[:WORST]), "layer")
        say(f"     ... and {others} that keep more, or do not differ (--verbose lists all)")
    for line in rounded.lines(made):
        say(line)
    say(f"{_share(sum(kept for _, kept, _ in told), sum(whole for *_, whole in told)):>8} of the energy in all")
    write_adapter(made, out, torch.float32)


def differences_to(
    tuned: Path, base: Weights, targets: tuple[str, ...] | None, rounding: TakenForRounding
) -> Iterator[tuple[str, Tensor]]:
    """Returns each layer's name and dW, of whatever kind the tuned one is: a model, or any file of differences."""
    from ..interop.lora import deltas
    from ..toolbox.sources import differences, matches
    from ..update.spec import SDXL_ATTENTION

    folder = is_file(tuned / _CONFIG)
    names = [] if is_folder(tuned) else list(read_layout(tuned)[0])
    if HEADER in names:
        found: Iterator[tuple[str, Tensor]] = _deltas(load(tuned), base)
    elif folder or any(_is_foreign(name) for name in names):
        found = deltas(tuned, base, rounding=rounding)
    else:
        return differences(base, Weights.open(tuned), targets or SDXL_ATTENTION, rounding)
    if targets is None:
        return found
    return ((name, delta) for name, delta in found if name in base.slots and matches(base.slots[name].path, targets))


def _deltas(adapter: Adapter, base: Weights) -> Iterator[tuple[str, Tensor]]:
    """Returns the dW of an adapter that fits the base."""
    for name, layer in adapter.layers.items():
        if base.slot(name).shape != layer.shape:
            got, remedy = list(base.slot(name).shape), "Give the base that it was trained on."
            raise Refusal(adapter.source)(name, "weight of the base", list(layer.shape), got, remedy)
    return ((name, adapter.delta(name, torch.float32)) for name in adapter.layers)


def _is_foreign(name: str) -> bool:
    """Returns whether a tensor's name is one of a file of differences, and not a model's."""
    return any(word in name for word in _FOREIGN) or name.endswith((".diff", ".diff_b"))


def convert(source: Path, to: str, base: Path | None, dtype: str | None, out: Path, overwrite: bool) -> None:
    """Writes an adapter in another form."""
    adapter = _read(source, base)
    if to == "peft":
        _convert_to_peft(adapter, base, dtype, out, overwrite)
        return
    check_file(out, overwrite)
    if to == "waveft":
        write_adapter(adapter, out, _DTYPES[dtype] if dtype else stored_dtype(adapter))
        return
    from ..interop.diff import diff_size, write_diff

    kind = _DTYPES[dtype or "fp16"]
    size = diff_size(adapter, kind)
    check_space(out, size)
    say(f"writing {size_text(size)} of full differences in {dtype or 'fp16'}")
    with progress_bar("writing", "B") as tell:
        write_diff(adapter, out, kind, progress=lambda count: tell(count, size))
    say_zeros(adapter)
    say(f"wrote {out}: {plural(len(adapter.layers), 'layer')} ({size_text(size_of(out) or 0)})")


def _read(source: Path, base: Path | None) -> Adapter:
    if not is_folder(source):
        return load(source)
    from ..interop.peft import read_peft

    if base is None:
        raise WaveFTError(
            f'folder "{source}": expected --base beside it, got none. PEFT\'s folder holds no shapes: give the model '
            "that it was trained on."
        )
    return read_peft(source, Weights.open(base))


def _convert_to_peft(adapter: Adapter, base: Path | None, dtype: str | None, out: Path, overwrite: bool) -> None:
    from ..interop.peft import write_peft

    if base is None:
        raise WaveFTError("--to peft: expected --base, got none. PEFT names layers by the model's own paths: give it.")
    if dtype is not None:
        raise WaveFTError("--to peft: expected no --dtype, got one. The values are written as they are.")
    check_new(out, overwrite)
    if exists(out) and not is_file(out / _CONFIG):
        raise WaveFTError(f'out "{out}": expected an adapter\'s folder to overwrite, got something else. Rename it.')
    with replacing_folder(out) as made:
        write_peft(adapter, made, Weights.open(base))
    say(f"wrote {out}: {plural(len(adapter.layers), 'layer')}, {plural(count(adapter), 'coefficient')}")
    say_zeros(adapter)


def trained_on(base: Weights, tuned: Path) -> dict[str, str]:
    """Returns the metadata that say which model the new adapter is for, where the base or the tuned file tells."""
    files = [metadata for _, metadata in base.files.values()]
    if is_file(tuned):
        files.append(read_layout(tuned)[1])
    found: dict[str, str] = {}
    for metadata in files:
        if "modelspec.architecture" in metadata:
            found.setdefault("modelspec.architecture", metadata["modelspec.architecture"].partition("/")[0] + "/waveft")
        if "ss_base_model_version" in metadata:
            found.setdefault("ss_base_model_version", metadata["ss_base_model_version"])
    return found


def _share(kept: float, whole: float) -> str:
    return f"{kept / whole:.2%}" if whole else "none"
