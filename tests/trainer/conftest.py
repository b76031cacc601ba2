"""A random SDXL of the right shape, small enough to train in a second, and jobs for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toml
from PIL import Image

ROOT = Path(__file__).parents[2]
WIDTHS = (8, 16)  # of the text encoders; a single file tells them apart by theirs


def make_tokenizer(folder: Path, pad_token: str) -> None:
    """Writes a CLIP tokenizer of the 512 byte tokens alone: every text tokenises, letter by letter."""
    from tokenizers import pre_tokenizers
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({token: index for index, token in enumerate(entries)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    made = CLIPTokenizer(vocab=str(vocabulary), merges=str(merges), pad_token=pad_token, model_max_length=77)
    made.save_pretrained(folder)
    # kept beside the fast tokenizer's own file, as in SDXL's repositories
    vocabulary.write_text(json.dumps({token: index for index, token in enumerate(entries)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")


def make_pipeline(folder: Path, prediction_type: str = "epsilon") -> None:
    """Writes the pipeline: 16 px pictures, latents of 4 x 8 x 8, two blocks, untrained."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    make_tokenizer(folder / "tokenizer", "<|endoftext|>")
    make_tokenizer(folder / "tokenizer_2", "!")
    tokenizers = [CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")]
    first, second = (
        CLIPTextConfig(
            vocab_size=514, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=77, projection_dim=width, bos_token_id=512, eos_token_id=513, pad_token_id=513,
        )
        for width in WIDTHS
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipeline = StableDiffusionXLPipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 16), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=4, sample_size=16,
            ),
            text_encoder=CLIPTextModel(first),
            text_encoder_2=CLIPTextModelWithProjection(second),
            tokenizer=tokenizers[0],
            tokenizer_2=tokenizers[1],
            unet=UNet2DConditionModel(
                sample_size=8, block_out_channels=(32, 64), layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 1), attention_head_dim=(2, 4), cross_attention_dim=sum(WIDTHS),
                use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=WIDTHS[1] + 6 * 8, norm_num_groups=8,
            ),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                timestep_spacing="leading", prediction_type=prediction_type,
            ),
            add_watermarker=False,
        )  # fmt: skip
        pipeline.save_pretrained(folder)


def make_pictures(folder: Path, count: int = 3, size: tuple[int, int] = (24, 18)) -> None:
    """Writes PNG files of coloured noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny-sdxl"
    make_pipeline(folder)
    return folder


@pytest.fixture
def light_base(tmp_path: Path) -> Path:
    """A folder that passes the checks before torch: JSON files and empty safetensors, made without torch."""
    folder = tmp_path / "light-sdxl"
    for part in ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"):
        (folder / part).mkdir(parents=True)
        name = "model" if part.startswith("text") else "diffusion_pytorch_model"
        (folder / part / f"{name}.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    (folder / "unet" / "config.json").write_text('{"in_channels": 4, "sample_size": 8, "block_out_channels": [32, 64]}')
    (folder / "vae" / "config.json").write_text('{"block_out_channels": [8, 16]}')
    for part in ("text_encoder/config.json", "text_encoder_2/config.json", "scheduler/scheduler_config.json"):
        (folder / part).write_text("{}")
    return folder


def job_table(base: Path, pictures: Path, output: Path) -> dict:
    """Returns the shortest job that trains on the tiny base."""
    return {
        "model": {"pretrained_model_name_or_path": str(base)},
        "network": {"coefficients": 64},
        "train": {"max_train_steps": 3, "gradient_accumulation_steps": 2, "device": "cpu"},
        "save": {"output_dir": str(output)},
        "datasets": [{"subsets": [{"image_dir": str(pictures), "class_tokens": "sks robot"}]}],
    }


@pytest.fixture
def light_job(light_base: Path, tmp_path: Path) -> dict:
    make_pictures(tmp_path / "pictures")
    return job_table(light_base, tmp_path / "pictures", tmp_path / "out")


@pytest.fixture
def job(base_folder: Path, tmp_path: Path) -> dict:
    make_pictures(tmp_path / "pictures")
    return job_table(base_folder, tmp_path / "pictures", tmp_path / "out")


@pytest.fixture
def pictures_in():
    """The function that writes pictures into a folder."""
    return make_pictures


@pytest.fixture
def write_job(tmp_path: Path):
    """The function that writes a table, or a text, as job.toml and returns its path."""

    def write(table: dict | str) -> Path:
        path = tmp_path / "job.toml"
        path.write_text(table if isinstance(table, str) else toml.dumps(table), encoding="utf-8")
        return path

    return write


@pytest.fixture
def in_process():
    """The function that runs Python code in a process of its own, from the clone's root or elsewhere."""

    def run(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    return run


@pytest.fixture(scope="session")
def make_model(tmp_path_factory):
    """The function that writes a tiny model's folder: "dinov2", "vit" or "clip"."""

    def make(kind):
        import torch
        import transformers

        folder = tmp_path_factory.mktemp(kind) / f"tiny-{kind}"
        small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        seen = {"image_size": 28, "patch_size": 7, **small}
        torch.manual_seed(0)
        if kind == "dinov2":
            model = transformers.Dinov2Model(transformers.Dinov2Config(**seen))
        elif kind == "vit":
            model = transformers.ViTModel(transformers.ViTConfig(**seen))
        else:
            read = {"vocab_size": 600, "eos_token_id": 513, "bos_token_id": 512, "pad_token_id": 513, **small}
            config = transformers.CLIPConfig(
                text_config={**read, "projection_dim": 8}, vision_config={**seen, "projection_dim": 8}, projection_dim=8
            )
            model = transformers.CLIPModel(config)
            write_tokenizer(folder)
        model.eval().save_pretrained(folder)
        rules = {
            "size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}, "resample": 3,
            "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
        }  # fmt: skip
        (folder / "preprocessor_config.json").write_text(json.dumps(rules))
        return folder

    return make


def write_tokenizer(folder):
    """Writes a CLIP tokenizer of bytes alone."""
    import transformers
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(entries)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    transformers.CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), pad_token="<|endoftext|>"
    ).save_pretrained(folder)
