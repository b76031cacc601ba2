import importlib.util
import json
import struct

import pytest

from trainer.base import modelcheck
from trainer.base.modelcheck import DEEPEST, FIRST
from trainer.job import schema
from trainer.system import commandline

TEXTS = ("conditioner.embedders.1.model.ln_final.bias", "conditioner.embedders.0.transformer.text_projection")
SDXL = (*TEXTS, FIRST, DEEPEST, "first_stage_model.quant_conv.bias")


def write_checkpoint(path, names, channels=4, cut=0):
    header, data = {"__metadata__": {"a": "b"}}, b""
    for name in names:
        shape = [2, channels, 1, 1] if name.endswith((FIRST, "conv_in.weight")) else [2]
        size = 4 * channels if len(shape) > 1 else 4
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + size]}
        data += b"\0" * size
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + data
    path.write_bytes(content[: len(content) - cut])
    return path


@pytest.fixture
def vocabulary(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "vocab.json").write_text('{"a": 0}')
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return str(folder)


def problems(path, **keys):
    return modelcheck.check(schema.Model(pretrained_model_name_or_path=str(path), **keys))[1]


def test_a_good_folder_tells_its_sizes(light_base):
    facts, found = modelcheck.check(schema.Model(pretrained_model_name_or_path=str(light_base)))
    assert not found
    assert (facts.resolution, facts.multiple) == (16, 8)


def test_nothing_there(tmp_path):
    (found,) = problems(tmp_path / "models" / "sdxl")
    assert "relative to the folder of the job file" in found
    assert "allow_download = true" in found


def test_a_hub_id_is_left_to_the_hub(light_base):
    assert not problems("owner/name", allow_download=True, vae="owner/vae")
    assert problems(light_base, vae="owner/vae")


