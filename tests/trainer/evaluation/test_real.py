"""A real run on the nano base, seen by a real network: an overfitted end is not what is recommended."""

import importlib.util
import json
from pathlib import Path

import pytest
import toml

from trainer import cli
from trainer.embedders import lite0

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec(lite0.PACKAGE) is None, reason="the extra `eval` is not installed"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers' Euler, with NumPy 2
]


@pytest.fixture
def job(tmp_path):
    """The robot's six pictures learned far too fast and too long."""
    table = {
        "model": {"pretrained_model_name_or_path": str(ROOT / "models" / "nano-sdxl")},
        "network": {"coefficients": 512},
        "optimizer": {"learning_rate": 2e-3},
        "train": {"max_train_steps": 240, "gradient_accumulation_steps": 1, "device": "cpu"},
        "save": {"output_dir": str(tmp_path / "out"), "output_name": "robot", "save_every_n_steps": 40},
        "sample": {"guidance_scale": 4.0, "sample_steps": 12},
        "validation": {"validation_split": 0.34, "validate_every_n_steps": 40},
        "evaluation": {
            "clip_model": str(ROOT / "models" / "nano-clip"), "images_per_prompt": 2,
            "subject_prompts": ["{trigger}", "{trigger} on the grass", "{trigger} in the snow", "{trigger} at night"],
            "plain_prompts": ["a red cup on a wooden table", "a cat on the grass", "a robot in the snow"],
        },
        "metadata": {"trigger_phrase": "sks robot"},
        "general": {"batch_size": 4},
        "datasets": [{"subsets": [{"image_dir": str(ROOT / "jobs" / "robot"), "class_tokens": "sks robot"}]}],
    }  # fmt: skip
    path = tmp_path / "job.toml"
    path.write_text(toml.dumps(table))
    return path


def test_an_earlier_step_is_recommended_than_the_overfitted_end(job, tmp_path):
    assert cli.main(["--config", str(job)]) == 0
    assert cli.main(["evaluate", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "robot-evaluation.json").read_text())
    assert found["advice"]["verdict"] == "take"
    assert found["advice"]["step"] < 240
    columns = {one["step"]: one["columns"] for one in found["candidates"]}
    assert columns[240]["drift"]["mean"] > columns[found["advice"]["step"]]["drift"]["mean"], "overfitting is drift"
