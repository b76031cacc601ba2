"""A run that is killed at any moment and resumed ends in the file that it would have ended in."""

import hashlib
import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import toml

import waveft_core

MOMENTS = random.Random(20).sample(range(1000), 1000)  # in thousandths of the uninterrupted run's time
LIMIT_S = 300


@pytest.fixture(scope="module")
def processes():
    """Processes that begin with the libraries imported: a run then takes seconds, and any moment of it can be hit."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["trainer.loop", "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl", "PIL.PngImagePlugin"]
    )
    return context


def work(job, log):
    """Runs the trainer as the command line does, what it says going into a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from trainer import cli

    raise SystemExit(cli.main(["--config", job, "--resume", "latest"]))


@pytest.fixture
def table(job, pictures_in, tmp_path):
    """Two buckets, accumulation 4, dropout and shuffling, EMA, a mean and deviation to draw from, caches on disk."""
    wide = tmp_path / "wide"
    pictures_in(wide, 3, (40, 20))
    for path in (*wide.glob("*.png"), *(tmp_path / "pictures").glob("*.png")):
        path.with_suffix(".txt").write_text(f"sks, robot, {path.stem}, blue")
    job["general"] = {
        "resolution": 32, "bucket_reso_steps": 16, "min_bucket_reso": 16, "max_bucket_reso": 64, "batch_size": 2,
        "caption_dropout_rate": 0.3, "shuffle_caption": True, "flip_aug": True,
    }  # fmt: skip
    job["datasets"][0]["subsets"] = [{"image_dir": str(tmp_path / "pictures")}, {"image_dir": str(wide)}]
    job["train"] |= {"max_train_steps": 9, "gradient_accumulation_steps": 4, "ema_decay": 0.9, "threads": 1}
    job["optimizer"] = {"lr_scheduler": "cosine", "learning_rate": 1e-3}
    job["cache"] = {
        "cache_latents_to_disk": True, "cache_text_encoder_outputs_to_disk": True, "sample_posterior": True,
    }  # fmt: skip
    job["save"] |= {"save_every_n_steps": 2, "keep_last": 2}
    return job


class Runner:
    def __init__(self, processes, table, folder):
        self.processes, self.folder, self.log = processes, folder, folder / "log.txt"
        table["save"]["output_dir"] = str(folder / "out")
        folder.mkdir()
        self.job = folder / "job.toml"
        self.job.write_text(toml.dumps(table), encoding="utf-8")

    def start(self):
        process = self.processes.Process(target=work, args=(str(self.job), str(self.log)))
        process.start()
        return process

    def finish(self):
        """Runs to the end; returns the final file's SHA-256 and the seconds that it took."""
        began = time.monotonic()
        process = self.start()
        process.join(LIMIT_S)
        assert process.exitcode == 0, self.log.read_text()
        content = (self.folder / "out" / "waveft.safetensors").read_bytes()
        return hashlib.sha256(content).hexdigest(), time.monotonic() - began

    def kill_after(self, seconds):
        process = self.start()
        process.join(seconds)
        process.kill()
        process.join()


def kill_and_resume(processes, table, tmp_path, count):
    whole = Runner(processes, table, tmp_path / "whole")
    whole.finish()  # warms the disk and the server up
    shutil.rmtree(whole.folder / "out")
    expected, seconds = whole.finish()
    hit = 0
    for number, moment in enumerate(MOMENTS[:count]):
        one = Runner(processes, table, tmp_path / f"killed-{number}")
        one.kill_after(moment / 1000 * seconds)
        hit += not (one.folder / "out" / "waveft-report.html").exists()
        for path in (one.folder / "out").glob("[!.]*.safetensors"):
            assert len(waveft_core.load(path).layers) == 32  # whatever has a name is whole
        digest, _ = one.finish()
        assert digest == expected, f"killed after {moment / 1000:.3f} of the run: {one.log.read_text()}"
        rest = [path for path in (one.folder / "out").iterdir() if path.suffix == ".tmp"]
        assert not rest
        shutil.rmtree(one.folder)
    assert hit >= count * 2 // 3  # or the kills came too late to show anything


def test_killed_three_times_it_ends_in_the_same_bytes(processes, table, tmp_path):
    kill_and_resume(processes, table, tmp_path, 3)


@pytest.mark.slow
def test_killed_twenty_times_it_ends_in_the_same_bytes(processes, table, tmp_path):
    kill_and_resume(processes, table, tmp_path, 20)


def test_a_run_killed_again_and_again_arrives(processes, table, tmp_path):
    expected, seconds = Runner(processes, table, tmp_path / "whole").finish()
    one = Runner(processes, table, tmp_path / "often")
    for part in (0.5, 0.6, 0.7):
        one.kill_after(part * seconds)
    assert one.finish()[0] == expected
    steps = [path.name for path in Path(one.folder / "out").glob("waveft-step*.state")]
    assert len(steps) == 2  # keep_last
