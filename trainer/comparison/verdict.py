"""What a comparison says, in sentences that need no table."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.columns import shown
from ..measures.intervals import Figure
from ..system.console import counted
from . import summary
from .summary import Results


def verdict(results: Results) -> list[str]:
    """Returns a sentence for each further method beside the first, and one for each that came to nothing."""
    said = summary.differences(results)
    found = [beside(method, results.methods[0], [(at, each[method]) for at, each in said]) for method in
             (said[0][1] if said else ())]  # fmt: skip
    return found + [came_to_nothing(one.method) for one in best(results) if one.worth == 0]


def best(results: Results) -> list[summary.Best]:
    """Returns each method at its best, of those that have one."""
    return [one for method in results.methods if (one := summary.best(results, method))]


def beside(method: str, first: str, figures: Sequence[tuple[float, Figure]]) -> str:
    """Returns how faithful a method is beside the first one, at (drift, its fidelity less the first one's)."""
    known = [(at, figure) for at, figure in figures if figure.values]
    if not known:
        return f"{method} and {first}: no subject and seed at which both reach the same drift."
    if any(figure.low != figure.low for _, figure in known):  # NaN: one group alone
        at, widest = max(known, key=lambda one: one[1].values)
        pairs = counted(widest.values, "pair")
        return (
            f"{method} beside {first}: fidelity {widest.mean:+.3f} at drift {at:.3g}, of {pairs} of subject and seed. "
            "That is too few to say more."
        )
    sides = {
        "more": [one for one in known if one[1].is_above_zero],
        "less": [one for one in known if one[1].is_below_zero],
    }
    if not any(sides.values()):
        return f"{method} beside {first}: no difference that chance could not make ({figure_at(known)})."
    for word, held in sides.items():
        if len(held) == len(known):
            return f"{method} is {word} faithful than {first} at every drift that was looked at ({figure_at(held)})."
    looked = counted(len(known), "drift")
    said = (f"{word} faithful than {first} at {len(held)} of {looked} ({figure_at(held)})"
            for word, held in sides.items() if held)  # fmt: skip
    return f"{method} is {', and '.join(said)}."


def figure_at(figures: Sequence[tuple[float, Figure]]) -> str:
    """Returns the figure that the most pairs are behind, of (drift, difference): what a sentence of them rests on."""
    at, widest = max(figures, key=lambda one: one[1].values)
    return f"{shown(widest, 3, signed=True)} at drift {at:.3g}, n = {widest.values}"


def came_to_nothing(method: str) -> str:
    """Returns what to say of a method whose best point is worth nothing."""
    return (
        f"{method} came to nothing: at every rate and length it is no nearer to the photos than the base, or it moved "
        "pictures without the trigger as far from the base's as another prompt's are. Try other --rates, or more steps."
    )
