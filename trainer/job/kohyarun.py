"""kohya's flat settings of a run, a config file or a command line, as the tables of a job.

What has a key of its own here goes into its table; what has not is left out, with the reason. Paths stay as written.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..system.errors import UserError
from ..system.reading import read_text
from . import tables
from .config import validated
from .other_trainers import FOREIGN
from .schema import Job

# kohya's name -> ours, where they differ and the value is the same
RENAMED = {
    "train_batch_size": ("general", "batch_size"),
    "dataset_repeats": ("general", "num_repeats"),
    "epoch": ("train", "max_train_epochs"),
    "epochs": ("train", "max_train_epochs"),
    "max_train_epoch": ("train", "max_train_epochs"),
    "snr_gamma": ("loss", "min_snr_gamma"),
    "log_prefix": ("logging", "wandb_run_name"),
    "lr_scheduler_type": ("optimizer", "lr_scheduler"),
    "num_cpu_threads_per_process": ("train", "threads"),
}
FLAGS = {  # switches of kohya's that are values here
    "use_8bit_adam": ("optimizer", "optimizer_type", "AdamW8bit"),
    "use_lion_optimizer": ("optimizer", "optimizer_type", "Lion"),
    "xformers": ("train", "attention", "xformers"),
    "sdpa": ("train", "attention", "sdpa"),
    "fp8_base": ("model", "base_dtype", "fp8"),
    "fp8_base_unet": ("model", "base_dtype", "fp8"),
    "no_half_vae": ("model", "vae_dtype", "fp32"),
}
# what kohya does where nothing is said, and a job would do otherwise
KOHYAS_DEFAULTS = {"gradient_accumulation_steps": 1, "max_train_steps": 1600}
OWN_SCALE = ("learning_rate", "unet_lr", "text_encoder_lr")  # a LoRA's: WaveFT's coefficients have a scale of their own
NOT_TAKEN = "a LoRA's rate, on another scale: WaveFT's own stands"
SIZES = ("network_dim", "network_alpha", "network_rank")  # a LoRA's
HAS_COEFFICIENTS = 'WaveFT has coefficients instead. To train a LoRA write method = "lora" and this in [network]'
PAIRS = ("optimizer_args", "lr_scheduler_args")  # lists of "key=value"
WITHOUT_TRACE = ("network_module", "network_train_unet_only", "save_model_as", "sdxl", "console_log_simple")


@dataclass
class Converted:
    """A job made of kohya's settings.

    Attributes:
        tables: the job's, as TOML would read them.
        notes: what was left out or changed, and why.
        rank: of the LoRA that was to be trained, None where nothing says it.
    """

    tables: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rank: int | None = None

    def put(self, table: str, key: str, value: Any) -> None:
        """Writes one key."""
        self.tables.setdefault(table, {})[key] = value


def read(path: Path) -> dict[str, Any]:
    """Returns the settings of a file: flat TOML (its section names mean nothing, as to kohya), or a command line.

    Raises:
        UserError: it cannot be read, or is neither.
    """
    text = read_text(path, f'--from-kohya "{path}"')
    try:
        return flat(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        if path.suffix.lower() == ".toml":
            raise UserError(f'--from-kohya "{path}": {error}.') from None
    found = from_words(words(text))
    if not found:
        raise UserError(f'--from-kohya "{path}": expected TOML or a line of --options, got neither. Name such a file.')
    named = found.pop("config_file", None)
    if not named:
        return found
    config = path.parent / str(named)
    return read(config if config.suffix else config.with_suffix(".toml")) | found


def flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of a table and of those in it, side by side."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found.update(flat(value) if isinstance(value, Mapping) else {key: value})
    return found


def words(text: str) -> list[str]:
    """Returns the words of a command line as bash, PowerShell or cmd would read it, its lines joined."""
    joined = re.sub(r"[\\`^][ \t]*\r?\n", " ", text)
    lines = [line for line in joined.splitlines() if not re.match(r"\s*(#|::|REM\b)", line, re.IGNORECASE)]
    lexer = shlex.shlex(" ".join(lines), posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""  # a backslash is Windows' slash
    try:
        return list(lexer)
    except ValueError as error:
        raise UserError(f"command line: {error}. Close the quotes.") from None


def from_words(given: Sequence[str]) -> dict[str, Any]:
    """Returns the options of a command line; those of `accelerate launch`, before the script, are its own."""
    script = next((place for place, word in enumerate(given) if word.endswith(".py")), -1)
    found: dict[str, list[Any]] = {}
    key = ""
    for word in given[script + 1 :]:
        name, equals, value = word.partition("=")
        if re.fullmatch(r"--[A-Za-z][\w-]*", name):
            key = name[2:].replace("-", "_")
            found[key] = [typed(value)] if equals else []
        elif key:
            found[key].append(typed(word))
    several = ("network_args", *PAIRS)
    return {
        key: values if key in several else True if not values else values[0] if len(values) == 1 else values
        for key, values in found.items()
    }


def typed(word: str) -> Any:
    """Returns a word as the number it says, else as it is."""
    try:
        value = ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(word.lower(), word)
    return value if isinstance(value, int | float) else word


def convert(given: Mapping[str, Any]) -> Converted:
    """Returns the job that does what kohya's settings say, as far as WaveFT can."""
    made = Converted(rank=next((given[key] for key in ("network_dim", "network_rank") if given.get(key)), None))
    theirs = {} if given.get("dataset_config") else {"caption_extension": ".caption"}  # else the dataset file says it
    for key, value in ({**KOHYAS_DEFAULTS, **theirs, **given}).items():
        place(made, key, value)
    if "max_train_epochs" in made.tables.get("train", {}):
        made.tables["train"].pop("max_train_steps", None)
    folders(made, given)
    drop_faults(made)
    return made


