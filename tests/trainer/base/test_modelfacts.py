import json
import shutil
import struct

import pytest

from trainer.base import headers, modelfacts
from trainer.job import schema

PREFIXES = {"unet": modelfacts.UNET, "te1": modelfacts.TEXT[0], "te2": modelfacts.TEXT[1], "vae": modelfacts.VAE}


def write(path, tensors, **metadata):
    """Writes name -> bytes as a safetensors file of F16 vectors."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, content in tensors.items():
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": "F16", "shape": [len(content) // 2], "data_offsets": offsets}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def checkpoint(path, marks=(), change="", **metadata):
    tensors = {f"{prefix}w": bytes([number] * 8) for number, prefix in enumerate(PREFIXES.values())}
    if change:
        tensors[f"{PREFIXES[change]}w"] = b"changed!"
    return write(path, tensors | dict.fromkeys(marks, b""), **metadata)


def facts(path, **keys):
    model = schema.Model(pretrained_model_name_or_path=str(path), **keys)
    return modelfacts.of_folder(model, path) if path.is_dir() else modelfacts.of_file(model, headers.read(path))


@pytest.mark.parametrize(
    ("marks", "metadata", "keys", "expected"),
    [
        ((), {}, {}, ("epsilon", False)),
        (("v_pred",), {}, {}, ("v_prediction", False)),
        (("v_pred", "ztsnr"), {}, {}, ("v_prediction", True)),
        ((), {"modelspec.prediction_type": "v"}, {}, ("v_prediction", False)),
        (("v_pred",), {"modelspec.prediction_type": "epsilon"}, {}, ("v_prediction", False)),
        ((), {"modelspec.prediction_type": "?"}, {}, ("epsilon", False)),
        (("v_pred", "ztsnr"), {}, {"v_parameterization": False, "zero_terminal_snr": False}, ("epsilon", False)),
        ((), {}, {"v_parameterization": True, "zero_terminal_snr": True}, ("v_prediction", True)),
    ],
)
def test_what_a_file_predicts(tmp_path, marks, metadata, keys, expected):
    found = facts(checkpoint(tmp_path / "a.safetensors", marks, **metadata), **keys)
    assert (found.prediction, found.zero_terminal_snr) == expected


def test_what_a_folder_predicts(light_base):
    config = light_base / "scheduler" / "scheduler_config.json"
    config.write_text('{"prediction_type": "v_prediction", "rescale_betas_zero_snr": true}')
    found = facts(light_base)
    assert (found.prediction, found.zero_terminal_snr) == ("v_prediction", True)
    found = facts(light_base, v_parameterization=False, zero_terminal_snr=False)
    assert (found.prediction, found.zero_terminal_snr) == ("epsilon", False)


def test_the_identities_follow_the_weights_alone(tmp_path):
    one = facts(checkpoint(tmp_path / "a.safetensors"))
    assert all((one.identity, one.vae_identity, one.text_identity))
    assert facts(checkpoint(tmp_path / "b.safetensors", ["x"], title="b")) == one
    names = ("identity", "vae_identity", "text_identity")
    differ = {
        part: [
            getattr(facts(checkpoint(tmp_path / "c.safetensors", change=part)), key) != getattr(one, key)
            for key in names
        ]
        for part in PREFIXES
    }
    assert differ == {
        "unet": [True, False, False],
        "te1": [True, False, True],
        "te2": [True, False, True],
        "vae": [True, True, False],
    }


def test_another_vae_is_another_identity(tmp_path, light_base):
    base = checkpoint(tmp_path / "a.safetensors")
    other = write(tmp_path / "vae.safetensors", {"w": b"changed!"})
    one, two = facts(base), facts(base, vae=str(other))
    assert one.vae_identity != two.vae_identity
    assert one.identity != two.identity
    assert one.text_identity == two.text_identity
    same = write(tmp_path / "same.safetensors", {"w": bytes([3] * 8)})
    assert facts(base, vae=str(same)).vae_identity == one.vae_identity
    assert facts(base, vae=str(base)).vae_identity == one.vae_identity, "a whole checkpoint's"
    assert facts(base, vae=str(light_base / "vae")).vae_identity not in (one.vae_identity, two.vae_identity)


def test_configs_that_change_what_is_computed_change_identities(light_base):
    one = facts(light_base)
    config = light_base / "vae" / "config.json"
    config.write_text('{"block_out_channels": [8, 16], "_diffusers_version": "9"}')
    assert facts(light_base) == one
    config.write_text('{"block_out_channels": [8, 16], "scaling_factor": 0.5}')
    assert facts(light_base).vae_identity != one.vae_identity
    index = light_base / "model_index.json"
    index.write_text('{"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": false}')
    assert facts(light_base).text_identity != one.text_identity


def test_parameters_and_bytes_are_counted(tmp_path, light_base):
    found = facts(checkpoint(tmp_path / "a.safetensors"))
    assert (found.unet_parameters, found.unet_bytes) == (4, 8)
    assert (found.text_parameters, found.text_bytes) == (8, 16)
    assert (found.vae_parameters, found.vae_bytes) == (4, 8)
    assert found.unet_shapes == {"w": (4,)}
    write(light_base / "unet" / "diffusion_pytorch_model.safetensors", {"w": bytes(10)})
    write(light_base / "unet" / "diffusion_pytorch_model.fp16.safetensors", {"w": bytes(4)})
    assert facts(light_base).unet_parameters == 5
    (light_base / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert facts(light_base).unet_parameters == 2


def test_sizes_that_cannot_be_read_are_none(light_base):
    (light_base / "unet" / "config.json").write_text("{}")
    assert modelfacts.sizes(light_base) == (None, None)


def test_of_a_hub_id_the_job_alone_speaks(light_base):
    def of(**keys):
        return modelfacts.of_hub(schema.Model(pretrained_model_name_or_path="owner/name", allow_download=True, **keys))

    assert (of().prediction, of().zero_terminal_snr, of().resolution) == (None, None, None)
    assert of().identity == "hub:owner/name"
    assert of(v_parameterization=True).prediction == "v_prediction"
    assert of(v_parameterization=False, zero_terminal_snr=False).zero_terminal_snr is False
    assert len({of().vae_identity, of(vae="owner/vae").vae_identity, of(vae=str(light_base / "vae")).vae_identity}) == 3


def test_the_whole_is_quick_for_a_folder_of_gigabytes(light_base, monkeypatch):
    read, sample = [], headers.sample
    monkeypatch.setattr(headers, "sample", lambda *where: read.append(where) or sample(*where))
    for part in ("unet", "text_encoder", "text_encoder_2", "vae"):
        name = "model" if part.startswith("text") else "diffusion_pytorch_model"
        path = light_base / part / f"{name}.safetensors"
        entry = {"dtype": "F16", "shape": [1 << 29], "data_offsets": [0, 1 << 30]}
        text = json.dumps({"w": entry}).encode()
        with path.open("wb") as file:  # sparse: a gibibyte that takes no room
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + (1 << 30))
    assert facts(light_base).unet_parameters == 1 << 29
    assert len(read) == 4


def test_the_shipped_configs_are_sdxls():
    """Checked against the public facts of SDXL 1.0: parameters of each component, sizes, noise schedule, padding."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    assets = modelfacts.ASSETS
    with torch.device("meta"):
        parts = {
            2_567_463_684: UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(assets / "unet")),
            83_653_863: AutoencoderKL.from_config(AutoencoderKL.load_config(assets / "vae")),
            123_060_480: CLIPTextModel(CLIPTextConfig.from_pretrained(assets / "text_encoder")),
            694_659_840: CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(assets / "text_encoder_2")),
        }
    for count, module in parts.items():
        assert sum(parameter.numel() for parameter in module.parameters()) == count
    attention = [name for name, _ in parts[2_567_463_684].named_modules() if name.endswith(("to_q", "to_out.0"))]
    assert len(attention) == 2 * 140
    assert modelfacts.sizes(assets) == (1024, 32)
    assert modelfacts.read_json(assets / "vae" / "config.json")["scaling_factor"] == 0.13025
    scheduler = EulerDiscreteScheduler.from_config(EulerDiscreteScheduler.load_config(assets / "scheduler"))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    assert torch.allclose(scheduler.alphas_cumprod, torch.cumprod(1 - betas, 0))
    pads = [
        json.loads((assets / f"tokenizer{n}" / "tokenizer_config.json").read_text())["pad_token"] for n in ("", "_2")
    ]
    assert pads == ["<|endoftext|>", "!"]


def test_a_folder_and_its_copy_are_one(light_base, tmp_path):
    copy = shutil.copytree(light_base, tmp_path / "copy")
    assert facts(copy) == facts(light_base)
