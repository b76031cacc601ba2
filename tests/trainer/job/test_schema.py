import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

import waveft_core
from trainer.job import config, networks, schema, values

ROOT = Path(__file__).parents[3]
JOBS = sorted((ROOT / "jobs").rglob("*.toml"))


def test_what_is_written_out_here_is_what_the_core_has():
    assert values.SDXL_ATTENTION == waveft_core.SDXL_ATTENTION
    for name in (*values.WAVELETS, "identity"):
        assert waveft_core.Spec(wavelet=name).wavelet == name
    for name in ("db39", "sym21", "coif18", "sym1", "dmey", "bior1.3"):
        assert name not in values.WAVELETS
        with pytest.raises(waveft_core.WaveFTError):
            waveft_core.Spec(wavelet=name)


def test_network_has_the_cores_defaults():
    network, spec = networks.Waveft().model_dump(), dataclasses.asdict(waveft_core.Spec())
    assert {key: tuple(network[key]) if key == "targets" else network[key] for key in spec} == spec


def test_there_are_example_jobs():
    assert {"quickstart.toml", "dreambooth.toml"} <= {path.name for path in JOBS}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_example_jobs_are_jobs_and_open_with_their_command(path):
    config.load(path)
    comment = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert f"python3 start.py train {path.relative_to(ROOT).as_posix()}" in comment


def test_the_pages_shortest_job_is_a_job():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert blocks
    whole = tomllib.loads(blocks[0])
    for block in blocks:  # the others are sections to put in
        schema.Job.model_validate({**whole, **tomllib.loads(block)})
