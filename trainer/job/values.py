"""What single values of a job look like: choices, patterns, paths, and the other spellings that are understood."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..system.patterns import pattern
from ..system.plaintext import UNSHOWN, unwritten

# What waveft_core accepts, written out so that a job is checked before torch is imported. A test compares them.
SDXL_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
WAVELETS = (*(f"db{n}" for n in range(1, 39)), *(f"sym{n}" for n in range(2, 21)), *(f"coif{n}" for n in range(1, 18)))

LARGEST_SEED = 2**63 - 1
# What nobody means to exceed: beyond it a job is a slip of the key, and its plan or its pictures fit no machine.
MOST_STEPS, MOST_EPOCHS, MOST_REPEATS = 10_000_000, 1_000_000, 10_000
MOST_RANK = 2**16  # of factors: beyond any layer's side
MOST_COEFFICIENTS = 2**27  # of a layer: ten times SDXL's largest matrix
LARGEST_SIDE = 8192  # px
LARGEST_NAME, LARGEST_PATH = 255, 4096  # bytes that file systems take

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
        good = len(value) == 2 and all(map(is_side, value))
    else:
        good = is_side(value)
    if not good:
        raise ValueError(f"expected px, 16 to {LARGEST_SIDE}, as one number or [width, height], got {value!r}")
    return value


def is_side(value: Any) -> bool:
    """Returns whether the value is a side that can be trained, px."""
    return type(value) is int and 16 <= value <= LARGEST_SIDE


def text_fault(text: str, is_path: bool) -> str:
    """Returns what is wrong with a text of a job, "" where it is one that somebody can have meant.

    Args:
        text: any value, or part of one.
        is_path: whether it names a file or folder.
    """
    if is_path and (found := UNSHOWN.search(text)):
        return (
            f'expected a path, got {text!r} with {found[0]!a} in it, which TOML makes of a backslash in "double '
            "quotes\". Write / for \\, or put it in 'single quotes'"
        )
    if (
        is_path
        and (long := max(len(part.encode(errors="replace")) for part in re.split(r"[/\\]", text))) > LARGEST_NAME
    ):
        return f"expected names of at most {LARGEST_NAME} bytes, got one of {long}. Shorten it"
    if is_path and len(text.encode(errors="replace")) > LARGEST_PATH:
        return f"expected a path of at most {LARGEST_PATH} bytes, got {len(text.encode(errors='replace'))}. Shorten it"
    fault = unwritten(text)
    return f"expected a text, got {fault}" if fault else ""


Choice = BeforeValidator(lower)
Pattern = Annotated[str, Field(min_length=1), AfterValidator(regular_expression)]
Switch = Annotated[Literal["auto", True, False], BeforeValidator(no_number)]
Fraction = Annotated[float, Field(ge=0, le=1)]


def as_prompts(value: Any) -> Any:
    """Returns a list in which every plain text has become a table with that `prompt`."""
    items = [value] if isinstance(value, str) else value
    return [{"prompt": item} if isinstance(item, str) else item for item in items] if isinstance(items, list) else value
