"""Makes the nano CLIP from nothing: it reads a prompt, looks at a drawing, and says how well the two agree.

    python -m tools.make_nano_clip --work build/nano-clip --out models/nano-clip

It learns the captioned drawings that the nano SDXL base is trained on, so that the prompt score of `python -m trainer
evaluate` means something on that base.  The result is a folder of a plain `CLIPModel`.  A state is saved in `--work`,
and an interrupted run goes on from there.  About ten minutes on one idle CPU core.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageFilter
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tools.nano.state import save_atomically
from tools.nano.text import TOKENS, make_tokenizer
from tools.nano.vae import to_pixels
from tools.nano_pictures import COLORS, SCENES, SHAPES, SIZE_PX, Picture, caption, draw, random_picture

PATCH_PX, WIDTH, HEADS, DEPTHS = 16, 128, 4, (4, 3)  # of the side that looks, and of the one that reads
PROJECTION = 64
BLURRED = 0.5  # part of the pictures that are softened: what the base draws is softer than what it learned
HOTTEST = math.log(100)  # bound of the logits' learned scale, as in CLIP
SAVE_EVERY = 100  # steps
GROUP = 8  # pictures of one colour on one ground
HELD_OUT, ASKED = 512, 128  # pictures that are never trained, and how many of them are asked about one thing


def make_model(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Returns the untrained model, fp32."""
    sides = [
        {
            "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_attention_heads": HEADS,
            "num_hidden_layers": depth, "projection_dim": PROJECTION, "hidden_act": "quick_gelu",
        }
        for depth in DEPTHS
    ]  # fmt: skip
    text = {
        "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS,
        "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    seen = {"image_size": SIZE_PX, "patch_size": PATCH_PX}
    config = CLIPConfig(text_config={**sides[1], **text}, vision_config={**sides[0], **seen}, projection_dim=PROJECTION)
    return CLIPModel(config)


def soften(image: Image.Image, rng: random.Random) -> Image.Image:
    """Returns the picture as sharp as it is, or blurred by up to 1.2 px."""
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2))) if rng.random() < BLURRED else image


def make_pool(work: Path, count: int) -> tuple[torch.Tensor, list[Picture]]:
    """Returns `count` pictures [count, 3, 64, 64] uint8 and what they show; cached in `work`.

    The first `HELD_OUT` are never trained.
    """
    path, pictures, seen = work / f"pictures-{count}.pt", [], []
    rngs = [random.Random(f"clip picture {number}") for number in range(count)]
    shown = [random_picture(rng) for rng in rngs]
    if path.exists():
        return torch.load(path)["pictures"], shown
    for picture, rng in zip(shown, rngs, strict=True):
        pictures.append(soften(draw(picture, rng), rng))
        if len(pictures) == 512:
            seen.append(as_bytes(pictures))
            pictures.clear()
    made = torch.cat([*seen, *([as_bytes(pictures)] if pictures else [])])
    save_atomically({"pictures": made}, path)
    return made, shown


def as_bytes(pictures: list[Image.Image]) -> torch.Tensor:
    """Returns [n, 3, 64, 64] uint8."""
    return to_pixels(pictures)


def as_seen(pixels: torch.Tensor) -> torch.Tensor:
    """Returns what the model sees of bytes [n, 3, 64, 64]: float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def embed(model: CLIPModel, tokenizer: CLIPTokenizer, pixels: torch.Tensor, texts: list[str]) -> tuple:
    """Returns the embeddings of pictures [n, d] and of texts [m, d], at length 1."""
    held = tokenizer(texts, padding=True, return_tensors="pt")
    looked = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    read = model.text_projection(
        model.text_model(input_ids=held.input_ids, attention_mask=held.attention_mask).pooler_output
    )
    return F.normalize(looked, dim=-1), F.normalize(read, dim=-1)


def contrast(logits: torch.Tensor, texts: list[str]) -> torch.Tensor:
    """Returns CLIP's loss of logits [n, n], in which a caption that two pictures share is no wrong answer to either."""
    kinds = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    kind = torch.tensor([kinds[text] for text in texts])
    same = (kind[:, None] == kind) & ~torch.eye(len(texts), dtype=torch.bool)
    held = logits.masked_fill(same, -torch.inf)
    right = torch.arange(len(texts))
    return (F.cross_entropy(held, right) + F.cross_entropy(held.T, right)) / 2


def bare(text: str) -> str:
    """Returns a caption without what says nothing."""
    text = text.removeprefix("a picture of ").removeprefix("a photo of ")
    return re.sub(r"(?:,| on an?) (?=\w+ background)", " on ", text)


