"""What a comparison says, in sentences that need no table."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.columns import shown
from ..measures.intervals import Figure
from ..system.console import counted
from . import choice, summary
from .summary import Results

TOO_LITTLE = "Too little is done to say which method to take"


def headline(results: Results) -> str:
    """Returns which method to take, or that they cannot be told apart, in a sentence or two with the reason."""
    found = choice.ranking(results)
    if not found:
        return "Nothing can be said yet: no training is done."
    if len(results.methods) == 1:
        return f"{results.methods[0]} was tried alone: there is nothing to choose between. Give --methods two or more."
    one_rate = [one.method for one in found if len(results.rates[one.method]) == 1]
    if one_rate:
        return f"{TOO_LITTLE}: of {listed(one_rate)} one learning rate alone was tried."
    absent = [method for method in results.methods if method not in {one.method for one in found}]
    left = f" Of {listed(absent)} no training is done." if absent else ""
    of = groups_in_words(results, found[0].score.groups)
    if not found[0].score.values:
        return f"Nothing can be said yet: the methods have no subject and seed in common.{left}"
    if len(found) == 1:
        return f"{found[0].method} is trained alone: there is nothing to choose between yet.{left}"
    if found[0].score.groups < choice.GROUPS:
        return f"{TOO_LITTLE}: {of}. Three of them are the least.{left}"
    if found[0].score.mean <= 0:
        return f"Take none of them yet: none learned anything of {of} that it did not pay for elsewhere.{left}"
    so_far = "So far, with cells to come: " if results.missing else ""
    level, behind = ([one.method for one in found if one.is_level == side] for side in (True, False))
    if len(level) > 1:
        last = f" {listed(behind)} {'is' if len(behind) == 1 else 'are'} behind." if behind else ""
        return (
            f"{so_far}{listed(level)} cannot be told apart: what each learns, weighed against what it spoils, differs "
            f"by no more than chance, on {of}. Take whichever is easiest to use.{last}{left}"
        )
    first, second = found[:2]
    return (
        f"{so_far}Take {first.method}: it learns the most of the subject for what it spoils, by more than "
        f"chance, on {of} (score {first.score.mean:.3f}; the next is {second.method} with "
        f"{second.score.mean:.3f}).{left}"
    )


def listed(names: Sequence[str]) -> str:
    """Returns names as a sentence has them: "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def groups_in_words(results: Results, count: int) -> str:
    """Returns what intervals are over: "5 subjects", or "3 seeds of one subject"."""
    if len({point.pair[0] for point in results.points}) > 1:
        return counted(count, "subject")
    return f"{counted(count, 'seed')} of one subject"


def verdict(results: Results) -> list[str]:
    """Returns a sentence for each further method beside the first, and one for each that came to nothing."""
    said = summary.differences(results)
    found = [beside(method, results.methods[0], [(at, each[method]) for at, each in said]) for method in
             (said[0][1] if said else ())]  # fmt: skip
    return found + [came_to_nothing(one.method) for one in best(results) if one.worth == 0]


def best(results: Results) -> list[choice.Best]:
    """Returns each method at its best, of those that have one."""
    return [one for method in results.methods if (one := choice.best(results, method))]


def beside(method: str, first: str, figures: Sequence[tuple[float, Figure]]) -> str:
    """Returns how faithful a method is beside the first one, at (drift, its fidelity less the first one's)."""
    known = [(at, figure) for at, figure in figures if figure.values]
    if not known:
        return f"{method} and {first}: no subject and seed at which both reach the same drift."
    known = [one for one in known if one[1].groups > 1] or known
    if known[0][1].groups == 1:  # one subject, or seed, has no interval
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
    return f"{shown(widest, 3, signed=True)} at drift {at:.3g}, {counted(widest.values, 'pair')}"


def came_to_nothing(method: str) -> str:
    """Returns what to say of a method whose best point is worth nothing."""
    return (
        f"{method} came to nothing: at every rate and length it is no nearer to the photos than the base, or it moved "
        "pictures without the trigger as far from the base's as another prompt's are. Try other --rates, or more steps."
    )
