import gc
import itertools

import pytest
import torch
from torch import nn

from waveft_core import Adapter, Layer, Spec, WaveFTError, attach, merge

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
ids = [str(dtype).removeprefix("torch.") for dtype in DTYPES]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=ids)
A, B = "lora_0", "lora_2"
SHAPES = {A: (12, 8), B: (6, 12)}


def awkward(model):
    """Puts -0.0, subnormals and large values among the first layer's entries."""
    weight = model[0].weight
    info = torch.finfo(weight.dtype)
    odd = [-0.0, 0.0, info.smallest_normal / 4, -info.smallest_normal / 2, info.max / 4, -info.max / 8, info.tiny]
    with torch.no_grad():
        weight.view(-1)[:7] = torch.tensor(odd, dtype=torch.float64).to(weight.dtype)
        weight.view(-1)[40:47] = torch.tensor(odd, dtype=torch.float64).to(weight.dtype)
    return model


@pytest.fixture
def snapshot(bits):
    return lambda model: {name: bits(tensor) for name, tensor in model.state_dict().items()}


def expected_weight(weight, updates):
    """round(W0 + sum of (adapter, strength)) in float64: to be compared within rounding."""
    total = weight.detach().double()
    for adapter, name, strength in updates:
        total = total + strength * adapter.delta(name, dtype=torch.float64)
    return total


@every_dtype
@pytest.mark.parametrize("wavelet", ["db1", "db3", "identity"])
@pytest.mark.parametrize("strength", [1.0, -0.7])
def test_merge_is_w_plus_strength_delta_and_undo_is_exact(
    wavelet, strength, dtype, make_mlp, make_adapter, snapshot, bits
):
    model = make_mlp(dtype)
    adapter = make_adapter(SHAPES, 10, wavelet)
    before, base = snapshot(model), model[0].weight.detach().clone()
    merged = merge(model, adapter, strength)
    assert merged.layers == (A, B)
    assert merged.strength == strength
    exact = expected_weight(base, [(adapter, A, strength)])
    bound = exact.abs() * torch.finfo(dtype).eps / 2 * 1.01 + 2e-6 * (dtype != torch.float64) + 1e-14
    assert ((model[0].weight.double() - exact).abs() <= bound).all()
    wide = torch.promote_types(dtype, torch.float32)
    if strength == 1:  # the very bits of the formula, rounded once
        assert torch.equal(model[0].weight, (base.to(wide) + adapter.delta(A, dtype=wide)).to(dtype))
    copy = base.clone()
    assert bits(model[0].weight) == bits(adapter.add_(copy, A, strength))
    merged.undo()
    assert snapshot(model) == before
    merged.undo()  # a second call does nothing
    assert snapshot(model) == before


@every_dtype
@pytest.mark.parametrize("wavelet", ["db1", "db2"])
def test_odd_bits_come_back(wavelet, dtype, make_mlp, make_adapter, snapshot):
    model = awkward(make_mlp(dtype))
    before = snapshot(model)
    adapter = make_adapter({A: (12, 8)}, 96, wavelet, scaling=1e-3)  # every entry is touched
    merged = merge(model, adapter)
    assert snapshot(model) != before
    merged.undo()
    assert snapshot(model) == before
    tuning = attach(model, adapter)
    model(torch.zeros(1, 8, dtype=dtype))
    tuning.detach()
    assert snapshot(model) == before


@every_dtype
def test_what_is_not_finite_in_the_base_stays(dtype, make_mlp, make_adapter, snapshot):
    model = make_mlp(dtype)
    with torch.no_grad():
        model[0].weight.view(-1)[:3] = torch.tensor([float("nan"), float("inf"), -float("inf")]).to(dtype)
    before = snapshot(model)
    merged = merge(model, make_adapter({A: (12, 8)}, 96))
    assert torch.isfinite(model[0].weight).sum() == 93
    merged.undo()
    assert snapshot(model) == before


