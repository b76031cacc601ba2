"""What the parts of a regular expression that are no bigger than a letter say of a text: letters, classes, anchors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

try:
    from re import _parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_parse as _parser

parser: Any = _parser  # the standard library's own
Test = Callable[[str], bool]  # of a letter
Context = Callable[[str, int], bool]  # of a text and a place in it


def takes(code: Any, value: Any, flags: int) -> Test:
    """Returns what says whether one letter is taken; answers are kept, since names have few letters."""
    known: dict[str, bool] = {}
    fold = bool(flags & re.IGNORECASE)

    def test(letter: str) -> bool:
        if letter not in known:
            forms = {letter, letter.lower(), letter.upper()} if fold else {letter}
            known[letter] = _takes(code, value, flags, forms)
        return known[letter]

    return test


def _takes(code: Any, value: Any, flags: int, forms: set[str]) -> bool:
    if code is parser.ANY:
        return bool(flags & re.DOTALL) or "\n" not in forms
    if code is parser.LITERAL:
        return any(ord(form) == value for form in forms if len(form) == 1)
    if code is parser.NOT_LITERAL:
        return not _takes(parser.LITERAL, value, flags, forms)
    members = list(value)
    negated = bool(members) and members[0][0] is parser.NEGATE
    return any(_member(kind, held, flags, forms) for kind, held in members[negated:]) != negated


def _member(code: Any, value: Any, flags: int, forms: set[str]) -> bool:
    """Returns whether a class's member takes one of the forms of a letter."""
    if code is parser.LITERAL:
        return _takes(code, value, flags, forms)
    if code is parser.RANGE:
        return any(value[0] <= ord(form) <= value[1] for form in forms if len(form) == 1)
    name = str(value).rpartition("_")[2].lower()  # CATEGORY_NOT_WORD: "word"
    inside = any(_CATEGORIES[name](form) and (not flags & re.ASCII or form.isascii()) for form in forms)
    return inside != ("_NOT_" in str(value))


_CATEGORIES: dict[str, Test] = {
    "digit": str.isdecimal,
    "space": str.isspace,
    "word": lambda letter: letter.isalnum() or letter == "_",
}


def holds(value: Any, flags: int) -> Context:
    """Returns what says whether an anchor holds between two letters of a text."""
    lines = bool(flags & re.MULTILINE)
    name = str(value)

    def word(text: str, at: int) -> bool:
        return 0 <= at < len(text) and _member(None, "CATEGORY_WORD", flags, {text[at]})

    if name == "AT_BEGINNING":
        return lambda text, at: at == 0 or (lines and text[at - 1] == "\n")
    if name == "AT_BEGINNING_STRING":
        return lambda text, at: at == 0
    if name == "AT_END":
        return lambda text, at: at == len(text) or (text[at] == "\n" and (lines or at == len(text) - 1))
    if name == "AT_END_STRING":
        return lambda text, at: at == len(text)
    wanted = name == "AT_BOUNDARY"
    return lambda text, at: bool(text) and (word(text, at - 1) != word(text, at)) == wanted
