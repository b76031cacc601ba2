"""What `inspect`, `merge`, `combine` and `prune` do: read files, call the core, write one, report in plain lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import plural
from ..format.adapter import Adapter
from ..format.file import load
from ..toolbox.outputs import check_new
from .console import complain, progress_bar, say, size_text
from .writing import check_file, count, stored_dtype, write_adapter


def inspect(file: Path, json: bool, metadata: bool, plot: Path | None, base: Path | None, overwrite: bool) -> None:
    """Prints what an adapter is."""
    from ..toolbox.summary import summarize
    from .report import as_json, as_text

    if plot is not None:
        check_new(plot, overwrite)
    adapter = load(file)
    told = _against(adapter, base) if base is not None else summarize(adapter)
    for line in (as_json(told) if json else as_text(told, metadata=metadata)).split("\n"):
        say(line)
    if plot is not None:
        from ..toolbox.plot import plot as draw

        draw(adapter, plot, summary=told)
        (complain if json else say)(f"drew {plot}")  # stdout stays JSON


def _against(adapter: Adapter, base: Path) -> dict[str, Any]:
    from ..toolbox.summary import summarize
    from ..toolbox.weights import Weights

    with progress_bar("reading", "layer") as tell:
        return summarize(adapter, Weights.open(base), tell)


def merge(base: Path, adapters: Sequence[tuple[Path, float]], out: Path, overwrite: bool) -> None:
    """Writes a base model with adapters in it."""
    from ..toolbox.checkpoint import merge_files

    parts = [(load(file), strength) for file, strength in adapters]
    with progress_bar("merging", "B") as tell:
        written = merge_files(base, parts, out, overwrite=overwrite, progress=tell)
    for file, strength in adapters:
        say(f"merged {file} at strength {strength:g}")
    if written.layers:
        of = "" if written.layers == written.touched else f" of {written.touched:,}"
        say(f"{plural(written.layers, 'layer')}{of} changed, the rest byte for byte the base's")
    else:
        why = "the strength is 0" if not any(strength for _, strength in adapters) else "all is rounded away, or 0"
        of = "the one layer not" if written.touched == 1 else f"none of {written.touched:,} layers"
        say(f"{of} changed: {why}")
    for name in written.left_out:
        say(f"left out: {name} (of the unmerged model)")
    say(f"wrote {out} ({size_text(written.size)})")


def combine(files: Sequence[tuple[Path, float]], out: Path, reproject: bool, overwrite: bool) -> None:
    """Writes the weighted sum of adapters."""
    from ..toolbox.algebra import combine as add_up

    check_file(out, overwrite)
    parts = [(load(file), weight) for file, weight in files]
    if reproject:
        parts = list(_in_one_basis(parts))
    made = add_up(parts)
    before = sum(count(adapter) for adapter, _ in parts)
    whole = f"{plural(len(parts), 'adapter')} with {plural(before, 'coefficient')} in all"
    say(f"{whole}: {plural(count(made), 'different position')}")
    write_adapter(made, out, torch.float32)


def _in_one_basis(parts: Sequence[tuple[Adapter, float]]) -> Iterator[tuple[Adapter, float]]:
    """Yields the parts in the first one's wavelet; says the error that this made."""
    from ..toolbox.algebra import reproject

    bases = {(adapter.wavelet, adapter.mode) for adapter, _ in parts}
    wavelet = parts[0][0].wavelet
    mode = parts[0][0].mode if len(bases) == 1 else "periodization"
    for adapter, weight in parts:
        if (adapter.wavelet, adapter.mode) == (wavelet, mode):
            yield adapter, weight
            continue
        made, error = reproject(adapter, wavelet, mode)
        say(f"{adapter.source}: {adapter.wavelet} {adapter.mode} -> {wavelet} {mode}, relative error {error:.2%}")
        yield made, weight


def prune(
    file: Path, coefficients: int | None, keep: float | None, energy: float | None, out: Path, overwrite: bool
) -> None:
    """Writes an adapter's largest coefficients."""
    from ..toolbox.algebra import energy as energy_of
    from ..toolbox.algebra import prune as pruned

    check_file(out, overwrite)
    adapter = load(file)
    made = pruned(adapter, coefficients=coefficients, keep=keep, energy=energy)
    whole = energy_of(adapter)
    kept = f"{energy_of(made) / whole:.2%} of the energy" if whole else "no energy, as it had none"
    say(f"kept {count(made):,} of {plural(count(adapter), 'coefficient')} ({count(made) / count(adapter):.1%}), {kept}")
    dropped = len(adapter.layers) - len(made.layers)
    if dropped:
        say(f"{plural(dropped, 'layer')} without any left: dropped")
    write_adapter(made, out, stored_dtype(adapter))
