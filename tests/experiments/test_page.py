"""docs/paper.md: a row for every table and figure of the paper, and commands that are taken."""

import re
import shlex
from pathlib import Path

import pytest

from experiments import registry
from experiments.__main__ import main, parser

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
ROWS = PAGE.partition("## Where each stands")[2].partition("## What came out")[0].splitlines()
CELLS = [[cell.strip() for cell in row.strip("|").split("|")] for row in ROWS if row.startswith("| ")][1:]


def numbers(kind):
    """The numbers of the tables, or figures, that the first column names."""
    found = set()
    for cells in CELLS:
        for words in re.findall(rf"{kind} ((?:\d+(?:, )?)+)", cells[0]):
            found |= {int(number) for number in re.findall(r"\d+", words)}
    return found


def test_every_table_and_figure_has_a_row():
    assert numbers("Tables?") == set(range(1, 12))
    assert numbers(r"Fig\.") == set(range(1, 8))
    assert {match for cells in CELLS for match in re.findall(r"Lemma \d|Prop\. \d", cells[0])} == {
        *("Lemma 1", "Lemma 2", "Lemma 3", "Prop. 1"),
    }


def test_every_row_has_its_command_and_its_state_and_every_command_a_row():
    named = {cells[1].strip("`") for cells in CELLS if cells[1]}
    assert named == set(registry.BY_NAME)
    for cells in CELLS:
        assert len(cells) == 6, cells[0]
        if cells[1]:
            assert re.match(r"exact|stand-in|wired", cells[2]), cells[0]
            # nothing is claimed of what was not run, and what was run has figures
            assert bool(cells[3]) == ("run" in cells[2].replace("not run", "")), cells[0]


@pytest.mark.parametrize("command", re.findall(r"^python -m experiments (.+?) *(?:#.*)?$", PAGE, re.MULTILINE))
def test_every_command_of_the_page_is_taken(command):
    name, *rest = shlex.split(command)
    if name != "list":
        parser(registry.BY_NAME[name]).parse_args(rest)


def test_the_list_has_every_experiment_with_what_its_small_form_takes(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for one in registry.ALL:
        assert f"{one.NAME} " in said
        assert one.PAPER in said
        assert one.SMALL in said
        assert one.SEE, "a plot's title"


@pytest.mark.parametrize("one", registry.ALL, ids=lambda one: one.NAME)
def test_every_experiment_tells_what_it_takes(one, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([one.NAME, "--help"])
    assert stopped.value.code == 0
    assert "--small" in capsys.readouterr().out
