import json
import warnings
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

from waveft_core import WaveFTError
from waveft_core.format.keys import layer_names
from waveft_core.interop.lora import deltas
from waveft_core.toolbox.extract import extract_deltas

ORIGINAL = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
DIFFUSERS = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def write(path, tensors, metadata=None):
    safetensors.torch.save_file({key: held.contiguous() for key, held in tensors.items()}, path, metadata)
    return path


def slots_of(shapes, paths=None):
    return SimpleNamespace(
        slots={
            name: SimpleNamespace(name=name, path=(paths or {}).get(name, name), component=None, shape=shape)
            for name, shape in shapes.items()
        },
        read=dict,
    )


def only(path, base=None):
    ((name, delta),) = deltas(path, base)
    return name, delta


def lora(name="lora_x", down="lora_down.weight", up="lora_up.weight", alpha=3.0, rank=4, m=6, n=10):
    tensors = {f"{name}.{down}": random(rank, n), f"{name}.{up}": random(m, rank, seed=1)}
    return tensors if alpha is None else {**tensors, f"{name}.alpha": torch.tensor(alpha)}


def product(tensors):
    down, up = (next(held for key, held in tensors.items() if word in key) for word in ("down", "up"))
    return up @ down


# --- the formulas, each against the sum over ranks or entries written out


def test_lora_is_alpha_over_rank_up_down(tmp_path):
    name, delta = only(write(tmp_path / "a", lora()))
    tensors = lora()
    expected = torch.zeros(6, 10)
    for r in range(4):
        expected += 3.0 / 4 * torch.outer(tensors["lora_x.lora_up.weight"][:, r], tensors["lora_x.lora_down.weight"][r])
    assert (name, delta.dtype) == ("lora_x", torch.float32)
    torch.testing.assert_close(delta, expected)
    assert torch.equal(only(write(tmp_path / "b", lora(alpha=None)))[1], product(lora()))  # no alpha: alpha = rank


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_product_is_made_in_float32_or_wider(dtype, tmp_path):
    tensors = {key: held.to(dtype) for key, held in lora(alpha=None).items()}
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    delta = only(write(tmp_path / "a", tensors))[1]
    assert delta.dtype == wide
    assert torch.equal(delta, product({key: held.to(wide) for key, held in tensors.items()}))


def test_locon_of_a_convolution(tmp_path):
    down, up = random(2, 3, 3, 3), random(5, 2, 1, 1, seed=1)
    tensors = {"lora_x.lora_down.weight": down, "lora_x.lora_up.weight": up, "lora_x.alpha": torch.tensor(1.0)}
    _, delta = only(write(tmp_path / "a", tensors))
    x = random(1, 3, 7, 7, seed=2)
    expected = 0.5 * nn.functional.conv2d(nn.functional.conv2d(x, down), up)
    torch.testing.assert_close(nn.functional.conv2d(x, delta), expected, rtol=1e-4, atol=1e-4)


def test_locon_with_a_tucker_core(tmp_path):
    down, mid, up = random(2, 3, 1, 1), random(2, 2, 3, 3, seed=3), random(5, 2, 1, 1, seed=1)
    tensors = {"lora_x.lora_down.weight": down, "lora_x.lora_mid.weight": mid, "lora_x.lora_up.weight": up}
    _, delta = only(write(tmp_path / "a", tensors))
    x, conv = random(1, 3, 7, 7, seed=2), nn.functional.conv2d
    torch.testing.assert_close(conv(x, delta), conv(conv(conv(x, down), mid), up), rtol=1e-4, atol=1e-4)


def test_loha_is_the_product_entry_by_entry(tmp_path):
    parts = {
        "w1_a": random(6, 2),
        "w1_b": random(2, 8, seed=1),
        "w2_a": random(6, 2, seed=2),
        "w2_b": random(2, 8, seed=3),
    }
    tensors = {f"lora_x.hada_{key}": held for key, held in parts.items()}
    _, delta = only(write(tmp_path / "a", {**tensors, "lora_x.alpha": torch.tensor(1.0)}))
    expected = 0.5 * (parts["w1_a"] @ parts["w1_b"]) * (parts["w2_a"] @ parts["w2_b"])
    torch.testing.assert_close(delta, expected)


