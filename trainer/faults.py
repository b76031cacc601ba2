"""What is wrong with a job, said in a job's own words: sections, keys, what was expected, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from .schema import Dataset, Job, Prompt, Section, Subset
from .values import PATTERNS

NO_RANK = "WaveFT has no rank; use [network] coefficients and scaling"
ALWAYS_CACHED = "latents and text-encoder outputs are always cached in memory. Remove it"
NOT_TRAINED = "the text encoders are not trained. Remove it"
FP32_ALWAYS = "coefficients are always fp32; the base follows [train] mixed_precision. Remove it"
FOREIGN = {
    **dict.fromkeys(
        ("network_dim", "network_rank", "network_alpha", "network_module", "conv_dim", "conv_alpha"), NO_RANK
    ),
    **dict.fromkeys(("cache_latents", "cache_latents_to_disk", "vae_batch_size"), ALWAYS_CACHED),
    **dict.fromkeys(("cache_text_encoder_outputs", "cache_text_encoder_outputs_to_disk"), ALWAYS_CACHED),
    **dict.fromkeys(("text_encoder_lr", "network_train_unet_only", "network_train_text_encoder_only"), NOT_TRAINED),
    **dict.fromkeys(("full_bf16", "full_fp16"), FP32_ALWAYS),
    **dict.fromkeys(("xformers", "sdpa", "mem_eff_attn"), "torch's own attention is used. Remove it"),
    "no_half_vae": "the VAE runs in fp32 unless its own config allows less. Remove it",
    "clip_skip": "SDXL always takes the last layer but one. Remove it",
    "v2": "only SDXL is trained. Remove it",
    "unet_lr": "the UNet is all that is trained; use [optimizer] learning_rate",
    "v_parameterization": "it is read from the base's scheduler config. Remove it",
    "train_batch_size": "write batch_size in [general]",
    "train_data_dir": "write image_dir in [[datasets.subsets]]",
    "num_coefficients": "write coefficients in [network]",
    "network_args": "write its entries as keys of [network]",
    "enable_bucket": "this version crops every picture to a square. Remove it",
    "save_every_n_steps": "this version saves at the end and on Ctrl-C. Remove it",
}
EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text in quotes",
    "string_too_short": "a text that is not empty",
    "list_type": "a list",
    "too_short": "at least one entry",
    "dict_type": "a table",
    "model_type": "a table",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


def describe(fault: Any) -> str:
    """Returns one of pydantic's faults in the words of a job: "[section] key: expected X, got Y. Remedy."."""
    loc, kind = fault["loc"], fault["type"]
    if not loc:  # between sections: the text itself says where
        return f"{fault['ctx']['error']}."
    where = place_name(loc)
    if kind == "extra_forbidden":
        return f"{where}: {unknown(loc, fault['input'])}"
    if kind == "missing":
        return f"{where}: required, but not given" + ("." if len(loc) > 1 else f". The job needs a {where} section.")
    if kind == "value_error":
        return f"{where}: {fault['ctx']['error']}."
    if kind == "string_pattern_mismatch":
        return f"{where}: expected {PATTERNS[fault['ctx']['pattern']]}, got {fault['input']!r}."
    bounds = {key: f"{value:g}" if isinstance(value, float) else value for key, value in fault.get("ctx", {}).items()}
    expected = EXPECTED.get(kind, fault["msg"]).format(**bounds)
    expected = expected.replace("True", "true").replace("False", "false")
    return f"{where}: expected {expected}, got {fault['input']!r}."


def place_name(loc: tuple[int | str, ...]) -> str:
    """Returns "[optimizer] learning_rate" or "[[datasets.subsets]] 2 image_dir" for pydantic's location."""
    if loc[:1] == ("datasets",):
        numbers = ".".join(str(part + 1) for part in loc if isinstance(part, int))
        names = [part for part in loc if isinstance(part, str)]
        table = "[[datasets.subsets]]" if "subsets" in names[1:2] and len(numbers) > 1 else "[[datasets]]"
        rest = [
            name for name in names if name not in ("datasets", "subsets") or (name == "subsets" and len(numbers) < 2)
        ]
        return " ".join(part for part in (table, numbers, *rest) if part)
    head = str(loc[0])
    if head not in sections() and len(loc) == 1:
        return head
    return " ".join([f"[{head}]", ".".join(str(part) for part in loc[1:])]).strip()


def unknown(loc: tuple[int | str, ...], value: Any) -> str:
    """Returns why a key is refused: it means nothing here, belongs elsewhere, or is misspelt."""
    key, homes = str(loc[-1]), [name for name, model in tables().items() if str(loc[-1]) in model.model_fields]
    if len(loc) == 1 and isinstance(value, dict | list) and not homes:
        return f"unknown section{guess(key, sections())}"
    if key in FOREIGN:
        return f"{FOREIGN[key]}."
    if homes:
        return f"this key belongs in {' or '.join(homes)}."
    own = section_at(loc).model_fields
    return f"unknown key{guess(key, own) if difflib.get_close_matches(key, own) else guess(key, all_keys())}"


def guess(word: str, names: Iterable[str]) -> str:
    """Returns ". Did you mean ...?" or, where nothing is near, "."."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f". Did you mean {near[0]}?" if near else "."


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


def section_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """Returns the model of the table that holds the last part of pydantic's location."""
    if loc[0] == "datasets":
        return Subset if "subsets" in loc[:-1] else Dataset
    if loc[:2] == ("sample", "prompts") and len(loc) > 2:
        return Prompt
    return tables().get(f"[{loc[0]}]", Job) if len(loc) > 1 else Job
