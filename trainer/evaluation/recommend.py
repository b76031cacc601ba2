"""Which step to take, and why, in words.

Three shares decide, each measured against what is free to know, so that no scale of any network matters:

- learned: how much of the way from the base to the photographs' own score the pictures went;
- kept: how much of the drift to a picture of another prompt is not there (two seeds of a small base are hardly apart);
- obeyed: how much of the base's reading of prompts, over what pictures of other prompts score, is left.

The recommended candidate has the largest product of those that were measured, among those that do not copy.

Whether anything was learned is asked of the image network and, where it sees nothing, of the CLIP: to a network of
ImageNet's classes a base's robots can be as alike to the photographs' robot as its pictures are to each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..measures.intervals import LEVEL, Figure
from .candidates import Candidate
from .columns import difference
from .photos import Photos
from .scoring import Column, Scores, Subject

MOST_COPIES = 0.25  # part of the pictures that may be nearer to a training photo than any two photos are to each other
# Fidelity as the image network sees it and as the CLIP does; the first pair that was measured counts.
FAITHFUL = (("held_out", "clip_held_out"), ("trained", "clip_trained"))
SECOND_LOOK = 0.99  # level of the CLIP's intervals: who asks twice is told of something twice as often


@dataclass(frozen=True)
class Shares:
    """What a candidate is worth; NaN where it was not measured.

    Attributes:
        gained: score over the base's.
        learned: that, of the way from the base to the photos' own score; NaN where there is one photo, or no way to go.
    """

    gained: float
    learned: float
    kept: float
    obeyed: float
    copies: float

    @property
    def worth(self) -> float:
        """The product of what was measured, each between 0 and 1: past the photographs' own score nothing is better."""
        learned = (
            self.gained if math.isnan(self.learned) else self.learned
        )  # NaN of all candidates or of none: the order holds
        known = (share for share in (learned, self.kept, self.obeyed) if not math.isnan(share))
        return math.prod(min(max(0.0, share), 1.0) for share in known)


@dataclass(frozen=True)
class Advice:
    """What came of it.

    Attributes:
        candidate: to take, or None where nothing was learned or all of them copy.
        reason: in words.
        verdict: "take", "nothing learned", "copies" or "changed".
    """

    candidate: Candidate | None
    reason: str
    verdict: str


def advise(found: Mapping[Candidate, Scores], subject: Subject, photos: Photos, interval: str) -> Advice:
    """Returns which candidate to take.

    Args:
        found: each candidate's scores, the base's among them.
        subject: the photographs' side.
        photos: the same as files.
        interval: as the job says it.
    """
    base = next(scores for one, scores in found.items() if one.path is None)
    measure, second = next((pair for pair in FAITHFUL if base.columns.get(pair[0])), ("", ""))
    tried = [one for one in found if one.path is not None]
    if not measure or not tried:
        return Advice(None, "There is nothing to compare: no pictures of the subject.", "nothing learned")
    gains = gained(found, base, measure, interval)
    unseen = ""
    if not any(gain.is_above_zero for gain in gains.values()):
        best = max(tried, key=lambda one: gains[one].mean)
        gain = f"{gains[best].mean:+.3f} from the base to the image network"
        unseen = f"{best.label} is {gain}, with 0 inside the interval"
        again = gained(found, base, second, interval, SECOND_LOOK) if base.columns.get(second) else {}
        if not any(gain.is_above_zero for gain in again.values()):
            both = ", and the CLIP sees no more" if again else ""
            return Advice(
                None,
                f"Nothing was learned that can be seen: the best of them, {unseen}{both}. "
                "Train longer or with a higher learning rate, and see that the captions name the trigger.",
                "nothing learned",
            )
        measure, gains = second, again
    shares = {one: weigh(found[one], base, subject, measure) for one in tried}
    honest = [one for one in tried if gains[one].is_above_zero and not shares[one].copies > MOST_COPIES]
    if not honest:
        least = min((one for one in tried if gains[one].is_above_zero), key=lambda one: shares[one].copies)
        return Advice(
            None,
            f"All that learned something copy: of {least.label}, which does so least, {shares[least].copies:.0%} of "
            "the pictures are nearer to one training photo than any two photos are to each other. Look at the nearest "
            "photos below; take an earlier step, a lower learning rate, or more photos.",
            "copies",
        )
    best = max(honest, key=lambda one: (shares[one].worth, -one.step))
    if shares[best].worth == 0:
        least = max(honest, key=lambda one: (shares[one].kept, -one.step))
        return Advice(
            None,
            f"All that learned something changed the base too much: with {least.label}, which does so least, pictures "
            f"without the trigger are {1 - shares[least].kept:.0%} as far from the base's own as another prompt's "
            "are. Lower the learning rate or scaling, or try --strengths 0.3,0.5,0.7.",
            "changed",
        )
    text = words(best, shares, tried, measure)
    if unseen:
        text += f" So the CLIP says, at {SECOND_LOOK:.0%}; at best {unseen}: look at the pictures below."
    elif base.columns.get(second):
        seen = gained(found, base, second, interval)[best]
        there = weigh(found[best], base, subject, second)
        inside = "" if seen.is_below_zero else ", with 0 inside the interval"
        told = f"has it go {way(there)}" if seen.is_above_zero else f"sees {seen.mean:+.3f}{inside}"
        text += f" The CLIP {told}."
    return Advice(best, f"{text} {photos.cost()}".strip(), "take")


