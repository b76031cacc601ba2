"""Makes the nano SDXL base from nothing: tokenizers, VAE, then UNet and text encoders together, in diffusers' layout.

    python -m tools.make_nano_sdxl --work build/nano --out models/nano-sdxl

Every stage saves its state in `--work` and an interrupted run goes on from there.  Run it with one thread
(`OMP_NUM_THREADS=1 nice ...`) beside other work; it takes hours on a CPU core and minutes on a GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tools.nano_pictures import SIZE_PX, caption, draw, random_picture, random_texture, vocabulary

TOKENS = 77
WIDTH = 64  # of each text encoder; the UNet's cross-attention sees both, side by side
GRID_PROMPTS = (
    "a red circle on a blue background", "a blue circle on a red background", "a yellow star on a black background",
    "a green heart on a white background", "a white moon at night", "a purple house on the grass",
    "a pink flower on a green background", "an orange fish on the beach", "a gray robot in the snow",
    "a black cat on a yellow background", "a brown dog on the grass", "a striped blue cup on a wooden table",
    "a dotted red mushroom on a gray background", "a small cyan boat on the left on a white background",
    "a large green tree on a pink background", "a red backpack in front of a brick wall",
)  # fmt: skip


def make_tokenizer(folder: Path, pad_token: str) -> CLIPTokenizer:
    """Writes and returns a CLIP tokenizer: CLIP's 512 byte tokens, then merges for the captions' words.

    Any text tokenises, since every byte has a token within a word and one at a word's end.
    """
    words = vocabulary()
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        words * 3, trainers.BpeTrainer(vocab_size=4000, end_of_word_suffix="</w>", min_frequency=1)
    )
    learned = json.loads(tokenizer.to_str())["model"]["merges"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [tuple(pair) for pair in learned]
    entries = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    entries += list(dict.fromkeys(a + b for a, b in merges if a + b not in entries))
    entries += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: index for index, token in enumerate(entries)}), encoding="utf-8"
    )
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        pad_token=pad_token,
        model_max_length=TOKENS,
    )
    made.save_pretrained(folder)
    return made


def make_models(vocab_size: int, eos: int, bos: int) -> dict[str, torch.nn.Module]:
    """Returns the untrained models, fp32."""
    text = {
        "vocab_size": vocab_size, "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 3,
        "num_attention_heads": 2, "max_position_embeddings": TOKENS, "projection_dim": WIDTH,
        "eos_token_id": eos, "bos_token_id": bos, "pad_token_id": eos,
    }  # fmt: skip
    return {
        "text_encoder": CLIPTextModel(CLIPTextConfig(**text, hidden_act="quick_gelu")),
        "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**text, hidden_act="gelu")),
        "unet": UNet2DConditionModel(
            sample_size=SIZE_PX // 4,
            block_out_channels=(32, 64, 128),  # SDXL's arrangement of blocks at a tenth of its width
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=2,
            transformer_layers_per_block=(1, 1, 1),
            attention_head_dim=(1, 2, 4),  # the number of heads, as in SDXL's own config
            cross_attention_dim=2 * WIDTH,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=32,
            projection_class_embeddings_input_dim=WIDTH + 6 * 32,
        ),
    }


def make_vae() -> AutoencoderKL:
    """Returns the untrained VAE: 64 px pictures, latents of 4 x 16 x 16."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        norm_num_groups=16,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        sample_size=SIZE_PX,
        force_upcast=False,
        mid_block_add_attention=False,
    )


