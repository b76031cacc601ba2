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


def test_positions_of_pefts_are_taken_where_the_core_takes_them():
    from waveft_core.basis.locations import draw

    for wavelet in ("db1", "db2", "identity"):
        for mode in ("periodization", "zero"):
            if (wavelet, mode) == ("identity", "zero"):
                continue  # refused by itself
            try:
                draw("peft:1", "a", wavelet, mode, (8, 8), 4)
                drawn = True
            except waveft_core.WaveFTError:
                drawn = False
            try:
                networks.Waveft(locations="peft:1", wavelet=wavelet, mode=mode)
                taken = True
            except ValueError:
                taken = False
            assert taken == drawn, (wavelet, mode)


def test_another_method_takes_over_what_it_understands_alike():
    own = {"coefficients": 5, "scaling": 3.0, "wavelet": "db2", "exclude": ["a"], "network_weights": "x"}
    assert networks.with_method(own, "shira") == {
        "coefficients": 5, "scaling": 3.0, "exclude": ["a"], "method": "shira",
    }  # fmt: skip
    assert networks.with_method(own, "fourierft") == {"exclude": ["a"], "method": "fourierft"}
    assert networks.with_method(own, "WaveFT") == {**own, "method": "WaveFT"}
    assert networks.with_method({"method": "lora", "network_alpha": 1.0}, "lokr") == {"method": "lokr"}
    attention = {"targets": ["attn2.to_k"], "exclude": ["a"]}
    assert networks.with_method(attention, "lora") == attention | {"method": "lora"}
    assert networks.with_method(attention, "bitfit") == {"exclude": ["a"], "method": "bitfit"}, "to_k has no bias"


def test_there_are_example_jobs():
    assert {"quickstart.toml", "dreambooth.toml"} <= {path.name for path in JOBS}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_example_jobs_are_jobs_and_open_with_their_command(path):
    config.load(path)
    comment = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    assert f"python3 start.py train {path.relative_to(ROOT).as_posix()}" in comment


@pytest.mark.parametrize("method", networks.METHODS)
def test_the_quick_start_takes_every_method(method):
    job, problems = config.read(ROOT / "jobs" / "quickstart.toml", [f"network.method={method}"])
    assert not problems
    assert job.network.method == method
    own = config.load(ROOT / "jobs" / "quickstart.toml").network.coefficients
    assert getattr(job.network, "coefficients", own) == own  # the job's own, where the method has it


def test_the_paper_has_a_job_of_every_method_that_it_compares():
    found = {path.stem for path in JOBS if path.parent.name == "paper"}
    assert found == {*networks.METHODS, "adalora-tuned", "fourierft-tuned"}
    for name in found:
        job = config.load(ROOT / "jobs" / "paper" / f"{name}.toml")
        assert job.network.method == name.partition("-")[0]
        assert (job.train.max_train_steps, job.train.gradient_accumulation_steps) == (500, 4)


def test_the_pages_shortest_job_is_a_job():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert blocks
    whole = tomllib.loads(blocks[0])
    for block in blocks:  # the others are sections to put in
        schema.Job.model_validate({**whole, **tomllib.loads(block)})
