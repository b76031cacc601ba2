"""What a base is, from its JSON files and safetensors headers: its sizes, what it predicts, and which one it is."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..job.schema import Model
from ..system import reading
from . import headers
from .headers import Header, Part

ASSETS = Path(__file__).parents[1] / "assets" / "sdxl"  # SDXL 1.0's configs, for single files
UNET, VAE = "model.diffusion_model.", "first_stage_model."  # of a single file's names
TEXT = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")
LARGEST_CONFIG = 2**20  # bytes
SAMPLER_MULTIPLE = 8  # px: diffusers draws no other sizes, whatever the VAE
PREDICTIONS = ("epsilon", "v_prediction")  # in this order: v_parameterization false, true
SPELLINGS = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}  # of modelspec.prediction_type


@dataclass(frozen=True)
class ModelFacts:
    """What is known of the base before its weights are read; the defaults where nothing local can be (a hub id).

    Attributes:
        resolution: px, the base's own.
        multiple: px, sizes must be multiples of it.
        prediction: "epsilon" or "v_prediction", as the job says or the files do; None = the loaded scheduler says it.
        zero_terminal_snr: whether the noise schedule ends in pure noise; None = the loaded scheduler says it.
        identity: of the whole base, the same for the same weights wherever they lie; what a resumed run compares.
        vae_identity: of the VAE that encodes the pictures, with its config: what latents depend on.
        text_identity: of both text encoders: what encoded captions depend on.
        unet_parameters, text_parameters, vae_parameters: how many numbers each has that are read, the text encoders
            together; 0 = not known.
        unet_bytes, text_bytes, vae_bytes: that they take in their files.
        unet_shapes: of the UNet's tensors, by the names in its files, without a single file's prefix.
    """

    resolution: int | None = None
    multiple: int | None = None
    prediction: str | None = None
    zero_terminal_snr: bool | None = None
    identity: str = ""
    vae_identity: str = ""
    text_identity: str = ""
    unet_parameters: int = 0
    unet_bytes: int = 0
    text_parameters: int = 0
    text_bytes: int = 0
    vae_parameters: int = 0
    vae_bytes: int = 0
    unet_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)


def of_folder(model: Model, folder: Path) -> ModelFacts:
    """Returns the facts of a folder in diffusers' layout, or of as much as can be read of it."""
    unet, *text, vae = (component(folder / name) for name in ("unet", "text_encoder", "text_encoder_2", "vae"))
    vae, vae_config = other_vae(model, folder) or (vae, folder / "vae")
    return gathered(model, folder, folder, unet, text, vae, vae_config)


def of_file(model: Model, header: Header) -> ModelFacts:
    """Returns the facts of a single file in the original layout, with the configs that go with it."""
    config = Path(model.config) if model.config else ASSETS
    unet = headers.part([header], UNET)
    text = [headers.part([header], prefix) for prefix in TEXT]
    vae, vae_config = other_vae(model, config) or (headers.part([header], VAE), config / "vae")
    return gathered(model, config, header, unet, text, vae, vae_config)


def of_hub(model: Model) -> ModelFacts:
    """Returns what the job itself says of a base that is fetched when it is loaded."""
    name = model.pretrained_model_name_or_path
    facts = ModelFacts(identity=f"hub:{name}", vae_identity=f"hub:{name}/vae", text_identity=f"hub:{name}/text")
    if other := other_vae(model, ASSETS):
        facts = replace(facts, vae_identity=identity([other[0]], read_config(other[1])))
    elif model.vae:
        facts = replace(facts, vae_identity=f"hub:{model.vae}")
    prediction = None if model.v_parameterization == "auto" else PREDICTIONS[model.v_parameterization]
    terminal = None if model.zero_terminal_snr == "auto" else model.zero_terminal_snr
    return replace(facts, prediction=prediction, zero_terminal_snr=terminal)


