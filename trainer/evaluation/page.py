"""The page of an evaluation: the advice, the measures, the pictures beside the nearest photo, what it all rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from ..result.report import STYLE, inline, table
from . import photos as real
from . import table as measures
from .asking import Asked, Key
from .candidates import Candidate
from .embedding import open_drawn
from .networks import Networks
from .photos import Photos
from .recommend import Advice
from .scoring import Scores, Subject

PICTURE_PX, NEAREST_PX = 140, 110
MOST_NEAREST = 12  # pictures beside their nearest photo
MOST_COLUMNS = 8  # candidates of the grid; all of them are in the table


@dataclass(frozen=True)
class Evaluated:
    """All that a page tells.

    Attributes:
        name: of the run.
        found: candidate -> its scores, the base first.
        pictures: candidate -> its pictures' files.
        questions: the prompts.
        photos, subject: the photographs, as files and measured.
        networks: that saw.
        interval: what intervals are drawn over.
        advice: which candidate to take.
        notes: what is said of the run beside it, such as its validation losses.
        settings: (key, value) of the definitions, versions and identities.
    """

    name: str
    found: Mapping[Candidate, Scores]
    pictures: Mapping[Candidate, Mapping[Key, Path]]
    questions: Sequence[Asked]
    photos: Photos
    subject: Subject
    networks: Networks
    interval: str
    advice: Advice
    notes: Sequence[str] = ()
    settings: Sequence[tuple[str, str]] = ()


def page(made: Evaluated) -> str:
    """Returns the page as HTML that needs nothing beside it."""
    heading = measures.head(made.found, made.networks)
    body = [
        [cell.replace("  Δ ", "\nΔ ") for cell in row] for row in measures.rows(made.found, made.subject, made.interval)
    ]
    over = "whole prompts" if made.interval == "prompts" else "single pictures"
    last = list(made.found.values())[-1]
    blocks = [
        f"<h1>{escape(made.name)}: which step?</h1>",
        f'<p class="warn">{escape(headline(made.advice))}</p>',
        f"<p>{escape(made.advice.reason)}</p>",
        *(f"<p>{escape(note)}</p>" for note in made.notes),
        "<h2>Measures</h2>",
        f'<div class="wide">{table(body, heading)}</div>',
        f"<p><small>{escape(measures.counts(last))}. In brackets: 95 % interval, bootstrap over {over}. Δ: difference "
        "from the base, paired by prompt and seed. ↑ more is better, ↓ less is better.</small></p>",
        table([(measures.title(one, made.networks), one.says) for one in measures.measured(made.found)]),
        "<h2>Pictures</h2>",
        grid(made),
        "<h2>Nearest training photo</h2>",
        nearest(made),
        "<h2>How it was measured</h2>",
        table(made.settings),
    ]
    style = STYLE.replace("max-width:900px", "max-width:1200px") + "td{white-space:pre-line}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(made.name)} - evaluation</title>'
        f"<style>{style}</style></head><body>\n{chr(10).join(blocks)}\n</body></html>\n"
    )


def headline(advice: Advice) -> str:
    """Returns the advice in one line."""
    if advice.candidate is None:
        why = {"copies": "they copy the training photos", "changed": "they changed the base too much"}
        return f"No step to recommend: {why.get(advice.verdict, 'nothing was learned')}."
    return f"Take {advice.candidate.label}: {advice.candidate.path.name if advice.candidate.path else ''}"


def few(made: Evaluated) -> list[Candidate]:
    """Returns the candidates of the grid: the base, the recommended one, and others evenly spread."""
    every = list(made.found)
    if len(every) <= MOST_COLUMNS:
        return every
    step = (len(every) - 1) / (MOST_COLUMNS - 1)
    chosen = {every[round(number * step)] for number in range(MOST_COLUMNS)}
    return [one for one in every if one in chosen or one == made.advice.candidate]


def grid(made: Evaluated) -> str:
    """Returns a row a prompt, its first seed, and a column a candidate."""
    shown, rows = few(made), []
    head = "".join(f"<th>{escape(one.label)}{' ★' if one == made.advice.candidate else ''}</th>" for one in shown)
    for asked in made.questions:
        keys = [key for key in made.pictures[shown[0]] if key[0] == asked.number]
        if not keys:
            continue
        cells = "".join(
            f"<td>{inline(open_drawn(made.pictures[one][keys[0]]), '', PICTURE_PX)}</td>"
            for one in shown
            if keys[0] in made.pictures[one]
        )
        without = " <small>(without the trigger)</small>" if asked.is_plain else ""
        rows.append(f"<tr><th>{escape(asked.prompt)}{without}</th>{cells}</tr>")
    note = f"<p><small>Seed {keys[0][1]}.</small></p>" if made.questions else ""
    return f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead>{"".join(rows)}</table></div>{note}'


def nearest(made: Evaluated) -> str:
    """Returns the pictures that are most like a training photo, each beside that photo."""
    one = made.advice.candidate or list(made.found)[-1]
    scores = made.found[one]
    copies = sorted(scores.columns.get("copy", {}).items(), key=lambda item: -item[1])[:MOST_NEAREST]
    pairs = ""
    for key, value in copies:
        photo = real.opened(made.photos.trained[scores.nearest[key]])
        pairs += f"<td>{pair(open_drawn(made.pictures[one][key]), photo, value)}</td>"
    limit = made.subject.closest_pair
    said = f" The two photos that are most alike have {limit:.3f}." if limit == limit else ""
    return (
        f"<p>Of {escape(one.label)}: picture left, nearest training photo right, and their cosine.{said}</p>"
        f'<div class="wide"><table><tr>{pairs}</tr></table></div>'
    )


def pair(picture: Image.Image, photo: Image.Image, value: float) -> str:
    """Returns a picture beside a photograph."""
    return inline(picture, f"{value:.3f}", NEAREST_PX) + inline(photo, "photo", NEAREST_PX)
