import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from waveft_core import SDXL_ATTENTION, WaveFTError
from waveft_core.format.keys import layer_names, original_paths
from waveft_core.toolbox.weights import Weights
from waveft_core.update.targets import select

NANO = Path(__file__).resolve().parents[3] / "models" / "nano-sdxl"
TINY = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": 4,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
    "use_linear_projection": True,
}
TE2 = "conditioner.embedders.1.model."


@pytest.fixture(scope="module")
def unet():
    return UNet2DConditionModel(**TINY)


@pytest.fixture(scope="module")
def checkpoint(unet, tmp_path_factory):
    """A whole single-file checkpoint, small: both text encoders, the VAE's stand-in, tensors that are no weights."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator).half()

    paths = original_paths(path for path, _ in unet.named_modules())
    tensors = {}
    for key, held in unet.state_dict().items():
        path, _, kind = key.rpartition(".")
        tensors[f"model.diffusion_model.{paths[path]}.{kind}"] = held.half()
    tensors["conditioner.embedders.0.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"] = draw(8, 8)
    block = f"{TE2}transformer.resblocks.1."
    tensors |= {
        f"{block}attn.in_proj_weight": draw(24, 8),
        f"{block}attn.in_proj_bias": draw(24),
        f"{block}attn.out_proj.weight": draw(8, 8),
        f"{block}mlp.c_fc.weight": draw(32, 8),
        f"{block}mlp.c_proj.weight": draw(8, 32),
        f"{block}ln_1.weight": draw(8),
        f"{TE2}token_embedding.weight": draw(12, 8),
        f"{TE2}text_projection": draw(8, 8),
        f"{TE2}logit_scale": torch.tensor(4.6),
        "first_stage_model.decoder.conv_in.weight": draw(8, 4, 3, 3),
    }
    path = tmp_path_factory.mktemp("base") / "whole.safetensors"
    save_file(tensors, path, {"format": "pt", "title": "tiny"})
    return path


def test_every_weight_of_a_whole_checkpoint_has_its_name_and_its_bits(checkpoint, unet, bits):
    weights, tensors = Weights.open(checkpoint), load_file(checkpoint)
    expected = layer_names(path for path, _ in unet.named_modules())
    for path, module in unet.named_modules():
        if isinstance(getattr(module, "weight", None), torch.Tensor) and module.weight.dim() > 1:
            slot = weights.slots[expected[path]]
            assert (slot.component, slot.shape, slot.dtype) == ("unet", tuple(module.weight.shape), torch.float16)
            assert bits(weights.read(slot.name)) == bits(module.weight.half()) == bits(tensors[slot.key])
    assert weights.slots["lora_first_stage_model_decoder_conv_in"].component is None
    assert weights.slots["lora_te1_text_model_encoder_layers_0_self_attn_q_proj"].component == "te1"


def test_open_clips_fused_attention_is_three_weights_under_transformers_names(checkpoint, bits):
    weights = Weights.open(checkpoint)
    fused = load_file(checkpoint)[f"{TE2}transformer.resblocks.1.attn.in_proj_weight"]
    layer = "lora_te2_text_model_encoder_layers_1_"
    for number, kind in enumerate(("q_proj", "k_proj", "v_proj")):
        slot = weights.slots[f"{layer}self_attn_{kind}"]
        assert slot.rows == (8 * number, 8 * number + 8)
        assert (slot.component, slot.path) == ("te2", f"text_model.encoder.layers.1.self_attn.{kind}")
        assert bits(weights.read(slot.name)) == bits(fused[slice(*slot.rows)])
    found = {name.removeprefix(layer) for name in weights.slots if name.startswith(layer)}
    assert found == {f"self_attn_{kind}_proj" for kind in ("q", "k", "v", "out")} | {"mlp_fc1", "mlp_fc2"}
    assert "lora_te2_text_model_embeddings_token_embedding" in weights.slots


def test_what_is_read_is_memory_of_its_own(checkpoint):
    weights = Weights.open(checkpoint)
    name = "lora_te2_text_model_encoder_layers_1_self_attn_k_proj"
    weights.read(name).zero_()
    held = weights.read(name)
    assert held.abs().max() > 0
    assert held.untyped_storage().nbytes() == held.numel() * 2


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_a_bare_unet_in_its_original_names(checkpoint, tmp_path, prefix):
    inner = "model.diffusion_model."
    tensors = {key.removeprefix(inner): held for key, held in load_file(checkpoint).items() if key.startswith(inner)}
    save_file({prefix + key: held for key, held in tensors.items()}, tmp_path / "unet.safetensors")
    names = {name for name, slot in Weights.open(checkpoint).slots.items() if slot.component == "unet"}
    weights = Weights.open(tmp_path / "unet.safetensors")
    assert set(weights.slots) == names
    assert {slot.component for slot in weights.slots.values()} == {"unet"}
    assert not any(slot.path.startswith("diffusion_model.") for slot in weights.slots.values())


def test_a_bare_unet_in_diffusers_names_is_named_as_the_model_is(unet, tmp_path):
    save_file(unet.state_dict(), tmp_path / "unet.safetensors")
    weights = Weights.open(tmp_path / "unet.safetensors")
    for target in select(unet, SDXL_ATTENTION):
        assert weights.slots[target.name].path == target.path
        assert torch.equal(weights.read(target.name), target.weight)


def test_any_other_state_dict_is_named_by_its_paths(tmp_path, make_mlp):
    model = nn.ModuleDict({"encoder": make_mlp()})
    save_file(model.state_dict(), tmp_path / "mlp.safetensors")
    weights = Weights.open(tmp_path / "mlp.safetensors")
    assert {name: slot.path for name, slot in weights.slots.items()} == {
        "lora_encoder_0": "encoder.0",
        "lora_encoder_2": "encoder.2",
    }
    assert torch.equal(weights.read("lora_encoder_2"), model["encoder"][2].weight)


def test_the_nano_pipelines_folder():
    weights = Weights.open(NANO)
    assert {slot.component for slot in weights.slots.values()} == {"unet", "te1", "te2", "vae"}
    unet = UNet2DConditionModel.from_pretrained(NANO / "unet", torch_dtype=torch.float16)
    for target in select(unet, SDXL_ATTENTION):
        assert torch.equal(weights.read(target.name), target.weight)
    for folder, component in (("unet", "unet"), ("text_encoder_2", "te2"), ("vae", None)):
        alone = Weights.open(NANO / folder)
        assert {slot.component for slot in alone.slots.values()} == {component}
        if component:
            assert set(alone.slots) == {name for name, slot in weights.slots.items() if slot.component == component}


def sharded(folder, tensors, stem="diffusion_pytorch_model", variant=""):
    """Writes `tensors` in two shards and their index, as save_pretrained does."""
    names, map_ = sorted(tensors), {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"{stem}{variant}-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        map_ |= dict.fromkeys(part, file)
    index = folder / f"{stem}.safetensors.index{variant}.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": map_}))
    return index


def test_shards_are_one_model(unet, tmp_path):
    sharded(tmp_path, unet.state_dict())
    weights = Weights.open(tmp_path)
    assert len(weights.files) == 2
    for target in select(unet, SDXL_ATTENTION):
        assert torch.equal(weights.read(target.name), target.weight)


def test_the_plain_version_is_read_before_a_variant_and_a_variant_where_it_is_alone(unet, tmp_path):
    state = unet.state_dict()
    half = {key: held.half() for key, held in state.items()}
    save_file(half, tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    assert {slot.dtype for slot in Weights.open(tmp_path).slots.values()} == {torch.float16}
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    assert {slot.dtype for slot in Weights.open(tmp_path).slots.values()} == {torch.float32}


def test_a_sharded_variant(unet, tmp_path):
    sharded(tmp_path, {key: held.half() for key, held in unet.state_dict().items()}, variant=".fp16")
    assert {slot.dtype for slot in Weights.open(tmp_path).slots.values()} == {torch.float16}


def test_a_checkpoint_beside_the_components_is_not_the_pipeline(checkpoint, tmp_path):
    shutil.copytree(NANO / "unet", tmp_path / "unet")
    shutil.copy(checkpoint, tmp_path / "sd_xl_base.safetensors")
    assert {slot.file.parent for slot in Weights.open(tmp_path).slots.values()} == {tmp_path / "unet"}


@pytest.mark.parametrize("case", ["pickles", "component", "nothing", "ckpt", "index", "several", "unindexed", "escape"])
def test_what_cannot_be_read_is_refused_in_words(tmp_path, case):
    expected = {
        "pickles": "pickles",
        "component": "pickles",
        "nothing": "got none",
        "ckpt": "pickle",
        "index": "shards that it names",
        "several": "expected one model",
        "unindexed": "expected an index",
        "escape": "shards that it names",
    }
    path = tmp_path
    tensors = {"a.weight": torch.zeros(2, 2)}
    if case == "pickles":
        (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    elif case == "component":
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"x")
    elif case == "ckpt":
        path = tmp_path / "model.ckpt"
        path.write_bytes(b"x")
    elif case in ("index", "escape"):
        index = sharded(tmp_path, {"a.weight": torch.zeros(2, 2), "b.weight": torch.zeros(2, 2)})
        for shard in tmp_path.glob("*.safetensors"):
            shard.rename(tmp_path.parent / shard.name) if case == "escape" else shard.unlink()
        if case == "escape":
            index.write_text(index.read_text().replace('"diffusion', '"../diffusion'))
    elif case == "several":
        save_file(tensors, tmp_path / "one.safetensors")
        save_file(tensors, tmp_path / "two.safetensors")
    elif case == "unindexed":
        save_file(tensors, tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(WaveFTError, match=expected[case]):
        Weights.open(path)


def test_a_name_that_fits_two_weights_is_refused_when_asked_for(tmp_path):
    file = tmp_path / "two.safetensors"
    save_file({f"{path}.weight": torch.zeros(2, 2) for path in ("a.b_c", "a_b.c", "d")}, file)
    weights = Weights.open(file)
    assert weights.read("lora_d").shape == (2, 2)
    for ask in (weights.slot, weights.read):
        with pytest.raises(WaveFTError, match=r'got "a\.b_c\.weight" and "a_b\.c\.weight"'):
            ask("lora_a_b_c")


def test_an_unknown_name_names_the_nearest(checkpoint):
    with pytest.raises(WaveFTError, match=r"Nearest names: .*lora_te1_text_model_encoder_layers_0_self_attn_q_proj"):
        Weights.open(checkpoint).read("lora_te1_text_model_encoder_layers_7_self_attn_q_proj")


@pytest.mark.parametrize("scale", ["a.scale_weight", "a.weight_scale", "scaled_fp8", "a.comfy_quant"])
def test_a_weight_stored_with_a_scale_is_refused(tmp_path, scale):
    fp8 = torch.ones(2, 2).to(torch.float8_e4m3fn)
    save_file({"a.weight": fp8, "b.weight": torch.ones(2, 2), scale: torch.ones(1)}, tmp_path / "s.safetensors")
    weights = Weights.open(tmp_path / "s.safetensors")
    assert weights.read("lora_b").dtype == torch.float32
    with pytest.raises(WaveFTError, match="scale of its own"):
        weights.read("lora_a")


def test_plain_fp8_is_read_as_it_is(tmp_path, bits):
    fp8 = torch.randn(4, 4).to(torch.float8_e5m2)
    save_file({"a.weight": fp8}, tmp_path / "fp8.safetensors")
    assert bits(Weights.open(tmp_path / "fp8.safetensors").read("lora_a")) == bits(fp8)
