"""Where things are in a job: its tables, their keys, and what pydantic's locations are called by who writes one."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .dataschema import Dataset, Subset
from .schema import Job, Prompt
from .section import Section

Loc = tuple[int | str, ...]


def sections() -> list[str]:
    """Returns the names of the job's tables."""
    return [name for name in Job.model_fields if name != "config_version"]


def tables() -> dict[str, type[Section]]:
    """Returns each table's title, as it is written in a job, with its model."""
    plain = {f"[{name}]": field.annotation for name, field in Job.model_fields.items() if name in sections()}
    models = {title: model for title, model in plain.items() if isinstance(model, type) and issubclass(model, Section)}
    return {**models, "[[datasets]]": Dataset, "[[datasets.subsets]]": Subset, "[[sample.prompts]]": Prompt}


def all_keys() -> list[str]:
    """Returns every key of every table."""
    return [key for model in tables().values() for key in model.model_fields]


def homes(key: str) -> list[str]:
    """Returns the tables that have the key, as they are written in a job."""
    return [name for name, model in tables().items() if key in model.model_fields]


def walk(loc: Loc) -> tuple[Loc, FieldInfo | None, type[Section]]:
    """Returns how much of a location is the job's own, the field of its last key (None: unknown), and that key's table.

    Pydantic adds to a location which kind of value it tried ("int", "[key]"); a table with free keys adds one of them.
    """
    table: type[Section] = Job
    inside: type[Section] | None = Job
    field = None
    for place, part in enumerate(loc):
        if isinstance(part, int):
            continue
        if inside is None:
            assert field is not None
            return loc[: place + (get_origin(field.annotation) is dict)], field, table
        table = inside
        field = table.model_fields.get(part)
        if field is None:
            return loc[: place + 1], None, table
        inside = section_of(field.annotation)
    return loc, field, table


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
