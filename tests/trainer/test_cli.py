import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import waveft_core
from trainer import cli, loop
from trainer.run import state
from trainer.system import console

REFUSE = """
import sys
from trainer.cli import main
status = main(sys.argv[1:])
heavy = {"torch", "diffusers", "transformers", "waveft_core", "numpy", "safetensors"} & set(sys.modules)
print(status, sorted(heavy))
"""


@pytest.fixture
def run(monkeypatch):
    """What loop.run was called with, and an outcome to give back."""
    outcome = SimpleNamespace(warning="", traceback="", exit_status=0, steps=3, files=[], best=None)
    called = SimpleNamespace(saved="not called", outcome=outcome)

    def fake(ready, saved=None):
        called.ready, called.saved = ready, saved
        return called.outcome

    monkeypatch.setattr(loop, "run", fake)
    yield called
    console.silence(False)


def test_a_bad_job_is_refused_without_torch(in_process, write_job, light_job):
    light_job["optimizer"] = {"learing_rate": 1e-4}
    light_job["network"]["network_dim"] = 4
    light_job["model"]["pretrained_model_name_or_path"] = "nowhere"
    done = in_process("-c", REFUSE, "--config", str(write_job(light_job)))
    assert done.stdout == "2 []\n", done
    assert "3 faults" in done.stderr
    assert "Did you mean learning_rate?" in done.stderr
    assert "network_dim: a key of method lora" in done.stderr
    assert "nothing at" in done.stderr


def test_bad_pictures_are_refused_without_torch_too(in_process, write_job, light_job, tmp_path):
    (tmp_path / "pictures" / "01.png").write_bytes(b"no image")
    done = in_process("-c", REFUSE, "--config", str(write_job(light_job)))
    assert done.stdout.startswith("2 []"), done
    assert "1 fault:" in done.stderr
    assert "01.png" in done.stderr
    assert "checking pictures" not in done.stderr  # no terminal, no counting


def test_a_dry_run_tells_all_and_writes_nothing(in_process, write_job, light_job, tmp_path):
    path = write_job(light_job)
    before = sorted(tmp_path.rglob("*"))
    done = in_process(
        "-c", REFUSE, "--config", "job.toml", "--dry-run", "--verbose", "--resume", "latest", cwd=path.parent
    )
    assert done.stdout.splitlines()[-1].startswith("0 []"), done
    for part in (
        "nothing to resume",
        "learning_rate = 0.0001  # default",
        "max_train_steps = 3\n",
        "3 to learn; 3 views an epoch",
        "'sks robot'",
        "16 x 16",
        "memory ",
    ):
        assert part in done.stdout, part
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), 130), (cli.TrainingStopped("x"), 1), (cli.UserError("x"), 2)]
)
def test_exit_status(monkeypatch, error, status):
    def fail(_):
        raise error

    monkeypatch.setattr(cli, "start", fail)
    assert cli.main(["--config", "job.toml"]) == status


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (waveft_core.WaveFTError("x"), 2, "The job cannot be run"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nmore"),
            1,
            "CUDA out of memory. What would take less memory: [train] gradient_checkpointing = true; [general] batch",
        ),
        (MemoryError(), 1, "MemoryError What would take less memory: "),
        (cli.TrainingStopped("x"), 1, "x"),
    ],
)
def test_what_ends_a_run(monkeypatch, capsys, write_job, light_job, error, status, words):
    def fail(*_):
        raise error

    monkeypatch.setattr(loop, "run", fail)
    assert cli.main(["--config", str(write_job(light_job))]) == status
    assert capsys.readouterr().err.startswith(words)


def test_a_run_is_told_with_what_it_wrote(run, capsys, write_job, light_job, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(bytes(1234))
    run.outcome.files = [tmp_path / "a.safetensors"]
    assert cli.main(["--config", str(write_job(light_job))]) == 0
    told = capsys.readouterr().out
    assert "steps       3, each of 2 pictures" in told
    assert "done after 3 steps" in told
    assert f"{tmp_path / 'a.safetensors'} (1 kB)" in told
    assert run.saved is None


def test_a_warning_of_a_run_goes_to_standard_error(run, capsys, write_job, light_job):
    run.outcome.warning, run.outcome.exit_status = "stopped on request", 143
    assert cli.main(["--config", str(write_job(light_job))]) == 143
    told = capsys.readouterr()
    assert told.err == "stopped on request\n"
    assert "stopped after 3 steps" in told.out


def test_a_run_is_taken_up_from_its_newest_whole_state(run, monkeypatch, write_job, light_job, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    for step in (1, 2):
        with zipfile.ZipFile(out / f"waveft-step{step:08d}.state", "w") as file:
            file.writestr("data", str(step))
    (out / "waveft-step00000003.state").write_bytes(b"half of")
    (out / "waveft.safetensors").touch()  # of the run itself: not in the way
    monkeypatch.setattr(state, "load", lambda path: {"from": path.name})
    assert cli.main(["--config", str(write_job(light_job)), "--resume", "latest"]) == 0
    assert run.saved == {"from": "waveft-step00000002.state"}
    told = capsys.readouterr().out
    assert 'state "waveft-step00000003.state": damaged' in told
    assert "resumes     waveft-step00000002.state" in told


def test_a_run_is_taken_up_from_a_file(run, monkeypatch, write_job, light_job, tmp_path):
    path = tmp_path / "kept.state"
    path.touch()
    monkeypatch.setattr(state, "load", lambda given: {"from": Path(given).name})
    assert cli.main(["--config", str(write_job(light_job)), "--resume", str(path)]) == 0
    assert run.saved == {"from": "kept.state"}


def test_a_state_that_is_not_there(run, capsys, write_job, light_job, tmp_path):
    assert cli.main(["--config", str(write_job(light_job)), "--resume", str(tmp_path / "no.state")]) == 2
    assert "expected a .state file, or latest, got nothing there" in capsys.readouterr().err
    assert run.saved == "not called"


def test_nothing_to_resume_starts_from_the_beginning(run, capsys, write_job, light_job):
    assert cli.main(["--config", str(write_job(light_job)), "--resume", "latest"]) == 0
    assert "the run starts from the beginning" in capsys.readouterr().out
    assert run.saved is None


@pytest.mark.parametrize(("local_rank", "speaks"), [("0", True), ("1", False)])
def test_of_several_processes_one_speaks(run, monkeypatch, capsys, write_job, light_job, local_rank, speaks):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    path = write_job(light_job)
    assert cli.main(["--config", str(path)]) == 0
    assert run.ready.world_size == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")
    # what is wrong is told once on each machine: its folders may differ from the first one's
    assert cli.main(["--config", str(path), "--set", "train.seed=x"]) == 2
    assert bool(capsys.readouterr().err) is speaks


def test_checked_pictures_are_counted_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(cli.sys.stderr, "isatty", lambda: True, raising=False)
    show = console.counter("checking pictures")
    show(1, 2)
    show(2, 2)
    assert capsys.readouterr().err == "\rchecking pictures 1/2\rchecking pictures 2/2\n"
