"""What is to be trained, as the job file that the trainer reads; and whether that was trained already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from . import training_places as places
from .core import write_atomically
from .folders import sha256
from .training_places import Run

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
        WaveFTError: there is no such base, or no such folder of pictures.
    """
    return "\n".join((*_lines(wanted), ""))


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


def mark(run: Run, key: str) -> None:
    """Notes that the adapter came of this job."""
    write_atomically(run.marker, json.dumps({"key": key, "sha256": sha256(run.adapter)}).encode())


def is_trained(run: Run, key: str) -> bool:
    """Returns whether the adapter that is there came of this job, and was not changed since."""
    try:
        marked = json.loads(run.marker.read_bytes())
        return bool(marked["key"] == key and marked["sha256"] == sha256(run.adapter))
    except (OSError, ValueError, LookupError, TypeError):  # none, or written by someone else
        return False


def in_widgets(told: str) -> str:
    """Returns what the trainer said, with the widgets' names for the job's keys."""
    for key, widget in WIDGETS.items():
        told = told.replace(key, widget)
    return told


def _quoted(text: str) -> str:
    """Returns a text as TOML writes it: JSON's way, but for one sign that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
