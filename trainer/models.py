"""Loads the frozen SDXL from a diffusers folder, a single file or, where the job allows it, the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .config import is_hub_id
from .errors import UserError
from .schema import Model


def quiet_libraries(allow_download: bool) -> None:
    """Sets the switches that keep the model libraries offline and their notes on missing extras off the console.

    They are read when those libraries are imported, so that this must run first; what the user has set stays.
    """
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not allow_download:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")


@dataclass
class Base:
    """The frozen model. Everything is on the CPU when loaded; who uses a part moves it there and back.

    Attributes:
        text: (tokenizer, text encoder) twice; empty once every text has been encoded.
        dtype: of the UNet and the text encoders. The VAE has its own.
        empty_is_zero: whether the base knows an empty prompt as zeros.
    """

    unet: Any
    vae: Any
    text: list[tuple[Any, Any]]
    scheduler: Any
    dtype: torch.dtype
    empty_is_zero: bool


def load(model: Model, dtype: torch.dtype) -> Base:
    """Returns the base on the CPU, frozen.

    The VAE is fp32, in which no SDXL VAE overflows, unless its own config says that it need not be.

    Raises:
        UserError: the model libraries cannot load it.
    """
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    name = model.pretrained_model_name_or_path
    try:
        pipeline = load_single_file(model, dtype) if Path(name).suffix == ".safetensors" else load_folder(model, dtype)
        vae = diffusers.AutoencoderKL.from_pretrained(model.vae, local_files_only=True) if model.vae else pipeline.vae
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f'base "{name}": cannot be loaded: {error}') from error
    text = [(pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)]
    if any(part is None for pair in text for part in pair):
        raise UserError(f'base "{name}": expected two text encoders with tokenizers. Name a whole SDXL base.')
    parts = {"unet": pipeline.unet, "vae": vae, "text_encoder": text[0][1], "text_encoder_2": text[1][1]}
    for part, module in parts.items():
        if absent := [key for key, parameter in module.named_parameters() if parameter.is_meta]:
            raise UserError(f'base "{name}": {part} has no weights for {", ".join(absent[:3])}. Fetch the whole model.')
    vae = vae.to(torch.float32 if vae.config.get("force_upcast", True) else dtype)
    prediction = pipeline.scheduler.config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(f'base\'s scheduler: expected prediction_type "epsilon" or "v_prediction", got "{prediction}".')
    check_schedule(pipeline.scheduler)
    for module in parts.values():
        module.requires_grad_(False).eval()
    empty_is_zero = bool(pipeline.config.get("force_zeros_for_empty_prompt", True))
    return Base(pipeline.unet, vae, text, pipeline.scheduler, dtype, empty_is_zero)


def check_schedule(scheduler: Any) -> None:
    """Refuses a scheduler without betas (EDM's, flow matching's): no DDPM schedule is what its base was trained on."""
    if not {"beta_schedule", "trained_betas"} & set(scheduler.config):
        raise UserError(
            f"base's scheduler: expected one with a beta_schedule, got {type(scheduler).__name__}, whose noise is of "
            "another kind. Name a base that was trained on SDXL's own noise schedule; if this one was, put SDXL 1.0's "
            "scheduler/scheduler_config.json in the place of its own."
        )


def dtype_keyword() -> str:
    """Returns how this diffusers calls the dtype to load in."""
    import diffusers

    major, minor = (int(part) for part in diffusers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 42) else "torch_dtype"


def load_folder(model: Model, dtype: torch.dtype) -> Any:
    """Returns the pipeline of a diffusers folder or a hub id; fp16 files are taken where there are no others."""
    from diffusers import StableDiffusionXLPipeline

    name = model.pretrained_model_name_or_path
    local = not (model.allow_download and is_hub_id(name))
    names = [path.name for path in (Path(name) / "unet").glob("*.safetensors")] if local else []
    only_fp16 = bool(names) and all(".fp16." in file or ".fp16-" in file for file in names)
    return StableDiffusionXLPipeline.from_pretrained(
        name,
        variant="fp16" if only_fp16 else None,
        **{dtype_keyword(): {"default": dtype, "vae": torch.float32}},
        local_files_only=local,
        add_watermarker=False,
    )


def load_single_file(model: Model, dtype: torch.dtype) -> Any:
    """Returns the pipeline of an original-layout checkpoint; configs and tokenizers come from local folders."""
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    folder = Path(model.tokenizer or model.config)
    first = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    second = folder / "tokenizer_2" if (folder / "tokenizer_2").is_dir() else first
    tokenizer_2 = CLIPTokenizer.from_pretrained(second, local_files_only=True)
    if second == first:
        tokenizer_2.pad_token = "!"  # token 0: SDXL's second encoder pads with it
    return StableDiffusionXLPipeline.from_single_file(
        model.pretrained_model_name_or_path,
        config=model.config,  # without a local one, diffusers asks the hub whatever local_files_only says
        tokenizer=CLIPTokenizer.from_pretrained(first, local_files_only=True),
        tokenizer_2=tokenizer_2,
        **{dtype_keyword(): dtype},
        local_files_only=True,
        add_watermarker=False,
    )
