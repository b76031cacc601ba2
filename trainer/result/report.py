"""The page that a run leaves behind: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from ..pictures import images
from ..pictures.buckets import View
from ..pictures.picture import Picture
from ..preflight.preflight import Ready
from ..samples import grid
from ..samples.prompts import Shot
from ..samples.sampling import Drawn
from ..system.console import clock
from ..system.errors import UserError
from ..system.files import readable_size
from . import chart, kohyakeys, metadata
from .runfacts import Run, bucket_rows, captions, facts

if TYPE_CHECKING:
    from .runparts import Parts

MOST_THUMBNAILS = 12
MOST_MOMENTS = 12  # of samples over time
RELOAD_S = 10
THUMBNAIL_PX, SAMPLE_PX, NARROW_PX = 160, 400, 240  # shown width at most; narrow where samples have many moments
SMALL_PX = 128  # up to it a picture is kept exact and shown with hard pixels
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:900px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1,h2{line-height:1.2} h2{margin-top:2.5rem} table{border-collapse:collapse}
td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top;overflow-wrap:anywhere}
th{font-weight:600;white-space:nowrap} tbody th{color:#555} td.n{text-align:right;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto} svg{max-width:100%;height:auto}
figure{display:inline-block;margin:0 1rem 1rem 0;vertical-align:top} figcaption{font-size:.85rem;color:#555}
.now{background:#eef4fb;padding:.6rem 1rem} .now b,.now small{margin-right:.5rem} progress{width:100%;height:.6rem}
.small{image-rendering:pixelated} .warn{background:#fff3cd;padding:.6rem 1rem} small{color:#555}
pre{background:#f5f5f5;padding:1rem;overflow:auto;font-size:.85rem}
"""


@dataclass(frozen=True)
class Figures:
    """The page's pictures as HTML: what takes longest to make of it."""

    samples: str
    thumbnails: str


@dataclass(frozen=True)
class Now:
    """Where a run is that goes on.

    Attributes:
        step, steps: done, and to be done in all.
        seconds_left: of the training, None where that cannot be told yet.
        clock: time of the day.
    """

    step: int
    steps: int
    seconds_left: float | None
    clock: str


def figures(moments: Mapping[str, Sequence[Drawn]], ready: Ready, small: str | None = None) -> Figures:
    """Returns the page's pictures; `small`, the training pictures' own, where they were made before."""
    return Figures(samples(moments), thumbnails(ready) if small is None else small)


def page(parts: Parts, run: Run, drawn: Figures | None = None, now: Now | None = None) -> str:
    """Returns the report as HTML.

    Args:
        parts: of the run.
        run: what came of it.
        drawn: the page's pictures; made of the run's samples unless given.
        now: of a run that goes on, whose page reloads itself.
    """
    ready, drawn = parts.ready, drawn or figures(run.samples, parts.ready)
    curves = f"<h2>Loss</h2>{chart.draw(run.losses, run.rates, run.validation, run.resumed_at, run.first_step)}"
    name, trigger = ready.job.metadata.metadata_title or ready.job.save.output_name, ready.job.metadata.trigger_phrase
    blocks = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="warn">{escape(run.warning)}</p>' if run.warning else "",
        progress(now) if now else "",
        f"<p>{escape(best(run))}</p>",
        f"<p>{escape(ready.job.metadata.metadata_description)}</p>",
        f"<p>Trigger phrase: <b>{escape(trigger)}</b></p>" if trigger else "",
        curves if now else "",  # first while the run works: they change most
        drawn.samples,
        "<h2>What was trained</h2>" if not now else "<h2>What is trained</h2>",
        table((facts(parts, run) | captions(ready)).items()),
        "" if now else curves,
        "<h2>Pictures</h2>",
        drawn.thumbnails,
        table(bucket_rows(ready), ("trained at", "pictures", "seen an epoch")),
        *(f"<p>{escape(notice)}</p>" for notice in parts.notices),
        "<h2>Files</h2>",
        table([(path.name, readable_size(path)) for path in run.files if path.exists()]),
        f"<p>{use(parts)}</p>",
        "<h2>The job, with every default</h2>",
        f"<pre>{escape(metadata.public_toml(ready))}</pre>",
    ]
    reload = f'<meta http-equiv="refresh" content="{RELOAD_S}">' if now else ""
    body = "\n".join(block for block in blocks if block != "<p></p>" and block)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width">{reload}<title>{escape(name)} - WaveFT</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def use(parts: Parts) -> str:
    """Returns where the adapter is used, as HTML: ComfyUI takes those of SDXL, another base only its own."""
    if kohyakeys.is_sdxl(parts.forward.base):
        return "ComfyUI finds the <code>.safetensors</code> file in its <code>models/loras</code>."
    base = escape(kohyakeys.base_name(parts.ready.job))
    return (
        f"The adapter is for {base} alone, whose layers have other sizes than SDXL's, so that ComfyUI cannot use it: "
        "<code>waveft_core.diffusers.load</code> puts it into that base."
    )


