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

from ..system.console import say
from ..system.errors import UserError
from ..system.reading import read_text
from . import kohya, networks, notjob
from .faults import describe_all
from .schema import Job
from .tables import Loc, walk
from .values import IS_PATH

METHOD = "network.method"  # what --set calls it
NOT_TOML = (".yaml", ".yml", ".json", ".ini", ".py")
MOST_ROUNDS = 5  # of leaving out what is faulty to find what else is
PLACEHOLDER = [{"subsets": [{"image_dir": "."}]}]  # so that nobody is told that there are none


def load(path: Path, overrides: Iterable[str] = ()) -> Job:
    """Returns the checked job with every local path made absolute.

    Args:
        path: the job file.
        overrides: `section.key=value` texts, the value written as in TOML.

    Raises:
        UserError: the file cannot be read, is not TOML, or is not a job; with every fault found.
    """
    job, problems = read(path, overrides)
    if problems or job is None:
        raise UserError(problems)
    return job


def read(path: Path, overrides: Iterable[str] = ()) -> tuple[Job | None, list[str]]:
    """Returns the job and what is wrong with it.

    A job with faults comes without the keys that have them, so that what it names can be checked all the same; it is
    None where nothing is left to check.

    Raises:
        UserError: the file cannot be read, or is not TOML.
    """
    table, overrides = read_toml(path), list(overrides)
    change_method(table, overrides)
    problems = [problem for text in overrides if (problem := override(table, text))]
    folder = path.resolve().parent
    problems += take_in_dataset(table, folder)
    job, faults = validated(table)
    named = [f"{path.name}: {problem}" for problem in (*problems, *faults)]
    return (job and rooted(job, folder)), named


def take_in_dataset(table: dict[str, Any], folder: Path) -> list[str]:
    """Replaces the key `dataset_config` by the tables of the file that it names; returns what keeps it from that."""
    if "dataset_config" not in table:
        return []
    name = table.pop("dataset_config")
    if not isinstance(name, str) or not name:
        table["datasets"] = PLACEHOLDER
        return [f"dataset_config: expected the path of a dataset file in quotes, got {name!r}."]
    own = [written for key, written in (("general", "[general]"), ("datasets", "[[datasets]]")) if key in table]
    if own:
        return [f"dataset_config: the job has {' and '.join(own)} itself. Remove the one or the other."]
    try:
        table.update(kohya.read_dataset_config(Path(absolute(name, folder))))
    except UserError as error:
        table["datasets"] = PLACEHOLDER
        return error.problems
    return []


def validated(table: dict[str, Any]) -> tuple[Job | None, list[str]]:
    """Returns the job of a table, without the keys that are faulty, and what is wrong with them."""
    problems: list[str] = []
    for _ in range(MOST_ROUNDS):
        try:
            return Job.model_validate(table), problems
        except ValidationError as error:
            found = error.errors()
        # what a later round finds may come of what the earlier ones left out
        problems = problems or describe_all(found)
        places = [walk(fault["loc"])[0] for fault in found if fault["type"] != "missing"]
        if len(places) < len(found) or not all(places):
            break
        table = without(table, places)
    return None, problems


def without(table: Any, places: Iterable[Loc]) -> Any:
    """Returns a copy of a table without what lies at the places."""
    dropped = {place[0] for place in places if len(place) == 1}
    deeper = {place[0] for place in places} - dropped
    pairs = enumerate(table) if isinstance(table, list) else table.items() if isinstance(table, dict) else ()
    kept = {
        key: without(value, [place[1:] for place in places if place[0] == key]) if key in deeper else value
        for key, value in pairs
        if key not in dropped
    }
    return list(kept.values()) if isinstance(table, list) else kept


def rooted(job: Job, folder: Path) -> Job:
    """Returns the job with its paths as seen from its folder; hub ids that may be fetched stay as they are."""
    model = job.model
    hub_ids = {model.pretrained_model_name_or_path, model.vae} if model.allow_download else set()
    # metric models are loaded long after the job is read, by a command that has a switch of its own for the network
    hub_ids |= {job.evaluation.image_model, job.evaluation.clip_model}

    def change(text: str) -> str:
        path = absolute(text, folder)
        return text if text in hub_ids and is_hub_id(text) and not Path(path).exists() else path

    return map_paths(job, change)


def read_toml(path: Path) -> dict[str, Any]:
    """Returns the file's table; a syntax error comes with its line and, where the cause is a common one, a remedy."""
    if path.suffix.lower() in NOT_TOML:
        raise UserError(
            f'job file "{path}": expected a .toml file, got {path.suffix}. A job is TOML: key = value below [section]. '
            "Begin with one that `python -m trainer init` writes; docs/job.md has every key."
        )
    if told := notjob.told(path):
        raise UserError(f'job file "{path}": expected a .toml file, {told}')
    text = read_text(path, f'job file "{path}"')
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
    if re.match(r"\s*(- |[\w.-]+:(\s|$))", line):
        return " This looks like YAML, a job is TOML: write key = value below [section]."
    if "\\" in line:
        return " In a path write / for \\, or put it in 'single quotes'."
    if value in ("True", "False"):
        return f" Write {value.lower()}."
    if re.match(r"[A-Za-z_./~]", value) and value not in ("true", "false", "inf", "nan"):
        return f' Put the text in quotes: "{value}".'
    return ""


def change_method(table: dict[str, Any], overrides: Iterable[str]) -> None:
    """Takes out of the file's [network] what was meant for another method than `--set network.method=...` names.

    Whoever tries another method on a job does not mean the old one's keys to go along; each that goes is said. A key
    that `--set` gives itself stays, and is refused where it is another method's.
    """
    wanted = [text.partition("=")[2].strip(" \"'") for text in overrides if text.partition("=")[0].strip() == METHOD]
    network = table.get("network")
    if not wanted or not isinstance(network, dict) or wanted[-1].lower() not in networks.METHODS:
        return
    before, table["network"] = network.get("method", networks.FIRST), networks.with_method(network, wanted[-1])
    for key in sorted(network.keys() - table["network"].keys()):
        if networks.owners(key):
            say(f"notice      [network] {key}: left out, as it was meant for method {before}")
        else:
            table["network"][key] = network[key]  # a mistake of any method's, to be refused as ever


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
    """Returns whether the text has the form of a hub id, `owner/name`, and not that of a file of weights."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+(?<!\.safetensors)(?<!\.ckpt)", text) is not None


def absolute(text: str, folder: Path) -> str:
    """Returns the path as seen from the job's folder."""
    return os.path.normpath(folder / Path(text).expanduser())


def map_paths(section: Any, change: Callable[[str], str]) -> Any:
    """Returns a copy of the job in which every key that holds a path has been changed by the function.

    Which keys were given, and which have their defaults, stays known.
    """
    if isinstance(section, list | tuple):
        return type(section)(map_paths(item, change) for item in section)
    if not isinstance(section, BaseModel):
        return section
    values = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        is_path = IS_PATH in field.metadata or IS_PATH in get_args(field.annotation)
        values[name] = change(value) if is_path and isinstance(value, str) and value else map_paths(value, change)
    return type(section).model_construct(_fields_set=set(section.model_fields_set), **values)
