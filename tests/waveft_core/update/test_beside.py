import copy
import warnings

import pytest
import torch
from torch import nn

from waveft_core import Adapter, Spec, WaveFTError, attach, merge

BASES = [
    pytest.param("db1", "periodization", id="db1"),
    pytest.param("db3", "periodization", id="db3"),
    pytest.param("coif1", "zero", id="coif1-zero"),
    pytest.param("identity", "periodization", id="identity"),
]
SHAPES = {"lora_0": (12, 8), "lora_2": (6, 12)}


def run(model, x):
    """The output and every gradient of one backward pass."""
    x = x.clone().requires_grad_(True)
    output = model(x)
    (output.float() * torch.arange(output.shape[-1])).tanh().sum().backward()
    return [output.detach(), x.grad]


@pytest.mark.parametrize(("wavelet", "mode"), BASES)
def test_beside_the_weight_gives_the_numbers_of_in_the_weight(wavelet, mode, make_mlp, make_adapter):
    adapter = make_adapter(SHAPES, 30, wavelet=wavelet, mode=mode, scaling=0.7, dtype=torch.float64)
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    found = []
    for beside in (False, True):
        model = make_mlp(torch.float64)
        tuning = attach(model, adapter, beside=beside)
        assert set(tuning.ways.values()) == {"beside" if beside else "weight"}
        tuning.strength = 0.6
        results = run(model, x)
        found.append([*results, *(values.grad for values in tuning.parameters())])
    for inside, outside in zip(*found, strict=True):
        torch.testing.assert_close(outside, inside, rtol=1e-10, atol=1e-12)


def test_a_half_precision_output_is_rounded_once_from_float32(make_mlp, make_adapter):
    adapter = make_adapter({"lora_0": (12, 8)}, 40)
    model = nn.Sequential(make_mlp()[0]).bfloat16()
    x = torch.randn(9, 8).bfloat16()
    base = model(x)
    attach(model, adapter, beside=True)
    exact = base.double() + x.double() @ adapter.delta("lora_0", torch.float64).t()
    assert bool(((model(x).double() - exact).abs() <= torch.finfo(torch.bfloat16).eps / 2 * exact.abs() * 1.001).all())


def test_the_weight_is_never_touched_and_off_is_the_base_bit_for_bit(make_mlp, make_adapter, bits):
    model = make_mlp()
    x = torch.randn(4, 8)
    before, output = [bits(parameter) for parameter in model.parameters()], bits(model(x))
    tuning = attach(model, make_adapter(SHAPES, 10), beside=True)
    assert bits(model(x)) != output
    with tuning.disabled():
        assert bits(model(x)) == output
    tuning.strength = 0
    assert bits(model(x)) == output
    tuning.strength = 1
    assert set(model.state_dict()) == {"0.weight", "2.weight", "2.bias"}
    assert [bits(parameter) for parameter in model.state_dict().values()] == before
    tuning.detach()
    assert bits(model(x)) == output
    assert not model[0]._forward_hooks


def test_both_ways_in_one_model_and_one_step_trains_both(make_mlp, quantised):
    model = make_mlp()
    model[0] = quantised(model[0])
    tuning = attach(model, Spec(coefficients=20, targets=("0", "2")))
    assert tuning.ways == {"lora_0": "beside", "lora_2": "weight"}
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=1e-2, fused=True)
    x, losses = torch.randn(16, 8), []
    for _ in range(20):
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(bool(layer.values.any()) for layer in tuning.adapter().layers.values())


def of_bitsandbytes(bits):
    def quantised(linear):
        bnb = pytest.importorskip("bitsandbytes")
        kind = bnb.nn.Linear4bit if bits == 4 else bnb.nn.Linear8bitLt
        more = {"compute_dtype": torch.float32, "quant_type": "nf4"} if bits == 4 else {"has_fp16_weights": False}
        held = kind(linear.in_features, linear.out_features, **more)
        held.load_state_dict(linear.state_dict())
        return held.to("cpu").requires_grad_(False)

    return quantised


def of_torchao(linear):
    quantization = pytest.importorskip("torchao.quantization")
    held = nn.Sequential(copy.deepcopy(linear))
    quantization.quantize_(held, quantization.Int8WeightOnlyConfig())
    return held[0]


def of_gguf(linear):
    gguf = pytest.importorskip("gguf")
    utils = pytest.importorskip("diffusers.quantizers.gguf.utils")
    kind = gguf.GGMLQuantizationType.Q8_0
    held = utils.GGUFLinear(linear.in_features, linear.out_features, bias=True, compute_dtype=torch.float32)
    stored = torch.from_numpy(gguf.quants.quantize(linear.weight.detach().numpy(), kind))
    held.weight = utils.GGUFParameter(stored, quant_type=kind)
    held.bias = linear.bias
    return held