@every_dtype
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_overlapping_adapters_leave_in_any_order(order, dtype, make_mlp, make_adapter, snapshot):
    model = awkward(make_mlp(dtype))
    states = {frozenset(): snapshot(model)}
    adapters = [
        make_adapter(SHAPES, 20, "db2", seed=1),
        make_adapter(SHAPES, 15, seed=2),
        make_adapter({A: (12, 8)}, 9),
    ]
    strengths = [1.0, -0.5, 0.01]
    for count in (1, 2):  # what each subset alone gives, from a fresh model
        for subset in itertools.combinations(range(3), count):
            fresh = awkward(make_mlp(dtype))
            held = [merge(fresh, adapters[k], strengths[k]) for k in subset]
            states[frozenset(subset)] = snapshot(fresh)
            del held
    merged = [merge(model, adapter, strength) for adapter, strength in zip(adapters, strengths, strict=True)]
    left = {0, 1, 2}
    for k in order:
        merged[k].undo()
        left.remove(k)
        assert snapshot(model) == states[frozenset(left)]
    assert snapshot(model) == states[frozenset()]


@every_dtype
def test_adapters_held_together_round_once(dtype, make_mlp, make_adapter):
    model = make_mlp(dtype)
    base = model[0].weight.detach().clone()
    first, second = make_adapter({A: (12, 8)}, 30, seed=1), make_adapter({A: (12, 8)}, 30, "db3", seed=2)
    held = merge(model, first, 0.9), merge(model, second, -1.1)
    exact = expected_weight(base, [(first, A, 0.9), (second, A, -1.1)])
    half = exact.abs() * torch.finfo(dtype).eps / 2
    bound = half * 1.02 + 4e-6 * (dtype != torch.float64) + 1e-14
    assert ((model[0].weight.double() - exact).abs() <= bound).all()
    held[0].undo()
    held[1].undo()
    assert torch.equal(model[0].weight, base)


@every_dtype
def test_merging_twice_is_twice_the_update(dtype, make_mlp, make_adapter, snapshot):
    model = make_mlp(dtype)
    before, base = snapshot(model), model[0].weight.detach().clone()
    adapter = make_adapter(SHAPES, 10)
    first, second = merge(model, adapter), merge(model, adapter)
    exact = expected_weight(base, [(adapter, A, 2.0)])
    torch.testing.assert_close(
        model[0].weight.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5 * (dtype != torch.float64) + 1e-14
    )
    first.undo()
    alone = awkward_free(make_mlp, dtype, adapter)
    assert torch.equal(model[0].weight, alone)
    second.undo()
    assert snapshot(model) == before


def awkward_free(make_mlp, dtype, adapter):
    fresh = make_mlp(dtype)
    merge(fresh, adapter)
    return fresh[0].weight


@every_dtype
def test_strength_can_be_turned_and_zero_is_w0(dtype, make_mlp, make_adapter, snapshot):
    model = awkward(make_mlp(dtype))
    before = snapshot(model)
    adapter = make_adapter({A: (12, 8)}, 40, "db2", scaling=0.01)
    merged = merge(model, adapter, 0.5)
    half = snapshot(model)
    merged.strength = 0.0
    assert snapshot(model) == before
    merged.strength = 2.0
    assert snapshot(model) not in (before, half)
    merged.strength = 0.5
    assert snapshot(model) == half
    assert merged.strength == 0.5
    merged.undo()
    assert snapshot(model) == before
    merged.strength = 3.0  # of nothing
    assert snapshot(model) == before


def test_merging_with_strength_zero_leaves_the_bits(make_mlp, make_adapter, snapshot):
    model = awkward(make_mlp())
    before = snapshot(model)
    merged = merge(model, make_adapter(SHAPES, 40), 0.0)
    assert snapshot(model) == before
    merged.strength = 1.0
    assert snapshot(model) != before


