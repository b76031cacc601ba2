"""A run that is killed at any moment and resumed ends in the file that it would have ended in."""

import hashlib
import os
import random
import shutil
import signal
import sys
import threading
from pathlib import Path

import pytest
import toml
from torch.optim.optimizer import register_optimizer_step_post_hook
from tqdm import tqdm

import waveft_core
from tests.processes import ended, prepared

PARTS = random.Random(20).sample(range(980), 980)  # moments, in thousandths of what the uninterrupted run does
# Python's audit events that a file system would see.
WATCHED = ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir", "os.truncate")


class Doings:
    """Counts what a run does in its folder, and its optimizer steps; kills the process before it does the `last` one.

    Counted so, a moment is one of the run's own, however fast or busy the machine is.
    """

    def __init__(self, folder, last):
        self.folder, self.last, self.count = str(folder), last, 0

    def __call__(self, event, arguments):
        if event in WATCHED and str(arguments[0] if arguments else "").startswith(self.folder):
            self.note()

    def note(self, *_):
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def work(job, log, last, counted):
    """Runs the trainer as the command line does, what it says going into a file."""
    doings = Doings(Path(job).parent, last)
    sys.addaudithook(doings)
    register_optimizer_step_post_hook(doings.note)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    from trainer import cli

    tqdm.set_lock(threading.RLock())  # tqdm's own is a semaphore of the system's, which a killed process leaves behind
    status = cli.main(["--config", job, "--resume", "latest"])
    counted.value = doings.count
    raise SystemExit(status)


@pytest.fixture
def table(job, pictures_in, tmp_path):
    """Two buckets, accumulation 2, dropout and shuffling, EMA, a mean and deviation to draw from, caches on disk."""
    wide = tmp_path / "wide"
    pictures_in(wide, 3, (40, 20))
    for path in (*wide.glob("*.png"), *(tmp_path / "pictures").glob("*.png")):
        path.with_suffix(".txt").write_text(f"sks, robot, {path.stem}, blue")
    job["general"] = {
        "resolution": 32, "bucket_reso_steps": 16, "min_bucket_reso": 16, "max_bucket_reso": 64, "batch_size": 2,
        "caption_dropout_rate": 0.3, "shuffle_caption": True, "flip_aug": True,
    }  # fmt: skip
    job["datasets"][0]["subsets"] = [{"image_dir": str(tmp_path / "pictures")}, {"image_dir": str(wide)}]
    job["train"] |= {"max_train_steps": 9, "gradient_accumulation_steps": 2, "ema_decay": 0.9, "threads": 1}
    job["optimizer"] = {"lr_scheduler": "cosine", "learning_rate": 1e-3}
    job["cache"] = {
        "cache_latents_to_disk": True, "cache_text_encoder_outputs_to_disk": True, "sample_posterior": True,
    }  # fmt: skip
    job["save"] |= {"save_every_n_steps": 2, "keep_last": 2}
    return job


class Runner:
    def __init__(self, table, folder):
        self.folder, self.log = folder, folder / "log.txt"
        table["save"]["output_dir"] = str(folder / "out")
        folder.mkdir()
        self.job = folder / "job.toml"
        self.job.write_text(toml.dumps(table), encoding="utf-8")

    def start(self, last=0):
        """Runs until it has done `last` things, or to its end; returns its exit status and how much it did then."""
        processes = prepared()
        done = processes.RawValue("q", 0)
        process = processes.Process(target=work, args=(str(self.job), str(self.log), last, done))
        process.start()
        return ended(process), done.value

    def finish(self):
        """Runs to the end; returns the final file's SHA-256 and how many things it did for that."""
        status, done = self.start()
        assert status == 0, self.log.read_text()
        content = (self.folder / "out" / "waveft.safetensors").read_bytes()
        return hashlib.sha256(content).hexdigest(), done

    def kill_before(self, last):
        status, _ = self.start(last)
        assert status == -signal.SIGKILL, self.log.read_text()


@pytest.fixture(scope="module")
def kept():
    """What the uninterrupted run came to, once it was made; it is the same wherever its folder lies."""
    return []


@pytest.fixture
def whole(table, tmp_path, kept):
    """Its file's digest, and how many things it did."""
    if not kept:
        kept.append(Runner(table, tmp_path / "whole").finish())
    return kept[0]


def kill_and_resume(table, tmp_path, whole, count):
    expected, done = whole
    assert done > 100  # or there are too few moments to choose from
    for number, part in enumerate(PARTS[:count]):
        one = Runner(table, tmp_path / f"killed-{number}")
        one.kill_before(1 + part * done // 1000)
        for path in (one.folder / "out").glob("[!.]*.safetensors"):
            assert len(waveft_core.load(path).layers) == 32  # whatever has a name is whole
        digest, _ = one.finish()
        assert digest == expected, f"killed at {part / 1000:.3f} of the run: {one.log.read_text()}"
        rest = [path for path in (one.folder / "out").iterdir() if path.suffix == ".tmp"]
        assert not rest
        shutil.rmtree(one.folder)


def test_killed_three_times_it_ends_in_the_same_bytes(table, tmp_path, whole):
    kill_and_resume(table, tmp_path, whole, 3)


@pytest.mark.slow
def test_killed_twenty_times_it_ends_in_the_same_bytes(table, tmp_path, whole):
    kill_and_resume(table, tmp_path, whole, 20)


def test_a_run_killed_again_and_again_arrives(table, tmp_path, whole):
    expected, done = whole
    one = Runner(table, tmp_path / "often")
    for part in (5, 4, 6):  # each process on its own way: the second and third begin where a state lies
        one.kill_before(done // part)
    assert one.finish()[0] == expected
    steps = [path.name for path in Path(one.folder / "out").glob("waveft-step*.state")]
    assert len(steps) == 2  # keep_last