@pytest.mark.parametrize("first", ["whole", "product"])
@pytest.mark.parametrize("second", ["whole", "product"])
def test_lokr_in_its_four_forms(first, second, tmp_path):
    a, b, c, d = random(2, 3), random(3, 4, seed=1), random(3, 2, seed=2), random(2, 5, seed=3)
    tensors = {"lora_x.alpha": torch.tensor(4.0)}
    scale = 1.0  # where nothing is a product, alpha means nothing
    if first == "whole":
        tensors["lora_x.lokr_w1"] = a @ b
    else:
        tensors |= {"lora_x.lokr_w1_a": a, "lora_x.lokr_w1_b": b}
        scale = 4.0 / 3
    if second == "whole":
        tensors["lora_x.lokr_w2"] = c @ d
    else:
        tensors |= {"lora_x.lokr_w2_a": c, "lora_x.lokr_w2_b": d}
        scale = 4.0 / 2
    _, delta = only(write(tmp_path / "a", tensors))
    assert delta.shape == (6, 20)
    one, two = a @ b, c @ d
    for i, j, k, l in ((0, 0, 0, 0), (1, 3, 2, 4), (1, 0, 0, 3)):  # noqa: E741
        assert float(delta[3 * i + k, 5 * j + l]) == pytest.approx(scale * float(one[i, j] * two[k, l]), rel=1e-4)


def test_lokr_of_a_convolution_whole_and_as_a_matrix(tmp_path):
    one, two = random(2, 2), random(3, 4, 3, 3, seed=1)
    base = slots_of({"lora_x": (6, 8, 3, 3)})
    whole = only(write(tmp_path / "a", {"lora_x.lokr_w1": one, "lora_x.lokr_w2": two}), base)[1]
    assert float(whole[4, 6, 1, 2]) == pytest.approx(float(one[1, 1] * two[1, 2, 1, 2]))
    flat = {"lora_x.lokr_w1": one, "lora_x.lokr_w2": two.reshape(3, 36)}
    assert torch.equal(only(write(tmp_path / "b", flat), base)[1], whole)
    left, right, core = random(2, 3), random(2, 4, seed=1), random(2, 2, 3, 3, seed=2)
    tucker = {"lora_x.lokr_w1": one, "lora_x.lokr_w2_a": left, "lora_x.lokr_w2_b": right, "lora_x.lokr_t2": core}
    kernel = torch.einsum("abhw,ao,bi->oihw", core, left, right)
    got = only(write(tmp_path / "c", tucker), base)[1]
    torch.testing.assert_close(got[3:, :4], one[1, 0] * kernel)


def test_a_full_difference(tmp_path):
    whole = {"lora_x.diff": random(4, 3, 3, 3), "lora_y.diff": random(4, 6).half()}
    got = dict(deltas(write(tmp_path / "a", whole)))
    assert torch.equal(got["lora_x"], whole["lora_x.diff"])
    assert torch.equal(got["lora_y"], whole["lora_y.diff"].float())


# --- names


@pytest.mark.parametrize(
    ("key", "down", "up"),
    [
        (ORIGINAL, "lora_down.weight", "lora_up.weight"),
        ("lora_unet_" + DIFFUSERS.replace(".", "_"), "lora_down.weight", "lora_up.weight"),
        (f"unet.{DIFFUSERS}", "lora_A.weight", "lora_B.weight"),
        (f"unet.{DIFFUSERS}", "lora_A.default.weight", "lora_B.default.weight"),
        (f"unet.{DIFFUSERS}", "lora.down.weight", "lora.up.weight"),
        (DIFFUSERS, "lora_A.weight", "lora_B.weight"),
    ],
)
@pytest.mark.parametrize("base", ["none", "checkpoint", "diffusers"])
def test_every_spelling_is_the_originals_name(key, down, up, base, tmp_path):
    weights = None
    if base == "checkpoint":
        weights = slots_of(sdxl_names(), {ORIGINAL: "input_blocks.4.1.transformer_blocks.0.attn1.to_q"})
    elif base == "diffusers":
        weights = slots_of({ORIGINAL: (6, 10)}, {ORIGINAL: DIFFUSERS})
    name, delta = only(write(tmp_path / "a", lora(key, down, up)), weights)
    assert name == ORIGINAL
    torch.testing.assert_close(delta, 0.75 * product(lora()))