@every_dtype
def test_an_adapter_is_merged_and_taken_out_while_another_trains(dtype, make_mlp, make_adapter, snapshot):
    model, twin = make_mlp(dtype), make_mlp(dtype)
    before = snapshot(model)
    adapter = make_adapter(SHAPES, 20, "db2", scaling=0.05)
    tunings = [attach(m, Spec(coefficients=16, scaling=1.0, targets=("0", "2"))) for m in (model, twin)]
    optimizers = [torch.optim.SGD(tuning.parameters(), lr=0.05) for tuning in tunings]
    merged = merge(model, adapter)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(dtype)

    def step(m, optimizer):
        m(x).float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step(model, optimizers[0])
    merged.undo()
    # what trained beside the merge is what is left
    alone = make_mlp(dtype)
    held = merge(alone, tunings[0].adapter())
    assert snapshot(model) == before  # a state dict shows W0
    assert torch.equal(model[0].weight, alone[0].weight)
    assert torch.equal(model[2].weight, alone[2].weight)
    del held
    again = merge(model, adapter)
    tunings[0].detach()
    alone = make_mlp(dtype)
    merge(alone, adapter)
    assert torch.equal(model[0].weight, alone[0].weight)
    again.undo()
    assert snapshot(model) == before
    step(twin, optimizers[1])
    tunings[1].detach()
    assert snapshot(twin) == before


def test_a_merge_that_is_dropped_stays(make_mlp, make_adapter, snapshot):
    model = make_mlp()
    before = snapshot(model)
    merge(model, make_adapter(SHAPES, 10))
    gc.collect()
    after = snapshot(model)
    assert after != before
    second = merge(model, make_adapter(SHAPES, 10, seed=5))
    second.undo()
    assert snapshot(model) == after


def test_a_merge_that_is_dropped_while_another_is_held_stays(make_mlp, make_adapter, snapshot):
    model = make_mlp()
    first = merge(model, make_adapter(SHAPES, 10))
    alone = snapshot(model)
    second = merge(model, make_adapter(SHAPES, 10, seed=5))
    del first
    gc.collect()
    second.undo()
    assert snapshot(model) == alone


@every_dtype
@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 3, 3), (4, 2, 3)], ids=str)
def test_convolutions_merge(shape, dtype, make_adapter, bits):
    layer = {2: nn.Linear(6, 4), 3: nn.Conv1d(2, 4, 3), 4: nn.Conv2d(2, 4, 3)}[len(shape)].to(dtype)
    model = nn.ModuleDict({"layer": layer}).requires_grad_(False)
    before = layer.weight.clone()
    adapter = make_adapter({"lora_layer": shape}, 8, "db2")
    merged = merge(model, adapter)
    expected = (before.double() + adapter.delta("lora_layer", dtype=torch.float64)).float()
    torch.testing.assert_close(layer.weight.float(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)
    merged.undo()
    assert bits(layer.weight) == bits(before)


@every_dtype
def test_a_state_dict_is_merged_in_place(dtype, make_mlp, make_adapter, snapshot, bits):
    model = make_mlp(dtype)
    adapter = make_adapter(SHAPES, 10)
    other = make_mlp(dtype)
    merge(other, adapter)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = snapshot(model)
    merged = merge(state, adapter)
    assert {key: bits(value) for key, value in state.items()} == snapshot(other)
    assert snapshot(model) == before
    merged.undo()
    assert {key: bits(value) for key, value in state.items()} == before


def test_a_models_own_state_dict_and_the_model_share_a_ledger(make_mlp, make_adapter, snapshot):
    model = make_mlp()
    before = snapshot(model)
    first = merge(model.state_dict(), make_adapter(SHAPES, 10))
    second = merge(model, make_adapter(SHAPES, 10, "db2"))
    first.undo()
    second.undo()
    assert snapshot(model) == before


@pytest.mark.parametrize("grad", [False, True])
def test_a_merge_by_a_held_state_dict_and_then_a_tuning_on_the_model(grad, make_mlp, make_adapter, snapshot):
    model = make_mlp(grad=grad)
    before, state = snapshot(model), model.state_dict()
    merged = merge(state, make_adapter(SHAPES, 20))
    inside = model[0].weight.detach().clone()
    tuning = attach(model, Spec(coefficients=5, targets=("0", "2")))
    assert not model[0].weight.requires_grad
    assert torch.equal(model[0].weight, inside)
    model(torch.ones(3, 8)).sum().backward()
    assert model[0].weight.grad is None
    assert all(values.grad.any() for values in tuning.parameters())
    tuning.detach()
    assert model[0].weight.requires_grad is grad
    assert torch.equal(model[0].weight, inside)
    merged.undo()
    assert snapshot(model) == before
    del state


@pytest.fixture(scope="module")
def tiny_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=1,
        layers_per_block=1,
        attention_head_dim=8,
        cross_attention_dim=12,
        use_linear_projection=True,
    )
    return unet.requires_grad_(False)


