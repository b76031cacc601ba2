"""What nodes make of adapters: the core's arithmetic, and the origin that it leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..core import Adapter, WaveFTError, combine, prune, reproject, scale
from ..sockets import Carried

Weighted = tuple[Carried, float]
_REPROJECT = 'To bring it there, set other_basis to "reproject": the report says what is lost.'
_TRIGGER = "modelspec.trigger_phrase"  # what to write into a prompt


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
    return Carried(made, _term(carried, weight), {"scaled": weight, "of": carried.origin})


def combined(parts: Sequence[Weighted], remedy: str = _REPROJECT) -> Carried:
    """Returns the weighted sum, exact; parts of weight 0 are left out, and what is left alone at 1 is itself.

    Args:
        remedy: for parts in several wavelets, in the words of the node that asks.

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
        said = str(error)
        for carried, _ in used:  # what the graph calls it is shorter than where it lies
            said = said.replace(carried.adapter.source or carried.title, carried.title)
        before, offered, _ = said.partition(" Bring it there with reproject")  # the core's remedy, for Python
        raise WaveFTError(f"{before} {remedy}" if offered else said) from None
    triggers = _triggers(used)
    if triggers:  # of the metadata, the core keeps what all parts say alike
        made = replace(made, metadata={**made.metadata, _TRIGGER: triggers})
    origin = {"combined": [{"weight": weight, "of": carried.origin} for carried, weight in used]}
    return Carried(made, " + ".join(_term(carried, weight) for carried, weight in used), origin)


def in_one_basis(
    parts: Sequence[Weighted], progress: Callable[[int, int], None] | None = None
) -> tuple[list[Weighted], list[str]]:
    """Returns the parts in the first one's wavelet, and a line for each that had to be rewritten: what that lost.

    Args:
        progress: told 1 for each layer that is rewritten, and how many of them there are in all parts.
    """
    bases = {(carried.adapter.wavelet, carried.adapter.mode) for carried, _ in parts}
    wavelet = parts[0][0].adapter.wavelet
    mode = parts[0][0].adapter.mode if len(bases) == 1 else "periodization"

    def is_there(adapter: Adapter) -> bool:
        return (adapter.wavelet, adapter.mode) == (wavelet, mode)

    count = sum(len(carried.adapter.layers) for carried, _ in parts if not is_there(carried.adapter))
    tell = None if progress is None else lambda done, _of_one: progress(done, count)
    made, lines = [], []
    for carried, weight in parts:
        adapter = carried.adapter
        if is_there(adapter):
            made.append((carried, weight))
            continue
        rewritten, error = reproject(adapter, wavelet, mode, progress=tell)
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


def factor(carried: Carried) -> str:
    """Returns the title as it stands after a number and a "*": that of a sum in brackets."""
    return f"({carried.title})" if _is_sum(carried.origin) else carried.title


def _term(carried: Carried, weight: float) -> str:
    return carried.title if weight == 1 else f"{weight:g} * {factor(carried)}"


def _triggers(parts: Sequence[Weighted]) -> str:
    """Returns the trigger phrases of what is added, each once; what is subtracted is not to be written."""
    said = [carried.adapter.metadata.get(_TRIGGER, "") for carried, weight in parts if weight > 0]
    return ", ".join(dict.fromkeys(phrase for phrase in said if phrase))


def _is_sum(origin: Mapping[str, Any]) -> bool:
    """Returns whether a title is that of a sum: what was done to a sum without multiplying it keeps its title."""
    while "of" in origin and "scaled" not in origin:
        origin = origin["of"]
    return "combined" in origin