def sdxl_names():
    blocks = ["input_blocks_4_1", "input_blocks_5_1", "input_blocks_7_1", "input_blocks_8_1", "middle_block_1"]
    blocks += [f"output_blocks_{index}_1" for index in range(6)]
    return {f"lora_unet_{block}_transformer_blocks_0_attn1_to_q": (6, 10) for block in blocks}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("unet.mid_block.attentions.0.proj_in", "lora_unet_middle_block_1_proj_in"),
        ("unet.up_blocks.1.attentions.2.proj_out", "lora_unet_output_blocks_5_1_proj_out"),
        ("unet.down_blocks.2.resnets.1.conv1", "lora_unet_input_blocks_8_0_in_layers_2"),
        ("unet.down_blocks.1.resnets.0.conv_shortcut", "lora_unet_input_blocks_4_0_skip_connection"),
        ("unet.down_blocks.0.downsamplers.0.conv", "lora_unet_input_blocks_3_0_op"),
        ("unet.time_embedding.linear_2", "lora_unet_time_embed_2"),
        ("unet.conv_in", "lora_unet_input_blocks_0_0"),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1", "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        ("text_encoder_2.encoder.layers.0.mlp.fc1", "lora_te2_text_model_encoder_layers_0_mlp_fc1"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1", "lora_te2_text_model_encoder_layers_0_mlp_fc1"),
        ("lora_unet_mid_block_resnets_1_time_emb_proj", "lora_unet_middle_block_2_emb_layers_1"),
        ("lora_unet_add_embedding_linear_1", "lora_unet_label_emb_0_0"),
    ],
)  # fmt: skip
def test_names_by_sdxls_count(path, name, tmp_path):
    assert only(write(tmp_path / "a", lora(path, alpha=None)))[0] == name


