"""The tiny base written as one original-layout checkpoint, as UIs use them, and loaded through `from_single_file`."""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer import encode, modelcheck, models, schema
from trainer.errors import UserError

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2", "conv_norm_out": "out.0",
    "conv_out": "out.2", "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2", "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op", "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1", "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1", "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1", "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0", "up_blocks.1.resnets.1": "output_blocks.3.0",
}  # fmt: skip
VAE = {
    "down_blocks.0.downsamplers.0": "down.0.downsample", "up_blocks.0.upsamplers.0": "up.1.upsample",
    "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "mid_block.attentions.0": "mid.attn_1",
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
    "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut",
}  # fmt: skip
ENCODER = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
}  # fmt: skip


def unet_name(name):
    for ours, original in UNET.items():
        if name.startswith(ours + "."):
            rest = name.removeprefix(ours)
            if "resnets" in ours:
                part = rest.split(".")[1]
                rest = rest.replace(part, RESNET[part], 1)
            return original + rest
    raise KeyError(name)


def vae_name(name):
    for ours, original in VAE.items():
        name = name.replace(ours, original)
    name = re.sub(r"(encoder\.)down_blocks\.(\d)\.resnets\.(\d)", r"\1down.\2.block.\3", name)
    return re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{1 - int(m[1])}.block.{m[2]}", name)


def second_encoder(state):
    """Returns OpenCLIP's names: query, key and value in one tensor, the projection transposed."""
    made = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": state["text_model.final_layer_norm.weight"],
        "ln_final.bias": state["text_model.final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
    }
    for layer in range(2):
        prefix, target = f"text_model.encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            parts = [state[f"{prefix}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            made[f"{target}attn.in_proj_{kind}"] = torch.cat(parts)
            made |= {f"{target}{b}.{kind}": state[f"{prefix}{a}.{kind}"] for a, b in ENCODER.items()}
    return made


@pytest.fixture
def single_file(base_folder, tmp_path):
    base = models.load(schema.Model(pretrained_model_name_or_path=str(base_folder)), torch.float32)
    made = {f"model.diffusion_model.{unet_name(k)}": v for k, v in base.unet.state_dict().items()}
    for name, tensor in base.vae.state_dict().items():
        is_attention = "attentions" in name and tensor.ndim == 2
        made[f"first_stage_model.{vae_name(name)}"] = tensor[..., None, None] if is_attention else tensor
    first, second = (
        {k if k.startswith("text") else f"text_model.{k}": v for k, v in e.state_dict().items()} for _, e in base.text
    )
    made |= {f"conditioner.embedders.0.transformer.{k}": v for k, v in first.items()}
    made |= {f"conditioner.embedders.1.model.{k}": v for k, v in second_encoder(second).items()}
    path = tmp_path / "tiny.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in made.items()}, path)
    return path


def test_a_file_without_text_encoder(single_file, base_folder):
    kept = {k: v for k, v in load_file(single_file).items() if "resblocks.1" not in k}
    save_file(kept, single_file)
    model = schema.Model(pretrained_model_name_or_path=str(single_file), config=str(base_folder))
    with pytest.raises(UserError, match=r"text_encoder_2 has no weights for .*layers\.1"):
        models.load(model, torch.float32)


@pytest.mark.parametrize("tokenizer", ["", "tokenizer"])
def test_a_single_file_is_the_folder_it_came_from(single_file, base_folder, tokenizer):
    folder = schema.Model(pretrained_model_name_or_path=str(base_folder))
    single = schema.Model(
        pretrained_model_name_or_path=str(single_file),
        config=str(base_folder),
        tokenizer=tokenizer and str(base_folder / tokenizer),
    )
    facts, problems = modelcheck.check(single)
    assert not problems
    assert facts.resolution == 16
    one, other = models.load(folder, torch.float32), models.load(single, torch.float32)
    for part in ("unet", "vae"):
        ours, theirs = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part
    texts = [encode.encode_texts(base, ["a robot"], torch.device("cpu"))["a robot"] for base in (one, other)]
    assert torch.allclose(texts[0].context, texts[1].context, atol=1e-6)
    assert torch.allclose(texts[0].pooled, texts[1].pooled, atol=1e-6)
