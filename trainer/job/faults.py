"""What is wrong with a job, said in a job's own words: sections, keys, what was expected, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from .networks import FIRST, METHODS, Network, owners
from .other_trainers import FOREIGN
from .section import Section
from .tables import Loc, all_keys, homes, place_name, sections, table_at, walk
from .values import PATTERNS

HALVES = ("fp16", "bf16", "float16", "bfloat16")
WHOLES = ("fp32", "float32", "f32", "full")
# Values that other keys and tools have, and what they are called here.
MEANT = {
    "save_precision": dict.fromkeys((*WHOLES, "no"), '"float", which is fp32'),
    "mixed_precision": dict.fromkeys((*WHOLES, "float"), '"no", which is fp32'),
    "base_dtype": dict.fromkeys(HALVES, '"auto", and choose it in [train] mixed_precision'),
}
EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text in quotes",
    "string_too_short": "a text that is not empty",
    "string_too_long": "a text of at most {max_length} letters",
    "list_type": "a list",
    "too_short": "at least one entry",
    "dict_type": "a table",
    "model_type": "a table",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}


def describe_all(faults: Iterable[Any]) -> list[str]:
    """Returns pydantic's faults in the words of a job; what a key of two kinds says twice is said once."""
    by_place: dict[Loc, list[Any]] = {}
    for fault in faults:
        by_place.setdefault((*walk(fault["loc"])[0], fault["type"] == "extra_forbidden"), []).append(fault)
    return [describe(*together) for together in by_place.values()]


def describe(fault: Any, *others: Any) -> str:
    """Returns the faults of one place as one: "[section] key: expected X, got Y. Remedy."."""
    loc, kind = walk(fault["loc"])[0], fault["type"]
    if not loc:  # between sections: the text itself says where
        return f"{fault['ctx']['error']}."
    where = place_name(loc)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return f"[network]{unknown_method(fault)}"
    if kind == "extra_forbidden":
        return f"{where}: {unknown(loc, fault['input'], walk(fault['loc'])[2])}"
    if kind == "missing":
        return f"{where}: required, but not given" + ("." if len(loc) > 1 else f". The job needs a {where} section.")
    if kind == "value_error":
        text = str(fault["ctx"]["error"])
        key = text.partition(": ")[0]  # what a table says of its keys begins with one
        model = table_at(fault["loc"])
        return f"{where}{' ' if model and key in model.model_fields else ': '}{text}."
    if kind == "string_pattern_mismatch":
        return f"{where}: expected {PATTERNS[fault['ctx']['pattern']]}, got {fault['input']!r}."
    if loc == ("config_version",):
        return f"config_version: expected 1, got {fault['input']!r}. Write 1: this trainer knows no other."
    wanted = dict.fromkeys(expected(each) for each in (fault, *others))
    if "a number" in wanted:
        wanted.pop("a whole number", None)
    return f"{where}: expected {' or '.join(wanted)}, got {fault['input']!r}.{remedy(loc, kind, fault['input'])}"


def expected(fault: Any) -> str:
    """Returns what a place takes."""
    bounds = {key: f"{value:g}" if isinstance(value, float) else value for key, value in fault.get("ctx", {}).items()}
    text = EXPECTED.get(fault["type"], fault["msg"]).format(**bounds)
    return text.replace("True", "true").replace("False", "false")


def remedy(loc: Loc, kind: str, value: Any) -> str:
    """Returns what to write instead, where the value shows what was meant, after a blank; else an empty text."""
    if isinstance(value, str) and kind in ("int_type", "float_type", "bool_type"):
        try:
            float(value)
        except ValueError:
            return f" Write {value.lower()}." if value.lower() in ("true", "false") and kind == "bool_type" else ""
        return "" if kind == "bool_type" else f" Write {value} without quotes."
    if loc == ("datasets",) and kind == "list_type":
        return " Write [[datasets]], in double brackets."
    if loc[-1:] == ("subsets",) and kind == "list_type":
        return " Write [[datasets.subsets]], in double brackets."
    if kind == "literal_error" and isinstance(value, str) and value.lower() in MEANT.get(str(loc[-1]), {}):
        return f" Write {MEANT[str(loc[-1])][value.lower()]}."
    if kind == "literal_error" and isinstance(value, str):
        field = walk(loc)[1]
        near = guess(value, [str(each) for each in literals(field.annotation)] if field else [])
        return near.removeprefix(".")
    return ""


def literals(annotation: Any) -> list[Any]:
    """Returns the values of every Literal within an annotation."""
    parts = get_args(annotation)
    return [value for part in parts for value in ([part] if isinstance(part, str | bool) else literals(part))]


def unknown_method(fault: Any) -> str:
    """Returns what is said of a [network] whose method nobody knows, or that is no table."""
    if not isinstance(fault["input"], Mapping):
        return f": expected a table, got {fault['input']!r}."
    name = fault["input"].get("method", FIRST)
    near = guess(name.lower(), METHODS) if isinstance(name, str) else "."
    return f" method: expected one of {', '.join(METHODS)}, got {name!r}{near}"


def unknown(loc: Loc, value: Any, table: type[Section]) -> str:
    """Returns why a key is refused: it means nothing here, belongs elsewhere, or is misspelt.

    Args:
        loc: of the key.
        value: what it was given.
        table: that it was given in.
    """
    key = str(loc[-1])
    if issubclass(table, Network) and (methods := owners(key)):
        return (
            f"a key of method {listed(methods)}; the job's method is {table.model_fields['method'].default}, and "
            f'{table.SIZE}. Remove it, or write method = "{methods[0]}".'
        )
    places = homes(key)
    if len(loc) == 1 and isinstance(value, dict | list) and not places:
        return unknown_section(key, value)
    if key in FOREIGN:
        return f"{FOREIGN[key]}."
    if places:
        return f"this key belongs in {listed(places)}."
    own = table.model_fields
    return f"unknown key{guess(key, own) if difflib.get_close_matches(key, own) else guess(key, all_keys())}"


def unknown_section(name: str, value: Any) -> str:
    """Returns where the keys of a section belong that a job does not have: kohya's may have any name."""
    near = guess(name, sections())
    keys = value if isinstance(value, Mapping) else {}
    known = {key: listed(homes(key)) for key in keys if homes(key)}
    if near != "." or not known:
        return f"unknown section{near}"
    told = ", ".join(f"{key} in {place}" for key, place in list(known.items())[:4])
    return f"unknown section. Of its keys write {told}{' and so on' if len(known) > 4 else ''}."


def listed(names: Sequence[str]) -> str:
    """Returns "a", "a or b", "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def guess(word: str, names: Iterable[str]) -> str:
    """Returns ". Did you mean ...?" or, where nothing is near, "."."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f". Did you mean {near[0]}?" if near else "."
