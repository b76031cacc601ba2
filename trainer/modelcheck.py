"""Whether a path holds an SDXL that can be trained, from JSON files and safetensors headers alone, without torch."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import is_hub_id
from .schema import Model

PIPELINE_FOLDERS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
SECOND_ENCODER = "conditioner.embedders.1."  # the one thing that every SDXL checkpoint has and no relative does
UNET_CHANNELS = 4  # of the latents; inpainting UNets see a mask and its picture beside them
LARGEST_HEADER = 100_000_000  # bytes, the limit of safetensors itself
SAMPLER_MULTIPLE = 8  # px: diffusers draws no other sizes, whatever the VAE
REMEDY = "Name an SDXL base: a diffusers folder or a .safetensors checkpoint"


@dataclass(frozen=True)
class ModelFacts:
    """What the configs say. All None where nothing local can be read (a hub id).

    Attributes:
        resolution: px, the base's own.
        multiple: px, sizes must be multiples of it.
    """

    resolution: int | None = None
    multiple: int | None = None


def check(model: Model) -> tuple[ModelFacts, list[str]]:
    """Returns what the base's configs say, and what is wrong with the paths in [model]."""
    name = model.pretrained_model_name_or_path
    path, where = Path(name), "[model] pretrained_model_name_or_path"
    problems = check_vae(Path(model.vae)) if model.vae else []
    if model.allow_download and is_hub_id(name):
        return ModelFacts(), problems
    if not path.exists():
        hint = " To download a hub id set allow_download = true." if is_hub_id("/".join(path.parts[-2:])) else ""
        text = f'{where}: nothing at "{path}". Relative paths are relative to the folder of the job file.{hint}'
        return ModelFacts(), [text, *problems]
    if path.is_dir():
        faults = check_folder(path)
        idle = [key for key in ("tokenizer", "config") if getattr(model, key)]
        problems += [f"[model] {key}: only a single file needs it; the folder has its own. Remove it." for key in idle]
        facts = ModelFacts() if faults else read_facts(path)
        return facts, [f'{where} "{path}": {fault}' for fault in faults] + problems
    faults = check_single_file(path)
    problems = [f'{where} "{path}": {fault}' for fault in faults] + problems + check_companions(model)
    return (read_facts(Path(model.config)) if not problems else ModelFacts()), problems


def check_folder(folder: Path) -> list[str]:
    """Returns what keeps a folder from being an SDXL pipeline in diffusers' layout."""
    index = folder / "model_index.json"
    if not index.is_file():
        return [f"expected a diffusers folder, but it has no model_index.json. {REMEDY}."]
    try:
        kind = read_json(index).get("_class_name", "")
    except ValueError as error:
        return [f"model_index.json cannot be read: {error}. Fetch the model again."]
    if not str(kind).startswith("StableDiffusionXL"):
        return [f"expected a StableDiffusionXL pipeline, got {kind or 'one without _class_name'}. {REMEDY}."]
    missing = [name for name in PIPELINE_FOLDERS if not (folder / name).is_dir()]
    if missing:
        return [f"has no {', '.join(missing)}. Fetch the whole model."]
    return check_unet(folder / "unet" / "config.json", str(kind)) + [
        fault for name in ("unet", "vae", "text_encoder", "text_encoder_2") for fault in check_weights(folder / name)
    ]


def check_unet(config: Path, kind: str) -> list[str]:
    """Returns what keeps a UNet from being a text-to-image one, by its config."""
    try:
        channels = read_json(config).get("in_channels", UNET_CHANNELS)
    except ValueError as error:
        return [f"unet/config.json cannot be read: {error}. Fetch the model again."]
    if channels == UNET_CHANNELS:
        return []
    what = "an inpainting model (StableDiffusionXLInpaintPipeline)" if channels == 9 else kind
    return [f"expected a UNet with {UNET_CHANNELS} input channels, got {channels}: {what} is not trained. {REMEDY}."]


def check_weights(folder: Path) -> list[str]:
    """Returns what is wrong with the weights of one component: none there, or a file cut short."""
    files = sorted(folder.glob("*.safetensors"))
    if not files and not list(folder.glob("*.bin")):
        return [f"{folder.name} holds no weights. Fetch the whole model."]
    faults = []
    for file in files:
        try:
            read_header(file)
        except ValueError as error:
            faults.append(f"{folder.name}/{file.name} {error}")
    return faults


