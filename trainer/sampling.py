"""Pictures of the job's prompts, as the base draws them with whatever is in its weights at the moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from . import captions, images
from .encode import Text, decode_latents
from .errors import TrainingStopped
from .files import write_atomically
from .models import Base
from .precision import Precision
from .preflight import Ready
from .schema import Job, Prompt

TILE = 512  # px


@dataclass(frozen=True)
class Drawn:
    """One sample: its prompt as it was encoded, its seed, and the picture."""

    prompt: str
    seed: int
    image: Image.Image


def filled_prompts(job: Job) -> list[Prompt]:
    """Returns the job's prompts with trigger and seed filled in."""
    trigger = job.metadata.trigger_phrase
    return [
        prompt.model_copy(
            update={
                "prompt": captions.fill_trigger(prompt.prompt, trigger),
                "negative_prompt": captions.fill_trigger(prompt.negative_prompt, trigger),
                "seed": job.train.seed if prompt.seed is None else prompt.seed,
            }
        )
        for prompt in job.sample.prompts
    ]


@torch.no_grad()
def draw(base: Base, ready: Ready, texts: dict[str, Text], precision: Precision) -> list[Drawn]:
    """Returns `samples_per_prompt` pictures of every prompt, each drawn by itself from a seed of its own.

    Raises:
        TrainingStopped: a picture came out not finite.
    """
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline(
        vae=base.vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=base.unet,
        scheduler=type(base.scheduler).from_config(base.scheduler.config),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    drawn: list[Drawn] = []
    try:
        base.vae.to(precision.device)
        for prompt in filled_prompts(ready.job):
            for number in range(ready.job.sample.samples_per_prompt):
                seed = (prompt.seed or 0) + number
                latents = draw_latents(pipeline, prompt, seed, ready, texts, precision)
                with tiled_decoding(base.vae, latents):
                    pixels = decode_latents(base, latents)
                if not pixels.isfinite().all():
                    raise TrainingStopped(
                        f'sample of "{prompt.prompt}": expected a finite picture, got NaN or infinity.'
                    )
                drawn.append(Drawn(prompt.prompt, seed, images.from_tensor(pixels)))
    finally:
        base.vae.to("cpu")  # the training that follows a failure needs its memory
    return drawn


@contextmanager
def tiled_decoding(vae: Any, latents: torch.Tensor) -> Iterator[None]:
    """Lets the VAE decode latents [4, h, w] of more than `TILE` px tile by tile: whole, fp32 takes many gigabytes.

    Only for as long as it is entered: pictures are encoded whole.
    """
    sizes = ("use_tiling", "tile_sample_min_size", "tile_latent_min_size")
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    if max(latents.shape[-2:]) * factor <= TILE:
        yield
        return
    before = {name: getattr(vae, name) for name in sizes}
    try:
        for name, value in zip(sizes, (True, TILE, TILE // factor), strict=True):
            setattr(vae, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(vae, name, value)


def draw_latents(
    pipeline: Any, prompt: Prompt, seed: int, ready: Ready, texts: dict[str, Text], precision: Precision
) -> torch.Tensor:
    """Returns the denoised latents [4, h, w] of one picture."""
    settings = ready.job.sample
    positive, negative = (
        {
            "embeds": text.context[None].to(precision.device, precision.dtype),
            "pooled": text.pooled[None].to(precision.device, precision.dtype),
        }
        for text in (texts[prompt.prompt], texts[prompt.negative_prompt])
    )
    made = pipeline(
        prompt_embeds=positive["embeds"],
        pooled_prompt_embeds=positive["pooled"],
        negative_prompt_embeds=negative["embeds"],
        negative_pooled_prompt_embeds=negative["pooled"],
        width=settings.width or ready.resolution,
        height=settings.height or ready.resolution,
        num_inference_steps=settings.sample_steps,
        guidance_scale=settings.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(seed),
        output_type="latent",
    )
    return made.images[0]


def save_all(drawn: list[Drawn], folder: Path, name: str) -> list[Path]:
    """Writes every sample as a PNG; returns their paths."""
    paths = []
    for number, sample in enumerate(drawn):
        path = folder / f"{name}-{number + 1:02d}-seed{sample.seed}.png"
        paths.append(write_atomically(path, images.png_bytes(sample.image)))
    return paths