def test_folders_that_are_no_sdxl(light_base, tmp_path):
    assert "no model_index.json" in problems(tmp_path)[0]
    (light_base / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "expected a StableDiffusionXL pipeline, got FluxPipeline" in problems(light_base)[0]
    (light_base / "model_index.json").write_text("{")
    assert "cannot be read" in problems(light_base)[0]


def test_folders_that_are_not_whole(light_base):
    (light_base / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (light_base / "vae" / "openvino_model.bin").write_bytes(b"")
    (light_base / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x09\0\0\0\0\0\0\0{}")
    found = problems(light_base)
    assert len(found) == 2
    assert "unet: diffusion_pytorch_model.safetensors is not a safetensors file, or was cut short" in found[0]
    assert "vae holds no weights" in found[1]
    (light_base / "scheduler" / "scheduler_config.json").unlink()
    assert "has no scheduler/scheduler_config.json. Fetch the whole model." in problems(light_base)[0]


@pytest.mark.parametrize(
    ("names", "channels", "what"),
    [
        (SDXL, 9, "an SDXL inpainting checkpoint (9 input channels)"),
        ((TEXTS[0], FIRST), 4, "an SDXL without its first text encoder"),
        ((*SDXL, "edm_mean"), 4, "Playground 2.5, whose noise is of another kind (EDM)"),
        ((*SDXL, "edm_vpred.sigma_max"), 4, "CosXL, whose noise is of another kind (EDM)"),
        (("cond_stage_model.transformer.x", FIRST), 4, "SD 1.5"),
        (("cond_stage_model.model.x", FIRST), 4, "SD 2"),
        (("conditioner.embedders.0.model.x", FIRST), 4, "the SDXL refiner"),
        (("lora_unet_x.lora_down.weight",), 4, "a LoRA"),
        (("lora_unet_x.waveft_values",), 4, "a WaveFT adapter"),
        (("double_blocks.0.x",), 4, "Flux"),
        (("x",), 4, "no model that is known here"),
    ],
)
def test_what_a_file_looks_like(tmp_path, names, channels, what, vocabulary):
    found = problems(write_checkpoint(tmp_path / "a.safetensors", names, channels), tokenizer=vocabulary)
    assert f"expected an SDXL checkpoint, but this looks like {what}." in found[0]


def test_files_that_cannot_be_read(tmp_path):
    assert "was cut short: expected" in problems(write_checkpoint(tmp_path / "a.safetensors", SDXL, cut=1))[0]
    (tmp_path / "b.safetensors").write_bytes(b"<html>" * 30)
    assert "is not a safetensors file" in problems(tmp_path / "b.safetensors")[0]
    (tmp_path / "c.ckpt").write_bytes(b"")
    assert "expected a .safetensors file, got .ckpt" in problems(tmp_path / "c.ckpt")[0]


def test_a_single_file_needs_nothing_but_a_vocabulary(tmp_path, vocabulary, monkeypatch):
    path = write_checkpoint(tmp_path / "a.safetensors", SDXL)
    facts, found = modelcheck.check(schema.Model(pretrained_model_name_or_path=str(path), tokenizer=vocabulary))
    assert not found
    assert (facts.resolution, facts.multiple, facts.prediction) == (1024, 32, "epsilon")
    monkeypatch.setattr("trainer.base.vocabulary.in_hub_cache", lambda: None)
    monkeypatch.setattr("trainer.base.vocabulary.in_packages", lambda: None)
    (missing,) = problems(path)
    assert "[model] tokenizer: expected CLIP's vocabulary" in missing


def test_a_single_file_may_bring_configs(tmp_path, vocabulary, light_base):
    path = write_checkpoint(tmp_path / "a.safetensors", [name for name in SDXL if name != DEEPEST])
    assert "has fewer layers than SDXL 1.0" in problems(path, tokenizer=vocabulary)[0]
    model = schema.Model(pretrained_model_name_or_path=str(path), config=str(light_base), tokenizer=vocabulary)
    facts, found = modelcheck.check(model)
    assert not found
    assert facts.resolution == 16
    (found,) = problems(path, config=str(tmp_path), tokenizer=vocabulary)
    assert "[model] config" in found
    assert "without model_index.json, unet/config.json" in found


def test_a_checkpoint_without_vae_needs_one(tmp_path, vocabulary):
    path = write_checkpoint(tmp_path / "a.safetensors", SDXL[:-1])
    assert "has no VAE in it. Name one in [model] vae." in problems(path, tokenizer=vocabulary)[0]
    vae = write_checkpoint(tmp_path / "vae.safetensors", ["decoder.conv_in.weight"])
    assert not problems(path, tokenizer=vocabulary, vae=str(vae))


def test_the_vocabulary_must_have_the_encoders_size(tmp_path, vocabulary):
    path = write_checkpoint(tmp_path / "a.safetensors", (*SDXL, modelcheck.EMBEDDING))  # two rows
    (found,) = problems(path, tokenizer=vocabulary)
    assert "expected 2 tokens, as the text encoders have, got 1" in found


@pytest.mark.parametrize(
    ("name", "names", "channels", "what"),
    [
        ("a.safetensors", ["first_stage_model.decoder.conv_in.weight"], 4, ""),
        ("a.safetensors", ["vae.decoder.conv_in.weight"], 4, ""),
        ("a.safetensors", ["decoder.conv_in.weight"], 16, "expected a VAE of 4 latent channels, got 16"),
        ("a.safetensors", ["lora_unet_x.lora_down.weight"], 4, "expected a VAE, but this looks like a LoRA"),
        ("a.pt", ["decoder.conv_in.weight"], 4, "expected a folder or a .safetensors file, got .pt"),
    ],
)
def test_another_vae(light_base, tmp_path, name, names, channels, what):
    found = problems(light_base, vae=str(write_checkpoint(tmp_path / name, names, channels)))
    assert (what in found[0]) if what else not found


def test_another_vae_in_a_folder(light_base, tmp_path):
    assert "expected a folder with config.json" in problems(light_base, vae=str(tmp_path))[0]
    assert not problems(light_base, vae=str(light_base / "vae"))
    (light_base / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert "was cut short" in problems(light_base, vae=str(light_base / "vae"))[0]
    assert any("nothing there" in found for found in problems(light_base, vae=str(tmp_path / "gone")))


def test_keys_that_only_a_single_file_needs(light_base):
    found = problems(light_base, tokenizer="x", config="y")
    assert found == [
        f"[model] {key}: only a single file needs it; the folder has its own. Remove it."
        for key in ("tokenizer", "config")
    ]


def test_a_folder_with_an_inpainting_unet(light_base):
    config = light_base / "unet" / "config.json"
    config.write_text(config.read_text().replace('"in_channels": 4', '"in_channels": 9'))
    (found,) = problems(light_base)
    assert "expected a UNet with 4 input channels, got 9: an inpainting model" in found
    assert "StableDiffusionXLInpaintPipeline" in found
    config.write_text("[")
    assert "unet/config.json cannot be read" in problems(light_base)[0]


def test_pure_noise_and_predicted_noise_are_refused(light_base):
    scheduler = light_base / "scheduler" / "scheduler_config.json"
    scheduler.write_text('{"rescale_betas_zero_snr": true}')
    (found,) = problems(light_base)
    assert "[model] zero_terminal_snr: expected a base that predicts velocity, as the base says" in found
    assert not problems(light_base, zero_terminal_snr=False)
    assert not problems(light_base, v_parameterization=True)
    scheduler.write_text('{"prediction_type": "sample"}')
    (found,) = problems(light_base)
    assert 'expected prediction_type "epsilon" or "v_prediction", got "sample"' in found


def test_packages_that_are_not_there(light_base, monkeypatch):
    there = importlib.util.find_spec("json")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (found,) = problems(light_base, base_dtype="nf4")
    assert (
        '[model] base_dtype: "nf4" needs bitsandbytes, which is not installed. Run: '
        + commandline.install("bitsandbytes")
        in found
    )
    assert "xformers" in modelcheck.not_installed("attention", "xformers", "[train]")[0]
    assert not modelcheck.not_installed("attention", "sdpa", "[train]")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there)
    assert not problems(light_base, base_dtype="nf4")


def test_torch_is_not_imported(in_process, light_base):
    code = (
        "import sys; from trainer.base import modelcheck, vocabulary; from trainer.job import schema; "
        "vocabulary.in_hub_cache(); "
        f"print(modelcheck.check(schema.Model(pretrained_model_name_or_path={str(light_base)!r}))[1], "
        "[name for name in ('torch', 'transformers', 'diffusers') if name in sys.modules])"
    )
    assert in_process("-c", code).stdout.strip() == "[] []"