UNET_LAYERS = {
    "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q": (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "input_blocks.3.1.transformer_blocks.0.attn1.to_q",
        (16, 16),
    ),
    "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k": (
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "middle_block.1.transformer_blocks.0.attn2.to_k",
        (16, 12),
    ),
    "lora_unet_output_blocks_1_1_transformer_blocks_0_attn2_to_out_0": (
        "up_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0",
        "output_blocks.1.1.transformer_blocks.0.attn2.to_out.0",
        (16, 16),
    ),
    "lora_unet_input_blocks_1_0_in_layers_2": (
        "down_blocks.0.resnets.0.conv1",
        "input_blocks.1.0.in_layers.2",
        (8, 8, 3, 3),
    ),
}


@pytest.mark.parametrize("kind", ["module", "diffusers state dict", "original checkpoint", "mapping", "wrapped"])
def test_a_unet_in_each_of_its_shapes(kind, tiny_unet, make_adapter):
    adapter = make_adapter({name: shape for name, (_, _, shape) in UNET_LAYERS.items()}, 20)
    plain = {key: value.clone() for key, value in tiny_unet.state_dict().items()}
    places = {name: f"{path}.weight" for name, (path, _, _) in UNET_LAYERS.items()}
    state, target = plain, plain
    if kind == "original checkpoint":
        places = {name: f"model.diffusion_model.{path}.weight" for name, (_, path, _) in UNET_LAYERS.items()}
        pairs = [(f"model.diffusion_model.{o}.weight", plain[f"{d}.weight"]) for d, o, _ in UNET_LAYERS.values()]
        state = target = {**dict(pairs), "first_stage_model.decoder.conv_in.weight": torch.zeros(2, 2)}
    elif kind != "diffusers state dict":
        state = tiny_unet.state_dict()
        target = {"module": tiny_unet, "mapping": {"unet": tiny_unet}, "wrapped": nn.ModuleDict({"module": tiny_unet})}[
            kind
        ]
    before = {key: value.clone() for key, value in state.items()}
    merged = merge(target, adapter)
    for key, value in state.items():
        name = next((name for name, place in places.items() if place == key), None)
        if name is None:
            assert torch.equal(value, before[key]), key
        else:
            assert torch.equal(value, before[key] + adapter.delta(name)), key
    merged.undo()
    assert all(torch.equal(value, before[key]) for key, value in state.items())


