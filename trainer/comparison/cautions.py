"""What the reader of a comparison must know before believing it."""

from __future__ import annotations

from ..system.console import counted
from .choice import best
from .summary import Results


def of_the_whole(results: Results) -> str:
    """Returns what the figures of a comparison that is not done are of."""
    if results.left_out:
        return (
            f"The figures are of {counted(len({point.pair for point in results.points}), 'pair')} of subject and seed "
            f"that every method has done; {len(results.left_out)} that some have not are left out."
        )
    pairs = {point.method: {p.pair for p in results.points if p.method == point.method} for point in results.points}
    if len({frozenset(held) for held in pairs.values()}) > 1:
        return "No subject and seed is done by all methods: their means are of different pictures. Do not compare them."
    return ""


def at_the_edge(results: Results) -> list[str]:
    """Returns which methods are best at a rate beyond which none was tried, in one sentence; nothing where none is."""
    edges: dict[str, list[str]] = {"lowest": [], "highest": []}
    for method in results.methods:
        own, chosen = results.rates.get(method, []), best(results, method)
        if chosen and len(own) > 1 and chosen.rate in (min(own), max(own)):
            edges["lowest" if chosen.rate == min(own) else "highest"].append(f"{method} ({chosen.rate:g})")
    said = [f"at the {edge} rate that was tried: {', '.join(held)}" for edge, held in edges.items() if held]
    return [f"Best {'; '.join(said)}. Try beyond it: the order may change."] if said else []


def warnings(results: Results) -> list[str]:
    """Returns what the reader must know before believing the page."""
    found = []
    single = [method for method in results.methods if len(results.rates.get(method, ())) == 1]
    if single:
        found.append(
            f"One learning rate alone was tried for {', '.join(single)}. That decides nothing: the methods' published "
            "rates move the weights by factors of up to 700 apart. Give --rates three a method."
        )
    pairs = {point.pair for point in results.points}
    subjects, seeds = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    if pairs and len(subjects) == 1:
        found.append("One subject alone: the intervals are over seeds, and say nothing of other subjects.")
    if pairs and len(seeds) == 1:
        found.append("One seed alone: what differs may be chance. Give --seeds 3.")
    found += at_the_edge(results)
    if results.failures:
        found.append(f"{len(results.failures)} cells failed: {', '.join(results.failures)}.")
    if results.missing:
        found.append(f"{len(results.missing)} of {results.cells} cells are not done yet. {of_the_whole(results)}")
    return found
