"""WaveFT Train with the real trainer on the nano base, on stand-ins for ComfyUI."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
WIDGETS = {
    "checkpoint_name": "diffusers/nano",
    "image_folder": "robot",
    "trigger": "sks robot",
    "steps": 4,
    "name": "robot",
    "resolution_px": 64,
    "coefficients": 64,
    "learning_rate": 1e-3,
    "scaling": 25.0,
    "batch_size": 1,
    "seed": 42,
    "sample_prompt": "",
    "python": "",
    "resume": True,
}


class Interrupted(Exception):
    pass


class Comfy:
    """Stands in for ComfyUI's progress bar, Cancel button and memory."""

    def __init__(self):
        self.bar, self.previews, self.total, self.freed = [], [], 0, 0
        self.cancelled = False
        self.when = lambda: False  # the user cancels

    def processing_interrupted(self):
        return self.cancelled

    def throw_exception_if_processing_interrupted(self):
        if self.cancelled or self.when():
            self.cancelled = False
            raise Interrupted

    def unload_all_models(self):
        self.freed += 1

    def soft_empty_cache(self):
        pass

    def ProgressBar(self, total):
        self.total = total
        return self

    def update_absolute(self, value, preview=None):
        self.throw_exception_if_processing_interrupted()
        self.bar.append(value)
        if preview is not None:
            self.previews.append(preview)


@pytest.fixture
def fake(comfy, monkeypatch, models):
    """ComfyUI with the nano base in models/diffusers and the robot's pictures in its input folder."""
    made = Comfy()
    for name in ("utils", "model_management"):
        monkeypatch.setitem(sys.modules, f"comfy.{name}", made)
        monkeypatch.setattr(sys.modules["comfy"], name, made, raising=False)
    paths = sys.modules["folder_paths"]
    (models / "checkpoints").mkdir()
    (models / "diffusers").mkdir()
    (models / "diffusers/nano").symlink_to(REPOSITORY / "models/nano-sdxl")
    shutil.copytree(REPOSITORY / "jobs/robot", models.parent / "input/robot")
    paths.folder_names_and_paths["checkpoints"] = ([str(models / "checkpoints")], {".safetensors", ".ckpt"})
    paths.get_folder_paths = lambda kind: [str(models / kind)]
    paths.get_input_directory = lambda: str(models.parent / "input")
    paths.__file__ = str(models.parent / "comfyui/folder_paths.py")
    monkeypatch.setenv("WAVEFT_PYTHON", sys.executable)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made.output = models.parent / "output/waveft/training"
    return made


@pytest.fixture
def train(comfy, fake, monkeypatch):
    """Returns a function that runs the node: train(widget=value); `train.shown` is what the node showed meanwhile."""
    comfy("folders").register()
    shown = []
    monkeypatch.setattr(comfy("messages"), "show", lambda _, text: shown.append(text))
    node = comfy("nodes.train").WaveFTTrain
    node.hidden = SimpleNamespace(unique_id="1")

    def run(**changed):
        return node.execute(**{**WIDGETS, **changed})

    run.shown = shown
    return run


def test_it(train, fake):
    import time

    t = time.time()
    carried, report, samples = train(sample_prompt="sks robot\na red circle", steps=8)
    print(time.time() - t)
    print(report)
    print(train.shown, fake.bar, len(fake.previews), samples.shape, carried.origin)
    print(sorted(p.relative_to(fake.output) for p in fake.output.rglob("*")))
    assert 0
