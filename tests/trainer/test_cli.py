import pytest
import torch

import waveft_core
from trainer import cli, loop

REFUSE = """
import sys, time
from trainer.cli import main
status = main(sys.argv[1:])
heavy = {"torch", "diffusers", "transformers", "waveft_core", "numpy"} & set(sys.modules)
print(status, sorted(heavy), time.process_time())
"""


def test_a_bad_job_is_refused_quickly_and_without_torch(in_process, write_job, light_job):
    light_job["optimizer"] = {"learing_rate": 1e-4}
    light_job["network"]["network_dim"] = 4
    done = in_process("-c", REFUSE, "--config", str(write_job(light_job)))
    status, heavy, seconds = done.stdout.strip().split(maxsplit=2)[0], done.stdout.count("[]"), done.stdout.split()[-1]
    assert (status, heavy) == ("2", 1), done
    assert float(seconds) < 2  # of processor time
    assert "2 faults" in done.stderr
    assert "Did you mean learning_rate?" in done.stderr
    assert "WaveFT has no rank" in done.stderr


def test_bad_files_are_refused_without_torch_too(in_process, write_job, light_job, tmp_path):
    (tmp_path / "pictures" / "01.png").write_bytes(b"no image")
    light_job["model"]["pretrained_model_name_or_path"] = "nowhere"
    done = in_process("-c", REFUSE, "--config", str(write_job(light_job)))
    assert done.stdout.startswith("2 []"), done
    assert "2 faults" in done.stderr
    assert str(tmp_path / "nowhere") in done.stderr
    assert "01.png" in done.stderr


def test_a_dry_run_tells_all_and_writes_nothing(in_process, write_job, light_job, tmp_path):
    path = write_job(light_job)
    before = sorted(tmp_path.rglob("*"))
    done = in_process("-c", REFUSE, "--config", "job.toml", "--dry-run", cwd=path.parent)
    assert done.stdout.splitlines()[-1].startswith("0 []"), done
    for part in ("learning_rate = 0.0001", "3 (3 an epoch", "'sks robot'", "24 x 18 px, resized to 21 x 16"):
        assert part in done.stdout
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
            "CUDA out of memory. Set [train] gradient_checkpointing",
        ),
        (MemoryError(), 1, "MemoryError Set [train]"),
        (cli.TrainingStopped("x"), 1, "x"),
    ],
)
def test_what_ends_a_run(monkeypatch, capsys, write_job, light_job, error, status, words):
    def fail(_):
        raise error

    monkeypatch.setattr(loop, "run", fail)
    assert cli.main(["--config", str(write_job(light_job))]) == status
    assert capsys.readouterr().err.startswith(words)
