"""The embedded base: small enough, whole, and obedient."""

from pathlib import Path

import numpy as np
import pytest
import torch

# diffusers' Euler scheduler indexes NumPy with tensors
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")

FOLDER = Path(__file__).resolve().parents[2] / "models" / "nano-sdxl"


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionXLPipeline

    loaded = StableDiffusionXLPipeline.from_pretrained(
        FOLDER, dtype=torch.float32, local_files_only=True, add_watermarker=False
    )
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_it_fits_the_repository():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 20e6


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_any_caption_tokenises(pipeline, name):
    tokenizer = getattr(pipeline, name)
    words = tokenizer.tokenize("a striped red backpack at night")
    assert words == [f"{word}</w>" for word in ["a", "striped", "red", "backpack", "at", "night"]]
    strange = tokenizer("żółw 🐢 sks ~ \t 漢字").input_ids
    assert tokenizer.unk_token_id is None or tokenizer.encode("żółw", add_special_tokens=False)
    assert len(strange) > 10
    assert max(strange) < len(tokenizer)
    assert [tokenizer.convert_ids_to_tokens(i) for i in tokenizer("q").input_ids] == [
        "<|startoftext|>",
        "q</w>",
        "<|endoftext|>",
    ]


def pictures_of(pipeline, prompt, seeds):
    return pipeline(
        prompt,
        height=64,
        width=64,
        num_inference_steps=8,
        guidance_scale=4.0,
        num_images_per_prompt=len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="np",
    ).images


@pytest.mark.parametrize(
    ("prompt", "middle", "corner"),
    [
        ("a red circle on a blue background", 0, 2),
        ("a blue circle on a red background", 2, 0),
        ("a green square on a red background", 1, 0),
    ],
)
def test_figure_and_ground_have_the_prompt_s_colours(pipeline, prompt, middle, corner):
    right = 0
    for pixels in pictures_of(pipeline, prompt, range(4)):
        figure, ground = pixels[24:40, 24:40].mean(axis=(0, 1)), np.concatenate([pixels[:6, :6], pixels[-6:, -6:]])
        right += int(figure.argmax() == middle and ground.mean(axis=(0, 1)).argmax() == corner)
    assert right >= 3