def test_the_count_is_the_one_of_the_key_rules(tmp_path):
    """The whole UNet of diffusers, by `layer_names`: every flat diffusers name gives the same."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    config = {
        "block_out_channels": (32, 64, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "cross_attention_dim": 16,
        "transformer_layers_per_block": (1, 2, 3),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 80,
    }
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**config)
    paths = [path for path, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert len(paths) > 100
    names = layer_names([path for path, _ in unet.named_modules()])
    flat = {f"lora_unet_{path.replace('.', '_')}.diff": torch.zeros(2, 2) for path in paths}
    assert {name for name, _ in deltas(write(tmp_path / "a", flat))} == {names[path] for path in paths}
    for path in paths[::17]:
        assert only(write(tmp_path / "b", {f"unet.{path}.diff": torch.zeros(2, 2)}))[0] == names[path]
        with_base = only(
            write(tmp_path / "b", {f"unet.{path}.diff": torch.zeros(unet.get_submodule(path).weight.shape)}), unet
        )
        assert with_base[0] == names[path]


def test_any_other_models_paths(tmp_path):
    model = nn.ModuleDict({"encoder": nn.ModuleDict({"query": nn.Linear(10, 6)})})
    tensors = lora("encoder.query", "lora_A.weight", "lora_B.weight")
    assert only(write(tmp_path / "a", tensors))[0] == "lora_encoder_query"
    name, delta = only(write(tmp_path / "a", tensors), model)
    assert (name, delta.shape) == ("lora_encoder_query", (6, 10))


def test_a_base_of_another_layout_is_not_counted_as_sdxl(tmp_path):
    base = slots_of({ORIGINAL: (6, 10)}, {ORIGINAL: "input_blocks.4.1.transformer_blocks.0.attn1.to_q"})
    with pytest.raises(WaveFTError, match=r"expected one of the base's.*as a diffusers folder"):
        deltas(write(tmp_path / "a", lora(f"unet.{DIFFUSERS}")), base)


def test_a_base_of_another_layout_is_found_by_the_spellings_that_a_program_knows(tmp_path):
    base = slots_of({ORIGINAL: (6, 10)}, {ORIGINAL: "input_blocks.4.1.transformer_blocks.0.attn1.to_q"})
    known = {f"lora_unet_{DIFFUSERS.replace('.', '_')}": ORIGINAL}
    for called in (f"unet.{DIFFUSERS}", next(iter(known))):
        ((name, delta),) = deltas(write(tmp_path / "a", lora(called)), base, known)
        assert (name, delta.shape) == (ORIGINAL, (6, 10))


# --- PEFT's and diffusers' own files


@pytest.mark.parametrize("rslora", [False, True])
def test_a_folder_that_peft_saves(rslora, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peft = pytest.importorskip("peft", reason="peft is not installed: its own folders are the oracle here")
        model = nn.ModuleDict({"a": nn.Linear(10, 6), "b": nn.Linear(8, 4), "c": nn.Conv2d(3, 5, 3)})
        config = peft.LoraConfig(
            r=4, lora_alpha=6, target_modules=["a", "b", "c"], init_lora_weights=False, use_rslora=rslora,
            rank_pattern={"b": 2}, alpha_pattern={"b": 5},
        )  # fmt: skip
        wrapped = peft.get_peft_model(model, config)
        wrapped.save_pretrained(tmp_path)
    got = dict(deltas(tmp_path, model_like(model)))
    assert got.keys() == {"lora_a", "lora_b", "lora_c"}
    for name, delta in got.items():
        expected = wrapped.base_model.model[name[-1]].get_delta_weight("default").detach()
        torch.testing.assert_close(delta, expected, rtol=1e-5, atol=1e-6)
    assert dict(deltas(tmp_path / "adapter_model.safetensors")).keys() == got.keys()
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(WaveFTError, match=r"expected adapter_config.json beside it.*lora_alpha"):
        deltas(tmp_path)


def model_like(model):
    return {"a.weight": torch.zeros(6, 10), "b.weight": torch.zeros(4, 8), "c.weight": torch.zeros(5, 3, 3, 3)}


def test_diffusers_keeps_alpha_in_the_metadata(tmp_path):
    config = {"unet.lora_alpha": 8, "unet.r": 4, "unet.alpha_pattern": {}, "unet.use_dora": False}
    tensors = lora(f"unet.{DIFFUSERS}", "lora_A.weight", "lora_B.weight", alpha=None)
    path = write(tmp_path / "a", tensors, {"lora_adapter_metadata": json.dumps(config)})
    torch.testing.assert_close(only(path)[1], 2.0 * product(lora()))
    path = write(tmp_path / "b", tensors, {"lora_adapter_metadata": json.dumps({**config, "unet.use_dora": True})})
    with pytest.raises(WaveFTError, match="expected a LoRA, got DoRA"):
        deltas(path)


def test_the_folder_of_another_kind_is_refused(tmp_path):
    write(tmp_path / "adapter_model.safetensors", lora("base_model.model.a", "lora_A.weight", "lora_B.weight", None))
    for config, message in (
        ({"peft_type": "LOKR"}, "peft_type: expected \"LORA\", got 'LOKR'"),
        ({"peft_type": "LORA", "lora_alpha": "x"}, "lora_alpha: expected a number, got 'x'"),
        ({"use_dora": True}, "got DoRA"),
        ([], "expected a JSON object, got list"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(WaveFTError, match=message):
            list(deltas(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(WaveFTError, match="got other than JSON"):
        deltas(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(WaveFTError, match=r'expected PEFT.s adapter_model\.safetensors, got "adapter_config\.json"'):
        deltas(tmp_path)


# --- refusals


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("lora_x.diff_b", "a bias's difference"),
        ("lora_x.dora_scale", "a DoRA magnitude"),
        ("base_model.model.a.lora_magnitude_vector", "a DoRA magnitude"),
        ("lora_x.w_norm", "a norm's difference"),
        ("lora_x.scalar", "a tensor of no known kind"),
        ("lora_x.waveft_values", "a tensor of no known kind"),
        ("alpha", "a tensor of no known kind"),
    ],
)
def test_unknown_tensors_are_refused_by_name_before_the_first_layer(key, why, tmp_path):
    path = write(tmp_path / "a", {**lora(), key: torch.ones(2)})
    with pytest.raises(WaveFTError, match=rf'tensor "{key}": expected LoRA, .*got {why}.*'):
        deltas(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"lora_x.lora_down.weight": random(4, 10)},
        {"lora_x.lora_down.weight": random(4, 10), "lora_x.lora_up.weight": random(6, 3)},
        {**lora(), "lora_x.diff": random(6, 10)},
        {"lora_x.lokr_w1": random(2, 2)},
        {"lora_x.lokr_w1": random(2, 2), "lora_x.lokr_w2_a": random(2, 2)},
        {"lora_x.lokr_w1": random(2, 2), "lora_x.lokr_w2": random(2, 2), "lora_x.lokr_t2": random(2, 2, 3, 3)},
        {"lora_x.lokr_w1": random(2, 2), "lora_x.lokr_w1_a": random(2, 2), "lora_x.lokr_w2": random(2, 2)},
        {"lora_x.hada_w1_a": random(2, 2)},
        {"lora_x.alpha": torch.tensor(1.0)},
        {**lora(alpha=None), "lora_x.alpha": torch.ones(3)},
    ],
    ids=str,
)
def test_layers_whose_tensors_do_not_fit_are_refused_by_name(tensors, tmp_path):
    with pytest.raises(WaveFTError, match=r'layer "lora_x": expected those of one LoRA, .*got .*\[.*damaged'):
        list(deltas(write(tmp_path / "a", tensors)))


def test_files_for_another_model_are_refused(tmp_path):
    path = write(tmp_path / "a", lora())
    with pytest.raises(WaveFTError, match=r'layer "lora_x": expected one of the base\'s.*Nearest: "lora_y"'):
        deltas(path, slots_of({"lora_y": (6, 10)}))
    with pytest.raises(WaveFTError, match=r'layer "lora_x": expected a difference of \[6, 8\], got \[6, 10\]'):
        list(deltas(path, slots_of({"lora_x": (6, 8)})))
    twice = {**lora(ORIGINAL), **lora(f"unet.{DIFFUSERS}")}
    with pytest.raises(WaveFTError, match=rf'layer "{ORIGINAL}": expected it once, got "{ORIGINAL}" and "unet.down'):
        deltas(write(tmp_path / "b", twice))
    with pytest.raises(WaveFTError, match="expected some layers, got none"):
        deltas(write(tmp_path / "c", {}))
    with pytest.raises(WaveFTError, match=r"expected a .safetensors file, got none there"):
        deltas(tmp_path / "no.safetensors")


def test_a_one_by_one_convolution_may_be_stored_as_a_matrix(tmp_path):
    _, delta = only(write(tmp_path / "a", lora()), slots_of({"lora_x": (6, 10, 1, 1)}))
    assert delta.shape == (6, 10, 1, 1)


def test_a_lora_becomes_an_adapter_as_good_as_its_coefficients(tmp_path):
    path = write(tmp_path / "a", lora(m=8, n=12))
    adapter = extract_deltas(deltas(path), coefficients=96)
    torch.testing.assert_close(adapter.delta("lora_x"), only(path)[1], rtol=1e-5, atol=1e-5)
    few = extract_deltas(deltas(path), energy=0.9)
    left = (few.delta("lora_x") - only(path)[1]).square().sum() / only(path)[1].square().sum()
    assert 0 < left <= 0.1
