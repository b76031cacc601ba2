import tomllib

import pytest

from trainer.job import jobtext, schema
from trainer.preflight import preflight
from trainer.system.errors import UserError

HARD = [
    "\xa0",
    "a\xa0b\xadc",
    "\\x41",
    "\\",
    "\r\n\t",
    "\x85\u2028",
    "'\"",
    "\U0001f600",
    '"""',
    "{a = 1}",
]
BASE = {"model": {"pretrained_model_name_or_path": "base"}, "datasets": [{"subsets": [{"image_dir": "dog"}]}]}


def read_back(job):
    return schema.Job.model_validate(tomllib.loads(jobtext.job_toml(job)))


@pytest.mark.parametrize("text", HARD, ids=ascii)
def test_any_text_comes_back(text):
    table = {
        **BASE,
        "metadata": {"trigger_phrase": "x", "metadata_description": text},
        "optimizer": {"optimizer_args": {text: text}},
        "datasets": [{"subsets": [{"image_dir": "dog", "caption_prefix": text}]}],
    }
    job = schema.Job.model_validate(table)
    assert read_back(job) == job
    assert not jobtext.faults(job)


def test_every_kind_of_value_comes_back():
    table = {
        **BASE,
        "network": {"coefficients_pattern": {r"^up_blocks\.0": 5, "plain": 6}, "include": [r"\battn1\b"]},
        "optimizer": {"optimizer_args": {"a": [1, [2.5, {"b c": True}]], "d": {}}, "learning_rate": 1e-7},
        "sample": {"prompts": ["one", {"prompt": "two", "seed": 4}]},
        "general": {"resolution": [512, 768]},
        "datasets": [
            {"resolution": 640, "subsets": [{"image_dir": "a"}, {"image_dir": "b", "num_repeats": 3}]},
            {"batch_size": 2, "subsets": [{"image_dir": "c"}]},
        ],
    }
    job = schema.Job.model_validate(table)
    assert read_back(job) == job
    assert not jobtext.faults(job)


@pytest.mark.parametrize("value", [{"x": None, "y": [{"z": [{}, 1]}]}, {"eps": float("nan")}, {"s": {1, 2}}])
def test_what_cannot_be_kept_is_refused_before_the_run(light_job, value):
    light_job["optimizer"] = {"optimizer_args": value}
    light_job["metadata"] = {"metadata_author": "\udcff"}
    with pytest.raises(UserError) as raised:
        preflight.check(schema.Job.model_validate(light_job))
    first, second = raised.value.problems
    assert first.startswith("[optimizer]: expected values that a TOML file can hold")
    assert second.startswith("[metadata]: expected")


def test_kohyas_tuples_are_lists():
    job = schema.Job.model_validate({**BASE, "optimizer": {"optimizer_args": ["betas=0.9,0.99"]}})
    assert job.optimizer.optimizer_args == {"betas": [0.9, 0.99]}
    assert not jobtext.faults(job)


def test_defaults_are_marked_and_what_was_given_is_not():
    table = {**BASE, "train": {"seed": 42}, "general": {"batch_size": 2}}
    text = jobtext.marked_toml(schema.Job.model_validate(table))
    lines = text.splitlines()
    assert "seed = 42" in lines
    assert "batch_size = 2" in lines
    assert "max_train_steps = 500  # default" in lines
    assert "num_repeats = 1  # default" in lines, "what a subset leaves open is [general]'s"
    assert 'image_dir = "dog"' in lines
    tomllib.loads(text)


def test_a_public_job_has_no_path_and_says_its_resolution():
    table = {
        **BASE,
        "model": {"pretrained_model_name_or_path": "/home/me/models/sdxl.safetensors", "vae": "someone/vae"},
        "save": {"output_dir": "/home/me/out"},
        "cache": {"cache_dir": "/home/me/cache"},
        "logging": {"log_with": "tensorboard", "logging_dir": "/home/me/logs"},
        "sample": {"sample_prompts": "/home/me/prompts.txt"},
        "datasets": [{"subsets": [{"image_dir": "/home/me/dog", "conditioning_data_dir": "/home/me/masks"}]}],
    }
    job = jobtext.public_job(schema.Job.model_validate(table), (1024, 1024))
    text = jobtext.job_toml(job)
    assert "/home" not in text
    assert job.model.pretrained_model_name_or_path == "sdxl.safetensors"
    assert job.model.vae == "someone/vae"
    assert job.general.resolution == 1024
    assert (job.save.output_dir, job.cache.cache_dir, job.logging.logging_dir) == ("output", "", "")


@pytest.mark.parametrize(
    ("general", "dataset", "written"),
    [({}, {}, (640, 480)), ({"resolution": 512}, {}, 512), ({}, {"resolution": 512}, None)],
)
def test_the_bases_resolution_is_written_only_where_the_job_says_none(general, dataset, written):
    table = {**BASE, "general": general, "datasets": [{**dataset, "subsets": [{"image_dir": "dog"}]}]}
    job = jobtext.public_job(schema.Job.model_validate(table), (640, 480))
    assert job.general.resolution == written


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"loss": {"loss_type": "huber", "huber_c": 0.2}, "train": {"max_train_epochs": 3}},
        {"network": {"network_weights": "a.safetensors"}},
        {"network": {"train_text_encoder": True}, "optimizer": {"optimizer_type": "Prodigy", "learning_rate": 1.0}},
        {"network": {"locations": "gradient:5", "location_batches": 2}},
    ],
)
def test_a_job_with_its_defaults_is_that_job_again(sections):
    job = schema.Job.model_validate({**BASE, **sections})
    assert read_back(job) == job
    marked = schema.Job.model_validate(tomllib.loads(jobtext.marked_toml(job)))
    assert marked.subsets() == job.subsets()
    assert marked.loss == job.loss
