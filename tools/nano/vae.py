"""The nano base's autoencoder: 64 px pictures to latents of 4 x 16 x 16 and back, in diffusers' `AutoencoderKL`."""

from __future__ import annotations

import copy
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tools.nano.optimizer import Optimizer
from tools.nano.precision import autocast
from tools.nano.state import cosine, save_atomically
from tools.nano_pictures import SIZE_PX, draw, random_picture, random_texture

WIDTHS = (32, 64, 64)
GROUPS = 4  # large ones: groups of one or two channels breed a bright droplet that carries their scale
CARRIED = 8  # channels of the path that begins linear: three colours and a constant, each with its negative
REFERENCE = 4.0  # that constant; large beside a colour
TEXTURE_EVERY = 4  # of four pictures one has a photograph's statistics
RATE = 2e-4
FORGIVEN = 0.03  # of the latents' deviation: the noise that the decoder is trained to overlook

SCALING = 0.13025  # SDXL's own factor: a trainer that forgets it fails on this base too
SPREAD = 0.01  # deviation of the sampled latents, of their own: SDXL's is as small


def make_vae() -> AutoencoderKL:
    """Returns the autoencoder before training, fp32: exactly linear, colour means of 4 x 4 pixels there and back."""
    vae = AutoencoderKL(
        block_out_channels=WIDTHS,
        norm_num_groups=GROUPS,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        sample_size=SIZE_PX,
        force_upcast=False,
        mid_block_add_attention=False,
    )
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            torch.nn.init.zeros_(module.conv2.weight)
            torch.nn.init.zeros_(module.conv2.bias)
            if module.conv_shortcut is not None:
                _carry(module.conv_shortcut)
    with torch.no_grad():
        _begin_linear(vae)
    return vae


@torch.no_grad()
def _carry(conv: torch.nn.Conv2d, taps: slice = slice(1, 2)) -> None:
    """Lets a convolution hand the carried channels on, each the mean of the kernel's `taps`; the others stay random."""
    middle = taps if conv.kernel_size == (3, 3) else slice(0, 1)
    assert conv.bias is not None
    conv.weight[:CARRIED] = 0
    conv.bias[:CARRIED] = 0
    for channel in range(CARRIED):
        conv.weight[channel, channel, middle, middle] = 1 / (middle.stop - middle.start) ** 2


def _begin_linear(vae: AutoencoderKL) -> None:
    """Sets the path beside the residual blocks: +R -R +G -G +B -B and a constant, +REFERENCE -REFERENCE.

    silu(x) - silu(-x) is x, so the pairs pass the last activation unbent; the constant keeps the last normalisation's
    scale, so that a flat colour is not lost in it.  Random weights need most of a training to find just that.
    """
    encoder, decoder = vae.encoder, vae.decoder
    for conv, inputs in ((encoder.conv_in, 3), (decoder.conv_in, 3)):
        conv.weight[:CARRIED] = 0
        conv.bias[:CARRIED] = torch.tensor([0.0] * 6 + [REFERENCE, -REFERENCE])
        for channel in range(inputs):
            conv.weight[2 * channel, channel, 1, 1] = 1
            conv.weight[2 * channel + 1, channel, 1, 1] = -1
    for block in encoder.down_blocks:
        for sampler in block.downsamplers or ():
            _carry(sampler.conv, slice(0, 2))
    for block in decoder.up_blocks:
        for sampler in block.upsamplers or ():
            _carry(sampler.conv)
    for half in (encoder, decoder):
        half.conv_norm_out.weight[:CARRIED] = REFERENCE * (2 * GROUPS / half.conv_norm_out.num_channels) ** 0.5
        half.conv_norm_out.weight[CARRIED - 2 : CARRIED] = 0.1  # it has done its work: it must not sway every colour
        half.conv_out.weight[:3] = 0
        half.conv_out.bias[:3] = 0
        for channel in range(3):
            half.conv_out.weight[channel, 2 * channel, 1, 1] = 1
            half.conv_out.weight[channel, 2 * channel + 1, 1, 1] = -1
    encoder.conv_out.weight[4:] = 0
    for conv in (vae.quant_conv, vae.post_quant_conv):
        torch.nn.init.zeros_(conv.bias)
        conv.weight.copy_(torch.eye(conv.out_channels)[:, :, None, None])


def to_pixels(images: list[Image.Image]) -> Tensor:
    """Returns RGB images as [B, 3, H, W] uint8."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).contiguous()


def normalised(pixels: Tensor) -> Tensor:
    """Returns uint8 pixels as fp32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def training_pixels(work: Path, count: int) -> Tensor:
    """Returns `count` drawings and textures [count, 3, 64, 64] uint8, drawn once and kept in `work`."""
    path = work / "pixels.npy"
    if not path.exists():
        images = []
        for index in range(count):
            rng = random.Random(f"vae {index}")
            texture = index % TEXTURE_EVERY == TEXTURE_EVERY - 1
            images.append(random_texture(rng) if texture else draw(random_picture(rng), rng))
        np.save(path, to_pixels(images).numpy())
    return torch.from_numpy(np.load(path))