def choose(alike: dict[tuple[str, str], list[int]], batch: int, rng: random.Random) -> list[int]:
    """Returns pictures in groups that share colour and ground: what tells them apart is shape, texture and size.

    In a random batch colour and ground nearly always suffice, and shapes would never be learned.
    """
    groups = rng.sample([numbers for numbers in alike.values() if len(numbers) >= GROUP], batch // GROUP)
    return [number for numbers in groups for number in rng.sample(numbers, GROUP)]


def train(work: Path, tokenizer: CLIPTokenizer, steps: int, batch: int, count: int, rate: float) -> CLIPModel:
    """Returns the model after `steps` steps."""
    torch.manual_seed(0)
    model = make_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    pixels, shown = make_pool(work, count)
    state, step = work / "clip.pt", 0
    if state.exists():
        saved = torch.load(state)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step = saved["step"]
    alike: dict[tuple[str, str], list[int]] = {}
    for number in range(HELD_OUT, count):
        alike.setdefault((shown[number].color, shown[number].ground), []).append(number)
    began, first, losses = time.time(), step, []
    while step < steps:
        rng = random.Random(f"clip step {step}")
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        chosen = choose(alike, batch, rng) if step % 2 else rng.sample(range(HELD_OUT, count), batch)
        texts = [caption(shown[number], rng) for number in chosen]
        looked, read = embed(model, tokenizer, as_seen(pixels[chosen]), texts)
        loss = contrast(model.logit_scale.exp() * looked @ read.T, [bare(text) for text in texts])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, HOTTEST)
        step += 1
        losses.append(loss.item())
        if step % SAVE_EVERY == 0 or step == steps:
            pace, mean = (time.time() - began) / (step - first), sum(losses) / len(losses)
            losses.clear()
            right = exam(model, tokenizer, pixels, shown)
            print(f"clip {step}/{steps} loss {mean:.4f} {pace:.2f} s/step {right}", flush=True)
            save_atomically({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, state)
    return model.eval()


def described(picture: Picture) -> str:
    """Returns a caption that leaves nothing unsaid."""
    texture = "" if picture.texture == "plain" else picture.texture
    ground = f"on a {picture.ground} background" if picture.ground in COLORS else picture.ground
    words = (picture.size, texture, picture.color, picture.shape, picture.position, ground)
    return bare("a " + " ".join(word for word in words if word))


@torch.no_grad()
def exam(model: CLIPModel, tokenizer: CLIPTokenizer, pixels: torch.Tensor, shown: list[Picture]) -> dict[str, float]:
    """Returns how often it is right about held-out pictures.

    "caption": which of all their captions is a picture's. "shape", "color", "ground": which of the captions that differ
    from its own in that alone.
    """
    model.eval()
    rng = random.Random("exam")
    told = [bare(caption(picture, rng)) for picture in shown[:HELD_OUT]]
    looked, read = embed(model, tokenizer, as_seen(pixels[:HELD_OUT]), told)
    best = (looked @ read.T).argmax(dim=1).tolist()
    found = {"caption": sum(told[at] == text for at, text in zip(best, told, strict=True)) / HELD_OUT}
    for attribute, choices in (("shape", SHAPES), ("color", tuple(COLORS)), ("ground", (*COLORS, *SCENES))):
        asked = shown[:ASKED]
        texts = [described(replace(picture, **{attribute: choice})) for picture in asked for choice in choices]
        _, read = embed(model, tokenizer, as_seen(pixels[:1]), texts)
        cosines = (looked[:ASKED, None] * read.view(ASKED, len(choices), -1)).sum(dim=-1)
        right = [choices.index(getattr(picture, attribute)) for picture in asked]
        found[attribute] = (cosines.argmax(dim=1) == torch.tensor(right)).float().mean().item()
    model.train()
    return {name: round(share, 3) for name, share in found.items()}


def export(model: CLIPModel, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Writes the folder as transformers reads it, weights in fp16, with how pictures are prepared."""
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    rules = {
        "size": {"shortest_edge": SIZE_PX}, "crop_size": {"height": SIZE_PX, "width": SIZE_PX}, "resample": 3,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_processor_type": "CLIPImageProcessor",
    }  # fmt: skip
    (out / "preprocessor_config.json").write_text(json.dumps(rules, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for states and pictures; kept between runs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--steps", type=int, default=1400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--pictures", type=int, default=12000)
    parser.add_argument("--export", action="store_true", help="write the model as the state has it, training nothing")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    made = options.work / "tokenizer"  # once: merges of equal weight may come in another order, and tokens are numbers
    there = (made / "tokenizer.json").is_file()
    tokenizer = CLIPTokenizer.from_pretrained(made) if there else make_tokenizer(made, "<|endoftext|>")
    steps = 0 if options.export else options.steps
    export(train(options.work, tokenizer, steps, options.batch, options.pictures, options.rate), tokenizer, options.out)


if __name__ == "__main__":
    main()
