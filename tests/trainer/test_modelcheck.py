import json
import struct

import pytest

from trainer import modelcheck, schema

SDXL = ("conditioner.embedders.1.model.x", "conditioner.embedders.0.transformer.x")
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def write_checkpoint(path, names, channels=4, cut=0):
    header, data = {"__metadata__": {"a": "b"}}, b""
    for name in names:
        shape = [2, channels, 1, 1] if name == FIRST else [2]
        size = 2 * (channels if name == FIRST else 1)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [len(data), len(data) + 2 * size]}
        data += b"\0" * 2 * size
    text = json.dumps(header).encode()
    content = struct.pack("<Q", len(text)) + text + data
    path.write_bytes(content[: len(content) - cut])
    return path


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


def test_folders_that_are_no_sdxl(light_base, tmp_path):
    assert "no model_index.json" in problems(tmp_path)[0]
    (light_base / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    assert "expected a StableDiffusionXL pipeline, got FluxPipeline" in problems(light_base)[0]
    (light_base / "model_index.json").write_text("{")
    assert "cannot be read" in problems(light_base)[0]


def test_folders_that_are_not_whole(light_base):
    (light_base / "vae" / "model.safetensors").unlink()
    (light_base / "unet" / "model.safetensors").write_bytes(b"\x09\0\0\0\0\0\0\0{}")
    found = problems(light_base)
    assert len(found) == 2
    assert "unet/model.safetensors is not a safetensors file, or was cut short" in found[0]
    assert "vae holds no weights" in found[1]


@pytest.mark.parametrize(
    ("names", "channels", "what"),
    [
        ((*SDXL, FIRST), 9, "an SDXL inpainting checkpoint (9 input channels)"),
        (("cond_stage_model.transformer.x", FIRST), 4, "SD 1.5"),
        (("cond_stage_model.model.x", FIRST), 4, "SD 2"),
        (("conditioner.embedders.0.model.x", FIRST), 4, "the SDXL refiner"),
        (("lora_unet_x.lora_down.weight",), 4, "a LoRA"),
        (("lora_unet_x.waveft_values",), 4, "a WaveFT adapter"),
        (("double_blocks.0.x",), 4, "Flux"),
        (("x",), 4, "no model that is known here"),
    ],
)
def test_what_a_file_looks_like(tmp_path, names, channels, what):
    found = problems(write_checkpoint(tmp_path / "a.safetensors", names, channels))
    assert f"expected an SDXL checkpoint, but this looks like {what}." in found[0]


def test_files_that_cannot_be_read(tmp_path):
    assert "was cut short: expected" in problems(write_checkpoint(tmp_path / "a.safetensors", (*SDXL, FIRST), cut=1))[0]
    (tmp_path / "b.safetensors").write_bytes(b"<html>" * 30)
    assert "is not a safetensors file" in problems(tmp_path / "b.safetensors")[0]
    (tmp_path / "c.ckpt").write_bytes(b"")
    assert "expected a .safetensors file, got .ckpt" in problems(tmp_path / "c.ckpt")[0]


def test_a_single_file_needs_configs_and_tokenizers(tmp_path, light_base):
    path = write_checkpoint(tmp_path / "a.safetensors", (*SDXL, FIRST))
    found = problems(path)
    assert ["config:" in found[0], "tokenizer" in found[1], len(found)] == [True, True, 2]
    (light_base / "tokenizer" / "vocab.json").write_text("{}")
    facts, found = modelcheck.check(schema.Model(pretrained_model_name_or_path=str(path), config=str(light_base)))
    assert not found
    assert facts.resolution == 16
    assert not problems(path, config=str(light_base), tokenizer=str(light_base))
    assert "expected model_index.json and unet/config.json" in problems(path, config=str(tmp_path))[0]


def test_another_vae(light_base, tmp_path):
    assert "expected a folder with config.json" in problems(light_base, vae=str(tmp_path))[0]
    assert not problems(light_base, vae=str(light_base / "vae"))


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
    config.unlink()
    assert "unet/config.json cannot be read" in problems(light_base)[0]