def test_components_are_applied_whole(make_adapter, snapshot):
    models = {
        "unet": nn.ModuleDict({"to_q": nn.Linear(8, 12)}),
        "te1": nn.ModuleDict({"text_model": nn.ModuleDict({"q_proj": nn.Linear(4, 4)})}),
        "te2": nn.ModuleDict({"q_proj": nn.Linear(6, 4)}),
    }
    for model in models.values():
        model.requires_grad_(False)
    adapter = make_adapter(
        {"lora_unet_to_q": (12, 8), "lora_te1_text_model_q_proj": (4, 4), "lora_te2_text_model_q_proj": (4, 6)}
    )
    before = {part: snapshot(model) for part, model in models.items()}
    merged = merge(models, adapter)
    assert all(snapshot(model) != before[part] for part, model in models.items())
    merged.undo()
    with pytest.raises(WaveFTError, match="name those to leave out"):
        merge({"unet": models["unet"]}, adapter)
    with pytest.raises(WaveFTError, match="name those to leave out"):
        merge({"unet": models["unet"], "te1": models["te1"]}, adapter, leave_out={"te1"})
    assert {part: snapshot(model) for part, model in models.items()} == before
    merged = merge({"unet": models["unet"]}, adapter, leave_out=("te1", "te2"))
    assert merged.layers == ("lora_unet_to_q",)
    assert snapshot(models["te1"]) == before["te1"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_model_that_is_cast_while_merged_is_moved_with(dtype, make_mlp, make_adapter, snapshot):
    model, expected = make_mlp(), make_mlp()
    adapter = make_adapter(SHAPES, 10)
    merged = merge(model, adapter)
    model.to(dtype)
    merged.undo()
    assert snapshot(model) == snapshot(expected.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("start", [torch.float32, torch.float64, torch.float16], ids=str)
def test_two_adapters_in_a_model_that_is_cast(start, dtype, make_mlp, make_adapter, snapshot):
    model, expected = make_mlp(start), make_mlp(start)
    adapters = [make_adapter(SHAPES, 20, "db2", seed=seed) for seed in range(3)]
    merged = [merge(model, adapter) for adapter in adapters]
    model.to(dtype)
    expected.to(dtype)
    merged[1].strength = 0.5  # rewrites all three
    exact = expected_weight(expected[0].weight, list(zip(adapters, [A] * 3, [1.0, 0.5, 1.0], strict=True)))
    torch.testing.assert_close(model[0].weight.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)
    for part in merged:
        part.undo()
    assert snapshot(model) == snapshot(expected)


def test_arithmetic_is_float64_on_a_base_that_became_float64(make_mlp, make_adapter):
    model = make_mlp()
    merged = merge(model, make_adapter(SHAPES, 20, "db2"), 0.5)
    model.double()
    merged.strength = 1.0
    expected = make_mlp().double()
    merge(expected, make_adapter(SHAPES, 20, "db2"))
    torch.testing.assert_close(model[0].weight, expected[0].weight, rtol=0, atol=1e-14)


def write_in_place(weight):
    with torch.no_grad():
        weight.view(-1)[:] = weight.view(-1) * 1.5


def replace_data(weight):
    weight.data = weight.data + 0.25


@pytest.mark.parametrize("foreign", [write_in_place, replace_data])
@pytest.mark.parametrize("then", ["undo", "strength", "merge"])
def test_a_foreign_write_is_refused_by_name_and_kept(foreign, then, make_mlp, make_adapter, snapshot):
    model = make_mlp()
    merged = merge(model, make_adapter(SHAPES, 40))
    foreign(model[2].weight)
    after = snapshot(model)
    with pytest.raises(WaveFTError, match='layer "2": expected the weight as it was last written, got another content'):
        {
            "undo": merged.undo,
            "strength": lambda: setattr(merged, "strength", 0.5),
            "merge": lambda: merge(model, make_adapter(SHAPES, 10, seed=9)),
        }[then]()
    assert snapshot(model) == after
    assert merged.strength == 1.0


def test_an_undo_that_is_refused_leaves_three_merges_bits(make_mlp, make_adapter, snapshot):
    for seed in range(5):  # three sums in another order round otherwise somewhere
        model = make_mlp()
        before = snapshot(model)
        merged = [merge(model, make_adapter(SHAPES, 60, seed=3 * seed + k)) for k in range(3)]
        own = model[2].weight.clone()
        with torch.no_grad():
            model[2].weight.mul_(2)
        inside = snapshot(model)
        with pytest.raises(WaveFTError, match='layer "2": expected the weight as it was last written'):
            merged[0].undo()
        assert snapshot(model) == inside
        with torch.no_grad():
            model[2].weight.copy_(own)
        for part in merged:
            part.undo()
        assert snapshot(model) == before


def test_loading_a_state_dict_into_a_merged_model_is_refused_at_undo(make_mlp, make_adapter, snapshot):
    model = make_mlp()
    merged = merge(model, make_adapter(SHAPES, 10))
    model.load_state_dict(make_mlp(seed=9).state_dict())
    after = snapshot(model)
    with pytest.raises(WaveFTError, match="something else wrote to it"):
        merged.undo()
    assert snapshot(model) == after


def test_a_write_of_the_same_bits_is_no_foreign_write(make_mlp, make_adapter, snapshot):
    model = make_mlp()
    before = snapshot(model)
    merged = merge(model, make_adapter(SHAPES, 10))
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.clone())
    merged.undo()
    assert snapshot(model) == before


def huge(value=3e4, scaling=1.0):
    layers = {
        name: Layer(torch.tensor([1.0, value]), torch.tensor([0, 9], dtype=torch.int32), shape)
        for name, shape in SHAPES.items()
    }
    return Adapter(layers, "identity", scaling=scaling)


def test_overflow_in_fp16_is_refused_with_everything_put_back(make_mlp, snapshot):
    model = make_mlp(torch.float16)
    before = snapshot(model)
    with pytest.raises(WaveFTError, match=r'layer "0": expected a finite merged weight, got 1 entries beyond float16'):
        merge(model, huge(), 3.0)
    assert snapshot(model) == before
    merged = merge(model, huge(), 1.0)
    inside = snapshot(model)
    with pytest.raises(WaveFTError, match="finite merged weight"):
        merged.strength = 3.0
    assert merged.strength == 1.0
    assert snapshot(model) == inside
    with pytest.raises(WaveFTError, match="finite merged weight"):
        merge(model, huge(), 1.5)  # each alone is finite, the two together are not
    assert snapshot(model) == inside
    merged.undo()
    assert snapshot(model) == before


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 10**400, None, "1"])
def test_a_strength_that_is_not_finite_is_refused(strength, make_mlp, make_adapter, snapshot):
    model = make_mlp()
    before = snapshot(model)
    with pytest.raises(WaveFTError):
        merge(model, make_adapter(SHAPES, 10), strength)
    assert snapshot(model) == before


