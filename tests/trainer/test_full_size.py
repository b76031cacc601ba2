"""One optimizer step on an SDXL of full size and random weights, on the CPU in bf16."""

import json
import re
import shutil

import pytest
import toml
import torch

import waveft_core
from trainer.base.modelfacts import ASSETS

pytestmark = pytest.mark.slow
PICTURE_PX = 256
MOST_GIB = 8.0  # measured: 5.9


def fill(model, folder):
    """Gives a model that was made without memory small random weights in bf16, and writes it."""
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        norm = "norm" in name and name.endswith("weight")
        torch.nn.init.ones_(parameter) if norm else torch.nn.init.normal_(parameter, std=0.02)
    for name, buffer in model.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1])[None])
    model.save_pretrained(folder)


@pytest.fixture
def sdxl(tmp_path, base_folder):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    folder = tmp_path / "sdxl"
    shutil.copytree(ASSETS, folder)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(base_folder / name, folder / name, dirs_exist_ok=True)
    kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, kind in {"unet": UNet2DConditionModel, "vae": AutoencoderKL}.items():
            with torch.device("meta"):
                model = kind.from_config(json.loads((ASSETS / name / "config.json").read_text()))
            fill(model, folder / name)
        for name, kind in kinds.items():
            with torch.device("meta"):
                model = kind(CLIPTextConfig(**json.loads((ASSETS / name / "config.json").read_text())))
            fill(model, folder / name)
    yield folder
    shutil.rmtree(folder)  # 7 GB


def test_one_step_at_full_size(sdxl, job, in_process, pictures_in, tmp_path):
    pictures_in(tmp_path / "large", 1, (PICTURE_PX, PICTURE_PX))
    job["model"]["pretrained_model_name_or_path"] = str(sdxl)
    job["network"] = {}
    job["general"] = {"resolution": PICTURE_PX}
    job["datasets"][0]["subsets"] = [{"image_dir": str(tmp_path / "large"), "class_tokens": "sks dog"}]
    job["train"] = {
        "max_train_steps": 1, "gradient_accumulation_steps": 1, "mixed_precision": "bf16", "device": "cpu",
        "gradient_checkpointing": True,
    }  # fmt: skip
    path = tmp_path / "job.toml"
    path.write_text(toml.dumps(job), encoding="utf-8")
    done = in_process("-m", "trainer", "--config", str(path))
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    adapter = waveft_core.load(tmp_path / "out" / "waveft.safetensors")
    assert len(adapter.layers) == 560
    assert sum(len(layer.values) for layer in adapter.layers.values()) == 1_451_520
    assert all(layer.values.any() for layer in adapter.layers.values())
    assert (tmp_path / "out" / "waveft-step00000001.state").stat().st_size < 20_000_000
    [peak] = re.findall(r"peak ([\d.]+) GiB", done.stdout)
    assert float(peak) < MOST_GIB
