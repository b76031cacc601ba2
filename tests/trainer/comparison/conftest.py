"""A job of the tiny base that is compared in seconds."""

import pytest
import toml

from tests.trainer.conftest import make_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """The pictures of every comparison: whose cells are the same cells, as far as their jobs are."""
    folder = tmp_path_factory.mktemp("compared") / "pictures"
    make_pictures(folder, 4)
    return folder


@pytest.fixture(scope="session")
def vit(make_model):
    """The network that sees them."""
    return make_model("vit")


@pytest.fixture
def compared(job, pictures, vit, tmp_path):
    """The function that writes the job, changed by keyword tables, and returns its path and the comparison's folder."""

    def write(**sections):
        job["datasets"][0]["subsets"][0]["image_dir"] = str(pictures)
        job["train"] |= {"max_train_steps": 2, "gradient_accumulation_steps": 1}
        job["sample"] = {"sample_steps": 1}
        job["network"] = {"coefficients": 16}
        job["validation"] = {"validation_split": 0.25}
        job["metadata"] = {"trigger_phrase": "sks robot"}
        job["evaluation"] = {
            "image_model": str(vit), "images_per_prompt": 1,
            "subject_prompts": ["{trigger}", "{trigger} at sea"], "plain_prompts": ["a red cup", "a cat"],
        }  # fmt: skip
        for name, values in sections.items():
            job.setdefault(name, {}).update(values)
        path = tmp_path / "job.toml"
        path.write_text(toml.dumps(job))
        return path, tmp_path / "comparison"

    return write
