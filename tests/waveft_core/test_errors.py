import ast
import json
import pickle
import sys
import unicodedata
from pathlib import Path

import pytest

from waveft_core import WaveFTError
from waveft_core.errors import listed, printable

CORE = Path(__file__).resolve().parents[2] / "waveft_core"


@pytest.fixture
def own_name(monkeypatch):
    """The packs for other programs, where they were imported before, show the class under another module's name."""
    monkeypatch.setattr(WaveFTError, "__module__", "waveft_core.errors")


def test_all_that_a_terminal_obeys_or_hides_is_written_out():
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert printable(chr(code)) == chr(code).encode("unicode_escape").decode(), hex(code)


@pytest.mark.parametrize("text", ["dog", "größer", "犬の絵 №1", "a\u00a0b", "🐶", r"C:\new\x1b", ""])
def test_letters_stay_as_they_are(text):
    assert printable(text) == text
    assert printable(text, "json") == text


def test_json_stays_json():
    said = "\x7f\u009b\u202e\U000e0041é"
    assert json.loads(printable(json.dumps(said, ensure_ascii=False), "json")) == said


def test_a_refusal_is_one_line_whatever_a_file_is_called(own_name):
    name = "x\x1b]0;title\x07\nwaveft: all is well\u202e\r\x9b"
    error = WaveFTError(f"layers: expected others, got {listed([name])}. Rename it.")
    assert str(error).isprintable()
    assert r"x\x1b]0;title\x07\nwaveft: all is well\u202e\r\x9b" in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(WaveFTError(error)) == str(error)


def test_a_name_of_megabytes_is_no_message_of_megabytes():
    said = str(WaveFTError(f'layer "{"x" * 10**6}": expected another, got it. Rename it.'))
    assert len(said) < 10_000
    assert said.startswith('layer "x')
    assert said.endswith("got it. Rename it.")


def test_one_module_alone_prints():
    """So that there is one place where what a file says reaches a terminal."""
    for file in CORE.rglob("*.py"):
        if file.parts[-2:] == ("cli", "console.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Name) and node.id == "print"), (file, node.lineno)
            assert not (isinstance(node, ast.Attribute) and node.attr in ("write", "writelines") and in_std(node)), file


def in_std(node):
    return isinstance(node.value, ast.Attribute) and node.value.attr in ("stdout", "stderr")


def test_a_message_of_several_lines_is_given_line_by_line(own_name):
    error = WaveFTError("training: expected it to end well", "its last words:", "a\nb\x1b[2J")
    assert str(error) == "training: expected it to end well\nits last words:\na\\nb\\x1b[2J"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(WaveFTError()) == ""
