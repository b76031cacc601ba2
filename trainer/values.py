"""What single values of a job look like: choices, patterns, paths, and the other spellings that are understood."""

from __future__ import annotations

import ast
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

# What waveft_core accepts, written out so that a job is checked before torch is imported. A test compares them.
SDXL_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
WAVELETS = (*(f"db{n}" for n in range(1, 39)), *(f"sym{n}" for n in range(2, 21)), *(f"coif{n}" for n in range(1, 18)))

LARGEST_SEED = 2**63 - 1

# What a text must look like, and how that is said to whom got it wrong.
LOCATIONS, FILE_NAME, ENDING = r"^(uniform|peft):[0-9]+$", r"^[\w][\w .+-]*$", r"^\.[\w.]+$"
PATTERNS = {
    LOCATIONS: "uniform:SEED or peft:SEED with a whole number for SEED",
    FILE_NAME: "the start of a file name, without folder",
    ENDING: "a file ending such as .txt",
}

IS_PATH = "path"  # marks keys that hold a path
PathText = Annotated[str, IS_PATH]


def lower(value: Any) -> Any:
    """Returns a text in lower case, anything else as it is: names of choices may be written in any case."""
    return value.lower() if isinstance(value, str) else value


def no_number(value: Any) -> Any:
    """Returns the value, unless it is the 1 or 0 that Python takes for true or false."""
    if type(value) in (int, float):
        raise ValueError(f"expected 'auto', true or false, got {value}")
    return value


def pairs(value: Any) -> Any:
    """Returns kohya's list of "key=value" texts as a table, a table as it is."""
    if not isinstance(value, list):
        return value
    table = {}
    for item in value:
        key, equals, text = str(item).partition("=")
        if not equals:
            raise ValueError(f'expected a table or a list of "key=value" texts, got {item!r} in the list')
        try:
            value = ast.literal_eval(text.strip())
            table[key.strip()] = list(value) if isinstance(value, tuple) else value  # "betas=0.9,0.99": TOML has lists
        except (ValueError, SyntaxError):
            table[key.strip()] = text.strip()
    return table


Choice = BeforeValidator(lower)
Fraction = Annotated[float, Field(ge=0, le=1)]


def as_prompts(value: Any) -> Any:
    """Returns a list in which every plain text has become a table with that `prompt`."""
    items = [value] if isinstance(value, str) else value
    return [{"prompt": item} if isinstance(item, str) else item for item in items] if isinstance(items, list) else value