def encode(encoders: tuple[torch.nn.Module, torch.nn.Module], ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns SDXL's conditioning of token ids [B, 77]: context [B, 77, 2 * WIDTH] and pooled [B, WIDTH]."""
    first = encoders[0](ids, output_hidden_states=True)
    second = encoders[1](ids, output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def save_atomically(state: dict, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def to_tensor(images: list[Image.Image]) -> torch.Tensor:
    """Returns [B, 3, H, W] float32 in [-1, 1]."""
    pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


def edges(pixels: torch.Tensor) -> torch.Tensor:
    """Returns the pictures' differences along both axes, so that the VAE's loss sees sharpness."""
    return torch.cat(
        [(pixels[..., 1:] - pixels[..., :-1]).flatten(1), (pixels[..., 1:, :] - pixels[..., :-1, :]).flatten(1)], 1
    )


def train_vae(work: Path, steps: int, batch: int, device: str) -> AutoencoderKL:
    """Returns the VAE after `steps` steps: squared error on pictures, absolute error on their edges, small latents."""
    torch.manual_seed(0)
    vae = make_vae().to(device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=0.01, betas=(0.9, 0.99))
    state, step = work / "vae.pt", 0
    if state.exists():
        saved = torch.load(state, map_location=device)
        vae.load_state_dict(saved["vae"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    began = time.time()
    while step < steps:
        rng = random.Random(f"vae {step}")
        images = [random_texture(rng) if rng.random() < 0.3 else draw(random_picture(rng), rng) for _ in range(batch)]
        pixels = to_tensor(images).to(device)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        latents = vae.encode(pixels).latent_dist.mean
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step)).to(device)
        decoded = vae.decode(latents + 0.05 * noise).sample  # a decoder that forgives what the UNet gets slightly wrong
        error = (decoded - pixels).square().mean() + 0.1 * (edges(decoded) - edges(pixels)).abs().mean()
        hue = (
            torch.nn.functional.avg_pool2d(decoded - pixels, 8).square().mean()
        )  # else one colour axis is learned last
        loss = error + 4 * hue + 1e-3 * latents.square().mean()  # the last: what KL would do to the means
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0 or step == steps:
            print(f"vae {step}/{steps} error {error.item():.4f} {time.time() - began:.0f} s", flush=True)
            save_atomically({"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, state)
    return vae.eval().requires_grad_(False)


def train_decoder(work: Path, vae: AutoencoderKL, steps: int, batch: int, device: str) -> None:
    """Sharpens the VAE's decoder by `steps` more steps of absolute error; the latents, and the UNet, stay valid."""
    decoder = torch.nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3, weight_decay=0.0, betas=(0.9, 0.99))
    state, step = work / "decoder.pt", 0
    if state.exists():
        saved = torch.load(state, map_location=device)
        decoder.load_state_dict(saved["decoder"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    began = time.time()
    while step < steps:
        rng = random.Random(f"decoder {step}")
        images = [random_texture(rng) if rng.random() < 0.15 else draw(random_picture(rng), rng) for _ in range(batch)]
        pixels = to_tensor(images).to(device)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.mean
        latents += 0.03 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(step)).to(device)
        decoded = vae.decode(latents).sample
        loss = (decoded - pixels).abs().mean() + 0.5 * (edges(decoded) - edges(pixels)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 50 == 0 or step == steps:
            print(f"decoder {step}/{steps} loss {loss.item():.4f} {time.time() - began:.0f} s", flush=True)
            save_atomically({"decoder": decoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, state)
    decoder.requires_grad_(False)


@torch.no_grad()
def make_latents(work: Path, vae: AutoencoderKL, count: int, device: str) -> dict:
    """Returns `count` pictures' latents [count, 4, 16, 16] float16 and four captions for each; cached in `work`."""
    path = work / "latents.pt"
    if path.exists():
        return torch.load(path)
    latents, captions = [], []
    for start in range(0, count, 64):
        images = []
        for index in range(start, min(start + 64, count)):
            rng = random.Random(f"picture {index}")
            picture = random_picture(rng)
            images.append(draw(picture, rng))
            captions.append([caption(picture, rng) for _ in range(4)])
        latents.append(vae.encode(to_tensor(images).to(device)).latent_dist.mean.half().cpu())
        if start % 6400 == 0:
            print(f"latents {start}/{count}", flush=True)
    made = {"latents": torch.cat(latents), "captions": captions}
    save_atomically(made, path)
    return made


def train_unet(
    work: Path, pool: dict, tokenizer: CLIPTokenizer, steps: int, batch: int, rate: float, device: str
) -> dict:
    """Returns the exponential averages of UNet and text encoders, trained together on the pool of latents."""
    torch.manual_seed(1)
    nets = make_models(len(tokenizer), tokenizer.eos_token_id, tokenizer.bos_token_id)
    averages = {name: copy.deepcopy(net).requires_grad_(False) for name, net in nets.items()}
    for net in (*nets.values(), *averages.values()):
        net.to(device)
    parameters: list[torch.Tensor] = [p for net in nets.values() for p in net.parameters()]
    averaged: list[torch.Tensor] = [p for net in averages.values() for p in net.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.99))
    scheduler = make_scheduler()
    scale = 1 / pool["latents"].float().std().item()
    ids = tokenizer(
        [text for four in pool["captions"] for text in four], padding="max_length", return_tensors="pt"
    ).input_ids
    ids = ids.view(len(pool["captions"]), 4, TOKENS)
    state, step = work / "unet.pt", 0
    if state.exists():
        saved = torch.load(state, map_location=device)
        for name in nets:
            nets[name].load_state_dict(saved["nets"][name])
            averages[name].load_state_dict(saved["averages"][name])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    alphas = scheduler.alphas_cumprod.to(device)
    began, losses, first = time.time(), [], step
    while step < steps:
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 300) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        chosen = torch.randint(len(pool["captions"]), (batch,), generator=generator)
        clean = pool["latents"][chosen].float().to(device) * scale  # [B, 4, 16, 16]
        tokens = ids[chosen, torch.randint(4, (batch,), generator=generator)].to(device)
        dropped = torch.rand(batch, generator=generator)
        context, pooled = encode((nets["text_encoder"], nets["text_encoder_2"]), tokens)
        keep = (dropped >= 0.1).float().to(device)  # SDXL's pipelines use zeros for an empty prompt
        context, pooled = context * keep[:, None, None], pooled * keep[:, None]
        sizes = torch.randint(64, 1025, (batch, 1), generator=generator).expand(-1, 2)
        sizes = torch.where(torch.rand(batch, 1, generator=generator) < 0.6, torch.full_like(sizes, SIZE_PX), sizes)
        target = torch.full((batch, 2), SIZE_PX)
        time_ids = torch.cat([sizes, torch.zeros(batch, 2, dtype=torch.long), target], 1).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch  # one timestep in each slice
        timesteps = (strata * 1000).long().to(device)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        # by hand, since Euler's add_noise leaves the sum unscaled, which is not what its own sampling feeds the UNet
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        predicted = nets["unet"](
            noisy, timesteps, context, added_cond_kwargs={"text_embeds": pooled, "time_ids": time_ids}
        ).sample
        snr = alphas[timesteps] / (1 - alphas[timesteps])
        # the error in velocity: colours are settled at high noise, where a small error in noise is a large one in the
        # picture; the last cut keeps the lowest noise, which cannot be told from texture, from ruling the gradient
        weight = ((snr + 1) / snr).clamp(max=20.0) * (25.0 / snr).clamp(max=1.0)
        loss = (weight * (predicted - noise).square().mean(dim=(1, 2, 3))).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averaged, parameters, 1 - decay)
        losses.append(loss.detach())
        if step % 100 == 0 or step == steps:
            pace = (time.time() - began) / (step - first)
            print(f"unet {step}/{steps} loss {torch.stack(losses).mean():.4f} {pace:.2f} s/step", flush=True)
            losses.clear()
            saved = {
                "nets": {name: net.state_dict() for name, net in nets.items()},
                "averages": {name: net.state_dict() for name, net in averages.items()},
                "optimizer": optimizer.state_dict(),
                "step": step,
            }
            save_atomically(saved, state)
    return {"scale": scale, **averages}


def make_scheduler() -> EulerDiscreteScheduler:
    """Returns SDXL 1.0's own noise schedule."""
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )


def export(
    out: Path, vae: AutoencoderKL, nets: dict, tokenizers: tuple[CLIPTokenizer, CLIPTokenizer]
) -> StableDiffusionXLPipeline:
    """Writes the pipeline in fp16, diffusers' layout, and returns it in fp32."""
    vae = copy.deepcopy(vae)
    vae.register_to_config(scaling_factor=nets["scale"])
    pipeline = StableDiffusionXLPipeline(
        vae=vae.cpu(),
        text_encoder=copy.deepcopy(nets["text_encoder"]).cpu(),
        text_encoder_2=copy.deepcopy(nets["text_encoder_2"]).cpu(),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=copy.deepcopy(nets["unet"]).cpu(),
        scheduler=make_scheduler(),
        add_watermarker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out)
    return pipeline.to(torch.float32)


def draw_grid(pipeline: StableDiffusionXLPipeline, path: Path, per_prompt: int = 4) -> None:
    """Samples `per_prompt` pictures of every prompt of `GRID_PROMPTS` into one PNG, a column pair of prompts a row."""
    pipeline.set_progress_bar_config(disable=True)
    rows = []
    for number, prompt in enumerate(GRID_PROMPTS):
        generator = torch.Generator().manual_seed(number)
        rows.append(
            pipeline(
                prompt, height=SIZE_PX, width=SIZE_PX, num_inference_steps=25, guidance_scale=4.0,
                num_images_per_prompt=per_prompt, generator=generator,
            ).images
        )  # fmt: skip
    grid = Image.new("RGB", (2 * per_prompt * SIZE_PX, len(rows) // 2 * SIZE_PX))
    for number, images in enumerate(rows):
        for column, image in enumerate(images):
            grid.paste(image, (((number % 2) * per_prompt + column) * SIZE_PX, number // 2 * SIZE_PX))
    grid.resize((grid.width * 2, grid.height * 2), Image.Resampling.NEAREST).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for states and latents; kept between runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished pipeline")
    parser.add_argument("--vae-steps", type=int, default=1500)
    parser.add_argument("--decoder-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--pictures", type=int, default=40000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--peek", action="store_true", help="export and draw the grid from the state as it is, training nothing"
    )
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    tokenizers = (
        make_tokenizer(options.work / "tokenizer", "<|endoftext|>"),
        make_tokenizer(options.work / "tokenizer_2", "!"),  # SDXL's second tokenizer pads with "!"
    )
    if options.peek:
        options.vae_steps = options.decoder_steps = options.steps = 0
    vae = train_vae(options.work, options.vae_steps, 16, options.device)
    pool = make_latents(options.work, vae, options.pictures, options.device)
    train_decoder(options.work, vae, options.decoder_steps, 16, options.device)
    nets = train_unet(options.work, pool, tokenizers[0], options.steps, options.batch, options.rate, options.device)
    pipeline = export(options.out, vae, nets, tokenizers)
    draw_grid(pipeline, options.out / "samples.png")


if __name__ == "__main__":
    main()
