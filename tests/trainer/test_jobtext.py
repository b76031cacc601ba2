import tomllib

import pytest

from trainer import jobtext, preflight, schema
from trainer.errors import UserError

HARD = [
    "\xa0",
    "\x01",
    "\x7f",
    "a\xa0b\xadc",
    "\\x41",
    "\\",
    "\r\n\t\b",
    "\x85\u2028",
    "'\"",
    "\U0001f600",
    '"""',
    "{a = 1}",
]


@pytest.mark.parametrize("text", HARD, ids=ascii)
def test_any_text_comes_back(light_job, text):
    light_job["metadata"] = {"trigger_phrase": "x", "metadata_description": text}
    light_job["datasets"][0]["subsets"][0]["caption_prefix"] = text
    job = schema.Job.model_validate(light_job)
    assert schema.Job.model_validate(tomllib.loads(jobtext.job_toml(job))) == job
    assert not jobtext.faults(job)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ({"x": None, "y": [{"z": [{}, 1]}]}, "optimizer"),
        ({"\xa0": 1}, "optimizer"),
        ({"eps": float("nan")}, "optimizer"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_the_run(light_job, value, name):
    light_job["optimizer"] = {"optimizer_args": value}
    light_job["metadata"] = {"metadata_author": "\udcff"}
    with pytest.raises(UserError) as raised:
        preflight.check(schema.Job.model_validate(light_job))
    first, second = raised.value.problems
    assert first.startswith(f"[{name}]: expected values that a TOML file can hold")
    assert second.startswith("[metadata]: expected")


def test_kohyas_tuples_are_lists(light_job):
    light_job["optimizer"] = {"optimizer_args": ["betas=0.9,0.99"]}
    job = schema.Job.model_validate(light_job)
    assert job.optimizer.optimizer_args == {"betas": [0.9, 0.99]}
    assert not jobtext.faults(job)
