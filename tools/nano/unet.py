"""The nano base's UNet and text encoders, trained together on latents that were encoded once."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, Transformer2DModel, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor
from transformers import CLIPTokenizer

from tools.nano.precision import autocast
from tools.nano.state import cosine, save_atomically
from tools.nano.text import WIDTH, encode, make_encoders, tokenise, with_strange_words
from tools.nano.vae import normalised, to_pixels
from tools.nano_pictures import SIZE_PX, caption, draw, random_picture

CAPTIONS = 4  # of each picture
TIMESTEPS = 1000
Rounds = Sequence[tuple[int, float]]  # (steps, highest learning rate) of each cosine
GROUPS = 4  # as many channels in each as SDXL's have: 32 of a single one would take every colour's mean away
TEXT_RATE = 0.25  # of the UNet's learning rate


def make_unet() -> UNet2DConditionModel:
    """Returns the untrained UNet, fp32: SDXL's arrangement of blocks at a tenth of its width.

    Every block begins as the identity and the noise it predicts as zero, which halves the loss of the first 80 steps.
    """
    made = UNet2DConditionModel(
        sample_size=SIZE_PX // 4,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 1, 1),
        norm_num_groups=GROUPS,
        attention_head_dim=(1, 2, 4),  # the number of heads, as in SDXL's own config
        cross_attention_dim=2 * WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=WIDTH + 6 * 32,
    )
    for module in made.modules():
        if isinstance(module, ResnetBlock2D | Transformer2DModel):
            last = module.conv2 if isinstance(module, ResnetBlock2D) else module.proj_out
            torch.nn.init.zeros_(last.weight)
            torch.nn.init.zeros_(last.bias)
    torch.nn.init.zeros_(made.conv_out.weight)
    return made


def make_scheduler() -> EulerDiscreteScheduler:
    """Returns SDXL 1.0's own noise schedule."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )


@torch.no_grad()
def make_latents(work: Path, vae: AutoencoderKL, count: int) -> dict:
    """Returns `count` pictures' latents [count, 4, 16, 16] float16 and `CAPTIONS` captions of each; kept in `work`.

    Every tenth caption has unknown words in it, so that such words are harmless in prompts and negative prompts.
    """
    path = work / "latents.pt"
    if path.exists():
        return torch.load(path)
    latents, captions = [], []
    scale = vae.config["scaling_factor"]
    for start in range(0, count, 64):
        images = []
        for index in range(start, min(start + 64, count)):
            rng = random.Random(f"picture {index}")
            picture = random_picture(rng)
            images.append(draw(picture, rng))
            texts = [caption(picture, rng) for _ in range(CAPTIONS)]
            captions.append([with_strange_words(text, rng) if rng.random() < 0.1 else text for text in texts])
        with autocast():
            found = vae.encode(normalised(to_pixels(images))).latent_dist.mean
        latents.append((scale * found.float()).half())
        if start % 6400 == 0:
            print(f"latents {start}/{count}", flush=True)
    made = {"latents": torch.cat(latents), "captions": captions}
    save_atomically(made, path)
    return made


@dataclass(frozen=True)
class Batch:
    """One step's pictures: all but `clean` and `noise` is what SDXL's UNet is told."""

    clean: Tensor  # [B, 4, 16, 16], of unit variance
    noise: Tensor  # [B, 4, 16, 16]
    timesteps: Tensor  # [B] int64
    ids: Tensor  # [B, 2, 77] int64
    dropped: Tensor  # [B] bool: whose condition is zeros, SDXL's empty negative prompt
    time_ids: Tensor  # [B, 6]: original size, crop, target size


def make_batch(latents: Tensor, ids: Tensor, empty: Tensor, batch: int, step: int) -> Batch:
    """Returns the batch of `step`, always the same one.

    Args:
        latents: [N, 4, 16, 16] float16.
        ids: [N, CAPTIONS, 2, 77], both tokenizers' ids of every caption.
        empty: [2, 77], those of the empty text, which takes a caption's place in one of twenty.
        batch: Pictures in it.
        step: Seeds every choice.
    """
    generator = torch.Generator().manual_seed(step)
    chosen = torch.randint(len(latents), (batch,), generator=generator)
    tokens = ids[chosen, torch.randint(ids.shape[1], (batch,), generator=generator)]
    fate = torch.rand(batch, generator=generator)
    tokens = torch.where((fate > 0.95)[:, None, None], empty, tokens)
    sizes = torch.randint(64, 1025, (batch, 1), generator=generator).expand(-1, 2)
    own = torch.rand(batch, 1, generator=generator) < 0.6
    sizes = torch.where(own, torch.full_like(sizes, SIZE_PX), sizes)
    strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch  # one timestep in each slice,
    strata = strata**0.7  # more of them at high noise, where captions decide
    clean = latents[chosen].float()
    return Batch(
        clean=clean,
        noise=torch.randn(clean.shape, generator=generator),
        timesteps=(strata * TIMESTEPS).long(),
        ids=tokens,
        dropped=fate < 0.05,
        time_ids=torch.cat([sizes, torch.zeros_like(sizes), torch.full_like(sizes, SIZE_PX)], 1),
    )


