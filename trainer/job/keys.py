"""The page docs/job.md, from the schema, as `python -m trainer.keys` prints it; a test compares the two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args

from pydantic.fields import FieldInfo

from .dataschema import DEFAULTS, Buckets, Views
from .jobtext import toml_value
from .networks import Network
from .section import Section
from .tables import tables

HEAD = """# Every key of a job

A job is one TOML file. [training.md](training.md) tells how one is written and what a run does with it; this page is
made from the schema (`python -m trainer.keys`). `waveft init --images DIR --model FILE` writes a job for the
pictures and the base that are there; `--dry-run --verbose` prints a job with every default, each marked.

Keys that kohya's sd-scripts has keep their names there; the sections are ours. Unknown keys are refused, with the key
that was probably meant, its section, or what to do instead. Names of choices may be written in any case. Relative paths
are relative to the folder of the job file. What a number must lie between stands in brackets behind its meaning.

Above the first section two keys may stand:

| key | default | meaning |
|---|---|---|
| `config_version` | `1` | of the job's own format |
| `dataset_config` |  | kohya's dataset file, instead of `[general]` and `[[datasets]]`; its paths start at its folder |

kohya's dataset file can also be pasted in as it stands: `[general]`, `[[datasets]]` and `[[datasets.subsets]]` are its
tables. What a subset leaves open is taken from its dataset, then from `[general]`. Its keys `network_multiplier`,
`face_crop_aug_range`, `cache_info` and `custom_attributes` are refused, each with the reason."""
INHERITED = {"[[datasets]]": "[general]", "[[datasets.subsets]]": "[general]"}


def default(key: str, field: FieldInfo) -> str:
    """Returns a key's default as a job writes it, "required", or "" where it is worked out."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    value = DEFAULTS.get(key) if value is None else value
    return f"`{toml_value(value)}`" if value is not None else ""


def section(title: str, model: type[Section]) -> str:
    """Returns one table of the page under its heading; keys that a higher table may say too are named there alone."""
    if issubclass(model, Network) and model is not Network:
        return method_section(title, model)
    own = {key: field for key, field in model.model_fields.items() if not inherits(title, key)}
    lines = [f"## `{title}`", "", model.__doc__ or ""]
    if len(own) < len(model.model_fields):
        lines += ["", f"Every key of `{INHERITED[title]}`{but(title)}, for this one alone, and:"]
    return "\n".join([*lines, "", *rows(own)])


def method_section(title: str, model: type[Network]) -> str:
    """Returns the keys that a method has beside those of every method, or describes anew."""
    common = Network.model_fields
    told = {key: field for key, field in model.model_fields.items() if key != "method"}
    own = {
        key: field for key, field in told.items() if key not in common or field.description != common[key].description
    }
    return "\n".join([f"### `{title}`", "", model.__doc__ or "", "", *rows(own)])


def rows(fields: Mapping[str, FieldInfo]) -> list[str]:
    """Returns a table's lines, a key in each."""
    lines = [f"| `{key}` | {default(key, field)} | {cell(field)} |" for key, field in fields.items()]
    return ["| key | default | meaning |", "|---|---|---|", *lines]


def limits(field: FieldInfo) -> str:
    """Returns what a number, or each of a list or table, lies between: "1 to 1,024", "above 0, to 100"; or ""."""
    held: dict[str, Any] = {}
    for found in checks(field.annotation, field.metadata):
        held |= {name: getattr(found, name) for name in ("ge", "gt", "le", "lt") if hasattr(found, name)}
    low = f"{number(held['ge'])} to" if "ge" in held else f"above {number(held['gt'])}, to" if "gt" in held else "to"
    if "le" in held:
        return f"{low} {number(held['le'])}"
    return f"{low} below {number(held['lt'])}" if "lt" in held else ""


def checks(annotation: Any, metadata: Iterable[Any] = ()) -> Iterator[Any]:
    """Yields what pydantic checks of a key, and of what is inside of it."""
    for one in (*metadata, *getattr(annotation, "__metadata__", ())):
        yield one
        yield from getattr(one, "metadata", ())
    for inside in get_args(annotation):
        yield from checks(inside)


def number(value: float) -> str:
    """Returns a number as people write it; those next to a power of two as such."""
    whole = int(value)
    if whole != value:
        return f"{value:g}"
    for near, rest in ((whole, ""), (whole + 1, " - 1")):
        if near > 2**20 and near.bit_count() == 1:
            return f"2^{near.bit_length() - 1}{rest}"
    return f"{whole:,}"


def cell(field: FieldInfo) -> str:
    """Returns a description as it stands in a table: a bar would end the cell."""
    told, between = field.description or "", limits(field)
    return f"{told} ({between})".replace("|", "\\|") if between else told.replace("|", "\\|")


def inherits(title: str, key: str) -> bool:
    """Returns whether [general] describes the key of another table."""
    return key in {"[[datasets]]": Buckets, "[[datasets.subsets]]": Views}.get(title, Section).model_fields


def but(title: str) -> str:
    """Returns which keys of [general] a table does not have, in words, or ""."""
    if title != "[[datasets.subsets]]":
        return ""
    only = [f"`{key}`" for key in Buckets.model_fields if key not in Views.model_fields]
    return f" but {', '.join(only[:-1])} and {only[-1]}"


def page() -> str:
    """Returns the page."""
    return "\n\n".join([HEAD, *(section(title, model) for title, model in tables().items())])
