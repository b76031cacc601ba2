"""Which method is ahead, as parts of a page: scores, differences at equal cost, and the plot of the fronts."""

from __future__ import annotations

from html import escape

from ..evaluation.columns import shown
from ..result.report import table
from ..system.console import counted
from . import choice, plots, summary, verdict
from .summary import Results

FRONTS_PX = 760  # the plot at least: narrower pages scroll it
LEGEND = (
    "A small dot is one training at one learning rate and length; a large dot is the mean of all subjects and seeds at "
    "one. A line is a method's front, the most that each cost buys: from the base, which has gained and lost nothing, "
    "through those of its means that none at less cost beats. Higher and further left is better. Trainings that "
    "strayed far to the right are not shown."
)


def differences(results: Results, plane: str) -> str:
    """Returns a table of fidelity less the first method's, at equal cost."""
    found = summary.differences(results, plane)
    name = {"drift": "drift", "prompt": "prompt score lost"}[plane]
    if not found:
        return (
            f"<p>No {name} that two methods both reach: nothing can be said at equal {name}.</p>"
            if plane == "drift"
            else ""
        )
    first = results.methods[0]
    rows = [
        [
            method,
            *(f"{shown(each[method], 3, signed=True)} ({counted(each[method].values, 'pair')})" for _, each in found),
        ]
        for method in found[0][1]
    ]
    head = [f"fidelity above {first}'s", *(f"at {name} {cost:.3g}" for cost, _ in found)]
    made = f'<div class="wide">{table(rows, head)}</div>'
    if plane != "drift":
        return made  # below the other plane's, which says how it is read
    return (
        f"{made}<p><small>+ = closer to the photos than {escape(first)} is at the "
        "same cost. In brackets: 95 % interval; where it holds 0 chance may have made the difference, and of twenty "
        "such intervals one leaves 0 out by chance alone. A pair is a "
        "subject and a seed: the number says how many reach that cost with both methods, read on straight lines "
        "between a pair's own trainings.</small></p>"
    )


def fronts(results: Results) -> str:
    """Returns the fronts with their legend."""
    picture = plots.draw(results)
    if not picture:
        return "<p>Nothing to draw: no training moved a picture without the trigger yet.</p>"
    return f'<div class="wide fronts">{picture}</div><p><small>{LEGEND}</small></p>'


def scores(results: Results) -> str:
    """Returns the ranking behind the headline as a table, with what a score is; "" of one method, subject or seed."""
    found = choice.ranking(results)
    if len(found) < 2 or found[0].score.groups < 2:
        return ""
    first, of_several = found[0].method, len(results.bases) > 1
    bests = {one.method: f"{one.worth:.3f}" for one in verdict.best(results)}
    rows = [
        [one.method, settings_in_words(one), shown(one.score), less(one, first), bests[one.method]] for one in found
    ]
    head = ("", "learning rate, steps", "score", f"score less {first}'s", "at its own best")
    others = "other subjects" if of_several else "other seeds"
    return (
        f'<div class="wide">{table(rows, head)}</div><p><small>Score: fidelity gained over the base, times the part of '
        "the base that is kept (1 - drift over how far apart its pictures of two prompts are), times the part of the "
        f"prompt score that is kept. Each {'subject' if of_several else 'seed'} counts at the learning rate and length "
        f"that the {others} did best with: a rate that is chosen on the pictures that it is judged by flatters, as in "
        "the last column; where rates are close the truth lies between the two. In brackets: 95 % interval (Student's "
        f"t over {'subjects' if of_several else 'seeds'}), for the differences from {escape(first)} of all at once; "
        "where it holds 0 chance may have made the difference.</small></p>"
    )


def settings_in_words(one: choice.Rank) -> str:
    """Returns the settings that were chosen, the rarer ones last: "0.001, 100 or 0.0003, 100"."""
    held = list(one.settings.values())
    order = sorted(set(held), key=lambda setting: (-held.count(setting), setting))
    return " or ".join(f"{rate:g}, {step}" for rate, step in order)


def less(one: choice.Rank, first: str) -> str:
    """Returns how far a method is behind the first."""
    return "" if one.method == first else shown(one.behind, 3, signed=True)
