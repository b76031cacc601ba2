"""Adapters of several kinds in the base for a while, and the base bit for bit afterwards."""

import pytest
import torch
from safetensors.torch import save_file

import waveft_core
from trainer.base import modelcheck, models, precision
from trainer.evaluation.applying import applied
from trainer.job.schema import Model
from trainer.system.errors import UserError
from waveft_core.format.keys import layer_names

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def base(base_folder):
    model = Model(pretrained_model_name_or_path=str(base_folder))
    place = precision.Precision(torch.device("cpu"), torch.float32)
    return models.load(model, place, modelcheck.check(model)[0])


def name(base):
    return layer_names(dict(base.unet.named_modules()), "unet")[LAYER]


def weight(base):
    return base.unet.get_submodule(LAYER).weight


def state(base):
    return {key: value.clone() for key, value in base.unet.state_dict().items()}


def same(base, before):
    return all(torch.equal(before[key], value) for key, value in base.unet.state_dict().items())


def test_none_is_the_base_itself(base):
    before = state(base)
    with applied(base, None, 1.0) as reaches_text:
        assert not reaches_text
        assert same(base, before)


def test_a_waveft_file_is_merged_at_its_strength(base, tmp_path):
    tuning = waveft_core.attach({"unet": base.unet}, waveft_core.Spec(coefficients=16))
    with torch.no_grad():
        for values in tuning.parameters():
            values.fill_(0.01)
    adapter = tuning.adapter()
    tuning.detach()
    waveft_core.save(adapter, tmp_path / "a.safetensors")
    before = state(base)
    with applied(base, tmp_path / "a.safetensors", 0.5) as reaches_text:
        assert not reaches_text
        delta = adapter.delta(name(base))
        torch.testing.assert_close(weight(base), before[f"{LAYER}.weight"] + 0.5 * delta)
    assert same(base, before)


def test_a_lora_file_of_another_trainer_is_added_and_taken_out(base, tmp_path):
    m, n = weight(base).shape
    up, down = torch.randn(m, 2), torch.randn(2, n)
    held = {
        f"{name(base)}.lora_up.weight": up,
        f"{name(base)}.lora_down.weight": down,
        f"{name(base)}.alpha": torch.tensor(1.0),
    }
    save_file(held, tmp_path / "lora.safetensors")
    before = state(base)
    with applied(base, tmp_path / "lora.safetensors", 0.8):
        expected = before[f"{LAYER}.weight"] + 0.8 * (up @ down) / 2
        torch.testing.assert_close(weight(base).detach(), expected)
    assert same(base, before)


def test_what_fails_inside_leaves_the_base_as_it_was(base, tmp_path):
    m, n = weight(base).shape
    save_file({f"{name(base)}.diff": torch.ones(m, n)}, tmp_path / "diff.safetensors")
    before = state(base)
    with pytest.raises(RuntimeError, match="drawing"), applied(base, tmp_path / "diff.safetensors", 1.0):
        assert not same(base, before)
        raise RuntimeError("drawing")
    assert same(base, before)


def test_a_file_of_another_base_is_refused_and_changes_nothing(base, tmp_path):
    save_file({"lora_unet_mid_block_nothing.diff": torch.ones(3, 3)}, tmp_path / "other.safetensors")
    before = state(base)
    with pytest.raises(UserError), applied(base, tmp_path / "other.safetensors", 1.0):
        pass
    assert same(base, before)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with (
        pytest.raises(UserError, match="safetensors"),
        applied(base, tmp_path / "text.safetensors", 1.0),
    ):
        pass
