"""A file of prompts in kohya's forms: `.txt` with one prompt a line and options behind it, `.toml`, or `.json`."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..system.errors import UserError
from ..system.reading import parse_json, read_text
from .config import syntax_remedy
from .faults import describe
from .schema import Prompt

OPTIONS = {
    "n": "negative_prompt",
    "w": "width",
    "h": "height",
    "d": "seed",
    "l": "guidance_scale",
    "s": "sample_steps",
    "ss": "sample_sampler",
}
KOHYA_SCALE = "scale"  # kohya's tables call guidance so


def read_placed(path: Path) -> list[tuple[str, Prompt]]:
    """Returns the prompts of a file, each with its place in it, such as "prompts.txt, line 3"."""
    readers = {".txt": from_text, ".toml": from_toml, ".json": from_json}
    ending = path.suffix.lower()
    if ending not in readers:
        raise UserError(f'prompt file "{path}": expected a .txt, .toml or .json file, got {ending or "no ending"}.')
    text = read_text(path, f'prompt file "{path}"')
    found: list[tuple[str, Prompt]] = []
    problems: list[str] = []
    for where, table in readers[ending](text, path.name):
        made = parse_line(table) if isinstance(table, str) else checked(table, {})
        if isinstance(made, Prompt):
            found.append((where, made))
        else:
            problems += [f"{where}: {fault}" for fault in made]
    if not found and not problems:
        problems = [f'prompt file "{path}": holds no prompt. Write one on a line of its own.']
    if problems:
        raise UserError(problems)
    return found


def from_text(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yields each line that is neither empty nor a comment, with its place."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield f"{name}, line {number}", line.strip()


def from_toml(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yields each `[[prompt.subset]]` over the defaults in `[prompt]`, or `[prompt]` alone, with its place."""
    try:
        given = tomllib.loads(text).get("prompt")
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name}: {error}.{syntax_remedy(text, str(error))}") from None
    if isinstance(given, dict):
        shared = {key: value for key, value in given.items() if key != "subset"}
        subsets = given.get("subset", [{}])
        given = [shared | one if isinstance(one, dict) else one for one in aslist(subsets)]
    if not isinstance(given, list):
        raise UserError(f"{name}: expected a table [prompt] with [[prompt.subset]] below it, got none.")
    yield from numbered(given, name)


def from_json(text: str, name: str) -> Iterator[tuple[str, Any]]:
    """Yields the entries of the list, tables or lines as in a `.txt` file, with their places."""
    try:
        given = parse_json(text)
    except ValueError as error:
        raise UserError(f"{name}: expected JSON, got: {error}.") from None
    if not isinstance(given, list):
        raise UserError(f"{name}: expected a list of prompts, got {type(given).__name__}. Put it in [ ].")
    yield from numbered(given, name)


def aslist(value: Any) -> list[Any]:
    """Returns a list as it is, anything else as the only entry of one."""
    return value if isinstance(value, list) else [value]


def numbered(entries: Iterable[Any], name: str) -> Iterator[tuple[str, Any]]:
    """Yields each entry with its place in the file."""
    for number, entry in enumerate(entries, 1):
        yield f"{name}, prompt {number}", entry


def parse_line(line: str) -> Prompt | list[str]:
    """Returns the prompt of "text --n negative --w 1024 --d 7", or what is wrong with it."""
    text, *given = re.split(r"\s--(?=\S)", f" {line}")
    table: dict[str, Any] = {"prompt": text.strip()}
    spelling, problems = {}, []
    for option in given:
        name, _, value = option.strip().partition(" ")
        key = OPTIONS.get(name.lower())
        if key is None:
            known = ", ".join(f"--{known}" for known in OPTIONS)
            remedy = "Write --l, which is SDXL's guidance" if name.lower() == "g" else "Remove it"
            problems.append(f"expected one of {known}, got --{name}. {remedy}.")
        elif key in table:
            problems.append(f"--{name}: expected once, got twice. Remove one of them.")
        elif not value.strip():
            problems.append(f"--{name}: expected a value behind it, got none.")
        else:
            table[key], spelling[key] = number(value.strip(), key), f"--{name.lower()}"
    if not table["prompt"]:
        problems.append("expected a prompt before its options, got none.")
    return problems or checked(table, spelling)


def number(text: str, key: str) -> Any:
    """Returns the text as the number that the key wants, or as it is: the schema then says what it should have been."""
    try:
        return {"width": int, "height": int, "seed": int, "sample_steps": int, "guidance_scale": float}[key](text)
    except (KeyError, ValueError):
        return text


def checked(table: Any, spelling: Mapping[str, str]) -> Prompt | list[str]:
    """Returns the table as a prompt, or what is wrong with it, each key called as it is spelt in the file."""
    if isinstance(table, str):
        return parse_line(table)
    if not isinstance(table, dict):
        return [f"expected a table or a text, got {table!r}."]
    keys = [*Prompt.model_fields, KOHYA_SCALE]
    problems = []
    for key in table.keys() - set(keys):
        near = difflib.get_close_matches(str(key), keys, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(keys)}."
        problems.append(f"{key}: unknown key. {hint}")
    if KOHYA_SCALE in table and "guidance_scale" in table:
        problems.append("scale: expected once, got guidance_scale too. Remove one of them.")
    if "prompt" not in table:
        problems.append("prompt: required, but not given.")
    if problems:
        return sorted(problems)
    named = {"guidance_scale" if key == KOHYA_SCALE else key: value for key, value in table.items()}
    try:
        return Prompt.model_validate(named)
    except ValidationError as error:
        called = {"guidance_scale": KOHYA_SCALE} if KOHYA_SCALE in table else spelling
        return [
            describe({**fault, "loc": (called.get(str(fault["loc"][0]), fault["loc"][0]),)}) for fault in error.errors()
        ]