@pytest.mark.filterwarnings("ignore")  # those libraries' own, as they load
@pytest.mark.parametrize(
    "quantised", [of_bitsandbytes(4), of_bitsandbytes(8), of_torchao, of_gguf], ids=["nf4", "int8", "torchao", "gguf"]
)
def test_layers_of_the_quantisation_libraries(quantised):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(quantised(nn.Linear(64, 128).requires_grad_(False)))
    x = torch.randn(6, 64)
    base = model(x)
    tuning = attach(model, Spec(coefficients=90, wavelet="db2", scaling=3.0, targets=("0",)))
    assert tuning.ways == {"lora_0": "beside"}
    assert tuning.adapter().layers["lora_0"].shape == (128, 64), "not the shape of the packed weight"
    with torch.no_grad():
        tuning.parameters()[0].normal_()
    x.requires_grad_(True)
    expected = x @ tuning.adapter().delta("lora_0").t()
    torch.testing.assert_close(model(x) - base, expected, rtol=1e-4, atol=1e-4)
    mask = torch.randn(6, 128)
    (input_grad,) = torch.autograd.grad((model(x) * mask).sum(), x, retain_graph=True)
    tuning.strength = 0
    (base_grad,) = torch.autograd.grad((model(x) * mask).sum(), x)
    expected = mask @ tuning.adapter().delta("lora_0")
    torch.testing.assert_close(input_grad - base_grad, expected, rtol=1e-3, atol=1e-3)
    tuning.detach()
    assert torch.equal(model(x), base)
    with pytest.raises(WaveFTError, match="or attach the adapter: it then runs beside the weight"):
        merge(model, Adapter({"lora_0": tuning_layer()}))


def tuning_layer():
    from waveft_core import Layer

    return Layer(torch.ones(1), torch.zeros(1, dtype=torch.int32), (128, 64))


def test_a_quantised_convolution_is_refused_by_name():
    model = nn.Sequential(nn.Conv2d(4, 4, 1))
    model[0].weight = nn.Parameter(torch.zeros(4, 4, 1, 1, dtype=torch.int8), requires_grad=False)
    with pytest.raises(WaveFTError, match=r'layer "0": expected a linear layer with a whole weight, got Conv2d'):
        attach(model, Spec(coefficients=2, targets=("0",)))


def test_a_weight_of_plain_numbers_is_frozen_meanwhile_and_its_flag_comes_back(make_mlp, make_adapter):
    model = make_mlp(grad=True)
    model[2].weight.requires_grad_(False)
    tuning = attach(model, make_adapter(SHAPES, 10), beside=True)
    model(torch.randn(3, 8)).sum().backward()
    assert model[0].weight.grad is None, "a dense gradient was made"
    assert all(bool(values.grad.any()) for values in tuning.parameters())
    flags = {name: held.requires_grad for name, held in model.named_parameters() if "waveft" not in name}
    assert flags == {"0.weight": False, "2.weight": False, "2.bias": True}
    tuning.detach()
    flags = {name: held.requires_grad for name, held in model.named_parameters()}
    assert flags == {"0.weight": True, "2.weight": False, "2.bias": True}


def test_what_cannot_run_beside_is_refused_before_any_change(make_mlp, make_adapter):
    model = nn.Sequential(nn.Conv2d(4, 4, 1))
    with pytest.raises(WaveFTError, match='layer "0": expected a linear layer'):
        attach(model, Spec(coefficients=2, targets=("0",)), beside=True)
    assert not model[0]._forward_hooks
    model = make_mlp(grad=True)
    model[2].weight = nn.Parameter(torch.zeros(6, 1).expand(6, 12))
    with pytest.raises(WaveFTError, match='layer "2": expected a weight whose entries have memory of their own'):
        attach(model, make_adapter(SHAPES, 10), beside=True)
    assert not model[0]._forward_hooks
    assert model[0].weight.requires_grad


@pytest.mark.parametrize("first", [0, 1], ids=["first out first", "last out first"])
@pytest.mark.parametrize("ways", [(True, True), (True, False), (False, True)], ids=str)
def test_two_tunings_freeze_a_weight_until_both_are_gone(ways, first, make_mlp, make_adapter):
    model = make_mlp(grad=True)
    tunings = [attach(model, make_adapter(SHAPES, 10), beside=beside) for beside in ways]
    tunings[first].detach()
    assert not model[0].weight.requires_grad
    tunings[1 - first].detach()
    assert model[0].weight.requires_grad


def test_a_foreign_hook_that_changes_the_output_sees_the_update_in_it(make_mlp, make_adapter):
    adapter, x, found = make_adapter(SHAPES, 20, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64), []
    for beside in (False, True):
        model = make_mlp(torch.float64)
        model[0].register_forward_hook(lambda module, args, output: 3 * output)
        tuning = attach(model, adapter, beside=beside)
        found.append([*run(model, x), *(values.grad for values in tuning.parameters())])
    for inside, outside in zip(*found, strict=True):
        torch.testing.assert_close(outside, inside, rtol=1e-10, atol=1e-12)


def test_the_input_by_whatever_name_the_layer_gives_it(make_mlp, quantised):
    layer = quantised(make_mlp()[0])  # its forward takes `x`, as bitsandbytes' does
    tuning = attach(nn.Sequential(layer), Spec(coefficients=10, targets=("0",)))
    x = torch.randn(3, 8)
    layer(x).sum().backward()
    by_place = tuning.parameters()[0].grad.clone()
    tuning.parameters()[0].grad = None
    layer(x=x).sum().backward()
    assert by_place.any()
    assert torch.equal(tuning.parameters()[0].grad, by_place)


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_not_finite_is_refused(strength, make_mlp, make_adapter, bits):
    model, x = make_mlp(), torch.randn(3, 8)
    tuning = attach(model, make_adapter(SHAPES, 10), beside=True)
    before = bits(model(x))
    with pytest.raises(WaveFTError, match="strength: expected a finite number"):
        tuning.strength = strength
    assert tuning.strength == 1.0
    assert bits(model(x)) == before
