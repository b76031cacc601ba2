"""What nodes make of adapters: the core's arithmetic, and the origin that it leaves."""

from __future__ import annotations

from collections.abc import Sequence

from .core import WaveFTError, combine, prune, reproject, scale
from .sockets import Carried

Weighted = tuple[Carried, float]


def weighted(carried: Carried, weight: float) -> Carried:
    """Returns an adapter times a number, the object itself where that is 1.

    Raises:
        WaveFTError: times 0, which leaves nothing to carry on.
    """
    if weight == 1:
        return carried
    if weight == 0:
        raise WaveFTError(
            f'strength of "{carried.title}": expected a number other than 0, got 0, which leaves no adapter. '
            "To leave it out, set the strength where it is applied to 0."
        )
    made = scale(carried.adapter, dict.fromkeys(carried.adapter.layers, weight))
    return Carried(made, carried.title, {"scaled": weight, "of": carried.origin})


def combined(parts: Sequence[Weighted]) -> Carried:
    """Returns the weighted sum, exact; parts of weight 0 are left out, and what is left alone at 1 is itself.

    Raises:
        WaveFTError: all weights are 0, or shapes or wavelets that do not go together.
    """
    used = [(carried, weight) for carried, weight in parts if weight != 0]
    if not used:
        raise WaveFTError("weights: expected one other than 0, got zeros alone, which leave no adapter. Raise one.")
    if len(used) == 1:
        return weighted(*used[0])
    try:
        made = combine([(carried.adapter, weight) for carried, weight in used])
    except WaveFTError as error:
        hint = ' (Combine WaveFT: set other_basis to "reproject".)' if "reproject" in str(error) else ""
        raise WaveFTError(f"{error}{hint}") from None
    origin = {"combined": [{"weight": weight, "of": carried.origin} for carried, weight in used]}
    return Carried(made, " + ".join(_term(carried, weight) for carried, weight in used), origin)


def in_one_basis(parts: Sequence[Weighted]) -> tuple[list[Weighted], list[str]]:
    """Returns the parts in the first one's wavelet, and a line for each that had to be rewritten: what that lost."""
    bases = {(carried.adapter.wavelet, carried.adapter.mode) for carried, _ in parts}
    wavelet = parts[0][0].adapter.wavelet
    mode = parts[0][0].adapter.mode if len(bases) == 1 else "periodization"
    made, lines = [], []
    for carried, weight in parts:
        adapter = carried.adapter
        if (adapter.wavelet, adapter.mode) == (wavelet, mode):
            made.append((carried, weight))
            continue
        rewritten, error = reproject(adapter, wavelet, mode)
        told = f"{adapter.wavelet} {adapter.mode} -> {wavelet} {mode}"
        lines.append(f"{carried.title}: {told}, relative error {error:.2%}")
        origin = {"reprojected": told, "relative_error": error, "of": carried.origin}
        made.append((Carried(rewritten, carried.title, origin), weight))
    return made, lines


def pruned(carried: Carried, coefficients: int) -> Carried:
    """Returns the adapter with each layer's largest coefficients alone, the object itself where none has more."""
    made = prune(carried.adapter, coefficients=coefficients)
    if made is carried.adapter:
        return carried
    return Carried(made, carried.title, {"pruned": {"coefficients": coefficients}, "of": carried.origin})


def _term(carried: Carried, weight: float) -> str:
    return carried.title if weight == 1 else f"{weight:g} * {carried.title}"
