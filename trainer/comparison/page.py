"""The page of a comparison: what it says, fronts, pictures side by side, costs, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ..evaluation.asking import Asked
from ..evaluation.columns import BY_NAME, shown
from ..evaluation.embedding import open_drawn
from ..evaluation.photos import Photos, opened
from ..result.report import STYLE, inline, table
from ..system.console import memory
from . import cautions, sheet, standing, summary, verdict
from .choice import Best
from .summary import Results

PICTURE_PX, GRID_PX, PROMPT_PX, GAP_PX = 140, 1150, 150, 5  # a picture at most, a grid, its prompts' column, a gap
MOST_PROMPTS = 8
PHOTO_PX, MOST_PHOTOS = 90, 8  # of those that were trained on, and of those held out
WORDS = (
    "<b>Fidelity</b> is how alike pictures of the subject are to its photos, as {network} sees them: the cosine of "
    "what it makes of two pictures, 1 for equal ones, near 0 for unrelated ones. <b>Drift</b> is how far pictures of "
    "prompts without the trigger went from the base's own, 1 - cosine: 0 where nothing moved. It is what a training "
    "spoils. More training buys more of both, so methods are compared where they drift equally."
)
SHOWN = ("held_out", "trained", "prompt", "drift", "copy", "seeds", "lpips_distance", "paper_div")


def page(
    title: str,
    results: Results,
    out: Path,
    questions: Mapping[str, Sequence[Asked]],
    settings: Sequence[tuple[str, str]],
    photos: Mapping[str, Photos] | None = None,
    network: str = "lite0",
) -> str:
    """Returns the page as HTML that needs nothing beside it.

    Args:
        title: of the comparison.
        results: of its cells.
        out: its folder, where the pictures are.
        questions: subject -> its prompts.
        settings: what the numbers depend on.
        photos: subject -> its photographs.
        network: name of what sees the pictures.
    """
    chosen = verdict.best(results)
    blocks = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="now"><b>{escape(verdict.headline(results))}</b></p>',
        *(f'<p class="warn">{escape(text)}</p>' for text in cautions.warnings(results)),
        standing.scores(results),
        "<h2>Fidelity at equal drift</h2>",
        f"<p>{WORDS.format(network=escape(network))}</p>",
        *(f"<p>{escape(text)}</p>" for text in verdict.verdict(results)),
        standing.differences(results, "drift"),
        standing.fronts(results),
        standing.differences(results, "prompt"),
        "<h2>Each method at its best</h2>",
        '<div class="wide">' + table(*best_table(results, chosen, network)) + "</div>",
        "<p><small>Best: the learning rate and length with the largest mean score (fidelity gained x part of the base "
        "kept x part of the prompt score kept), chosen on the very pictures that are shown here. In brackets: 95 % "
        "interval, over subjects, or over seeds of one subject.</small></p>",
        table(
            [
                (BY_NAME[name].title.format(images=network, clip="CLIP"), BY_NAME[name].says)
                for name in SHOWN
                if name in results.measures
            ]
        ),
        "<h2>Side by side</h2>",
        grid(results, chosen, out, questions, photos or {}),
        "<h2>What it costs</h2>",
        table(cost_rows(results), ("", "trained numbers", "file", "time a step", "peak memory")),
        failures(results),
        "<h2>How it was measured</h2>",
        table(settings),
    ]
    style = (
        STYLE.replace("max-width:900px", "max-width:1200px")
        + ".wide td{white-space:pre}.wide thead th{white-space:normal;overflow-wrap:normal}"
        + f".fronts svg{{min-width:{standing.FRONTS_PX}px}}.wide tbody th{{overflow-wrap:normal}}"
        + "@media(max-width:600px){tbody th{white-space:normal}}"
        + f".grid td,.grid thead th{{padding:0 {GAP_PX}px {GAP_PX}px 0}}.grid figure{{margin:0}}"
        + f".grid tbody th{{white-space:normal;width:{PROMPT_PX}px;min-width:{PROMPT_PX - 20}px}}"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body>\n{chr(10).join(block for block in blocks if block)}\n</body></html>\n"
    )


def best_table(results: Results, chosen: Sequence[Best], network: str) -> tuple[list[list[str]], list[str]]:
    """Returns the rows and the headings of the methods at their best, the base first."""
    names = [name for name in SHOWN if name in results.measures]
    titles = (BY_NAME[name].title.format(images=network, clip="CLIP") for name in names)
    head = ["", "learning rate", "steps", *titles]
    base = list(results.bases.values())
    rows = []
    if base:
        means = [sum(one.get(name, float("nan")) for one in base) / len(base) for name in names]
        rows.append(
            ["base", "", "", *(f"{mean:.{BY_NAME[name].digits}f}" for name, mean in zip(names, means, strict=True))]
        )
    for one in chosen:
        cells = [shown(one.figures[name], BY_NAME[name].digits).replace(" [", "\n[") for name in names]
        rows.append([one.method, f"{one.rate:g}", str(one.step), *cells])
    return rows, head


def grid(
    results: Results,
    chosen: Sequence[Best],
    out: Path,
    questions: Mapping[str, Sequence[Asked]],
    photos: Mapping[str, Photos],
) -> str:
    """Returns for each subject its photos and a row a prompt, one seed: the base's, then each method's at its best."""
    if not chosen:
        return "<p>No pictures yet.</p>"
    blocks = []
    for subject in results.bases:
        found = columns(subject, chosen, out)
        if len(found) > 1:
            blocks.append(f"<h3>{escape(subject)}</h3>")
            if subject in photos:
                blocks.append(photographs(photos[subject]))
            blocks.append(subject_grid(found, questions[subject]))
    return "".join(blocks)


def photographs(photos: Photos) -> str:
    """Returns a subject's photos, those that were kept out of the training named so."""
    few = [(one, "trained on") for one in photos.trained[:MOST_PHOTOS]]
    few += [(one, "held out") for one in photos.held_out[:MOST_PHOTOS]]
    return "".join(inline(opened(one), said, PHOTO_PX) for one, said in few)


