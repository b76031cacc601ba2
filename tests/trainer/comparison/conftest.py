"""A job of the tiny base that is compared in seconds."""

import pytest
import toml


@pytest.fixture
def compared(job, make_model, tmp_path, pictures_in):
    """The function that writes the job, changed by keyword tables, and returns its path and the comparison's folder."""

    def write(**sections):
        pictures_in(tmp_path / "pictures", 4)
        job["train"] |= {"max_train_steps": 2, "gradient_accumulation_steps": 1}
        job["sample"] = {"sample_steps": 1}
        job["network"] = {"coefficients": 16}
        job["validation"] = {"validation_split": 0.25}
        job["metadata"] = {"trigger_phrase": "sks robot"}
        job["evaluation"] = {
            "image_model": str(make_model("vit")), "images_per_prompt": 1,
            "subject_prompts": ["{trigger}", "{trigger} at sea"], "plain_prompts": ["a red cup", "a cat"],
        }  # fmt: skip
        for name, values in sections.items():
            job.setdefault(name, {}).update(values)
        path = tmp_path / "job.toml"
        path.write_text(toml.dumps(job))
        return path, tmp_path / "comparison"

    return write
