"""The tiny base written as one original-layout checkpoint, as UIs use them, and loaded through `from_single_file`."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.base import modelcheck, modelfacts, models
from trainer.base.precision import Precision
from trainer.job import schema
from trainer.system.errors import UserError
from waveft_core import Spec, attach

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


def load(model, dtype=torch.float32):
    facts, problems = modelcheck.check(model)
    assert not problems
    return models.load(model, Precision(torch.device("cpu"), dtype), facts)


@pytest.fixture(scope="module")
def written(base_folder, tmp_path_factory):
    base = load(schema.Model(pretrained_model_name_or_path=str(base_folder)))
    made = {f"model.diffusion_model.{unet_name(k)}": v for k, v in base.unet.state_dict().items()}
    made |= {f"first_stage_model.{name}": tensor for name, tensor in vae_file(base.vae).items()}
    first, second = (
        {k if k.startswith("text") else f"text_model.{k}": v for k, v in e.state_dict().items()} for _, e in base.text
    )
    made |= {f"conditioner.embedders.0.transformer.{k}": v for k, v in first.items()}
    made |= {f"conditioner.embedders.1.model.{k}": v for k, v in second_encoder(second).items()}
    path = tmp_path_factory.mktemp("single") / "tiny.safetensors"
    save_file({name: tensor.contiguous().clone() for name, tensor in made.items()}, path)
    return path


@pytest.fixture
def single_file(written, tmp_path):
    """The file, a test's own."""
    return shutil.copy(written, tmp_path / written.name)


def vae_file(vae):
    """Returns the VAE's tensors as an original checkpoint has them."""
    return {
        vae_name(name): (tensor[..., None, None] if "attentions" in name and tensor.ndim == 2 else tensor).contiguous()
        for name, tensor in vae.state_dict().items()
    }


def encoded(base, text):
    """Returns what both encoders make of a text: the last hidden states but one, and the projection."""
    with torch.no_grad():
        made = [
            encoder(tokenizer(text, return_tensors="pt").input_ids, output_hidden_states=True)
            for tokenizer, encoder in base.text
        ]
    return [each.hidden_states[-2] for each in made] + [made[1].text_embeds]


def test_a_file_without_text_encoder(single_file, base_folder):
    kept = {k: v for k, v in load_file(single_file).items() if "resblocks.1" not in k}
    save_file(kept, single_file)
    model = schema.Model(pretrained_model_name_or_path=str(single_file), config=str(base_folder))
    with pytest.raises(UserError, match=r"text_encoder_2 has no weights for .*layers\.1"):
        load(model)


@pytest.mark.parametrize("tokenizer", ["", "tokenizer", "."])
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
    one, other = load(folder), load(single)
    for part in ("unet", "vae"):
        ours, theirs = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours), part
    for ours, theirs in zip(encoded(one, "a robot"), encoded(other, "a robot"), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert [pair[0].pad_token_id for pair in other.text] == [513, 0]


def test_a_single_file_trains_with_the_shipped_configs_alone(single_file, base_folder, monkeypatch, tmp_path):
    """The shipped folder's files, with the tiny base's sizes in the place of SDXL's."""
    assets = tmp_path / "assets"
    names = [path.relative_to(modelfacts.ASSETS) for path in modelfacts.ASSETS.rglob("*.json")]
    assert len(names) == 8
    for name in names:
        (assets / name).parent.mkdir(parents=True, exist_ok=True)
        tiny = "config.json" in name.name and "tokenizer" not in name.name and "scheduler" not in name.name
        (assets / name).write_bytes(((base_folder if tiny else modelfacts.ASSETS) / name).read_bytes())
    for module in ("trainer.base.modelfacts", "trainer.base.modelfiles"):
        monkeypatch.setattr(f"{module}.ASSETS", assets)
    monkeypatch.setattr(modelcheck, "DEEPEST", modelcheck.FIRST)
    base = load(schema.Model(pretrained_model_name_or_path=str(single_file), tokenizer=str(base_folder)))
    assert (base.prediction, base.empty_is_zero, len(base.text)) == ("epsilon", True, 2)
    assert base.scheduler.config.beta_schedule == "scaled_linear"


@pytest.mark.parametrize(("marks", "expected"), [(["v_pred"], False), (["v_pred", "ztsnr"], True)])
def test_a_file_says_that_it_predicts_velocity(single_file, base_folder, marks, expected):
    save_file(load_file(single_file) | {mark: torch.empty(0) for mark in marks}, single_file)
    base = load(schema.Model(pretrained_model_name_or_path=str(single_file), config=str(base_folder)))
    assert (base.prediction, base.zero_terminal_snr) == ("v_prediction", expected)
    assert base.scheduler.config.prediction_type == "v_prediction"


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_a_vae_in_a_file_of_the_original_layout(single_file, base_folder, tmp_path, prefix):
    base = load(schema.Model(pretrained_model_name_or_path=str(base_folder)))
    base.vae.encoder.conv_in.weight.data.zero_()
    path = tmp_path / "vae.safetensors"
    save_file({prefix + name: tensor.clone() for name, tensor in vae_file(base.vae).items()}, path)
    for keys in ({"config": str(base_folder)}, {}):
        source = single_file if keys else base_folder
        held = load(schema.Model(pretrained_model_name_or_path=str(source), vae=str(path), **keys)).vae
        wanted = base.vae.state_dict()
        assert all(torch.equal(tensor, wanted[name]) for name, tensor in held.state_dict().items())


def test_the_vae_of_a_file_is_read_in_fp32_whatever_the_rest_is(single_file, base_folder):
    model = schema.Model(pretrained_model_name_or_path=str(single_file), config=str(base_folder))
    whole, half = load(model), load(model, torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16
    assert torch.equal(half.vae.encoder.conv_in.weight, whole.vae.encoder.conv_in.weight)


def test_training_leaves_the_file_alone(single_file, base_folder):
    """The weights lie in the file's own pages until they are written to."""
    before = single_file.read_bytes()
    base = load(schema.Model(pretrained_model_name_or_path=str(single_file), config=str(base_folder)))
    layer = base.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    original = layer.weight.clone()
    tuning = attach(base.unet, Spec(coefficients=64))
    with torch.no_grad():
        for parameter in tuning.parameters():
            parameter.fill_(1.0)
    tuning.refresh()
    assert not torch.equal(layer.weight, original)
    assert single_file.read_bytes() == before


def test_a_file_without_some_of_the_unet(single_file, base_folder):
    kept = {k: v for k, v in load_file(single_file).items() if "output_blocks.3" not in k}
    save_file(kept, single_file)
    with pytest.raises(UserError, match=r"lacks weights|has no weights"):
        load(schema.Model(pretrained_model_name_or_path=str(single_file), config=str(base_folder)))
