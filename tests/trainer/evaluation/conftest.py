"""A finished run of the tiny base, to be looked at by tiny networks."""

import shutil

import pytest
import toml

from tests.trainer.conftest import job_table, make_pictures
from trainer import loop
from trainer.preflight import preflight


def train(place, base, make_model, overrides=()):
    """Trains the tiny base in a folder, with checkpoints on the way."""
    make_pictures(place / "pictures", 5)
    job = job_table(base, place / "pictures", place / "out")
    job["save"] |= {"save_every_n_steps": 1, "output_name": "robot", "overwrite": True}
    job["sample"] = {"prompts": ["sks robot", "a red cup"], "sample_steps": 1, "sample_every_n_steps": 2}
    job["validation"] = {"validation_split": 0.4, "validate_every_n_steps": 1}
    job["metadata"] = {"trigger_phrase": "sks robot"}
    job["evaluation"] = {
        "image_model": str(make_model("vit")), "clip_model": str(make_model("clip")), "images_per_prompt": 2,
        "subject_prompts": ["{trigger}", "{trigger} at sea"], "plain_prompts": ["a red cup"],
    }  # fmt: skip
    path = place / "job.toml"
    path.write_text(toml.dumps(job), encoding="utf-8")
    loop.run(preflight.check(preflight.read(path, overrides)))


@pytest.fixture(scope="session")
def plain_run(base_folder, make_model, tmp_path_factory):
    """The place of the run without overrides."""
    place = tmp_path_factory.mktemp("plain-run")
    train(place, base_folder, make_model)
    return place


@pytest.fixture
def finished(request, base_folder, make_model, tmp_path):
    """The function that trains the tiny base, checkpoints on the way, and returns the run's folder.

    Without overrides it is always the same run: trained once, and copied.
    """

    def run(*overrides):
        if overrides:
            train(tmp_path, base_folder, make_model, overrides)
        else:
            plain = request.getfixturevalue("plain_run")
            shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
            job = tmp_path / "out" / "robot-job.toml"
            job.write_text(job.read_text(encoding="utf-8").replace(str(plain), str(tmp_path)), encoding="utf-8")
        return tmp_path / "out"

    return run
