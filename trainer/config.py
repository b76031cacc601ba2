"""Reads a job.toml: all its faults at once, each with its remedy. Neither torch nor a model library is imported.

Relative paths are relative to the folder of the job file, so that a job means the same wherever it is started from.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from .errors import UserError
from .faults import describe
from .schema import Job
from .values import IS_PATH


def load(path: Path, overrides: Iterable[str] = ()) -> Job:
    """Returns the checked job with every local path made absolute.

    Args:
        path: the job file.
        overrides: `section.key=value` texts, the value written as in TOML.

    Raises:
        UserError: the file cannot be read, is not TOML, or is not a job; with every fault found.
    """
    table = read_toml(path)
    problems = [problem for text in overrides if (problem := override(table, text))]
    try:
        job = Job.model_validate(table)
    except ValidationError as error:
        problems += [describe(fault) for fault in error.errors()]
        raise UserError(f"{path.name}: {problem}" for problem in problems) from None
    if problems:
        raise UserError(f"{path.name}: {problem}" for problem in problems)
    folder = path.resolve().parent
    base = job.model.pretrained_model_name_or_path
    local = map_paths(job, lambda text: absolute(text, folder))
    if job.model.allow_download and is_hub_id(base) and not Path(local.model.pretrained_model_name_or_path).exists():
        return local.model_copy(
            update={"model": local.model.model_copy(update={"pretrained_model_name_or_path": base})}
        )
    return local


def read_toml(path: Path) -> dict[str, Any]:
    """Returns the file's table; a syntax error comes with its line and, where the cause is a common one, a remedy."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f'job file "{path}": not found') from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'job file "{path}": expected a text file in UTF-8, got: {error}') from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path.name}: {error}.{syntax_remedy(text, str(error))}") from None


def syntax_remedy(text: str, message: str) -> str:
    """Returns what to write instead, where the line that TOML stumbled over shows it; else an empty text."""
    found = re.search(r"line (\d+)", message)
    lines = text.splitlines()
    line = lines[min(int(found[1]), len(lines)) - 1] if found and lines else ""
    value = line.partition("=")[2].strip()
    if "\\" in line:
        return " In a path write / for \\, or put it in 'single quotes'."
    if value in ("True", "False"):
        return f" Write {value.lower()}."
    if re.match(r"[A-Za-z_./~]", value) and value not in ("true", "false", "inf", "nan"):
        return f' Put the text in quotes: "{value}".'
    return ""


def override(table: dict[str, Any], text: str) -> str | None:
    """Sets one `section.key=value` in the table; returns the fault, if there is one."""
    name, equals, value = text.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        return f"--set {text}: expected section.key=value"
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a text needs no quotes here: shells take them away
    place: Any = table
    try:
        for key in keys[:-1]:
            place = place[int(key)] if isinstance(place, list) else place.setdefault(key, {})
        place[int(keys[-1]) if isinstance(place, list) else keys[-1]] = parsed
    except (IndexError, ValueError, TypeError, AttributeError):
        return f"--set {text}: the job has no such place"
    return None


def is_hub_id(text: str) -> bool:
    """Returns whether the text has the form of a hub id, `owner/name`."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text) is not None


def absolute(text: str, folder: Path) -> str:
    """Returns the path as seen from the job's folder."""
    return os.path.normpath(folder / Path(text).expanduser())


def map_paths(section: Any, change: Callable[[str], str]) -> Any:
    """Returns a copy of the job in which every key that holds a path has been changed by the function."""
    if isinstance(section, list):
        return [map_paths(item, change) for item in section]
    if not isinstance(section, BaseModel):
        return section
    updates = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        is_path = IS_PATH in field.metadata or IS_PATH in get_args(field.annotation)
        updates[name] = change(value) if is_path and value else map_paths(value, change)
    return section.model_copy(update=updates)
