"""What the frozen encoders make of captions and pictures, once for the whole run.

Everything is encoded by itself, one text or picture at a time, so that nothing depends on what it was batched with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from . import images
from .dataset import Picture
from .errors import UserError
from .models import Base

TOKENS = 77  # of CLIP's context


@dataclass(frozen=True)
class Text:
    """An encoded text, on the CPU in the base's dtype.

    Attributes:
        context: [77, D], both encoders' last hidden states but one, side by side.
        pooled: [P], the second encoder's projection.
        tokens: how many tokens the text has, its start and end among them; the encoders see 77 of them.
    """

    context: torch.Tensor
    pooled: torch.Tensor
    tokens: int


@torch.no_grad()
def encode_texts(base: Base, texts: Iterable[str], device: torch.device) -> dict[str, Text]:
    """Returns each text with its encoding; an empty one is zeros where the base knows it so."""
    for _, encoder in base.text:
        encoder.to(device)
    encoded = {text: encode_text(base, text, device) for text in dict.fromkeys(texts)}
    for _, encoder in base.text:
        encoder.to("cpu")
    return encoded


def encode_text(base: Base, text: str, device: torch.device) -> Text:
    """Returns one text as SDXL is conditioned on it."""
    states, pooled, tokens = [], torch.empty(0), 0
    for tokenizer, encoder in base.text:
        length = min(TOKENS, encoder.config.max_position_embeddings)
        ids = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        made = encoder(ids.to(device), output_hidden_states=True)
        states.append(made.hidden_states[-2][0].cpu())  # [77, width]
        tokens = max(tokens, len(tokenizer(text).input_ids))
        pooled = made[0][0].cpu()  # the second encoder's projection [P] is what stays
    context = torch.cat(states, dim=-1)  # [77, D]
    if not text and base.empty_is_zero:
        context, pooled = torch.zeros_like(context), torch.zeros_like(pooled)
    return Text(context, pooled, tokens)


@torch.no_grad()
def encode_latents(
    base: Base, pictures: Iterable[Picture], device: torch.device
) -> dict[tuple[Picture, bool], torch.Tensor]:
    """Returns (picture, mirrored) -> latents [4, h, w] float32 on the CPU, mirrored ones for pictures that flip.

    Raises:
        UserError: latents that are not finite, with the image named.
    """
    base.vae.to(device)
    encoded = {}
    for picture in dict.fromkeys(pictures):
        image = images.open_rgb(picture.path)
        for flipped in (False, True) if picture.flip else (False,):
            pixels = images.to_tensor(images.crop(image, picture.geometry, flipped))
            latents = encode_pixels(base, pixels, device)
            if not latents.isfinite().all():
                raise UserError(
                    f'image "{picture.path}": expected finite latents, got NaN or infinity in {base.vae.dtype}. '
                    "Name a VAE that is whole in [model] vae."
                )
            encoded[picture, flipped] = latents
    base.vae.to("cpu")
    return encoded


def encode_pixels(base: Base, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns the scaled mean latents [4, h, w] float32, on the CPU, of pixels [3, H, W] in [-1, 1]."""
    mean = base.vae.encode(pixels[None].to(device, base.vae.dtype)).latent_dist.mode()[0].float().cpu()
    shift, scale = latent_scale(base)
    return (mean - shift) * scale


def decode_latents(base: Base, latents: torch.Tensor) -> torch.Tensor:
    """Returns pixels [3, H, W] in about [-1, 1] of scaled latents [4, h, w]; the VAE is where it is."""
    shift, scale = latent_scale(base)
    unscaled = latents.float().cpu() / scale + shift
    return base.vae.decode(unscaled[None].to(base.vae.device, base.vae.dtype)).sample[0]


def latent_scale(base: Base) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the shift and the factor, [4, 1, 1] or [], that take the VAE's latents to the UNet's."""
    config = base.vae.config
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is None or deviation is None:
        return torch.tensor(0.0), torch.tensor(float(config.scaling_factor))
    return torch.tensor(mean).view(-1, 1, 1), config.scaling_factor / torch.tensor(deviation).view(-1, 1, 1)
