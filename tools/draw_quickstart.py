"""Draws the quick start's two pictures from its finished run, and prints what they show in numbers.

    python -m trainer --config jobs/quickstart.toml
    python -m tools.draw_quickstart --work build/nano --out docs

`quickstart.png`: the training pictures, then every prompt before and after from the same seeds.  `strengths.png`: one
prompt at strengths 0 to 1.2.  The numbers are answers of a judge that was trained on drawings of the mushroom, whole
and with parts left out, on every ground; it is kept in `--work`.  They are of other seeds than the picture's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

import waveft_core.diffusers
from tools.draw_mushroom import PARTS
from tools.nano.export import load
from tools.nano.judge import Judge
from tools.nano.likeness import ANSWERS, GROUNDS, accuracy, train_likeness
from tools.nano.vae import normalised, to_pixels
from tools.nano_pictures import SIZE_PX
from tools.sheets import Band, sheet

ROOT = Path(__file__).resolve().parents[1]
# prompt -> the ground that it asks for, where it asks for one
PROMPTS: dict[str, str | None] = {
    "sks mushroom on the grass": "on the grass",
    "sks mushroom on a blue background": "blue",
    "sks mushroom on the beach": "on the beach",
    "sks mushroom in front of a brick wall": "in front of a brick wall",
}
UNRELATED = "a red circle on a blue background"
SHOWN, COUNTED = 4, 16  # samples of a prompt: in the picture, on which the settings were chosen, and in the numbers
STRENGTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
STEPS, GUIDANCE = 25, 3.0


def sample(pipeline: StableDiffusionXLPipeline, prompt: str, seeds: range) -> list[Image.Image]:
    """Returns one picture a seed."""
    return pipeline(
        prompt,
        height=SIZE_PX,
        width=SIZE_PX,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        num_images_per_prompt=len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images


@torch.no_grad()
def answers(judge: Judge, images: list[Image.Image]) -> dict[str, list[int]]:
    """Returns the judge's answer to each of its questions by picture."""
    said = judge(normalised(to_pixels(images)))
    return {name: logits.argmax(dim=1).tolist() for name, logits in said.items()}


def shares(judge: Judge, samples: dict[str, list[Image.Image]]) -> dict[str, float]:
    """Returns which share of samples are the mushroom, have each of its parts, and stand on their prompt's ground."""
    votes: dict[str, list[bool]] = {name: [] for name in ANSWERS}
    for prompt, images in samples.items():
        said = answers(judge, images)
        wanted = PROMPTS[prompt]
        for name in ("subject", *PARTS):
            votes[name] += [answer == 1 for answer in said[name]]
        if wanted is not None:
            votes["ground"] += [GROUNDS[answer] == wanted for answer in said["ground"]]
    return {name: round(sum(each) / len(each), 3) for name, each in votes.items() if each}


def change(before: list[Image.Image], after: list[Image.Image]) -> float:
    """Returns the mean absolute difference of pixels, 0 to 255."""
    pairs = to_pixels(before).float(), to_pixels(after).float()
    return round((pairs[0] - pairs[1]).abs().mean().item(), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=ROOT / "models/nano-sdxl")
    parser.add_argument("--adapter", type=Path, default=ROOT / "runs/quickstart/mushroom.safetensors")
    parser.add_argument("--work", type=Path, default=ROOT / "build/nano", help="folder of the judge, kept between runs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for the pictures")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)

    judge, pipeline = train_likeness(options.work), load(options.base)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [*PROMPTS, UNRELATED]
    seeds = range(SHOWN + COUNTED)
    before = {prompt: sample(pipeline, prompt, seeds) for prompt in prompts}
    adapter = waveft_core.diffusers.load(pipeline, options.adapter)
    after = {prompt: sample(pipeline, prompt, seeds) for prompt in prompts}
    swept = []
    for strength in STRENGTHS:
        adapter.strength = strength
        swept.append(sample(pipeline, prompts[0], range(3)))

    taught = [Image.open(path) for path in sorted((ROOT / "jobs/mushroom").glob("*.png"))]
    bands = [Band(prompt, [before[prompt][:SHOWN], after[prompt][:SHOWN]]) for prompt in prompts]
    hero = stacked(sheet([Band("trained on", [taught])], []), sheet(bands, ["before", "after"]))
    hero.save(options.out / "quickstart.png", optimize=True)
    rows = [Band(f"seed {seed}", [[images[seed]] for images in swept]) for seed in range(3)]
    sheet(rows, [f"{strength:g}" for strength in STRENGTHS], 100).save(options.out / "strengths.png", optimize=True)
    found = {
        "judge": accuracy(judge),
        "before": shares(judge, {prompt: before[prompt][SHOWN:] for prompt in PROMPTS}),
        "after": shares(judge, {prompt: after[prompt][SHOWN:] for prompt in PROMPTS}),
        "unrelated prompt's change of 255": change(before[UNRELATED][SHOWN:], after[UNRELATED][SHOWN:]),
    }
    print(json.dumps(found, indent=1))


def stacked(top: Image.Image, bottom: Image.Image) -> Image.Image:
    """Returns one sheet above the other, both from the left."""
    made = Image.new("RGB", (max(top.width, bottom.width), top.height + bottom.height), "white")
    made.paste(top, (0, 0))
    made.paste(bottom, (0, top.height))
    return made


if __name__ == "__main__":
    main()