def expanded(model):
    model[2].weight = nn.Parameter(torch.zeros(6, 1).expand(6, 12), requires_grad=False)


def on_meta(model):
    model[2].to("meta")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (expanded, r'layer "2": expected a weight whose entries have memory of their own, got strides \(1, 0\)'),
        (on_meta, 'layer "2": expected a weight with data, got a meta tensor. Load the model first'),
    ],
)
def test_a_weight_that_cannot_hold_an_update_is_refused_before_any_change(spoil, message, make_mlp, make_adapter, bits):
    model = make_mlp()
    spoil(model)
    before = bits(model[0].weight)
    for call in (
        lambda: merge(model, make_adapter(SHAPES, 10)),
        lambda: attach(model, make_adapter(SHAPES, 10)),
        lambda: attach(model, Spec(coefficients=4, targets=("0", "2"))),
    ):
        with pytest.raises(WaveFTError, match=message):
            call()
        assert bits(model[0].weight) == before
        assert not model[0]._forward_hooks


def test_a_quantised_weight_is_refused_before_any_change(make_mlp, make_adapter, bits):
    model = make_mlp()
    model[2].weight = nn.Parameter(torch.zeros(6, 12, dtype=torch.int8), requires_grad=False)
    before = bits(model[0].weight)
    with pytest.raises(
        WaveFTError, match=r'layer "2": expected a weight of float32, .*got int8\..*or attach the adapter'
    ):
        merge(model, make_adapter(SHAPES, 10))
    assert bits(model[0].weight) == before


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_an_eight_bit_float_is_rounded_once_from_the_float32_sum_and_comes_back(dtype, make_adapter, pywt_delta, bits):
    generator = torch.Generator().manual_seed(3)
    base = (torch.randn(12, 8, generator=generator) / 4).to(dtype)
    held, adapter = {"0.weight": base.clone()}, make_adapter({A: (12, 8)}, 20, wavelet="db2")
    merged = merge(held, adapter, 0.5)
    exact = base.double() + 0.5 * torch.from_numpy(pywt_delta(adapter, A))
    spacing = torch.finfo(dtype).eps * exact.abs().clamp(min=torch.finfo(dtype).smallest_normal)
    assert bool(((held["0.weight"].double() - exact).abs() <= spacing / 2 * 1.001).all())
    assert bits(held["0.weight"]) != bits(base)
    merged.undo()
    assert bits(held["0.weight"]) == bits(base)


