"""Every command that a page shows is one that the program takes, said the one way in which all pages say it."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

import noxfile
from trainer.cli import WORDS as TRAINERS
from trainer.cli import parser as train_parser
from waveft.cli import TOOLBOX, WORDS
from waveft_core.cli.parser import parser as toolbox_parser

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {".venv", ".git", ".nox", "node_modules", ".pytest_cache", "runs", "output", "build"}
PAGES = [
    *(page for page in ROOT.rglob("*.md") if not SKIPPED & set(page.relative_to(ROOT).parts)),
    *(ROOT / "jobs").rglob("*.toml"),
]
COMMAND = re.compile(r"(?:^#? {3,4}|^|`)((?:python3 |py )start\.py [^`\n]*|waveft [a-z]+ [^`\n]*)", re.MULTILINE)
PLACEHOLDERS = {"FILE", "DIR", "FOLDER", "PNG", "NAME", "WORD", "...", "|"}  # of a sentence: no line to copy
OLD_WAY = re.compile(r"^#? *(?:\S*/)?python3? -m (?:trainer|waveft_core)\b.*$", re.MULTILINE)


def commands(text):
    """The commands of a page's blocks and sentences, line ends with a backslash joined, comments cut off."""
    joined = re.sub(r" *\\\n *", " ", text)
    for found in COMMAND.findall(joined):
        words = shlex.split(found, comments=True)
        yield words[1:] if words[0] == "waveft" else words[2:]


def parse(words):
    """Has the word's own parser read a command; SystemExit or WaveFTError where it would be refused."""
    word, rest = words[0], words[1:]
    if word in ("test", "--help", "--version", "WORD"):
        return
    if word == "nox":
        named = rest[rest.index("-s") + 1 :] if "-s" in rest else []
        for session in named[: named.index("--")] if "--" in named else named:
            assert callable(getattr(noxfile, session)), session
        return
    if "--help" in rest:
        assert word in WORDS, word
    elif WORDS[word][0] == TOOLBOX:
        toolbox_parser().parse_args(words)
    elif word == "train":
        train_parser(word=True).parse_args(rest)
    else:
        importlib.import_module(f"trainer.{TRAINERS[word]}").parser().parse_args(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_of_a_page_is_one_that_its_word_takes(page, capsys):
    for words in commands(page.read_text(encoding="utf-8")):
        if PLACEHOLDERS & set(words) or len(words) == 1:
            assert words[0] in (*WORDS, "test", "nox", "WORD", "--help", "--version"), words
            continue
        try:
            parse(words)
        except SystemExit:
            pytest.fail(f"{shlex.join(words)}: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_say_it_one_way(page):
    assert OLD_WAY.findall(page.read_text(encoding="utf-8")) == []


def test_the_pages_show_most_words():
    shown = {words[0] for page in PAGES for words in commands(page.read_text(encoding="utf-8"))}
    assert set(WORDS) <= shown


def test_a_command_that_is_none_is_found():
    with pytest.raises(SystemExit):
        parse(["train", "job.toml", "--no-such-option"])
    with pytest.raises(KeyError):
        parse(["trian", "job.toml"])
    assert list(commands("    python3 start.py train a.toml --dry-run   # checks\n")) == [
        ["train", "a.toml", "--dry-run"]
    ]
    assert OLD_WAY.findall("```sh\npython -m trainer --config job.toml\n```") == ["python -m trainer --config job.toml"]


def test_no_option_of_the_words_is_unknown_to_argparse_itself():
    """A parser that took any option would let every page pass."""
    made = train_parser(word=True)
    assert isinstance(made, argparse.ArgumentParser)
    assert {"--dry-run", "--verbose", "--resume", "--set"} <= {
        option for action in made._actions for option in action.option_strings
    }
