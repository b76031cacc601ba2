"""Every spelling of a layer that ComfyUI's key map takes for SDXL, of one layer of each part of the nano base."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from waveft_core import WaveFTError, Weights
from waveft_core.interop.lora import deltas
from waveft_core.interop.names import Names

ROOT = Path(__file__).resolve().parents[3]
Q = "transformer_blocks.0.attn1.to_q"
FLAT_Q = Q.replace(".", "_")
FC1 = "encoder.layers.0.mlp.fc1"
FLAT_FC1 = FC1.replace(".", "_")
# ours -> theirs, as comfy/lora.py's model_lora_keys_unet and model_lora_keys_clip build them for SDXL
SPELLINGS = {
    f"lora_unet_middle_block_1_{FLAT_Q}": (
        *(f"lora_unet_middle_block_1_{FLAT_Q}", f"diffusion_model.middle_block.1.{Q}"),
        *(f"lora_unet_mid_block_attentions_0_{FLAT_Q}", f"lycoris_mid_block_attentions_0_{FLAT_Q}"),
        f"mid_block.attentions.0.{Q.replace('.to_', '.processor.to_')}",
        f"unet.mid_block.attentions.0.{Q.replace('.to_', '.processor.to_')}",
        # diffusers, PEFT and wrappers
        *(f"unet.mid_block.attentions.0.{Q}", f"base_model.model.mid_block.attentions.0.{Q}"),
        *(f"unet.base_model.model.mid_block.attentions.0.{Q}", f"mid_block.attentions.0.{Q}"),
        f"_orig_mod.mid_block.attentions.0.{Q}",
    ),
    "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_out_0": (
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out",
        "mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out",
        "lycoris_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
    ),
    "lora_unet_time_embed_0": ("lora_unet_time_embed_0", "lycoris_time_embedding_linear_1", "time_embedding.linear_1"),
    f"lora_te1_text_model_{FLAT_FC1}": (
        *(f"lora_te1_text_model_{FLAT_FC1}", f"lora_te_text_model_{FLAT_FC1}", f"text_encoder.text_model.{FC1}"),
        f"text_encoders.clip_l.transformer.text_model.{FC1}",
    ),
    f"lora_te2_text_model_{FLAT_FC1}": (
        *(f"lora_te2_text_model_{FLAT_FC1}", f"text_encoder_2.text_model.{FC1}"),
        f"text_encoders.clip_g.transformer.text_model.{FC1}",
    ),
    "lora_te2_text_model_text_projection": (
        *("lora_te2_text_projection", "lora_prior_te_text_projection"),
        "text_encoders.clip_g.transformer.text_projection",
    ),
}
PAIRS = [(ours, theirs) for ours, each in SPELLINGS.items() for theirs in each]
# what follows a layer's name in comfy/weight_adapter/lora.py
PARTS = {
    "regular": (".lora_down.weight", ".lora_up.weight"),
    "diffusers, first": ("_lora.down.weight", "_lora.up.weight"),
    "diffusers, PEFT's": (".lora_A.weight", ".lora_B.weight"),
    "diffusers, later": (".lora.down.weight", ".lora.up.weight"),
    "mochi": (".lora_A", ".lora_B"),
    "transformers": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    "with an adapter's name": (".lora_A.default.weight", ".lora_B.default.weight"),
}


@pytest.fixture(scope="module")
def base():
    return Weights.open(ROOT / "models" / "nano-sdxl")


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_every_spelling_that_comfyui_takes_is_known(base, ours, theirs):
    assert ours in base.slots
    assert Names(base.slots, "file").of(theirs) == ours


@pytest.mark.parametrize(("ours", "theirs"), [pair for pair in PAIRS if "text_projection" not in pair[0]])
def test_and_without_a_base_by_sdxls_own_count(ours, theirs):
    assert Names(None, "file").of(theirs) == ours


@pytest.mark.parametrize("parts", PARTS)
def test_every_ending_of_a_low_rank_part_is_known(tmp_path, base, parts):
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q"
    ours = f"lora_unet_middle_block_1_{FLAT_Q}"
    rows, columns = base.slots[ours].shape
    down, up = torch.randn(2, columns), torch.randn(rows, 2)
    endings = PARTS[parts]
    save_file({layer + endings[0]: down, layer + endings[1]: up}, tmp_path / "lora.safetensors")
    ((name, delta),) = deltas(tmp_path / "lora.safetensors", base)
    assert name == ours
    torch.testing.assert_close(delta, up @ down)


@pytest.mark.parametrize("key", ["blockwise_7_to_q", "transformer.joint_blocks.0.to_q", "hydit_q"])
def test_an_unknown_spelling_is_said_to_be_that(base, key):
    with pytest.raises(WaveFTError, match=r"spelling that is known here.*the base is not at fault"):
        Names(base.slots, "file").of(key)


@pytest.mark.parametrize(
    "key", ["lora_unet_input_blocks_99_1_to_q", "unet.down_blocks.7.q", "lycoris_nothing", "base_model.model.q"]
)
def test_a_known_spelling_of_another_models_layer_names_the_nearest(base, key):
    with pytest.raises(WaveFTError, match=r"one of the base's.*Nearest: "):
        Names(base.slots, "file").of(key)
