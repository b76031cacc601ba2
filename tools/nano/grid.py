"""The sixteen prompts that the base is looked at and judged by."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from tools.nano_pictures import SIZE_PX, Picture

STEPS, GUIDANCE = 25, 4.0
PROMPTS: dict[str, Picture] = {
    "a red circle on a blue background": Picture("circle", "red", ground="blue"),
    "a blue circle on a red background": Picture("circle", "blue", ground="red"),
    "a yellow star on a black background": Picture("star", "yellow", ground="black"),
    "a green heart on a white background": Picture("heart", "green", ground="white"),
    "a white moon at night": Picture("moon", "white", ground="at night"),
    "a purple house on the grass": Picture("house", "purple", ground="on the grass"),
    "a pink flower on a green background": Picture("flower", "pink", ground="green"),
    "an orange fish on the beach": Picture("fish", "orange", ground="on the beach"),
    "a gray robot in the snow": Picture("robot", "gray", ground="in the snow"),
    "a black cat on a yellow background": Picture("cat", "black", ground="yellow"),
    "a brown dog on the grass": Picture("dog", "brown", ground="on the grass"),
    "a striped blue cup on a wooden table": Picture("cup", "blue", "striped", "on a wooden table"),
    "a dotted red mushroom on a gray background": Picture("mushroom", "red", "dotted", "gray"),
    "a small cyan boat on the left on a white background": Picture("boat", "cyan", "plain", "white", "small"),
    "a large green tree on a pink background": Picture("tree", "green", "plain", "pink", "large"),
    "a red backpack in front of a brick wall": Picture("backpack", "red", ground="in front of a brick wall"),
}


def sample(pipeline: StableDiffusionXLPipeline, prompt: str, count: int, seed: int) -> list[Image.Image]:
    """Returns `count` pictures of `prompt`, the same ones for a seed."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt,
        height=SIZE_PX,
        width=SIZE_PX,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        num_images_per_prompt=count,
        generator=torch.Generator().manual_seed(seed),
    ).images


def sample_grid(pipeline: StableDiffusionXLPipeline, per_prompt: int = 4) -> list[list[Image.Image]]:
    """Returns `per_prompt` pictures of every prompt, in the prompts' order."""
    return [sample(pipeline, prompt, per_prompt, seed) for seed, prompt in enumerate(PROMPTS)]


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Returns the pictures on one sheet at twice their size, two prompts a row."""
    width = max(len(images) for images in rows)
    made = Image.new("RGB", (2 * width * SIZE_PX, (len(rows) + 1) // 2 * SIZE_PX))
    for number, images in enumerate(rows):
        for column, image in enumerate(images):
            made.paste(image, (((number % 2) * width + column) * SIZE_PX, number // 2 * SIZE_PX))
    return made.resize((made.width * 2, made.height * 2), Image.Resampling.NEAREST)
