"""A finished run of the tiny base, to be looked at by tiny networks."""

from pathlib import Path

import pytest

from trainer import loop
from trainer.preflight import preflight


@pytest.fixture
def finished(job, write_job, make_model, tmp_path, pictures_in):
    """The function that trains the tiny base, checkpoints on the way, and returns the run's folder and its job."""

    def run(*overrides, **evaluation):
        pictures_in(tmp_path / "pictures", 5)
        job["save"] |= {"save_every_n_steps": 1, "output_name": "robot", "overwrite": True}
        job["sample"] = {"prompts": ["sks robot", "a red cup"], "sample_steps": 1, "sample_every_n_steps": 2}
        job["validation"] = {"validation_split": 0.4, "validate_every_n_steps": 1}
        job["metadata"] = {"trigger_phrase": "sks robot"}
        job["evaluation"] = {
            "image_model": str(make_model("vit")), "clip_model": str(make_model("clip")), "images_per_prompt": 2,
            "subject_prompts": ["{trigger}", "{trigger} at sea"], "plain_prompts": ["a red cup"], **evaluation,
        }  # fmt: skip
        ready = preflight.check(preflight.read(write_job(job), overrides))
        loop.run(ready)
        return Path(job["save"]["output_dir"])

    return run