def gathered(
    model: Model, config: Path, source: Path | Header, unet: Part, text: list[Part], vae: Part, vae_config: Path
) -> ModelFacts:
    """Returns the facts of a base whose components were read."""
    resolution, multiple = sizes(config)
    prediction, zero_terminal_snr = predicts(model, config, source)
    empty = {
        "force_zeros_for_empty_prompt": read_config(config / "model_index.json").get("force_zeros_for_empty_prompt")
    }
    is_hub = bool(model.vae) and not Path(model.vae).exists()
    return ModelFacts(
        resolution=resolution,
        multiple=multiple,
        prediction=prediction,
        zero_terminal_snr=zero_terminal_snr,
        identity=identity([unet, *text, vae], {"vae": model.vae} if is_hub else {}),
        vae_identity=f"hub:{model.vae}" if is_hub else identity([vae], read_config(vae_config)),
        text_identity=identity(text, empty),
        unet_parameters=unet.parameters,
        unet_bytes=unet.size,
        text_parameters=sum(each.parameters for each in text),
        text_bytes=sum(each.size for each in text),
        vae_parameters=vae.parameters,
        vae_bytes=vae.size,
        unet_shapes=unet.shapes,
    )


def component(folder: Path) -> Part:
    """Returns what the weight files of a component's folder hold."""
    return headers.part([headers.read(file) for file in headers.weight_files(folder)])


def other_vae(model: Model, config: Path) -> tuple[Part, Path] | None:
    """Returns the VAE that [model] vae names and its config's folder, None where that is nothing local.

    Args:
        model: the job's section.
        config: folder of the base's configs: a VAE's file has none of its own.
    """
    path = Path(model.vae)
    if not model.vae or not path.exists():
        return None
    if path.is_dir():
        return component(path), path
    header = headers.read(path)
    return headers.part([header], vae_prefix(header)), config / "vae"


def vae_prefix(header: Header) -> str:
    """Returns what the names of a VAE's tensors begin with, in a file of its own or in a whole checkpoint."""
    return next((each for each in (VAE, "vae.") if any(name.startswith(each) for name in header.tensors)), "")


def predicts(model: Model, config: Path, source: Path | Header) -> tuple[str, bool]:
    """Returns what the base predicts, and whether its noise schedule ends in pure noise.

    The job has the first word; then a checkpoint's own: tensors named `v_pred` and `ztsnr`, or its modelspec; then the
    scheduler's config.
    """
    said = read_config(config / "scheduler" / "scheduler_config.json")
    prediction = str(said.get("prediction_type", PREDICTIONS[0]))
    zero_terminal_snr = bool(said.get("rescale_betas_zero_snr", False))
    if isinstance(source, Header):
        spelled = SPELLINGS.get(str(source.metadata.get("modelspec.prediction_type", "")).lower(), prediction)
        prediction = PREDICTIONS[1] if "v_pred" in source.tensors else spelled
        zero_terminal_snr = zero_terminal_snr or "ztsnr" in source.tensors
    if model.v_parameterization != "auto":
        prediction = PREDICTIONS[model.v_parameterization]
    if model.zero_terminal_snr != "auto":
        zero_terminal_snr = model.zero_terminal_snr
    return prediction, zero_terminal_snr


def sizes(config: Path) -> tuple[int | None, int | None]:
    """Returns the resolution and the multiple, px, that UNet and VAE configs say; None where they do not."""
    try:
        unet, vae = read_json(config / "unet" / "config.json"), read_json(config / "vae" / "config.json")
        factor = 2 ** (len(vae["block_out_channels"]) - 1)
        size = unet["sample_size"]
        size = size if isinstance(size, int) else max(size)
        halvings = 2 ** (len(unet["block_out_channels"]) - 1)
        return size * factor, math.lcm(SAMPLER_MULTIPLE, factor * halvings)
    except (ValueError, KeyError, TypeError):
        return None, None


def identity(parts: Iterable[Part], more: dict[str, Any]) -> str:
    """Returns one digest, hexadecimal, of components and of what else changes what they compute."""
    plain = {key: value for key, value in more.items() if not key.startswith("_")}  # versions and names of files
    content = [[part.digest for part in parts], sorted(plain.items())]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()


def read_config(path: Path) -> dict[str, Any]:
    """Returns a config file's object, or that of a component's folder; an empty one where it cannot be read."""
    try:
        return read_json(path / "config.json" if path.is_dir() else path)
    except ValueError:
        return {}


def read_json(path: Path) -> dict[str, Any]:
    """Returns the file's object; ValueError where it is not one or cannot be read."""
    try:
        value = reading.read_json(path, LARGEST_CONFIG)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value
