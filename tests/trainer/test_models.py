import shutil

import pytest
import torch

from trainer import models, schema
from trainer.errors import UserError


def load(folder, dtype=torch.float32, **keys):
    return models.load(schema.Model(pretrained_model_name_or_path=str(folder), **keys), dtype)


def test_a_folder_is_loaded_frozen(base_folder):
    base = load(base_folder)
    assert not any(p.requires_grad for module in (base.unet, base.vae, base.text[0][1]) for p in module.parameters())
    assert not base.unet.training
    assert base.empty_is_zero


def test_the_vae_stays_fp32_unless_its_config_lets_go(base_folder, tmp_path):
    base = load(base_folder, torch.bfloat16)
    assert (base.unet.dtype, base.text[1][1].dtype, base.vae.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    folder = shutil.copytree(base_folder, tmp_path / "copy")
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text().replace('"force_upcast": true', '"force_upcast": false'))
    assert load(folder, torch.bfloat16).vae.dtype == torch.bfloat16


def test_fp16_files_are_taken_where_there_are_no_others(base_folder, tmp_path):
    folder = shutil.copytree(base_folder, tmp_path / "copy")
    for path in folder.rglob("*.safetensors"):
        path.rename(path.with_name(path.stem + ".fp16.safetensors"))
    base, original = load(folder), load(base_folder)
    assert torch.equal(base.unet.conv_in.weight, original.unet.conv_in.weight)


def test_another_vae(base_folder, tmp_path):
    folder = shutil.copytree(base_folder / "vae", tmp_path / "vae")
    from diffusers import AutoencoderKL

    other = AutoencoderKL.from_pretrained(folder)
    other.encoder.conv_in.weight.data.zero_()
    other.save_pretrained(folder)
    assert not load(base_folder, vae=str(folder)).vae.encoder.conv_in.weight.any()


def test_what_cannot_be_loaded_or_trained(base_folder, tmp_path):
    folder = shutil.copytree(base_folder, tmp_path / "copy")
    config = folder / "scheduler" / "scheduler_config.json"
    text = config.read_text()
    config.write_text(text.replace('"epsilon"', '"sample"'))
    with pytest.raises(UserError, match='expected prediction_type "epsilon" or "v_prediction", got "sample"'):
        load(folder)
    config.unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        load(folder)


def test_a_schedule_without_betas_is_refused(base_folder, tmp_path):
    from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

    for number, kind in enumerate((EDMEulerScheduler, FlowMatchEulerDiscreteScheduler)):
        folder = shutil.copytree(base_folder, tmp_path / str(number))
        kind().save_pretrained(folder / "scheduler")
        index = folder / "model_index.json"
        index.write_text(index.read_text().replace("EulerDiscreteScheduler", kind.__name__))
        with pytest.raises(UserError, match=f"expected one with a beta_schedule, got {kind.__name__}.*Name a base"):
            load(folder)