def gained(
    found: Mapping[Candidate, Scores], base: Scores, measure: str, interval: str, level: float = LEVEL
) -> dict[Candidate, Figure]:
    """Returns how much more than the base each candidate's pictures score."""
    return {
        one: difference(scores.columns[measure], base.columns[measure], interval, level)
        for one, scores in found.items()
        if one.path is not None
    }


def weigh(scores: Scores, base: Scores, subject: Subject, measure: str) -> Shares:
    """Returns a candidate's shares."""
    gained = mean(scores.columns[measure]) - mean(base.columns[measure])
    ceiling = subject.ceilings.get(measure) or []
    room = fmean(ceiling) - mean(base.columns[measure]) if ceiling else math.nan
    learned = gained / room if room > 0 else math.nan
    kept = math.nan
    if "drift" in scores.columns and base.columns.get("plain_apart"):
        apart = mean(base.columns["plain_apart"])
        kept = 1 - mean(scores.columns["drift"]) / apart if apart > 0 else math.nan
    return Shares(gained, learned, kept, obeyed(scores, base), copies(scores, subject))


def obeyed(scores: Scores, base: Scores) -> float:
    """Returns how much of the base's reading of prompts is left; NaN where no CLIP reads, or the base reads none."""
    if not all(name in side.columns for side in (scores, base) for name in ("prompt", "prompt_by_chance")):
        return math.nan
    own, before = (mean(side.columns["prompt"]) - mean(side.columns["prompt_by_chance"]) for side in (scores, base))
    return own / before if before > 0 else math.nan


def copies(scores: Scores, subject: Subject) -> float:
    """Returns the part of the pictures that are nearer to a training photo than any two photos are to each other."""
    near = scores.columns.get("copy", {})
    if not near or math.isnan(subject.closest_pair):
        return math.nan
    return sum(value > subject.closest_pair for value in near.values()) / len(near)


def mean(column: Column) -> float:
    """Returns a column's mean; NaN of nothing."""
    return fmean(column.values()) if column else math.nan


def way(shares: Shares) -> str:
    """Returns how far a candidate came, in words; past the photos' own score a percentage would say nothing."""
    if math.isnan(shares.learned):
        return f"{shares.gained:+.3f} from the base"
    share = "all" if shares.learned >= 1 else f"{shares.learned:.0%}"
    return f"{share} of the way from the base to the photos' own score"


def words(best: Candidate, shares: Mapping[Candidate, Shares], tried: Sequence[Candidate], measure: str) -> str:
    """Returns why that candidate is recommended."""
    own, parts = shares[best], []
    against = "the held-out photos" if measure.endswith("held_out") else "the photos that it was trained on"
    parts.append(f"judged by {against} it goes {way(own)}")
    if not math.isnan(own.kept):
        parts.append(f"pictures without the trigger moved {1 - own.kept:.0%} of the way to another prompt's")
    if not math.isnan(own.obeyed):
        parts.append(f"it keeps {own.obeyed:.0%} of the base's obedience to prompts")
    else:
        parts.append("its obedience to prompts is not known (no [evaluation] clip_model, or a base that obeys none)")
    lead = f"Of {len(tried)} candidates {best.label} has the best of all together" if len(tried) > 1 else best.label
    text = f"{lead}: {'; '.join(parts)}."
    later = [one for one in tried if one.step > best.step and shares[one].gained > own.gained]
    if later:
        last = max(later, key=lambda one: shares[one].gained)
        costs = [
            f"{name} {getattr(own, key):.0%} -> {getattr(shares[last], key):.0%}"
            for key, name in (("kept", "kept of the base"), ("obeyed", "obedience"))
            if getattr(shares[last], key) < getattr(own, key)
        ]
        if shares[last].copies > MOST_COPIES:
            costs.append(f"{shares[last].copies:.0%} of its pictures are copies")
        if costs:
            text += f" {last.label} is more like the photos, at a price: {', '.join(costs)}."
    return text