def check_single_file(path: Path) -> list[str]:
    """Returns what keeps a file from being an SDXL checkpoint, saying what it looks like instead."""
    if path.suffix != ".safetensors":
        return [f"expected a .safetensors file, got {path.suffix or 'no ending'}. {REMEDY}."]
    try:
        header = read_header(path)
    except ValueError as error:
        return [str(error)]
    likeness = looks_like(header)
    return [] if likeness == "SDXL" else [f"expected an SDXL checkpoint, but this looks like {likeness}. {REMEDY}."]


def looks_like(header: dict[str, Any]) -> str:
    """Returns what a checkpoint's tensor names say it is; "SDXL" for one that can be trained."""
    names = list(header)
    first = header.get("model.diffusion_model.input_blocks.0.0.weight", {}).get("shape", [0, 4])
    if (
        any(name.startswith(SECOND_ENCODER) for name in names)
        and "model.diffusion_model.input_blocks.0.0.weight" in header
    ):
        return "SDXL" if first[1] == 4 else f"an SDXL inpainting checkpoint ({first[1]} input channels)"
    marks = {
        "a WaveFT adapter": ".waveft_values",
        "a LoRA": "lora_",
        "SD 1.5": "cond_stage_model.transformer.",
        "SD 2": "cond_stage_model.model.",
        "the SDXL refiner": "conditioner.embedders.0.model.",
        "Flux": "double_blocks.",
        "SD 3": "joint_blocks.",
        "a VAE": "decoder.mid",
        "a bare UNet": "diffusion_model.",
    }
    return next(
        (kind for kind, mark in marks.items() if any(mark in name for name in names)), "no model that is known here"
    )


def check_companions(model: Model) -> list[str]:
    """Returns what a single file lacks beside it: configs and tokenizers in local folders."""
    problems = []
    config, tokenizer = Path(model.config), Path(model.tokenizer)
    if not model.config:
        problems.append(
            "[model] config: a single file needs a folder with SDXL's configs in diffusers' layout "
            "(model_index.json, unet/config.json and so on; no weights). Name one."
        )
    elif not (config / "unet" / "config.json").is_file() or not (config / "model_index.json").is_file():
        problems.append(
            f'[model] config "{config}": expected model_index.json and unet/config.json in it, got neither or one.'
        )
    holders = [tokenizer, tokenizer / "tokenizer"] if model.tokenizer else [config / "tokenizer"]
    if not any((holder / "vocab.json").is_file() or (holder / "tokenizer.json").is_file() for holder in holders):
        problems.append(
            f'[model] tokenizer "{model.tokenizer}": a single file needs a folder that holds tokenizer/ and '
            "tokenizer_2/, or one CLIP tokenizer (vocab.json and merges.txt). Name one."
        )
    return problems


def check_vae(folder: Path) -> list[str]:
    """Returns what keeps a folder from being a VAE in diffusers' layout."""
    where = f'[model] vae "{folder}"'
    if not (folder / "config.json").is_file():
        return [f"{where}: expected a folder with config.json and weights, in diffusers' layout."]
    return [f"{where}: {fault}" for fault in check_weights(folder)]


def read_facts(folder: Path) -> ModelFacts:
    """Returns what a diffusers-layout folder's UNet and VAE configs say of sizes."""
    try:
        unet, vae = read_json(folder / "unet" / "config.json"), read_json(folder / "vae" / "config.json")
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        size = unet["sample_size"]
        size = size if isinstance(size, int) else max(size)
        halvings = 2 ** (len(unet["block_out_channels"]) - 1)
        return ModelFacts(size * factor, math.lcm(SAMPLER_MULTIPLE, factor * halvings))
    except (ValueError, KeyError, TypeError):
        return ModelFacts()


def read_json(path: Path) -> dict[str, Any]:
    """Returns the file's object; ValueError where it is not one or cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(str(error)) from None
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def read_header(path: Path) -> dict[str, Any]:
    """Returns a safetensors file's header; ValueError, in words, where the file is something else or cut short."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else LARGEST_HEADER
        if length >= LARGEST_HEADER or length + 8 > size:
            raise ValueError("is not a safetensors file, or was cut short. Fetch it again.")
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError("is not a safetensors file: its header cannot be read. Fetch it again.") from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"was cut short: expected {expected} bytes, got {size}. Fetch it again.")
    return {name: entry for name, entry in header.items() if name != "__metadata__"}
