"""docs/compare.md from its trainings' means: taken from cells, gathered as `compare` does, and what it shows."""

import json
import re

import pytest

from benchmarks import methods
from benchmarks.__main__ import refreshed
from tests.trainer.comparison.test_summary import point, record
from trainer.comparison import summary, verdict

PAGE = methods.ROOT / "docs" / "compare.md"


def cells():
    """Two methods at two rates, on three subjects."""
    return [
        record(method, rate, 42, [point(100, 0.3 + gain * rate, 0.1 * rate, 29.0)], subject)
        for subject in ("dog", "cup", "hat")
        for method, gain in (("waveft", 0.2), ("shira", 0.1))
        for rate in (1.0, 2.0)
    ]


def test_a_line_holds_a_training_s_means_and_the_base_s_room():
    base, trained = methods.lines_of(cells()[1])
    head = {"subject": "dog", "seed": 42}
    assert trained == head | {
        "method": "waveft", "rate": 2.0, "step": 100, "held_out": 0.705, "drift": 0.2, "seeds": 0.4, "prompt": 29.0,
        "prompt_by_chance": 20.0, "copy": 0.5,
    }  # fmt: skip
    assert base.items() >= (head | {"method": "base", "rate": None, "step": 0, "plain_apart": 0.4}).items()
    assert methods.lines_of({"status": "failed", "error": "no memory"}) == []


def test_nothing_is_taken_in_twice_and_a_subject_s_base_once():
    rows = methods.added([], cells())
    assert len(rows) == 3 + 12
    assert methods.added(rows, cells()) == rows
    assert methods.added(rows[:5], cells())[:5] == rows[:5], "what is there keeps its place"


def test_cells_of_another_base_are_refused():
    rows = methods.added([], cells())
    other = cells()[0] | {"seed": 43}
    other["points"][0]["columns"]["copy"] = {"0/0": 0.9}
    with pytest.raises(SystemExit, match="dog, seed 43: drawn by another base"):
        methods.added(rows, [other])


def test_the_means_say_what_the_cells_did():
    of_cells = summary.gather({str(at): cell for at, cell in enumerate(cells())}, ["waveft", "shira"])
    of_means = methods.gathered(methods.added([], cells()), ["waveft", "shira"])
    assert verdict.headline(of_means) == verdict.headline(of_cells)
    assert verdict.headline(of_means).startswith("Take waveft")
    assert verdict.verdict(of_means) == verdict.verdict(of_cells)
    assert of_means.rates == of_cells.rates == {"waveft": [1.0, 2.0], "shira": [1.0, 2.0]}


def test_a_rate_that_some_subject_lacks_is_left_out():
    rows = [
        row
        for row in methods.added([], cells())
        if (row["subject"], row["method"], row["rate"]) != ("hat", "shira", 2.0)
    ]
    assert methods.gathered(rows, ["waveft", "shira"]).rates == {"waveft": [1.0, 2.0], "shira": [1.0]}


def test_the_command_takes_cells_in_and_makes_tables_and_plot_anew(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(methods, "METHODS", {"waveft": "WaveFT", "shira": "SHiRA"})
    monkeypatch.setattr(methods, "SIZES", {"1": ("waveft", "shira", "")})
    monkeypatch.setattr(methods, "SIZED", ("dog", "hat"))
    monkeypatch.setattr(methods, "SHOWN", {"held_out": 3, "drift": 3})
    (tmp_path / "cells").mkdir()
    for number, cell in enumerate(cells()):
        (tmp_path / "cells" / f"{number}.json").write_text(json.dumps(cell))
    rows, page, plot = (tmp_path / name for name in ("rows.jsonl", "page.md", "fronts.png"))
    page.write_text("Before.\n\n| method | score |\n|---|---|\n| nobody | 0 |\n\nBehind.\n")
    methods.main(["--rows", str(rows), "--add", str(tmp_path), "--page", str(page), "--plot", str(plot)])
    printed = capsys.readouterr().out
    assert printed.startswith("Take waveft")
    assert "| 1 | 0.505 at 0.100, 0.705 at 0.200 | 0.405 at 0.100, 0.505 at 0.200 | no such rank |" in printed
    beside = printed.partition("less WaveFT at size 1")[2].splitlines()[2]
    # at drift 0.15 both are half way between their two rates
    assert re.match(r"\| SHiRA, 1 \| -0\.150 \[.*\] of 2 \| -0\.200 .*of 2 \|", beside)
    assert len(methods.read(rows)) == 15
    assert page.read_text().startswith("Before.\n\n| method | score |\n|---|---|\n| WaveFT | ")
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_page_shows_what_the_rows_say():
    page, printed = PAGE.read_text(encoding="utf-8"), methods.report(methods.read(methods.ROWS))
    same, tables = refreshed(page, printed)
    assert len(tables) == 5, "the ranking, equal drift, each at its best, sizes, sizes at equal drift"
    assert same == page, "python -m benchmarks.methods --page docs/compare.md"
    assert printed.partition("\n")[0] in page, "the sentence that heads it"
