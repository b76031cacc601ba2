"""Pictures of the job's prompts, as the base draws them with whatever is in its weights at the moment."""

from __future__ import annotations

import glob
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..base.encode import Text, decode_latents
from ..base.models import Base
from ..base.precision import Precision
from ..pictures import formats, images
from ..system.errors import TrainingStopped
from ..system.files import write_atomically
from . import samplers
from .prompts import Shot

TILE = 512  # px
TOGETHER_PX, MOST_TOGETHER = 1024, 16  # the side of a square of as many pixels as a batch may have; its pictures
BEFORE, AFTER = "before", "after"  # the moments of a run at which samples are drawn, beside its steps
STEP = re.compile(r"step(\d{8,})")
RESCALED = 0.7  # guidance is, for a schedule that ends in pure noise: whole, it burns out colours (Lin et al. 2023)


class Encoded(Protocol):
    """What gives a text as the base is conditioned on it."""

    def __getitem__(self, text: str, /) -> Text: ...


@dataclass(frozen=True)
class Drawn:
    """One sample: what was asked for, and the picture."""

    shot: Shot
    image: Image.Image


@torch.no_grad()
def draw(base: Base, shots: Sequence[Shot], texts: Encoded, place: Precision) -> list[Drawn]:
    """Returns the picture of every shot, each drawn by itself from a generator of its own.

    Raises:
        TrainingStopped: a picture came out not finite.
    """
    return [made for shot in shots for made in draw_together(base, [shot], texts, place)]


def batches(shots: Sequence[Shot]) -> list[list[int]]:
    """Returns the shots' numbers in batches that may be drawn together: of one size, sampler, steps and guidance.

    A batch has no more pixels than one picture of SDXL, which is drawn by itself as ever; small ones fill a batch.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for number, one in enumerate(shots):
        alike.setdefault((one.width, one.height, one.steps, one.guidance_scale, one.sampler), []).append(number)
    made = []
    for (width, height, *_), numbers in alike.items():
        size = min(MOST_TOGETHER, max(1, TOGETHER_PX**2 // (width * height)))
        made += [numbers[start : start + size] for start in range(0, len(numbers), size)]
    return made


@torch.no_grad()
def draw_together(base: Base, shots: Sequence[Shot], texts: Encoded, place: Precision) -> list[Drawn]:
    """Returns the pictures of a batch, each from a generator of its own: what `draw` draws, but for float rounding.

    Args:
        base: whose weights draw.
        shots: of one batch of `batches`.
        texts: their encodings.
        place: where and in what is computed.

    Raises:
        TrainingStopped: a picture came out not finite.
    """
    from diffusers import StableDiffusionXLPipeline

    drawn: list[Drawn] = []
    try:
        base.unet.to(place.device)
        base.vae.to(place.device)
        pipeline = StableDiffusionXLPipeline(
            vae=base.vae,
            text_encoder=None,
            text_encoder_2=None,
            tokenizer=None,
            tokenizer_2=None,
            unet=base.unet,
            scheduler=samplers.make(shots[0].sampler, base),
            add_watermarker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        for shot, latents in zip(shots, draw_latents(pipeline, shots, texts, base, place), strict=True):
            with tiled_decoding(base.vae, latents):
                pixels = decode_latents(base, latents)
            if not pixels.isfinite().all():
                raise TrainingStopped(f'sample of "{shot.prompt}": expected a finite picture, got NaN or infinity.')
            drawn.append(Drawn(shot, images.from_tensor(pixels)))
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


def draw_latents(pipeline: Any, shots: Sequence[Shot], texts: Encoded, base: Base, place: Precision) -> torch.Tensor:
    """Returns the denoised latents [B, 4, h, w] of a batch."""
    first, positive = shots[0], [texts[shot.prompt] for shot in shots]
    negative = [texts[shot.negative_prompt] for shot in shots]

    def stacked(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
        return torch.stack(list(tensors)).to(place.device, place.dtype)

    with place.autocast():  # as in training
        made = pipeline(
            prompt_embeds=stacked(text.context for text in positive),
            pooled_prompt_embeds=stacked(text.pooled for text in positive),
            negative_prompt_embeds=stacked(text.context for text in negative),
            negative_pooled_prompt_embeds=stacked(text.pooled for text in negative),
            width=first.width,
            height=first.height,
            num_inference_steps=first.steps,
            guidance_scale=first.guidance_scale,
            guidance_rescale=RESCALED if base.zero_terminal_snr else 0.0,
            generator=[torch.Generator("cpu").manual_seed(shot.seed) for shot in shots],
            output_type="latent",
        )
    return made.images


def at_step(step: int) -> str:
    """Returns what the moment after that optimizer step is called, in file names and in the report."""
    return f"step{step:08d}"


def save_all(drawn: Sequence[Drawn], folder: Path, name: str) -> list[Path]:
    """Writes every sample as a PNG that says how it was made; returns their paths, each beginning with `name`."""
    paths = []
    for number, sample in enumerate(drawn, 1):
        path = folder / f"{name}-{number:02d}-seed{sample.shot.seed}.png"
        paths.append(write_atomically(path, png(sample)))
    return paths


def found(shots: Sequence[Shot], folder: Path, name: str) -> dict[str, list[Path]]:
    """Returns moment -> the written samples of all shots, for the moments that have them all, in the run's order."""
    paths: dict[str, list[Path]] = {}
    for path in folder.glob(f"{glob.escape(name)}-*-01-seed*.png"):
        moment = path.name.removeprefix(f"{name}-").rpartition("-01-seed")[0]
        all_of_it = [
            folder / f"{name}-{moment}-{number:02d}-seed{shot.seed}.png" for number, shot in enumerate(shots, 1)
        ]
        if (moment in (BEFORE, AFTER) or STEP.fullmatch(moment)) and all(one.is_file() for one in all_of_it):
            paths[moment] = all_of_it
    place = {BEFORE: "", AFTER: "~"}  # before and after every "step00000100"
    return {moment: paths[moment] for moment in sorted(paths, key=lambda moment: place.get(moment, moment))}


def read(shots: Sequence[Shot], paths: Sequence[Path]) -> list[Drawn]:
    """Returns samples that were written."""
    drawn = []
    for shot, path in zip(shots, paths, strict=True):
        with formats.opened(formats.read_content(path)) as image:
            drawn.append(Drawn(shot, image.convert("RGB")))
    return drawn


def png(sample: Drawn) -> bytes:
    """Returns the picture as a PNG, with prompt and settings in the text chunk that A1111 and its viewers read."""
    told, buffer = PngInfo(), io.BytesIO()
    told.add_text("parameters", parameters(sample.shot))
    sample.image.save(buffer, "PNG", pnginfo=told)
    return buffer.getvalue()


def parameters(shot: Shot) -> str:
    """Returns a shot as A1111 writes it."""
    negative = f"Negative prompt: {shot.negative_prompt}\n" if shot.negative_prompt else ""
    return (
        f"{shot.prompt}\n{negative}Steps: {shot.steps}, Sampler: {samplers.shown_name(shot.sampler)}, "
        f"CFG scale: {shot.guidance_scale:g}, Seed: {shot.seed}, Size: {shot.width}x{shot.height}"
    )
