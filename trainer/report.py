"""The page that a run leaves behind: one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from PIL import Image

from . import chart, images, metadata, preflight
from .console import clock
from .files import readable_size
from .preflight import Ready
from .sampling import Drawn
from .setup import Parts

MOST_THUMBNAILS = 12
THUMBNAIL_PX, SAMPLE_PX = 160, 400  # shown width at most
SMALL_PX = 128  # up to it a picture is kept exact and shown with hard pixels
STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:880px;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h1,h2{line-height:1.2} table{border-collapse:collapse}
td,th{text-align:left;padding:.2rem 1rem .2rem 0;vertical-align:top}
figure{display:inline-block;margin:0 1rem 1rem 0} figcaption{font-size:.85rem;color:#555}
.small{image-rendering:pixelated} .warn{background:#fff3cd;padding:.6rem 1rem}
pre{background:#f5f5f5;padding:1rem;overflow:auto;font-size:.85rem}
"""


@dataclass
class Run:
    """What came of a run.

    Attributes:
        losses: of each optimizer step done.
        before, after: samples from the same seeds; empty where none were drawn.
        files: what the run wrote.
        warning: why the run is not whole, or "".
        seconds: that it took.
    """

    losses: Sequence[float]
    before: Sequence[Drawn]
    after: Sequence[Drawn]
    files: Sequence[Path]
    warning: str
    seconds: float


def page(parts: Parts, run: Run) -> str:
    """Returns the report as HTML."""
    ready = parts.ready
    name, trigger = ready.job.metadata.metadata_title or ready.job.save.output_name, ready.job.metadata.trigger_phrase
    blocks = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="warn">{escape(run.warning)}</p>' if run.warning else "",
        f"<p>Trigger phrase: <b>{escape(trigger)}</b></p>" if trigger else "",
        samples(run),
        "<h2>What was trained</h2>",
        table(facts(parts, run)),
        "<h2>Loss</h2>",
        chart.draw(run.losses),
        "<h2>Pictures</h2>",
        thumbnails(ready),
        *(f"<p>{escape(notice)}</p>" for notice in parts.notices),
        "<h2>Files</h2>",
        table({path.name: readable_size(path) for path in run.files}),
        "<p>ComfyUI finds the <code>.safetensors</code> file in its <code>models/loras</code>.</p>",
        "<h2>The job, with every default</h2>",
        f"<pre>{escape(metadata.public_toml(ready))}</pre>",
    ]
    body = "\n".join(block for block in blocks if block)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)} - WaveFT</title>'
        f"<style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def facts(parts: Parts, run: Run) -> dict[str, str]:
    """Returns the rows of the table of what was trained."""
    lines = [line.split(None, 1) for line in preflight.describe(parts.ready)]
    rows = {key: value for key, value in lines if key not in ("writes", "notice")}
    last = run.losses[-max(1, len(run.losses) // 10) :]
    return {
        **rows,
        "in all": f"{parts.tuning.numel} coefficients in {len(parts.tuning)} layers",
        "steps done": str(len(run.losses)),
        "loss": f"{sum(last) / len(last):.4f} (mean of the last {len(last)} steps)" if last else "none",
        "device": f"{parts.place.device}, mixed_precision {parts.place.name}, torch {torch.__version__}",
        "time": clock(run.seconds),
    }


def table(rows: dict[str, str]) -> str:
    """Returns a table of two columns."""
    lines = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in rows.items())
    return f"<table>{lines}</table>"


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


def samples(run: Run) -> str:
    """Returns the samples, before and after side by side."""
    if not run.after:
        figures = [inline(drawn.image, drawn.prompt, SAMPLE_PX) for drawn in run.before]
        return "".join(["<h2>Before training</h2>", *figures]) if figures else ""
    rows = ["<h2>Before and after</h2>" if run.before else "<h2>After training</h2>"]
    for number, new in enumerate(run.after):
        old = inline(run.before[number].image, "before", SAMPLE_PX) if run.before else ""
        rows.append(f"<p>{escape(new.prompt)} <small>(seed {new.seed})</small></p>")
        rows.append(old + inline(new.image, "after", SAMPLE_PX))
    return "".join(rows)


def thumbnails(ready: Ready) -> str:
    """Returns the first pictures as they are trained, with their captions."""
    figures = [
        inline(images.crop(images.open_rgb(picture.path), picture.geometry), picture.caption, THUMBNAIL_PX)
        for picture in ready.pictures[:MOST_THUMBNAILS]
    ]
    rest = len(ready.pictures) - MOST_THUMBNAILS
    return "".join(figures) + (f"<p>and {rest} more</p>" if rest > 0 else "")
