"""The job written out as TOML again, checked to be readable before a run depends on it. Torch is not imported."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .config import is_hub_id, map_paths
from .dataschema import DEFAULTS
from .schema import Job

MARK = "  # default"
WHERE = (("save", "output_dir"), ("save", "overwrite"), ("cache", "cache_dir"), ("logging", "logging_dir"))


def public_job(job: Job, resolution: tuple[int, int]) -> Job:
    """Returns the job with the resolution filled in and every path cut to its last name.

    Where the run wrote is left out too: the same training gives the same file in any folder.
    """
    job = map_paths(job, lambda text: text if is_hub_id(text) else Path(text.replace("\\", "/")).name)
    for section, key in WHERE:
        table = getattr(job, section)
        plain_table = table.model_copy(update={key: type(table).model_fields[key].default})
        job = job.model_copy(update={section: plain_table})
    return with_resolution(job, resolution)


def with_resolution(job: Job, resolution: tuple[int, int]) -> Job:
    """Returns the job with the base's own resolution written into [general], where nothing else holds."""
    if job.general.resolution is not None or job.datasets[0].resolution is not None:
        return job
    width, height = resolution
    return filled(job, resolution=width if width == height else resolution)


def filled(job: Job, **defaults: Any) -> Job:
    """Returns the job with defaults written into [general], still known as such."""
    general = job.general
    made = type(general).model_construct(_fields_set=set(general.model_fields_set), **{**dict(general), **defaults})
    return job.model_copy(update={"general": made})


def job_toml(job: Job) -> str:
    """Returns the job as TOML, with every default written out: it is that job again."""
    return "\n".join(lines(job)) + "\n"


def marked_toml(job: Job) -> str:
    """Returns the job as `job_toml` does with every default marked as one, those of [general] among them."""
    given = {key: value for key, value in DEFAULTS.items() if getattr(job.general, key) is None}
    return "\n".join(lines(filled(job, **given), MARK)) + "\n"


def lines(section: BaseModel, mark: str = "", title: str = "", repeated: bool = False) -> Iterator[str]:
    """Yields a table's lines: its own keys, then the tables in it; keys that say nothing are left out.

    Args:
        section: the table.
        mark: put behind each default.
        title: as it is written in brackets; "" for the job itself.
        repeated: whether it is one of several.
    """
    tables = []
    if title:
        yield ""
        yield f"[[{title}]]" if repeated else f"[{title}]"
    for key in type(section).model_fields:
        value = getattr(section, key)
        name = f"{title}.{key}" if title else key
        if isinstance(value, BaseModel):
            tables.append((value, name, False))
        elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
            tables += [(item, name, True) for item in value]
        elif value is not None:
            yield f"{key} = {toml_value(value)}{mark if key not in section.model_fields_set else ''}"
    for table, name, many in tables:
        yield from lines(table, mark, name, many)


def toml_value(value: Any) -> str:
    """Returns a value as TOML writes it in one line; TypeError for one that TOML cannot hold."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{bare_or_quoted(key)} = {toml_value(item)}" for key, item in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if hasattr(value, "isoformat"):  # TOML has dates
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no value of TOML")


def quoted(text: str) -> str:
    """Returns the text as a basic string of TOML, which is JSON's but for U+007F."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def bare_or_quoted(key: str) -> str:
    """Returns a key as TOML writes it."""
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else quoted(key)


def faults(job: Job) -> list[str]:
    """Returns why the job could not be written into the adapter file, and read back from it, after the training."""
    return [
        f"[{name}]: expected values that a TOML file can hold, got others ({fault}). Write them in plainer words."
        for name in Job.model_fields
        if (fault := lost(getattr(job, name)))
    ]


def lost(value: Any) -> str:
    """Returns what a table of the job loses on its way through a file, or ""."""
    sections = value if isinstance(value, list) else [value] if isinstance(value, BaseModel) else []
    try:
        for section in sections:
            text = "\n".join(lines(section))
            text.encode()
            found = tomllib.loads(text)
            if found != plain(section.model_dump(exclude_none=True)):
                return "they are read back as something else"
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        return str(error) or type(error).__name__
    return ""


def plain(value: Any) -> Any:
    """Returns the value with lists in the place of tuples, as it is read back."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
