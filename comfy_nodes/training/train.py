"""What WaveFT Train does: `python -m trainer` as a child process, and the adapter that it leaves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from .. import folders, models
from ..adapters import describe, progress
from ..core import Adapter, WaveFTError, load
from ..drawing import drawing
from ..sockets import Carried
from . import job, paths
from .job import REFUSED, Wanted
from .paths import Run
from .python import Python, check, choose
from .run import Show, run
from .watch import MEAN_OF, clock, losses

TOLD = 25  # lines of the trainer's, where it fails
BLANK_PX = 64

Made = tuple[Carried, str, torch.Tensor]


def train(wanted: Wanted, python: str, resume: bool, show: Show) -> Made:
    """Returns the adapter, the report and the last samples, [batch, height, width, 3] float32 in 0..1.

    Args:
        python: which one trains; empty for the usual.
        resume: whether to go on with an earlier run of that name, or to take what it made, if that was the same.
        show: told what goes on.

    Raises:
        WaveFTError: base, pictures, Python or settings will not do, or the training failed; what it had saved stays.
    """
    place = paths.run(wanted.name)
    text = job.text(wanted)
    key = job.key(wanted, text)
    if resume and (drawn := job.trained(place, key)) is not None:
        return made(place, wanted, drawn, ["nothing was trained: it was there, of these settings and pictures"])
    chosen = choose(python)
    show(f"looking at {chosen.path}")
    check(chosen)
    began, states, samples = time.monotonic(), place.states(), place.samples()
    progress.free_memory()
    arguments = ["--resume", "latest"] if resume else ["--set", "save.overwrite=true"]
    with job.tried(place, text):
        status = run(chosen, arguments, place, wanted.steps, show)
        if status or not place.adapter.is_file():
            raise WaveFTError(*failure(place, chosen, status).splitlines())
    drawn = place.last_samples(before=samples)
    job.mark(place, key, drawn)
    went_on = " (went on with an earlier run)" if resume and states else ""
    done = f"{wanted.steps} steps in {clock(time.monotonic() - began)}{went_on}"
    return made(place, wanted, drawn, [done, f"by Python {chosen.path} ({chosen.why})"])


def made(place: Run, wanted: Wanted, drawn: Sequence[Path], told: Sequence[str]) -> Made:
    """Returns what a finished run left, its samples, and a report that says what was done."""
    adapter = load(place.adapter)
    said = {
        "steps": wanted.steps,
        "base": wanted.checkpoint_name,
        "file": models.in_output(place.adapter),
        "sha256": folders.sha256(place.adapter),
    }
    carried = Carried(adapter, place.adapter.name, {"trained": said})
    return carried, report(place, adapter, wanted, drawn, told), batch(drawn)


def report(place: Run, adapter: Adapter, wanted: Wanted, drawn: Sequence[Path], told: Sequence[str]) -> str:
    """Returns where the adapter lies, what was done and what it came to: a node shows the first two lines."""
    lines = [f"adapter: {models.in_output(place.adapter)}", told[0]]
    each = losses(place)
    if some := min(MEAN_OF, len(each) // 2):
        first, last = sum(each[:some]) / some, sum(each[-some:]) / some
        lines.append(f"loss {first:.4f} in the first {describe.plural(some, 'step')}, {last:.4f} in the last")
    lines.append(f"{describe.plural(len(adapter.layers), 'layer')}, {describe.basis(adapter)}")
    lines.append(f"losses, samples and pictures on a page: {models.in_output(place.folder)}/{place.name}-report.html")
    if not drawn:
        why = "none are there" if wanted.prompts else "none, as there is no sample_prompt"
        lines.append(f"samples: {why}")
    return "\n".join([*lines, *told[1:]])


def batch(paths: Sequence[Path]) -> torch.Tensor:
    """Returns pictures of one size as a batch, a grey one where there is none."""
    drawn = []
    for path in paths:
        with Image.open(path, formats=("PNG",)) as file:
            drawn.append(drawing.to_tensor(file))
    drawn = [picture for picture in drawn if picture.shape == drawn[0].shape]
    return torch.cat(drawn) if drawn else torch.full((1, BLANK_PX, BLANK_PX, 3), 0.5)


def failure(place: Run, python: Python, status: int) -> str:
    """Returns why the child ended, in its own words and the widgets' names, and what to do."""
    log = place.log.read_text(encoding="utf-8", errors="replace").strip()
    what = f'training "{place.name}" by Python {python.path} ({python.why})'
    if REFUSED in log:
        faults = job.in_widgets(log[log.rfind(REFUSED) :].partition("\n")[2])
        other = "saved run" in faults  # it would have to go on with one of other settings
        anew = "\nOr turn `resume` off: it then begins anew, and replaces what the earlier run made."
        return f"{what}: expected settings and files that can be trained, got:\n{faults}{anew if other else ''}"
    got = f"status {status}{' (killed: was there enough memory?)' if status < 0 else ''}"
    last = job.in_widgets("\n".join(log.splitlines()[-TOLD:]))
    kept = "\nWhat was trained is kept: run it again with `resume` on, and it goes on from there."
    return (
        f"{what}: expected it to end well, got {got}. Its last words, all of which are in {place.log}:\n{last}"
        f"{kept if place.states() else ''}"
    )
