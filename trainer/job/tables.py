"""Where things are in a job: its tables, their keys, and what pydantic's locations are called by who writes one."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .dataschema import Dataset, Subset
from .networks import METHODS, Network
from .schema import Job, Prompt
from .section import Section

Loc = tuple[int | str, ...]


def sections() -> list[str]:
    """Returns the names of the job's tables."""
    return [name for name in Job.model_fields if name != "config_version"]


def tables() -> dict[str, type[Section]]:
    """Returns each table's title, as it is written in a job, with its model; [network] once more for each method."""
    found: dict[str, type[Section]] = {}
    for name in sections():
        if name == "network":
            found |= {"[network]": Network, **{f'[network] method = "{method}"': METHODS[method] for method in METHODS}}
        elif (model := section_of(Job.model_fields[name].annotation)) and name != "datasets":
            found[f"[{name}]"] = model
    return {**found, "[[datasets]]": Dataset, "[[datasets.subsets]]": Subset, "[[sample.prompts]]": Prompt}


def all_keys() -> list[str]:
    """Returns every key of every table."""
    return list(dict.fromkeys(key for model in tables().values() for key in model.model_fields))


def homes(key: str) -> list[str]:
    """Returns the tables that have the key, as they are written in a job."""
    found = [name.partition(" method")[0] for name, model in tables().items() if key in model.model_fields]
    return list(dict.fromkeys(found))


def walk(loc: Loc) -> tuple[Loc, FieldInfo | None, type[Section]]:
    """Returns how much of a location is the job's own, the field of its last key (None: unknown), and that key's table.

    Pydantic adds to a location which kind of value it tried ("int", "[key]") and, behind "network", whose method's
    table; a table with free keys adds one of them.
    """
    table: type[Section] = Job
    inside: type[Section] | None = Job
    field = None
    own: list[int | str] = []
    for part in loc:
        if isinstance(part, int):
            own.append(part)
            continue
        if own == ["network"] and part in METHODS:
            inside = METHODS[part]
            continue
        if inside is None:
            assert field is not None
            return (*own, *([part] if get_origin(field.annotation) is dict else [])), field, table
        table = inside
        own.append(part)
        field = table.model_fields.get(part)
        if field is None:
            return tuple(own), None, table
        inside = section_of(field.annotation)
    return tuple(own), field, table


def table_at(loc: Loc) -> type[Section] | None:
    """Returns the table that lies at a location, None where a value does."""
    if loc[:1] == ("network",) and len(loc) == 2 and loc[1] in METHODS:
        return METHODS[str(loc[1])]
    field = walk(loc)[1]
    return section_of(field.annotation) if field else None


def section_of(annotation: Any) -> type[Section] | None:
    """Returns the table that an annotation means, by itself or as the entry of a list; else None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation if issubclass(annotation, Section) else None
    return next((found for part in get_args(annotation) if (found := section_of(part))), None)


def place_name(loc: Loc) -> str:
    """Returns "[optimizer] learning_rate" or "[[datasets.subsets]] 1.2 image_dir" for a location."""
    if loc[:1] == ("datasets",):
        numbers = ".".join(str(part + 1) for part in loc[:4] if isinstance(part, int))
        names = [part for part in loc[1:] if isinstance(part, str)]
        inside = names[:1] == ["subsets"] and "." in numbers
        table = "[[datasets.subsets]]" if inside else "[[datasets]]"
        return " ".join(part for part in (table, numbers, *names[inside:]) if part)
    parts = [str(part + 1 if isinstance(part, int) else part) for part in loc]
    if parts[0] not in sections() and len(parts) == 1:
        return parts[0]
    between = " " if loc[:2] == ("sample", "prompts") else "."
    return f"[{parts[0]}] {between.join(parts[1:])}".strip()
