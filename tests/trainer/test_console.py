import json
import os

import pytest

from trainer import console


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3723, "1:02:03")])
def test_clock(seconds, text):
    assert console.clock(seconds) == text


def test_plain_lines_and_metrics(tmp_path, capsys):
    path = tmp_path / "new" / "metrics.jsonl"
    with console.Progress(40, path, interactive=False) as progress:
        for step in range(40):
            progress.step(1.0 if step == 0 else 0.5, 0.1, 1e-4)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 1/40  loss 1.0000")
    assert lines[-1].startswith("step 40/40") and lines[-1].endswith("0:00 left")
    assert len(lines) == 21
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 41))
    assert rows[1].keys() == {"step", "loss", "grad_norm", "lr", "seconds"}
    assert progress.losses == [1.0] + [0.5] * 39


def test_a_bar_with_loss_on_a_terminal(tmp_path, capsys):
    with console.Progress(2, tmp_path / "m.jsonl", interactive=True) as progress:
        progress.step(0.25, 0.1, 1e-4)
        progress.step(0.25, float("inf"), 1e-4)
    captured = capsys.readouterr()
    assert not captured.out
    assert "2/2" in captured.err
    assert json.loads((tmp_path / "m.jsonl").read_text().splitlines()[1])["grad_norm"] is None
    assert "loss 0.2500" in captured.err


def test_a_bar_on_a_terminal_that_reports_no_size(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("LINES", raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((0, 0)))
    with console.Progress(1, tmp_path / "m.jsonl", interactive=True) as progress:
        progress.step(0.25, 0.1, 1e-4)
    assert "1/1" in capsys.readouterr().err
