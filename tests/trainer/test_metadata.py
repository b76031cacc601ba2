import tomllib

import pytest

from trainer import config, jobtext, metadata, preflight, schema


@pytest.fixture
def ready(light_job):
    light_job["metadata"] = {"trigger_phrase": 'a "b" \\ ä\n\t', "metadata_author": "x"}
    light_job["optimizer"] = {"optimizer_args": {"eps": 1e-9}}
    light_job["sample"] = {"prompts": ["one", {"prompt": "two", "seed": 1}]}
    light_job["model"]["vae"] = light_job["model"]["pretrained_model_name_or_path"] + "/vae"
    return preflight.check(schema.Job.model_validate(light_job))


def collect(ready, steps=3):
    return metadata.collect(ready, steps, "no", "epsilon", "ab" * 32)


def test_nothing_private_is_in_it(ready, tmp_path):
    text = "\n".join(collect(ready).values())
    assert str(tmp_path) not in text
    assert tmp_path.name not in text
    assert "light-sdxl" in text


def test_the_job_in_it_is_a_job(ready):
    table = tomllib.loads(collect(ready)["waveft.job"])
    job = schema.Job.model_validate(table)
    assert job.general.resolution == 16
    assert job.metadata.trigger_phrase == ready.job.metadata.trigger_phrase
    assert job.optimizer.optimizer_args == {"eps": 1e-9}
    assert [prompt.prompt for prompt in job.sample.prompts] == ["one", "two"]
    assert job.model.vae == "vae"


def test_a_hub_id_is_no_path(ready):
    model = ready.job.model.model_copy(
        update={"pretrained_model_name_or_path": "someone/sdxl", "allow_download": True, "vae": ""}
    )
    job = ready.job.model_copy(update={"model": model})
    other = preflight.Ready(job, ready.pictures, 16, 8)
    assert jobtext.public_job(job, 16).model.pretrained_model_name_or_path == "someone/sdxl"
    assert collect(other)["ss_sd_model_name"] == "someone/sdxl"


def test_what_other_tools_look_for(ready):
    made = collect(ready)
    assert made["modelspec.architecture"] == "stable-diffusion-xl-v1-base/waveft"
    assert made["modelspec.resolution"] == "16x16"
    assert made["modelspec.title"] == made["ss_output_name"] == "waveft"
    assert made["modelspec.author"] == "x"
    assert "modelspec.license" not in made
    assert made["ss_base_model_version"] == "sdxl_base_v1-0"
    assert (made["ss_steps"], made["ss_num_train_images"], made["ss_learning_rate"]) == ("3", "3", "0.0001")
    assert made["ss_epoch"] == "2"  # 3 steps of 2 pictures: the second time over 3
    assert all(isinstance(value, str) for value in made.values())


def test_a_job_written_out_is_read_back_the_same(write_job, light_job):
    job = config.load(write_job(light_job))
    assert config.load(write_job(jobtext.job_toml(job))) == job


def test_the_tensors_hash_ignores_the_header(tmp_path):
    for name, header in (("a", b"{}"), ("b", b'{"__metadata__":{"x":"y"}}')):
        (tmp_path / name).write_bytes(len(header).to_bytes(8, "little") + header + b"data")
    assert metadata.hash_tensors(tmp_path / "a") == metadata.hash_tensors(tmp_path / "b")