def loss_weight(alphas: Tensor) -> Tensor:
    """Returns the weight of the squared error in the noise, by the share `alphas` [B] of the picture's variance.

    It is the error in velocity: colours are settled at high noise, where a small error in the noise is a large one in
    the picture.  The first cut holds the very highest noise, the second the lowest, which only texture is told by.
    """
    snr = alphas / (1 - alphas)
    return ((snr + 1) / snr).clamp(max=20.0) * (25.0 / snr).clamp(max=1.0)


def batch_loss(unet: UNet2DConditionModel, encoders: tuple, alphas: Tensor, batch: Batch) -> Tensor:
    """Returns the weighted mean squared error of the predicted noise; `alphas` [1000] is the schedule's product."""
    context, pooled = encode(encoders, batch.ids)
    keep = (~batch.dropped).to(context.dtype)
    context, pooled = context * keep[:, None, None], pooled * keep[:, None]
    alpha = alphas[batch.timesteps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * batch.clean + (1 - alpha).sqrt() * batch.noise
    condition = {"text_embeds": pooled, "time_ids": batch.time_ids}
    predicted = unet(noisy, batch.timesteps, context, added_cond_kwargs=condition).sample
    error = (predicted - batch.noise).square().mean(dim=(1, 2, 3))  # [B]
    return (loss_weight(alphas[batch.timesteps]) * error).mean()


def rate_at(step: int, rounds: Rounds) -> float:
    """Returns the learning rate: in each round a rise over 200 steps, then a cosine."""
    for steps, rate in rounds:
        if step < steps:
            return rate * cosine(step, steps, warmup=200)
        step -= steps
    raise ValueError(f"step: expected one of the {sum(steps for steps, _ in rounds)} steps, got {step} more")


def untrained(tokenizer: CLIPTokenizer) -> torch.nn.ModuleDict:
    """Returns the networks that are trained together: `unet`, `text_encoder` and `text_encoder_2`, fp32."""
    torch.manual_seed(1)
    first, second = make_encoders(tokenizer)
    return torch.nn.ModuleDict({"unet": make_unet(), "text_encoder": first, "text_encoder_2": second})


def make_optimizer(nets: torch.nn.ModuleDict) -> torch.optim.Optimizer:
    """Returns a round's optimizer; a group's `share` is its share of the learning rate."""
    # at the UNet's rate the encoders forget their words' differences before it has learned to listen
    shares = {"unet": 1.0, "text_encoder": TEXT_RATE, "text_encoder_2": TEXT_RATE}
    groups = [{"params": list(nets[name].parameters()), "share": share} for name, share in shares.items()]
    return torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.99))


def train_unet(
    work: Path,
    pool: dict,
    tokenizers: tuple[CLIPTokenizer, CLIPTokenizer],
    nets: torch.nn.ModuleDict,
    rounds: Rounds,
    batch: int,
) -> torch.nn.ModuleDict:
    """Returns the averaged weights after all rounds on the pool; each round begins from those of the round before.

    Args:
        work: Folder of the state, kept between runs.
        pool: What `make_latents` returns.
        tokenizers: Both.
        nets: What `untrained` returns, or the same of a base to go on from; trained in place.
        rounds: Steps and highest rate of each cosine of the learning rate.
        batch: Latents a step.
    """
    averages = copy.deepcopy(nets).requires_grad_(False)
    parameters: list[Tensor] = list(nets.parameters())
    averaged: list[Tensor] = list(averages.parameters())
    optimizer = make_optimizer(nets)
    texts = [text for several in pool["captions"] for text in several]
    ids = tokenise(tokenizers, texts).view(-1, CAPTIONS, 2, tokenizers[0].model_max_length).short()
    empty = tokenise(tokenizers, [""])[0]
    state, step = work / "unet.pt", 0
    if state.exists():
        saved = torch.load(state)
        nets.load_state_dict(saved["nets"])
        averages.load_state_dict(saved["averages"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    alphas = make_scheduler().alphas_cumprod
    began, losses, begin, steps = time.time(), [], step, sum(each for each, _ in rounds)
    starts = {sum(each for each, _ in rounds[:index]) for index in range(1, len(rounds))}
    while step < steps:
        if step in starts:
            nets.load_state_dict(averages.state_dict())
            optimizer = make_optimizer(nets)
        for group in optimizer.param_groups:
            group["lr"] = group["share"] * rate_at(step, rounds)
        drawn = make_batch(pool["latents"], ids, empty, batch, step)
        loss = batch_loss(nets["unet"], (nets["text_encoder"], nets["text_encoder_2"]), alphas, drawn)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1 - min(0.998, (1 + step) / (10 + step)))
        losses.append(loss.detach())
        if step % 100 == 0 or step == steps:
            pace = (time.time() - began) / (step - begin)
            print(f"unet {step}/{steps} loss {torch.stack(losses).mean():.4f} {pace:.2f} s/step", flush=True)
            losses.clear()
            kept = {"nets": nets.state_dict(), "averages": averages.state_dict()}
            save_atomically({**kept, "optimizer": optimizer.state_dict(), "step": step}, state)
    return averages
