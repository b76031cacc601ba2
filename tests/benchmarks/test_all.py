"""All benchmarks in one run: whose tables go where."""

import contextlib
import io
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as everything
from benchmarks import delta
from tests import processes

ROOT = Path(__file__).parents[2]
PAGE = """# Page

before

| case | method | step |
|---|---|---|
| 8 | ours | old |

between

| other | step |
|---|---|
| 1 | old |
"""
PRINTED = """headline

| case | peak | method | step |
|---|---|---|---|
| 8 | 1 MiB | ours | new |
| 9 | 2 MiB | ours | newer |

said
"""


def test_a_table_is_refreshed_where_a_printed_one_has_its_columns():
    page, names = everything.refreshed(PAGE, PRINTED)
    assert names == ["| case | method | step |"]
    assert "| 8 | ours | new |\n| 9 | ours | newer |\n\nbetween" in page
    assert "| 8 | ours | old |" not in page
    assert "| 1 | old |" in page
    assert everything.refreshed(page, PRINTED)[0] == page


def in_this_process(name, folder, small):
    """What a benchmark prints at its tiny size, without a Python of its own."""
    said, threads = io.StringIO(), torch.get_num_threads()
    _, tiny = everything.BENCHMARKS[name]
    try:
        with contextlib.redirect_stdout(said):
            delta.main([*tiny, "--rounds", "2", "--json", str(folder / f"{name}.json")])
    finally:
        torch.set_num_threads(threads)
    return said.getvalue()


@pytest.mark.parametrize("name", ["delta", "gradient"])
def test_the_pages_own_tables_are_found(name, tmp_path, capsys, monkeypatch):
    if name == "delta":  # the other one in a process of its own, as both are
        monkeypatch.setattr(everything, "run", in_this_process)
    monkeypatch.setattr(everything.subprocess, "run", lambda words, cwd, **_: processes.run(*words[1:], cwd=cwd))
    page = tmp_path / "benchmarks.md"
    shutil.copy(ROOT / "docs" / "benchmarks.md", page)
    everything.main(["all", "--json", str(tmp_path), "--page", str(page), "--small", "--only", name])
    said = capsys.readouterr().out
    assert said.count("| wavelet |") == 1
    assert (tmp_path / f"{name}.json").is_file()
    before, after = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"), page.read_text(encoding="utf-8")
    assert len(after.splitlines()) < len(before.splitlines())  # one small row where many were


@pytest.mark.slow
def test_every_benchmark_finds_its_tables_on_the_page(tmp_path, capsys):
    page = tmp_path / "benchmarks.md"
    shutil.copy(ROOT / "docs" / "benchmarks.md", page)
    everything.main(["all", "--json", str(tmp_path), "--page", str(page), "--small"])
    said = capsys.readouterr().out.split(" ...\n")
    assert len(said) == len(everything.BENCHMARKS) + 1
    found = {name: said[number + 1].count("  |") for number, name in enumerate(everything.BENCHMARKS)}
    assert found == {
        "roofline": 2,
        "step": 1,
        "causes": 1,
        "memory": 1,
        "load": 1,
        "delta": 1,
        "scaling": 0,
        "gradient": 1,
    }
    assert (tmp_path / "benchmarks-step.png").is_file()
