import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.run import metrics
from trainer.run.metrics import Metrics

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "dog-metrics.jsonl"


def rows(path):
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


def fill(path, steps=4):
    with Metrics(path) as log:
        log.write(0, {"val_loss": 0.5})
        for step in range(1, steps + 1):
            log.write(step, {"loss": step / 8, "lr": 1e-4})
    return path.read_bytes()


def test_a_line_for_each_row_at_once(path):
    with Metrics(path) as log:
        assert log.rows == []
        assert path.read_bytes() == b""
        log.write(1, {"loss": 0.25, "grad_norm": math.inf, "lr": None})
        assert path.read_text() == '{"step": 1, "loss": 0.25, "grad_norm": null, "lr": null}\n'
        log.write(1, {"val_loss": 0.5})
    assert rows(path)[1] == {"step": 1, "val_loss": 0.5}
    log.write(2, {"loss": 1.0})  # closed: nobody is told, nothing breaks
    assert len(rows(path)) == 2


def test_a_new_run_begins_anew(path):
    fill(path)
    with Metrics(path) as log:
        assert log.rows == []
    assert path.read_bytes() == b""


def test_a_resumed_run_goes_on_after_its_step(path):
    fill(path)
    with Metrics(path, after_step=2) as log:
        assert log.rows == [
            {"step": 0, "val_loss": 0.5}, {"step": 1, "loss": 0.125, "lr": 1e-4}, {"step": 2, "loss": 0.25, "lr": 1e-4},
        ]  # fmt: skip
        assert rows(path) == log.rows
        log.write(3, {"loss": 9.0})
    assert [row["step"] for row in rows(path)] == [0, 1, 2, 3]
    assert rows(path)[3]["loss"] == 9.0
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_log_ends_as_an_uninterrupted_one(path):
    whole = fill(path, 6)
    for cut in range(len(whole) // 2, len(whole)):
        path.write_bytes(whole[:cut])
        with Metrics(path, after_step=2) as log:
            for step in range(3, 7):
                log.write(step, {"loss": step / 8, "lr": 1e-4})
        assert path.read_bytes() == whole


def test_torn_and_foreign_lines_are_dropped(path):
    path.parent.mkdir()
    path.write_bytes(
        b'{"step": 1, "loss": 1.0}\n\0\0\0\n[1]\n{"loss": 2}\n{"step": true}\n\xff\n{"step": 2, "loss": 1.0}\n{"st'
    )
    with Metrics(path, after_step=9) as log:
        assert [row["step"] for row in log.rows] == [1, 2]
    assert rows(path) == log.rows


def test_a_resumed_run_without_a_log(path):
    with Metrics(path, after_step=5) as log:
        log.write(6, {"loss": 1.0})
    assert [row["step"] for row in rows(path)] == [6]


class Full:
    """A file on a disk that is full for a while, and takes half a line before it says so."""

    def __init__(self, file, failures):
        self.file, self.failures = file, failures

    def write(self, text):
        if self.failures:
            self.failures -= 1
            return self.file.write(text[: len(text) // 2])
        return self.file.write(text)

    def truncate(self, size):
        return self.file.truncate(size)

    def close(self):
        self.file.close()


def test_a_full_disk_is_told_once_and_leaves_no_half_line(path):
    told = []
    with Metrics(path, notice=told.append) as log:
        log.write(1, {"loss": 1.0})
        log._file = Full(log._file, 2)
        for step in (2, 3, 4):
            log.write(step, {"loss": 1.0})
    assert [row["step"] for row in rows(path)] == [1, 4]
    [text] = told
    assert str(path) in text
    assert "Training goes on" in text


LIMITED = """
import resource, sys
from pathlib import Path
from trainer.run.metrics import Metrics
log = Metrics(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (110, 110))
for step in range(1, 9):
    log.write(step, {"loss": 0.5})
"""


def test_a_real_limit_of_the_system(path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Training goes on") == 1
    assert [row["step"] for row in rows(path)] == [1, 2, 3, 4]  # of 25 bytes each, and no half of the fifth


def test_a_log_that_cannot_be_opened_is_told(path, monkeypatch):
    told = []
    path.mkdir(parents=True)
    with Metrics(path, notice=told.append) as log:
        log.write(1, {"loss": 1.0})
    assert len(told) == 1
    path.rmdir()
    before = fill(path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(metrics, "write_atomically", full)
    with Metrics(path, after_step=2, notice=told.append) as log:
        assert len(log.rows) == 3  # what was read is there for the report
        log.write(3, {"loss": 1.0})
    assert "No space left" in told[1]
    assert path.read_bytes() == before