def columns(subject: str, chosen: Sequence[Best], out: Path) -> list[tuple[str, Path]]:
    """Returns the columns of a subject's grid: the base, and each method at its best with the subject's first seed."""
    found = [("base", out / "pictures" / f"base--{subject}" / "base")]
    for one in chosen:
        pair = next((pair for pair in one.cells if pair[0] == subject), None)
        if pair is not None:
            found.append((one.method, out / "pictures" / one.cells[pair] / f"step{one.step:08d}"))
    return found


def shown_prompts(questions: Sequence[Asked]) -> list[Asked]:
    """Returns the prompts of a grid: some of the subject, and two without the trigger."""
    subject, plain = ([one for one in questions if one.is_plain == side] for side in (False, True))
    return [*subject[: MOST_PROMPTS - 2], *plain[:2]]


def subject_grid(columns: Sequence[tuple[str, Path]], questions: Sequence[Asked]) -> str:
    """Returns the first seed's pictures of some prompts, a column a folder."""
    head = "".join(f"<th>{escape(name)}</th>" for name, _ in columns)
    side = min(PICTURE_PX, (GRID_PX - PROMPT_PX) // len(columns) - GAP_PX)  # so that all methods are seen at once
    rows = []
    for asked in shown_prompts(questions):
        cells = ""
        for _, folder in columns:
            path = sheet.first_seed(folder, asked)
            cells += f"<td>{inline(open_drawn(path), '', side) if path else ''}</td>"
        without = " <small>(without the trigger)</small>" if asked.is_plain else ""
        rows.append(f"<tr><th>{escape(asked.prompt)}{without}</th>{cells}</tr>")
    body = f"<thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="wide grid"><table>{body}</table></div>'


def cost_rows(results: Results) -> list[list[str]]:
    """Returns a row a method: numbers that train, bytes of its file, time and memory of its training, as medians."""
    rows = []
    for method in results.methods:
        found = summary.cost(results, method)
        seconds, peak, size, count = (
            found[key] for key in ("seconds_per_step", "peak_memory", "file_bytes", "parameters")
        )
        rows.append(
            [
                method,
                f"{count:,.0f}" if count else "-",
                f"{size / 1e6:.2f} MB" if size else "-",
                f"{1e3 * seconds:.0f} ms" if seconds else "-",
                memory(int(peak)) if peak else "-",
            ]
        )
    return rows


def failures(results: Results) -> str:
    """Returns why cells failed, if some did."""
    if not results.failures:
        return ""
    return "<h2>Failed</h2>" + table(sorted(results.failures.items()))
