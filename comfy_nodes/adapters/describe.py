"""The reports of the nodes that make adapters, in plain lines."""

from __future__ import annotations

from collections.abc import Sequence

from ..core import Adapter, energy, trained_for
from ..sockets import Carried
from .arithmetic import factor


def adapter(carried: Carried) -> str:
    """Returns what an adapter is, in three lines."""
    held = carried.adapter
    return "\n".join((f"{carried.title}: {plural(len(held.layers), 'layer')}", *facts(held)))


def basis(held: Adapter) -> str:
    """Returns the number of coefficients and the basis that they are in."""
    return f"{count(held):,} coefficients, {held.wavelet}, {held.mode}, scaling {held.scaling:g}"


def facts(held: Adapter) -> list[str]:
    """Returns what an adapter is made of, what it is for, and what to write into a prompt, where its file says so."""
    trigger = held.metadata.get("modelspec.trigger_phrase")
    return [basis(held), trained(held), *([f"trigger: {trigger}"] if trigger else [])]


def change(before: Carried, after: Carried) -> str:
    """Returns what is left of an adapter."""
    old, new = before.adapter, after.adapter
    if old is new:
        return f"{before.title}: nothing changes\n{basis(old)}"
    return "\n".join(
        (
            f"{before.title}: {len(new.layers)} of {plural(len(old.layers), 'layer')}",
            f"{count(new):,} of {count(old):,} coefficients, {_share(old, new)}",
            trained(new),
        )
    )


def combination(parts: Sequence[tuple[Carried, float]], total: Carried, kept: Carried) -> str:
    """Returns what a sum is made of and what of it was kept."""
    lines = [f"{weight:g} * {factor(carried)}: {basis(carried.adapter)}" for carried, weight in parts]
    lines.append(f"sum: {plural(len(total.adapter.layers), 'layer')}, {count(total.adapter):,} coefficients")
    if kept is not total:
        lines.append(f"kept: {count(kept.adapter):,} of them, {_share(total.adapter, kept.adapter)}")
    if energy(total.adapter) == 0:
        lines.append("warning: the parts cancel each other, every coefficient is 0")
    names = [set(carried.adapter.layers) for carried, _ in parts]
    if all(held != set().union(*names) for held in names):
        counts = ", ".join(str(len(held)) for held in names)
        lines.append(
            f"warning: none of the parts has all of these layers ({counts}): only a model that has takes the sum"
        )
    return "\n".join(lines)


def count(held: Adapter) -> int:
    """Returns the number of coefficients of all layers."""
    return sum(layer.values.numel() for layer in held.layers.values())


def plural(number: int, word: str) -> str:
    """Returns "1 layer", "2 layers"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _share(old: Adapter, new: Adapter) -> str:
    whole = energy(old)
    return f"{energy(new) / whole:.2%} of the energy" if whole else "no energy, as it had none"


def trained(held: Adapter) -> str:
    """Returns what an adapter was trained for."""
    return f"trained for {trained_for(held)}"