def place(made: Converted, key: str, value: Any) -> None:
    """Puts one of kohya's settings where it belongs, or notes why it is left out."""
    homes = [home for home in tables.homes(key) if home != "[[sample.prompts]]"]
    if value is None or value is False or key in WITHOUT_TRACE or key.endswith("_data_dir"):
        return
    if key in OWN_SCALE:
        made.notes.append(f"{key} = {value}: {NOT_TAKEN}")
    elif key in SIZES:
        made.notes.append(f"{key} = {value}: {HAS_COEFFICIENTS}")
    elif key == "dataset_config":
        made.tables[key] = value
    elif key in FLAGS:
        made.put(*FLAGS[key])
    elif key in RENAMED:
        made.put(*RENAMED[key], value)
    elif key == "resolution" and isinstance(value, str):
        sides = [int(side) for side in value.split(",")]
        made.put("general", key, sides[0] if len(set(sides)) == 1 else sides)
    elif key in PAIRS:
        made.put("optimizer", key, pairs(value))
    elif homes and homes[0] != "[[datasets.subsets]]":
        made.put("general" if "[general]" in homes else homes[0].strip("[]"), key, value)
    else:
        made.notes.append(f"{key} = {value}: {FOREIGN.get(key, 'not known here')}")


def pairs(value: Any) -> dict[str, Any]:
    """Returns kohya's list of "key=value" texts as a table."""
    entries = [value] if isinstance(value, str) else value
    split = [str(entry).partition("=") for entry in entries]
    return {name.strip(): typed(text.strip()) for name, _, text in split}


def folders(made: Converted, given: Mapping[str, Any]) -> None:
    """Adds the folders of pictures."""
    if "dataset_config" in made.tables:
        return
    subsets = [{"image_dir": given["train_data_dir"]}] if given.get("train_data_dir") else []
    if given.get("reg_data_dir"):
        subsets.append({"image_dir": given["reg_data_dir"], "is_reg": True})
    made.tables["datasets"] = [{"subsets": subsets or [{"image_dir": "pictures"}]}]
    if not subsets:
        made.notes.append("no train_data_dir: write the folder of your pictures into image_dir")


def drop_faults(made: Converted) -> None:
    """Leaves out what no job can say, each with what is said to it."""
    if "pretrained_model_name_or_path" not in made.tables.get("model", {}):
        made.put("model", "pretrained_model_name_or_path", "sdxl.safetensors")
        made.notes.append("no pretrained_model_name_or_path: write the base")
    table = {key: value for key, value in made.tables.items() if key != "dataset_config"}
    table.setdefault("datasets", [{"subsets": [{"image_dir": "."}]}])
    job, problems = validated(table)
    made.notes += problems
    if job is not None and problems:
        kept = job.model_dump(exclude_unset=True, exclude_none=True)
        made.tables = {key: kept[key] for key in Job.model_fields if key in kept and key in made.tables} | {
            key: value for key, value in made.tables.items() if key == "dataset_config"
        }
