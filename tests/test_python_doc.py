"""Every example of docs/python.md runs, on tiny random models where it names a trained one."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from waveft_core import Spec, attach, save

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def block(word):
    (found,) = [text for text in BLOCKS if word in text]
    return found


def run(text, **names):
    exec(compile(text, "docs/python.md", "exec"), names)
    return names


def test_there_is_no_example_that_nothing_runs_and_none_is_long():
    words = ("StableDiffusionXLPipeline", "ViTFor", "RobertaFor", "attached", "combine", "locate")
    assert all(len(text.strip().splitlines()) <= 16 for text in BLOCKS)
    assert sorted(BLOCKS) == sorted(block(f" {word}" if word.islower() else word) for word in words)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # a scheduler of diffusers
def test_diffusers(tmp_path, monkeypatch):
    from diffusers import StableDiffusionXLPipeline

    base = ROOT / "models" / "nano-sdxl"
    monkeypatch.chdir(tmp_path)
    pipe = StableDiffusionXLPipeline.from_pretrained(base, add_watermarker=False)
    pipe.unet.requires_grad_(False)
    for name in ("dog", "style"):
        tuning = attach(pipe.unet, Spec(coefficients=50, locations="uniform:1"))
        with torch.no_grad():
            for values in tuning.parameters():
                values.normal_(generator=torch.Generator().manual_seed(len(name))).mul_(1e-2)
        tuning.refresh()
        save(tuning.adapter(), f"{name}.safetensors")
        tuning.detach()
    before = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    made = run(block("StableDiffusionXLPipeline"), base=base)
    assert made["image"].shape == (64, 64, 3)
    after = made["pipe"].unet.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_a_vision_transformer_learns_and_its_file_merges(tmp_path, monkeypatch):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=16, patch_size=8
    )
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    monkeypatch.chdir(tmp_path)
    pixels, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 2
    made = run(block("ViTFor"), images=[(pixels, labels)] * 30, vit=tmp_path / "vit")
    assert all(bool(layer.values.any()) for layer in made["load"]("vit.safetensors").layers.values())
    with torch.no_grad():
        assert made["model"](pixel_values=pixels, labels=labels).loss < 0.3, "untrained it is 0.7"


def test_roberta_learns(tmp_path):
    from transformers import RobertaConfig, RobertaForSequenceClassification

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, pad_token_id=0
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "roberta")
    ids, labels = torch.randint(3, 60, (8, 6)), torch.arange(8) % 2
    made = run(block("RobertaFor"), texts=[(ids, labels)] * 80, roberta=tmp_path / "roberta")
    assert all(bool(values.detach().any()) for values in made["tuning"].parameters())
    with torch.no_grad():
        assert made["model"](input_ids=ids, labels=labels).loss < 0.3, "untrained it is 0.7"


def test_several_adapters(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = nn.ModuleDict({"to_q": nn.Linear(8, 8), "to_k": nn.Linear(8, 8)}).requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for name in ("dog", "style"):
        tuning = attach(model, Spec(coefficients=9, targets=("to_q", "to_k")))
        save(tuning.adapter(), f"{name}.safetensors")
        tuning.detach()
    made = run(block(" attached"), model=model)
    assert not made["attached"](model)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_the_toolbox(tmp_path, monkeypatch, capsys):
    from diffusers import UNet2DConditionModel

    base = ROOT / "models" / "nano-sdxl"
    monkeypatch.chdir(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(base / "unet").float().requires_grad_(False)
    for seed, name in enumerate(("dog", "style")):
        tuning = attach(unet, Spec(coefficients=50, locations=f"uniform:{seed}"))
        with torch.no_grad():
            for values in tuning.parameters():
                values.normal_(generator=torch.Generator().manual_seed(seed)).mul_(0.1)
        save(tuning.adapter(), f"{name}.safetensors")
        tuning.detach()
    made = run(block(" combine"), folder=base)
    assert len(made["both"].layers) == len(made["again"].layers) == 88
    kept, half = made["again"].layers, made["half"].layers
    name = next(iter(half))
    shared = set(kept[name].indices.tolist()) & set(half[name].indices.tolist())
    assert len(shared) > 0.9 * min(50, len(half[name].indices)), "what was merged is what is found again"


def test_positions_by_the_gradient():
    torch.manual_seed(0)
    unet = nn.ModuleDict({"to_q": nn.Linear(64, 64)}).requires_grad_(False)
    made = run(
        block(" locate"),
        unet=unet,
        warm_up=[torch.randn(4, 64) for _ in range(8)],
        loss_of=lambda unet, x: unet["to_q"](x).square().mean(),
    )
    assert made["tuning"].numel == 260


@pytest.mark.parametrize("name", ["waveft_core.diffusers"])
def test_the_module_for_pipelines_loads_no_model_library(name):
    import subprocess
    import sys

    code = f"import sys, {name}; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
