"""What is to be trained, as the job file that the trainer reads; and whether that was trained already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..core import WaveFTError, write_atomically
from ..folders import sha256, stamp
from . import paths as places
from .paths import Run
from .watch import stamps

REFUSED = "The job cannot be run"  # how the trainer begins what is wrong with a job
SAMPLED = 4  # times that samples are drawn while it trains, the end among them
# What the trainer calls a setting, and what the widget is called. In this order: the longer ones first.
WIDGETS = {
    "[model] pretrained_model_name_or_path": "checkpoint_name",
    "[[datasets.subsets]] 1 image_dir": "image_folder",
    "[[datasets.subsets]] 1.1 image_dir": "image_folder",
    "[metadata] trigger_phrase": "trigger",
    "[train] max_train_steps": "steps",
    "[save] output_name": "name",
    "[general] resolution": "resolution_px",
    "[network] coefficients": "coefficients",
    "[optimizer] learning_rate": "learning_rate",
    "[network] scaling": "scaling",
    "[general] batch_size": "batch_size",
    "[train] seed": "seed",
    "[sample] prompts": "sample_prompt",
    "go on with --resume latest, or set overwrite = true": "or turn `resume` off to begin anew",
    "or set overwrite = true": "or turn `resume` off to begin anew",
    "other captions of": "other captions (of `trigger`, or in text files) of",
    "--resume latest goes on from there": "with `resume` on it goes on from there",
}


@dataclass(frozen=True)
class Wanted:
    """The widgets, but for those that say how it is run."""

    checkpoint_name: str
    image_folder: str
    trigger: str
    steps: int
    name: str
    resolution_px: int
    coefficients: int
    learning_rate: float
    scaling: float
    batch_size: int
    seed: int
    sample_prompt: str

    @property
    def prompts(self) -> list[str]:
        """What is drawn: a prompt a line."""
        return [line.strip() for line in self.sample_prompt.splitlines() if line.strip()]


def text(wanted: Wanted) -> str:
    """Returns the job file.

    Raises:
        WaveFTError: there is no such base, no such folder of pictures, or a text that no file can hold.
    """
    for widget in ("checkpoint_name", "image_folder", "trigger", "sample_prompt"):
        _check_text(widget, getattr(wanted, widget))
    return "\n".join((*_lines(wanted), ""))


def _check_text(widget: str, given: str) -> None:
    """Refuses a text with half of a pair of surrogates, which JSON can carry into a node and UTF-8 cannot write."""
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise WaveFTError(
            f"{widget}: expected letters that UTF-8 can write, got {given[error.start]!a} as letter "
            f"{error.start + 1}. Write the text anew, or rename the file."
        ) from None


def _lines(wanted: Wanted) -> Iterator[str]:
    base = places.base(wanted.checkpoint_name)
    vocabulary = places.vocabulary(base)
    yield "# Written by WaveFT Train, and written anew whenever it runs. The same from WaveFT's folder:"
    yield "#     python -m trainer --config (this file) --resume latest"
    yield "[model]"
    yield f"pretrained_model_name_or_path = {_quoted(str(base))}"
    if vocabulary:
        yield f"tokenizer = {_quoted(str(vocabulary))}  # ComfyUI has CLIP's vocabulary, a single file has not"
    yield "\n[network]"
    yield f"coefficients = {wanted.coefficients}"
    yield f"scaling = {float(wanted.scaling)!r}"
    yield "\n[optimizer]"
    yield f"learning_rate = {float(wanted.learning_rate)!r}"
    yield "\n[train]"
    yield f"max_train_steps = {wanted.steps}"
    yield f"seed = {wanted.seed}"
    yield "\n[save]"
    yield 'output_dir = "."'
    yield f"output_name = {_quoted(wanted.name)}"
    if wanted.prompts:
        yield "\n[sample]"
        yield f"prompts = [{', '.join(map(_quoted, wanted.prompts))}]"
        yield f"sample_every_n_steps = {-(-wanted.steps // SAMPLED)}"
    if wanted.trigger.strip():
        yield "\n[metadata]"
        yield f"trigger_phrase = {_quoted(wanted.trigger.strip())}"
    yield "\n[general]"
    yield f"resolution = {wanted.resolution_px}"
    yield f"batch_size = {wanted.batch_size}"
    yield "\n[[datasets]]"
    yield "  [[datasets.subsets]]"
    yield f"  image_dir = {_quoted(str(places.pictures(wanted.image_folder)))}"
    if wanted.trigger.strip():
        yield '  class_tokens = "{trigger}"'


def key(wanted: Wanted, job: str) -> str:
    """Returns what changes with the job, its base, its pictures and their captions."""
    stamp = places.stamp(wanted.checkpoint_name, wanted.image_folder)
    return hashlib.sha256(f"{stamp}\n{job}".encode(errors="surrogateescape")).hexdigest()


def write(run: Run, job: str) -> None:
    """Writes the job file, whole or not at all, its folder made where there is none."""
    run.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(run.job, job.encode())


@contextmanager
def tried(run: Run, job: str) -> Iterator[None]:
    """Writes the job file; an exception before the training's first step leaves everything as it was before.

    A job that is refused would else lie beside the adapter of another one, as if that had come of it. What the trainer
    said stays where it broke down: the error names the file.
    """
    files, begun = (run.job, run.log), stamps([run.metrics])
    held = {path: _content(path) for path in files}
    made = [folder for folder in (run.folder, run.folder.parent) if not folder.exists()]
    write(run, job)
    try:
        yield
    except BaseException as error:
        if stamps([run.metrics]) == begun:
            said = _content(run.log) or b""
            broke_down = isinstance(error, WaveFTError) and REFUSED.encode() not in said
            for path in files[:1] if broke_down else files:
                _put_back(path, held[path])
            for folder in made:
                with suppress(OSError):  # not empty
                    folder.rmdir()
        raise


def mark(run: Run, key: str, samples: Sequence[Path]) -> None:
    """Notes that the adapter and the samples came of this job."""
    drawn = {path.name: stamp(path) for path in samples}
    write_atomically(run.marker, json.dumps({"key": key, "sha256": sha256(run.adapter), "samples": drawn}).encode())


def trained(run: Run, key: str) -> list[Path] | None:
    """Returns the samples of a finished run, if the adapter that is there came of this job; else None.

    Nothing of it may have been changed since; samples may be gone.
    """
    try:
        marked = json.loads(run.marker.read_bytes())
        if marked["key"] != key or marked["sha256"] != sha256(run.adapter):
            return None
        drawn = {path.name: path for _, path in run.samples()}
        there = {drawn[name]: noted for name, noted in marked["samples"].items() if name in drawn}
        return sorted(there) if all(stamp(path) == noted for path, noted in there.items()) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or written by someone else
        return None


def in_widgets(told: str) -> str:
    """Returns what the trainer said, with the widgets' names for the job's keys."""
    for key, widget in WIDGETS.items():
        told = told.replace(key, widget)
    return told


def _content(path: Path) -> bytes | None:
    with suppress(OSError):
        return path.read_bytes()
    return None


def _put_back(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        write_atomically(path, content)


def _quoted(text: str) -> str:
    """Returns a text as TOML writes it: JSON's way, but for one sign that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
