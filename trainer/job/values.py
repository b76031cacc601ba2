"""What single values of a job look like: choices, patterns, paths, and the other spellings that are understood."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..system.patterns import pattern

# What waveft_core accepts, written out so that a job is checked before torch is imported. A test compares them.
SDXL_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
WAVELETS = (*(f"db{n}" for n in range(1, 39)), *(f"sym{n}" for n in range(2, 21)), *(f"coif{n}" for n in range(1, 18)))

LARGEST_SEED = 2**63 - 1

OPTIMIZERS = (
    "AdamW",
    "AdamW8bit",
    "PagedAdamW",
    "PagedAdamW8bit",
    "Adafactor",
    "Prodigy",
    "Lion",
    "Lion8bit",
    "SGD",
)
SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "cosine_with_min_lr",
    "inverse_sqrt",
    "warmup_stable_decay",
    "piecewise_constant",
)
# kohya's names, which are k-diffusion's and ComfyUI's
SAMPLERS = (
    "euler_a",
    "euler",
    "ddim",
    "ddpm",
    "pndm",
    "lms",
    "heun",
    "dpm_2",
    "dpm_2_a",
    "dpmsolver",
    "dpmsolver++",
    "dpmsingle",
    "model",
)

# What a text must look like, and how that is said to whom got it wrong.
DOTTED = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+"  # path of a class, such as torch.optim.NAdam
LOCATIONS, FILE_NAME, ENDING = r"^(uniform|peft|gradient):[0-9]+$", r"^[\w][\w .+-]*$", r"^\.[\w.]+$"
PATTERNS = {
    LOCATIONS: "uniform:SEED, peft:SEED or gradient:SEED with a whole number for SEED",
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
            switches = {"true": True, "false": False}  # as TOML writes them; left a text, either would be true
            table[key.strip()] = switches.get(text.strip().lower(), text.strip())
    return table


def fold_name(names: Sequence[str]) -> Callable[[Any], Any]:
    """Returns a function that gives one of the names in its own spelling, however its letters are written."""
    spelling = {name.lower(): name for name in names}
    return lambda value: spelling.get(value.lower(), value) if isinstance(value, str) else value


def fold_sampler(value: Any) -> Any:
    """Returns a sampler's name in its own spelling; kohya writes some of them with "k_" before it too."""
    bare = value.lower().removeprefix("k_") if isinstance(value, str) else value
    return bare if bare in SAMPLERS else value


def regular_expression(value: str) -> str:
    """Returns the text, if it is a regular expression."""
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"expected a regular expression, got {value!r} ({error})") from None
    pattern(value)  # and one that no job can keep a machine busy with
    return value


def sides(value: Any) -> Any:
    """Returns a size as one number or a pair; kohya also writes "512,768"."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)?", value):
        value = [int(part) for part in value.split(",")]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list | tuple):
        value = tuple(value)
        good = len(value) == 2 and all(type(side) is int and side >= 16 for side in value)
    else:
        good = type(value) is int and value >= 16
    if not good:
        raise ValueError(f"expected px, at least 16, as one number or [width, height], got {value!r}")
    return value


Choice = BeforeValidator(lower)
Pattern = Annotated[str, Field(min_length=1), AfterValidator(regular_expression)]
Switch = Annotated[Literal["auto", True, False], BeforeValidator(no_number)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def as_prompts(value: Any) -> Any:
    """Returns a list in which every plain text has become a table with that `prompt`."""
    items = [value] if isinstance(value, str) else value
    return [{"prompt": item} if isinstance(item, str) else item for item in items] if isinstance(items, list) else value
