import io
import os
import resource
import sys

import pytest
import torch

from trainer.system import console

CPU = torch.device("cpu")


@pytest.fixture
def time(monkeypatch):
    """A clock that the test moves on by hand."""
    now = [100.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])
    return now


@pytest.fixture
def loud():
    yield
    console.silence(False)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert console.clock(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(512 * 2**20, "512 MiB"), (2**30, "1.0 GiB"), (int(11.6 * 2**30), "11.6 GiB")]
)
def test_memory(size, text):
    assert console.memory(size) == text


def test_plain_lines(capsys):
    with console.Progress(40, interactive=False) as progress:
        for step in range(40):
            progress.step(1.0 if step == 0 else 0.5, 1e-4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 1/40  loss 1.0000  lr 0.0001  ")
    assert lines[1].startswith("step 2/40  loss 0.9750")
    assert lines[-1].startswith("step 40/40")
    assert lines[-1].endswith("0:00 left")
    assert len(lines) == 21


def test_speed_is_that_of_the_steps_after_the_first(capsys, time):
    progress = console.Progress(10, interactive=False)
    time[0] += 30  # the first step compiles
    progress.step(1.0, 1e-4)
    assert "  0.0333 steps/s\n" in capsys.readouterr().out, "which says nothing of the time that is left"
    for _ in range(4):
        time[0] += 0.5
        progress.step(1.0, 1e-4)
    assert capsys.readouterr().out.splitlines()[-1].endswith("step 5/10  loss 1.0000  lr 0.0001  2 steps/s  0:02 left")
    assert progress.seconds == 32


def test_a_resumed_run_counts_on_and_is_timed_alone(capsys, time):
    progress = console.Progress(100, done=60, interactive=False)
    time[0] += 2
    progress.step(1.0, 1e-4)
    assert capsys.readouterr().out == "step 61/100  loss 1.0000  lr 0.0001  0.5 steps/s\n"


def test_slow_steps_are_told_once_a_minute(capsys, time):
    progress = console.Progress(1000, interactive=False)
    for _ in range(10):
        time[0] += 20
        progress.step(1.0, 1e-4)
    assert [line.split("/")[0] for line in capsys.readouterr().out.splitlines()] == [
        "step 1",
        "step 4",
        "step 7",
        "step 10",
    ]


def test_peak_memory_of_the_process(capsys):
    peak = console.peak_memory(CPU)
    assert peak == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert 2**26 < peak < 2**36
    console.Progress(1, CPU, interactive=False).step(1.0, 1e-4)
    assert "  peak " in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="this system keeps a process's peak for good")
def test_a_peak_can_be_forgotten():
    large = bytearray(200 * 2**20)
    before = console.peak_memory(CPU)
    del large
    console.forget_peak_memory(CPU)
    assert console.peak_memory(CPU) < before - 100 * 2**20


def test_peak_memory_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7 + device.index)
    assert console.peak_memory(torch.device("cuda:1")) == 8


def test_a_bar_with_everything_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with console.Progress(4, CPU, done=1, interactive=True) as progress:
        progress.step(0.25, 1e-4)
        progress.step(0.25, 1e-4)
    captured = capsys.readouterr()
    assert not captured.out
    assert "3/4" in captured.err
    assert "0/4" not in captured.err
    assert "loss 0.2500, lr 0.0001, peak " in captured.err
    assert captured.err.rstrip().endswith("iB]")  # nothing is cut off


def test_a_bar_on_a_terminal_that_reports_no_size(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("LINES", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((0, 0)))
    with console.Progress(1, interactive=True) as progress:
        progress.step(0.25, 1e-4)
    assert "1/1" in capsys.readouterr().err


def test_other_processes_are_quiet(capsys, loud):
    for interactive in (True, False):
        with console.Progress(1, CPU, quiet=True, interactive=interactive) as progress:
            progress.step(0.25, 1e-4)
            assert progress.done == 1
    console.silence()
    console.say("nothing")
    console.silence(False)
    console.say("something")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("something\n", "")


class Gone(io.StringIO):
    def write(self, _):
        raise BrokenPipeError


def test_a_reader_that_is_gone_ends_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone())
    console.say("nobody hears")
    monkeypatch.setattr(sys, "stderr", Gone())
    console.Progress(1, interactive=False).step(0.25, 1e-4)


def test_a_terminal_that_lacks_a_letter(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="cp1252", write_through=True))
    console.say("ein 犬 für {trigger}")
    assert buffer.getvalue().decode("cp1252").rstrip() == "ein ? für {trigger}"