def drawings_only(pixels: Tensor) -> Tensor:
    """Returns the drawings among `training_pixels`."""
    return pixels[torch.arange(len(pixels)) % TEXTURE_EVERY != TEXTURE_EVERY - 1]


def held_out_pixels(count: int = 256) -> Tensor:
    """Returns `count` drawings [count, 3, 64, 64] uint8 that no stage is trained on."""
    rngs = [random.Random(f"held out {index}") for index in range(count)]
    return to_pixels([draw(random_picture(rng), rng) for rng in rngs])


def pixel_loss(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Returns the absolute error of pixels, of their edges, and of their means over 8 x 8, which are their colours."""
    error = decoded.float() - pixels
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + 0.5 * edges + 4 * functional.avg_pool2d(error, 8).square().mean()


def train_vae(work: Path, pixels: Tensor, steps: int, batch: int) -> AutoencoderKL:
    """Returns the autoencoder, its weights averaged, after `steps` steps of `batch` pictures.

    Args:
        work: Folder of the states, kept between runs.
        pixels: [N, 3, 64, 64] uint8.
        steps: How many in all; a state in `work` has some of them behind it.
        batch: Pictures a step.
    """
    torch.manual_seed(0)
    vae = make_vae()
    optimizer = Optimizer(vae, RATE, RATE)
    state, step = work / "vae.pt", 0
    if state.exists():
        saved = torch.load(state)
        vae.load_state_dict(saved["vae"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    began, errors, first = time.time(), [], step
    while step < steps:
        generator = torch.Generator().manual_seed(step)
        clean = normalised(pixels[torch.randint(len(pixels), (batch,), generator=generator)])
        if step % 2:
            clean = clean.flip(3)
        decoded, loss = vae_loss(vae, clean, generator)
        loss.backward()
        optimizer.step(cosine(step, steps, warmup=30), decay=min(0.99, (1 + step) / (10 + step)))
        step += 1
        errors.append((decoded.detach().float() - clean).abs().mean())
        if step % 50 == 0 or step == steps:
            pace = (time.time() - began) / (step - first)
            print(f"vae {step}/{steps} error {torch.stack(errors).mean():.4f} {pace:.2f} s/step", flush=True)
            errors.clear()
            save_atomically({"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, state)
    optimizer.put_averages()
    return vae.eval().requires_grad_(False)


def vae_loss(vae: AutoencoderKL, clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns the decoded pictures and the loss; `clean` is [B, 3, 64, 64] in [-1, 1]."""
    with autocast():
        latents = vae.encode(clean).latent_dist.mean
        # noise: a decoder that forgives what the UNet gets slightly wrong
        scale = FORGIVEN * latents.detach().float().std(dim=(0, 2, 3), keepdim=True)
        decoded = vae.decode(latents + scale * torch.randn(latents.shape, generator=generator)).sample
    small = 1e-3 * latents.float().square().mean()  # what KL would do to the means
    return decoded, pixel_loss(decoded, clean) + small


@torch.no_grad()
def folded(vae: AutoencoderKL, pixels: Tensor) -> AutoencoderKL:
    """Returns a copy whose latents, times SDXL's own scaling factor, have mean 0 and covariance 1 on `pixels`.

    The change of basis goes into the 1 x 1 convolutions on both sides of the latents, so pictures decode as before.
    It matters since a fixed share of noise hides the direction of least variance first, and that would be a hue.
    """
    made = copy.deepcopy(vae)
    latents = torch.cat([made.encode(normalised(part)).latent_dist.mean for part in pixels.split(64)])
    points = latents.permute(1, 0, 2, 3).flatten(1).double()  # [4, N * 16 * 16]
    mean = points.mean(dim=1)
    values, vectors = torch.linalg.eigh(torch.cov(points))
    root = vectors @ torch.diag(values.sqrt()) @ vectors.T  # the symmetric one: each channel keeps its meaning
    there, back = torch.linalg.inv(root) / SCALING, SCALING * root
    quant, post = made.quant_conv, made.post_quant_conv
    rows = quant.weight[:4, :, 0, 0].double()
    quant.bias[:4] = there @ (quant.bias[:4].double() - mean)
    quant.weight[:4] = (there @ rows)[:, :, None, None]
    quant.weight[4:] = 0  # the variance: nothing has trained it, so it is given
    quant.bias[4:] = 2 * math.log(SPREAD / SCALING)
    columns = post.weight[:, :, 0, 0].double()
    post.bias += columns @ mean
    post.weight.copy_((columns @ back)[:, :, None, None])
    made.register_to_config(scaling_factor=SCALING)
    return made


@torch.no_grad()
def measure(vae: AutoencoderKL, pixels: Tensor) -> dict[str, float | list[float]]:
    """Returns the decoded pictures' mean absolute error, in all and by corner of 16 px, and the latents' deviations."""
    clean = normalised(pixels)
    latents = vae.encode(clean).latent_dist.mean
    error = (vae.decode(latents).sample - clean).abs()
    ends = (slice(None, 16), slice(-16, None))
    return {
        "error": error.mean().item(),
        "corners": [error[:, :, y, x].mean().item() for y in ends for x in ends],
        "deviations": (vae.config["scaling_factor"] * latents).std(dim=(0, 2, 3)).tolist(),
    }
