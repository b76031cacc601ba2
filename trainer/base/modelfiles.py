"""Reads the frozen SDXL from a diffusers folder or a single file, fetched from the hub where the job allows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..job.config import is_hub_id
from ..job.schema import Model
from ..system.errors import UserError
from . import headers, vocabulary
from .modelcheck import EMBEDDING
from .modelfacts import ASSETS
from .precision import Precision

CUSTOM_CODE = "trust_remote_code"
VAE_FILES = ["config.json", "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.json"]
LOADING = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)  # what the model libraries raise


def load(model: Model, place: Precision) -> Any:
    """Returns the job's pipeline on the CPU, the VAE in fp32 and the rest in its dtypes.

    Raises:
        UserError: the model libraries cannot load it.
    """
    name = model.pretrained_model_name_or_path
    given = {"vae": load_vae(model)} if model.vae else {}
    try:
        return (load_single_file if Path(name).is_file() else load_folder)(model, place, given)
    except UserError:
        raise
    except LOADING as error:
        raise UserError(f'base "{name}": cannot be loaded: {told(error)}') from error


def fetch(model: Model) -> Model:
    """Returns the section with the folders, in the hub's cache, of a base or a VAE that is named by a hub id.

    Raises:
        UserError: one of them cannot be fetched.
    """
    found = {}
    name = model.pretrained_model_name_or_path
    if of_the_hub(model, name):
        from diffusers import StableDiffusionXLPipeline

        try:
            found["pretrained_model_name_or_path"] = str(StableDiffusionXLPipeline.download(name, use_safetensors=True))
        except LOADING as error:
            raise UserError(f'base "{name}": cannot be fetched: {told(error)}') from error
    if of_the_hub(model, model.vae):
        from huggingface_hub import snapshot_download

        try:
            found["vae"] = str(snapshot_download(model.vae, allow_patterns=VAE_FILES))
        except LOADING as error:
            raise UserError(f'[model] vae "{model.vae}": cannot be fetched: {told(error)}') from error
    return model.model_copy(update=found) if found else model


def of_the_hub(model: Model, name: str) -> bool:
    """Returns whether that is fetched: a hub id that the job allows to download, and nothing on this disk."""
    return bool(name) and model.allow_download and is_hub_id(name) and not Path(name).exists()


def told(error: Exception) -> str:
    """Returns an error of the model libraries in words; they say "meta tensor" where a file lacks weights."""
    if CUSTOM_CODE in str(error):  # they advise to let it run
        return "it brings code of its own, which is never run here. Name a base that the libraries know as it is."
    if "meta tensor" not in str(error):
        return " ".join(str(error).split())
    return (
        "it lacks weights of layers that its configs have. Fetch it again; if it has fewer layers than SDXL 1.0, name "
        "its configs in [model] config."
    )


def dtype_keyword() -> str:
    """Returns how this diffusers calls the dtype to load in."""
    import diffusers

    major, minor = (int(part) for part in diffusers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (0, 42) else "torch_dtype"


def load_folder(model: Model, place: Precision, given: dict[str, Any]) -> Any:
    """Returns the pipeline of a diffusers folder; fp16 files are taken where there are no others."""
    from diffusers import StableDiffusionXLPipeline

    name = model.pretrained_model_name_or_path
    dtypes = {"default": place.dtype, "unet": place.unet_dtype(model), "vae": torch.float32}
    variants = {part: variant(Path(name) / part) for part in classes()}
    # the library takes one variant for all, and a half where it finds one: those that differ come by themselves
    for part, kind in classes().items():
        if part not in given and variants.get(part) != variants.get("unet"):
            dtype = {dtype_keyword(): dtypes.get(part, dtypes["default"])}
            folder = Path(name) / part
            given = {
                **given,
                part: kind.from_pretrained(folder, variant=variants[part], local_files_only=True, **dtype),
            }
    return StableDiffusionXLPipeline.from_pretrained(
        name,
        variant=variants.get("unet"),
        **{dtype_keyword(): dtypes},
        **given,
        local_files_only=True,
        add_watermarker=False,
        use_safetensors=True,
    )


def classes() -> dict[str, Any]:
    """Returns the class of each component that has weights, by its folder's name."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    return {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }


def variant(folder: Path) -> str | None:
    """Returns which variant of a local component is loaded: "fp16", or None for full precision."""
    files = headers.weight_files(folder)
    return "fp16" if files and headers.is_half(files[0]) else None


def load_single_file(model: Model, place: Precision, given: dict[str, Any]) -> Any:
    """Returns the pipeline of an original-layout checkpoint, with the configs of a folder or our own.

    UNet and VAE are loaded by themselves: diffusers has one dtype for a whole file.
    """
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel

    file = model.pretrained_model_name_or_path
    # without a local config, diffusers asks the hub whatever local_files_only says
    source: dict[str, Any] = {"config": model.config or str(ASSETS), "local_files_only": True}
    rows = headers.read(Path(file)).tensors.get(EMBEDDING, {}).get("shape", [None])[0]
    first, second = vocabulary.tokenizers(vocabulary.find(model, rows))
    dtype = dtype_keyword()
    if "vae" not in given:
        vae = AutoencoderKL.from_single_file(file, subfolder="vae", **source, **{dtype: torch.float32})
        given = {**given, "vae": vae}
    return StableDiffusionXLPipeline.from_single_file(
        file,
        unet=UNet2DConditionModel.from_single_file(
            file, subfolder="unet", **source, **{dtype: place.unet_dtype(model)}
        ),
        tokenizer=first,
        tokenizer_2=second,
        **given,
        **source,
        **{dtype: place.dtype},
        add_watermarker=False,
    )


def load_vae(model: Model) -> Any:
    """Returns the VAE that [model] vae names, in fp32: of a folder or a file in either layout.

    Raises:
        UserError: it cannot be loaded, or is not whole.
    """
    from diffusers import AutoencoderKL

    path, dtype = Path(model.vae), {dtype_keyword(): torch.float32}
    base = Path(model.pretrained_model_name_or_path)
    try:
        if path.is_file():
            config = model.config or str(base if base.is_dir() else ASSETS)
            vae = AutoencoderKL.from_single_file(
                model.vae, config=config, subfolder="vae", local_files_only=True, **dtype
            )
        else:
            vae = AutoencoderKL.from_pretrained(
                model.vae, variant=variant(path), local_files_only=True, use_safetensors=True, **dtype
            )
    except LOADING as error:
        raise UserError(f'[model] vae "{model.vae}": cannot be loaded: {told(error)}') from error
    if absent := [key for key, parameter in vae.named_parameters() if parameter.is_meta]:
        raise UserError(f'[model] vae "{model.vae}": has no weights for {", ".join(absent[:3])}. Name a whole VAE.')
    return vae
