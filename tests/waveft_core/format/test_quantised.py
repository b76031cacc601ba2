import pytest
import torch
from safetensors.torch import save_file

from waveft_core import WaveFTError, Weights, merge_files
from waveft_core.format.container import WORDS
from waveft_core.format.quantised import quantised

FP8, INT8, U8 = "F8_E4M3", "I8", "U8"
# every spelling of a weight's scale or part, as its writer has it: tensor -> dtype; "{m}" is the module
SPELLINGS = {
    "ComfyUI, old": {"{m}.scale_weight": "F32"},
    "ComfyUI, old, with its input's": {"{m}.scale_weight": "F32", "{m}.scale_input": "F32"},
    "ComfyUI, marker alone": {"scaled_fp8": FP8},
    "ComfyUI, new": {"{m}.weight_scale": "F32", "{m}.comfy_quant": U8},
    "ComfyUI, new, input alone": {"{m}.input_scale": "F32"},
    "ComfyUI, name alone": {"{m}.comfy_quant": U8},
    "nvfp4": {"{m}.weight_scale": FP8, "{m}.weight_scale_2": "F32", "{m}.pre_quant_scale": "BF16"},
    "by block": {"{m}.weight_scale_inv": "F32"},
    "w4a8": {"{m}.weight_s_rel": FP8, "{m}.weight_s_channel": "F32", "{m}.weight_codebook": "F32"},
    "bitsandbytes, 4 bits": {"{m}.weight.absmax": "F32", "{m}.weight.quant_state.bitsandbytes__nf4": U8},
    "bitsandbytes, 8 bits": {"{m}.SCB": "F32", "{m}.weight_format": U8},
    "optimum-quanto": {"{m}.weight._data": INT8, "{m}.weight._scale": "F16"},
    "not known here": {"{m}.some_gain": "F32"},
    "of another module": {"elsewhere.weight_scale": "F32"},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("module", ["to_q", "model.diffusion_model.input_blocks.4.1.to_q"])
def test_every_spelling_of_a_scaled_weight_is_known(spelling, module):
    beside = {name.format(m=module): dtype for name, dtype in SPELLINGS[spelling].items()}
    dtypes = {f"{module}.weight": FP8, f"{module}.bias": "F32", "norm.weight": "F32", "norm.bias": "F32", **beside}
    found = quantised(dtypes)
    assert f"{module}.weight" in found.weights
    assert found.weights[f"{module}.weight"] in beside
    assert "norm.weight" not in found.weights
    assert found.own <= beside.keys()
    if spelling != "not known here":
        assert found.own == beside.keys()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", FP8, "F8_E5M2"])
def test_plain_weights_are_not_taken_for_quantised_ones(dtype):
    names = ("a.weight", "a.bias", "norm.weight", "conditioner.embedders.1.model.logit_scale", "denoiser.sigmas")
    fused = ("te.attn.in_proj_weight", "te.attn.in_proj_bias", "te.attn.out_proj.weight", "te.text_projection")
    assert not quantised(dict.fromkeys((*names, *fused), dtype)).weights


@pytest.mark.parametrize(
    "scale", ["te.attn.scale_weight", "te.attn.in_proj_weight_scale", "te.attn.in_proj.scale_weight"]
)
def test_a_fused_weights_scale_is_known(scale):
    assert quantised({"te.attn.in_proj_weight": FP8, scale: "F32"}).weights == {"te.attn.in_proj_weight": scale}


@pytest.mark.parametrize(
    ("text", "scaled"),
    [
        ('{"layers": {"a.to_q": {"format": "float8_e4m3fn"}}}', {"model.a.to_q.weight"}),
        ('{"layers": {"model.b": {}}}', {"model.b.weight"}),
        ('{"layers": {}}', set()),
        ("[" * 5000, {"model.a.to_q.weight", "model.b.weight"}),
        ("7", {"model.a.to_q.weight", "model.b.weight"}),
    ],
)
def test_metadata_may_name_the_layers(text, scaled):
    dtypes = {"model.a.to_q.weight": FP8, "model.b.weight": FP8, "model.c.weight": "F16"}
    assert quantised(dtypes, {"_quantization_metadata": text}).weights.keys() == scaled


def test_time_follows_the_number_of_names():
    """Were it the square of it, this would not end within the hour."""
    hostile = {"." * 100_000 + "weight": FP8, "a." * 100_000 + "scale_weight": "F32"}
    hostile |= {f"{number}.scaled_fp8": FP8 for number in range(20_000)}
    hostile |= {f"x{number}.weight": FP8 for number in range(20_000)}
    assert len(quantised(hostile, {"_quantization_metadata": '{"layers": {"q": {}}}'}).weights) > 20_000


def stored(folder, spelling, shards):
    """A base of one scaled layer and one plain one, in one file or with the scales in a shard of their own."""
    torch_of = {word: dtype for dtype, word in WORDS.items()}
    scales = {name.format(m="a"): torch.ones(2).to(torch_of[kind]) for name, kind in SPELLINGS[spelling].items()}
    weights = {"a.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "b.weight": torch.ones(4, 4)}
    if not shards:
        save_file({**weights, **scales}, folder / "base.safetensors")
        return folder / "base.safetensors"
    names = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, tensors in zip(names, (weights, scales), strict=True):
        save_file(tensors, folder / name)
    index = {name: file for file, held in zip(names, (weights, scales), strict=True) for name in held}
    text = str({"weight_map": index}).replace("'", '"')
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(text)
    return folder


@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("spelling", [name for name in SPELLINGS if name != "bitsandbytes, 4 bits"])
def test_the_toolbox_refuses_what_it_cannot_read_as_it_lies(tmp_path, make_adapter, spelling, shards):
    base = stored(tmp_path, spelling, shards)
    weights = Weights.open(base)
    name = next(name for name in weights.slots if name.endswith("_a"))
    with pytest.raises(WaveFTError, match=r"stored with a scale of its own .*plain fp8"):
        weights.read(name)
    with pytest.raises(WaveFTError, match="stored with a scale of its own"):
        merge_files(base, [(make_adapter({name: (4, 4)}), 1.0)], tmp_path.with_name(f"{tmp_path.name}-out.safetensors"))
    assert weights.read(name[:-1] + "b").dtype == torch.float32