def test_an_eight_bit_float_that_overflows_is_refused(make_adapter, bits):
    held = {"0.weight": torch.full((12, 8), 440.0).to(torch.float8_e4m3fn)}
    before = bits(held["0.weight"])
    with pytest.raises(WaveFTError, match=r"finite merged weight.*float8_e4m3fn"):
        merge(held, make_adapter({A: (12, 8)}, 20, scaling=300.0))
    assert bits(held["0.weight"]) == before


def test_a_convolution_that_lies_channels_last_gets_the_weights_of_one_that_does_not(make_adapter, bits):
    plain = nn.Sequential(nn.Conv2d(4, 6, 3)).requires_grad_(False)
    last = nn.Sequential(nn.Conv2d(4, 6, 3)).requires_grad_(False)
    last.load_state_dict(plain.state_dict())
    last.to(memory_format=torch.channels_last)
    before, adapter = bits(plain[0].weight), make_adapter({A: (6, 4, 3, 3)}, 30, wavelet="db2")
    first, second = merge(plain, adapter), merge(last, adapter)
    assert torch.equal(plain[0].weight, last[0].weight)
    assert not last[0].weight.is_contiguous()
    assert bits(plain[0].weight) != before
    first.undo()
    second.undo()
    assert bits(plain[0].weight) == bits(last[0].weight) == before


def test_another_shape_is_refused_before_any_change(make_mlp, make_adapter, snapshot):
    model = make_mlp()
    before = snapshot(model)
    with pytest.raises(WaveFTError, match='layer "lora_2", weight of "2"'):
        merge(model, make_adapter({A: (12, 8), B: (12, 6)}))
    assert snapshot(model) == before


def test_layers_that_share_a_weight_are_refused(make_adapter):
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}).requires_grad_(False)
    model["b"].weight = model["a"].weight
    before = model["a"].weight.clone()
    with pytest.raises(WaveFTError, match="weight of its own"):
        merge(model, make_adapter({"lora_a": (4, 4), "lora_b": (4, 4)}))
    assert torch.equal(model["a"].weight, before)


def test_a_weight_that_is_computed_from_others_is_refused(make_adapter):
    # a merge would be written to a tensor that the next forward makes anew
    model = nn.ModuleDict({"a": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))}).requires_grad_(False)
    x = torch.eye(4)
    before = model["a"](x)
    try:
        merge(model, make_adapter({"lora_a": (4, 4)}))
    except WaveFTError:
        return
    assert not torch.equal(model["a"](x), before), "the merge said nothing and did nothing"


def test_merging_under_inference_mode(make_mlp, make_adapter, snapshot):
    with torch.inference_mode():
        model = make_mlp()
        before = snapshot(model)
        merged = merge(model, make_adapter(SHAPES, 10))
        assert snapshot(model) != before
        merged.strength = 0.5
        merged.undo()
        assert snapshot(model) == before


def test_a_model_made_under_inference_mode_is_merged_outside_it_or_refused_in_words(make_mlp, make_adapter, snapshot):
    with torch.inference_mode():
        model = make_mlp()
    before = snapshot(model)
    try:
        merge(model, make_adapter(SHAPES, 10)).undo()
    except (WaveFTError, RuntimeError) as error:  # PyTorch's own words will do
        assert "inference" in str(error)
    assert snapshot(model) == before


def test_weights_that_require_grad_are_merged_and_keep_their_flag(make_mlp, make_adapter, snapshot):
    model = make_mlp(grad=True)
    before = snapshot(model)
    merged = merge(model, make_adapter(SHAPES, 10))
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())
    model(torch.ones(1, 8)).sum().backward()
    merged.undo()
    assert snapshot(model) == before


def test_what_is_not_touched_keeps_its_bits(make_mlp, bits):
    model = make_mlp()
    base = model[0].weight.detach().clone()
    merge(model, huge(1.0))
    changed = (model[0].weight != base).nonzero().tolist()
    assert changed == [[0, 0], [1, 1]]
    assert bits(model[2].bias) == bits(make_mlp()[2].bias)
