"""The command for the day when there is a GPU: it goes on where it stopped, and a dry run reaches every piece."""

import argparse
import importlib
import json

import pytest

from benchmarks import gpu
from tests import processes

pytestmark = pytest.mark.filterwarnings("ignore")


def given(out, **other):
    return argparse.Namespace(**{"out": out, "device": "cpu", "small": True, "minutes": 8.5, "only": None, **other})


class Runner:
    """Stands in for the pieces: each takes so many seconds of a clock, and one fails once."""

    def __init__(self, seconds=100.0, fails=()):
        self.now, self.seconds, self.fails, self.ran = 0.0, seconds, set(fails), []

    def clock(self):
        return self.now

    def __call__(self, name, options, limit):
        self.now += self.seconds
        self.ran.append((name, limit))
        if name in self.fails:
            self.fails.remove(name)
            (options.out / f"{name}.failed").write_text("no memory", encoding="utf-8")
            return "no memory"
        (options.out / f"{name}.failed").unlink(missing_ok=True)
        (options.out / f"{name}.md").write_text(f"| table of {name} |", encoding="utf-8")
        (options.out / f"{name}.json").write_text(json.dumps({"records": []}), encoding="utf-8")
        return ""


def test_it_goes_on_where_it_stopped_and_tries_again_what_failed(tmp_path, capsys):
    first = Runner(fails=["step-1024"])
    left = gpu.run(given(tmp_path), first, first.clock)
    names = list(gpu.PIECES)
    assert [name for name, _ in first.ran] == names[:5]  # 500 of 510 seconds; the next would begin too late
    assert all(limit <= gpu.LIMIT for _, limit in first.ran)
    assert [limit for _, limit in first.ran][-1] == 110
    assert left == len(names) - 5
    page = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "| table of tests |" in page
    assert "no memory" in page
    second = Runner(seconds=1.0)
    assert gpu.run(given(tmp_path), second, second.clock) == 0
    assert [name for name, _ in second.ran] == ["step-1024", *names[5:]]
    assert "no memory" not in (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert "All pieces were run." in capsys.readouterr().out
    third = Runner()
    assert gpu.run(given(tmp_path), third, third.clock) == 0
    assert third.ran == []


def test_a_list_says_what_is_done(tmp_path, capsys):
    (tmp_path / "load.json").write_text("{}", encoding="utf-8")
    (tmp_path / "loop.failed").write_text("x", encoding="utf-8")
    gpu.main(["--out", str(tmp_path), "--list"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines.keys() == gpu.PIECES.keys()
    assert " done " in lines["load"]
    assert " failed " in lines["loop"]
    assert " to do " in lines["step-1024"]


def test_targets_are_judged(tmp_path):
    rows = [
        {"method": "frozen", "seconds": [1.0, 2.0], "weights_mib": 1.0, "peak_mib": 1.0},
        {"method": "PEFT LoRA r=1", "seconds": [1.1, 2.2], "weights_mib": 1.0, "peak_mib": 1.0},
        {"method": "PEFT WaveFT", "seconds": [1.5, 3.0], "weights_mib": 1.0, "peak_mib": 1.0},
        {"method": "WaveFT (ours)", "seconds": [1.04, 2.08], "weights_mib": 5000.0, "peak_mib": 3000.0},
    ]
    (tmp_path / "step-1024-again.json").write_text(json.dumps({"records": rows}), encoding="utf-8")
    found = {row[1]: (row[2], row[4]) for row in gpu.targets(tmp_path)}
    assert found == {
        "over frozen": ("1.040", "met"),
        "over PEFT LoRA r=1": ("0.945", "met"),
        "over PEFT WaveFT": ("0.693", "**missed**"),
        "GB of weights and step": ("8.39", "**missed**"),
    }


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", gpu.PIECES)
def test_every_piece_is_a_command_that_its_module_knows(name, small, tmp_path, monkeypatch):
    options = given(tmp_path, small=small, device="cuda")
    _, _, module, *arguments = gpu.command(name, options)
    parse, parsed = argparse.ArgumentParser.parse_args, []

    def stop(self, argv):
        parsed.append(parse(self, argv))
        raise InterruptedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(InterruptedError):
        importlib.import_module(module).main(arguments)
    assert parsed[0].device == "cuda"
    assert parsed[0].json == tmp_path / f"{name}.part"


def test_a_piece_leaves_figures_and_tables_or_says_why_not(tmp_path, capsys, monkeypatch):
    gpu.main(["--out", str(tmp_path), "--device", "cpu", "--small", "--only", "gradient"])
    assert "gradient: done" in capsys.readouterr().out
    assert json.loads((tmp_path / "gradient.json").read_text(encoding="utf-8"))["records"]
    assert "| db1 |" in (tmp_path / "tables.md").read_text(encoding="utf-8")
    monkeypatch.setattr(gpu.subprocess, "run", lambda words, cwd, **_: processes.run(*words[1:], cwd=cwd))
    gpu.main(["--out", str(tmp_path / "other"), "--device", "nowhere", "--small", "--only", "gradient"])
    assert "gradient: failed" in capsys.readouterr().out
    assert "nowhere" in (tmp_path / "other" / "gradient.failed").read_text(encoding="utf-8")
    assert not (tmp_path / "other" / "gradient.json").exists()


@pytest.mark.slow
def test_a_dry_run_reaches_every_piece(tmp_path):
    gpu.main(["--out", str(tmp_path), "--device", "cpu", "--small", "--minutes", "60"])
    failed = {path.stem: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.failed")}
    assert failed == {}
    assert {path.stem for path in tmp_path.glob("*.json")} == set(gpu.PIECES)