def progress(now: Now) -> str:
    """Returns how far a run is, as a bar with words."""
    left = "" if now.seconds_left is None else f", {clock(now.seconds_left)} left"
    return (
        f'<div class="now"><progress max="{now.steps}" value="{now.step}"></progress>'
        f"<b>step {now.step} of {now.steps}{left}</b> <small>as of {now.clock}; this page reloads itself</small></div>"
    )


def best(run: Run) -> str:
    """Returns which step has the least validation loss, in words, or ""."""
    found = [(loss, step) for step, loss in run.validation if math.isfinite(loss)]
    if not found:
        return ""
    loss, step = min(found)
    return f"Best step by validation loss: {step} ({loss:.4f})"


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Returns a table, the first cell of each row its title; cells of digits alone stand to the right."""
    top = f"<thead><tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr></thead>" if head else ""
    lines = "".join(
        f"<tr><th>{escape(row[0])}</th>"
        + "".join(f"<td{' class=n' if cell.isdigit() else ''}>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table>{top}<tbody>{lines}</tbody></table>"


def inline(image: Image.Image, caption: str, width: int) -> str:
    """Returns a figure with the picture in the page itself, shown `width` px wide."""
    small = max(image.size) <= SMALL_PX
    if not small:
        image = image.copy()
        image.thumbnail((2 * width, 2 * width))  # twice what is shown, for screens with fine pixels
    content = images.png_bytes(image) if small else images.jpeg_bytes(image)
    source = f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(content).decode()}"
    kind = ' class="small"' if small else ""
    return (
        f'<figure><img src="{source}" width="{width}"{kind} alt="{escape(caption, quote=True)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def samples(moments: Mapping[str, Sequence[Drawn]]) -> str:
    """Returns the samples over time: a row for each prompt and seed, a column for each moment."""
    moments = {when: drawn for when, drawn in moments.items() if drawn}
    if not moments:
        return ""
    rows: dict[Shot, dict[str, Image.Image]] = {}
    for when, drawn in moments.items():
        for sample in drawn:
            rows.setdefault(sample.shot, {})[when] = sample.image
    if len(moments) == 1:  # nothing to compare yet: side by side
        ((when, drawn),) = moments.items()
        figures = (inline(one.image, f"{one.shot.prompt} (seed {one.shot.seed})", NARROW_PX) for one in drawn)
        return f"<h2>Samples, {escape(grid.label(when))}</h2>{''.join(figures)}"
    width = SAMPLE_PX if len(moments) <= 2 else NARROW_PX
    blocks = ["<h2>Samples</h2>"]
    for shot, row in rows.items():
        negative = f", without “{escape(shot.negative_prompt)}”" if shot.negative_prompt else ""
        blocks.append(f"<p>{escape(shot.prompt)} <small>(seed {shot.seed}{negative})</small></p>")
        cells = "".join(
            f"<td>{inline(row[when], grid.label(when), width) if when in row else ''}</td>" for when in moments
        )
        blocks.append(f'<div class="wide"><table><tr>{cells}</tr></table></div>')
    return "".join(blocks)


def thumbnail(picture: Picture) -> str:
    """Returns a picture as it is trained, with its caption; what it was where its file is another by now."""
    try:
        return inline(images.from_tensor(images.pixels(picture, View())), picture.caption.plain(), THUMBNAIL_PX)
    except UserError:
        return f"<p>{escape(picture.path.name)}: no longer the file that was trained</p>"


def thumbnails(ready: Ready) -> str:
    """Returns the first pictures as they are trained, with their captions."""
    figures = list(map(thumbnail, ready.pictures[:MOST_THUMBNAILS]))
    rest = len(ready.pictures) - MOST_THUMBNAILS
    return "".join(figures) + (f"<p>and {rest} more</p>" if rest > 0 else "")
