"""The frozen SDXL, ready to be trained on: whole, in its dtypes, and with the noise schedule that it was made for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..job.schema import Model
from ..system import commandline
from ..system.errors import UserError, reason
from . import modelfiles, quantise
from .modelcheck import check_folder, check_vae, prediction_faults
from .modelfacts import PREDICTIONS, ModelFacts, component, of_folder
from .precision import Precision


@dataclass
class Base:
    """The frozen model. Everything is on the CPU when loaded; who uses a part moves it there and back.

    Attributes:
        text: (tokenizer, text encoder) twice; empty once every text has been encoded.
        scheduler: of the base, set to what it predicts and to how its noise schedule ends.
        dtype: of what the UNet and the text encoders compute. The VAE has its own.
        empty_is_zero: whether the base knows an empty prompt as zeros.
        prediction: "epsilon" or "v_prediction".
        zero_terminal_snr: whether the noise schedule ends in pure noise.
        chunks: of 75 tokens that are read of a text.
        beside: whether the update should run beside the UNet's weights: in eight bits they round some of it away.
    """

    unet: Any
    vae: Any
    text: list[tuple[Any, Any]]
    scheduler: Any
    dtype: torch.dtype
    empty_is_zero: bool
    prediction: str = PREDICTIONS[0]
    zero_terminal_snr: bool = False
    beside: bool = False
    chunks: int = 1


def load(model: Model, place: Precision, facts: ModelFacts, attention: str = "sdpa") -> Base:
    """Returns the base on the CPU, frozen; 4-bit layers quantise themselves when they are moved.

    Args:
        model: the job's section.
        place: what the base computes in.
        facts: what the checks found.
        attention: "sdpa", "xformers" or "eager".

    Raises:
        UserError: the model libraries cannot load it, or a package is missing.
    """
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    name = model.pretrained_model_name_or_path
    model, facts = local(model, facts)
    pipeline = modelfiles.load(model, place)
    text = [(pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)]
    if any(part is None for pair in text for part in pair):
        raise UserError(f'base "{name}": expected two text encoders with tokenizers. Name a whole SDXL base.')
    unet, vae = pipeline.unet, pipeline.vae
    parts = {"unet": unet, "vae": vae, "text_encoder": text[0][1], "text_encoder_2": text[1][1]}
    freeze(name, parts)
    check_whole(name, parts, facts)
    vae.to(place.vae_dtype(model, must_upcast=vae.config.get("force_upcast", True)))
    if model.base_dtype == "fp8":
        quantise.to_fp8(unet, place.dtype)
    elif model.base_dtype == "nf4":
        quantise.to_nf4(unet, place.dtype)
    set_attention(unet, attention)
    empty_is_zero = bool(pipeline.config.get("force_zeros_for_empty_prompt", True))
    scheduler, prediction, zero_terminal_snr = set_schedule(pipeline.scheduler, model, facts)
    return Base(
        unet,
        vae,
        text,
        scheduler,
        place.dtype,
        empty_is_zero,
        prediction,
        zero_terminal_snr,
        beside=model.base_dtype == "fp8",
        chunks=model.chunks,
    )


def local(model: Model, facts: ModelFacts) -> tuple[Model, ModelFacts]:
    """Returns the section and the facts of what lies on this disk: what a hub id names is checked once it was fetched.

    Raises:
        UserError: it cannot be fetched, or is none that can be trained.
    """
    fetched = modelfiles.fetch(model)
    name, folder = model.pretrained_model_name_or_path, Path(fetched.pretrained_model_name_or_path)
    faults = check_vae(fetched) if fetched.vae != model.vae else []
    faults = [fault.replace(fetched.vae, model.vae) for fault in faults]
    if fetched.pretrained_model_name_or_path != name:
        faults += [f'base "{name}": {fault}' for fault in check_folder(folder)]
    if faults:
        raise UserError(faults)
    # a run goes on under the names that it began with: identities stay the hub ids'
    if fetched.vae != model.vae:
        facts = replace(facts, vae_parameters=component(Path(fetched.vae)).parameters)
    if fetched.pretrained_model_name_or_path != name:
        found = of_folder(fetched, folder)
        counts = {f"{part}_parameters": getattr(found, f"{part}_parameters") for part in ("unet", "text", "vae")}
        facts = replace(facts, **counts)
    return fetched, facts


def freeze(name: str, parts: dict[str, Any]) -> None:
    """Freezes the parts; UserError where one lacks weights, which the libraries leave empty without a word."""
    for part, module in parts.items():
        if absent := [key for key, parameter in module.named_parameters() if parameter.is_meta]:
            raise UserError(
                f'base "{name}": {part} has no weights for {", ".join(absent[:3])}. Fetch the whole model; if it has '
                "fewer layers than SDXL 1.0, name its configs in [model] config."
            )
        module.requires_grad_(False).eval()


def check_whole(name: str, parts: dict[str, Any], facts: ModelFacts) -> None:
    """Refuses a base of whose files something was not read, or whose numbers are broken, before anything is made of it.

    Raises:
        UserError: with the first part, or tensor, that is wrong.
    """
    sizes = {part: sum(one.numel() for one in module.parameters()) for part, module in parts.items()}
    known = {"unet": facts.unet_parameters, "vae": facts.vae_parameters}
    known["text encoders"] = facts.text_parameters
    sizes["text encoders"] = sizes["text_encoder"] + sizes["text_encoder_2"]
    for part, count in known.items():
        if count and count != sizes[part]:
            raise UserError(
                f'base "{name}": {part}: its files hold {count:,} numbers, the model that its configs describe takes '
                f"{sizes[part]:,}. Name the configs that go with it: the folder's own or, of a single file, [model] "
                "config."
            )
    for part, module in parts.items():
        if tensor := first_broken(module):
            raise UserError(
                f'base "{name}": {part}, tensor "{tensor}": expected finite numbers, got NaN or infinity in '
                f"{str(module.dtype).removeprefix('torch.')}. {remedy_of_broken(module.dtype)}"
            )


def first_broken(module: torch.nn.Module) -> str:
    """Returns the name of the first tensor that holds NaN or infinity, "" where none does."""
    for tensor, parameter in module.named_parameters():
        # a sum takes NaN and infinity along, in one pass and without a tensor of answers; one that overflowed is looked
        # at closely
        if not parameter.detach().sum(dtype=torch.float32).isfinite() and not parameter.isfinite().all():
            return tensor
    return ""


def remedy_of_broken(dtype: torch.dtype) -> str:
    """Returns what to do about a base with broken numbers."""
    if dtype == torch.float16:
        return 'Set [train] mixed_precision = "bf16" or "no"; if they are broken there too, fetch the base again.'
    return "The file is damaged, or was merged badly: fetch it again, or name another."


def set_schedule(scheduler: Any, model: Model, facts: ModelFacts) -> tuple[Any, str, bool]:
    """Returns the scheduler set to what the base predicts and how its schedule ends, and both of these.

    Raises:
        UserError: a scheduler without betas (EDM's, flow matching's): no DDPM schedule is what its base was trained on;
            or a prediction that is not trained.
    """
    if not {"beta_schedule", "trained_betas"} & set(scheduler.config):
        raise UserError(
            f"base's scheduler: expected one with a beta_schedule, got {type(scheduler).__name__}, whose noise is of "
            "another kind. Name a base that was trained on SDXL's own noise schedule; if this one was, put SDXL 1.0's "
            "scheduler/scheduler_config.json in the place of its own."
        )
    said = scheduler.config.get("prediction_type", PREDICTIONS[0]), scheduler.config.get("rescale_betas_zero_snr")
    prediction = facts.prediction or str(said[0])
    zero_terminal_snr = bool(said[1] if facts.zero_terminal_snr is None else facts.zero_terminal_snr)
    known = replace(facts, prediction=prediction, zero_terminal_snr=zero_terminal_snr)
    if faults := prediction_faults(model, known):  # of a hub id they are not known before
        raise UserError(faults)
    config = {**scheduler.config, "prediction_type": prediction, "rescale_betas_zero_snr": zero_terminal_snr}
    return type(scheduler).from_config(config), prediction, zero_terminal_snr


def set_attention(unet: Any, attention: str) -> None:
    """Makes the UNet compute attention in that way; torch's own is what it has when loaded."""
    if attention == "eager":
        from diffusers.models.attention_processor import AttnProcessor

        unet.set_attn_processor(AttnProcessor())
    elif attention == "xformers":
        try:
            unet.enable_xformers_memory_efficient_attention()
        except (ImportError, ValueError, RuntimeError, NotImplementedError) as error:
            raise UserError(
                f"[train] attention: xformers cannot be used here ({reason(error)}). "
                f'Write "sdpa", which is as fast, or install it for this torch: {commandline.install("xformers")}'
            ) from error
