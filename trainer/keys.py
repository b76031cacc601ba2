"""The tables of docs/training.md, from the schema, as `python -m trainer.keys` prints them; a test compares them."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from .faults import tables
from .schema import Section


def default(field: FieldInfo) -> str:
    """Returns a key's default as a job writes it, "required", or "" where it is worked out."""
    if field.is_required():
        return "required"
    return f"`{as_toml(field.default)}`" if field.default is not None else ""


def as_toml(value: Any) -> str:
    """Returns a value as TOML writes it in one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(as_toml(item) for item in value)}]"
    return str(value)


def section(title: str, model: type[Section]) -> str:
    """Returns one table of the page under its heading."""
    rows = [f"| `{key}` | {default(field)} | {field.description} |" for key, field in model.model_fields.items()]
    return "\n".join(
        [f"### `{title}`", "", model.__doc__ or "", "", "| key | default | meaning |", "|---|---|---|", *rows]
    )


def page() -> str:
    """Returns every table."""
    return "\n\n".join(section(title, model) for title, model in tables().items())


if __name__ == "__main__":
    print(page())
