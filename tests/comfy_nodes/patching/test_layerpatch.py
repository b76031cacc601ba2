import copy

import pytest
import torch

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def patch_of(comfy, carry):
    """Returns a function from an adapter to its layer Q as a patch."""
    return lambda adapter: comfy("patching.layerpatch").WaveFTPatch(carry(adapter), Q)


def moved(value):
    """What ComfyUI does to a patch before a forward with dynamic VRAM: tensors go elsewhere, the rest is handed on."""
    if isinstance(value, torch.Tensor):
        return value.clone()
    return type(value)(map(moved, value)) if isinstance(value, list | tuple) else value


def cast(weights, dtype):
    """What ComfyUI does before a forward beside a layer: tensors at the top become the layer's dtype."""
    return [held.to(dtype) if isinstance(held, torch.Tensor) else held for held in weights]


def merged(patch, weight):
    return patch.calculate_weight(weight.clone(), "key", 0.7, 1.0, None, lambda delta: delta)


@pytest.mark.parametrize("stored", DTYPES)
def test_a_copy_merges_the_same_bits_from_its_own_tensors(patch_of, small, stored):
    from waveft_core import Adapter, Layer

    layers = {name: Layer(held.values.to(stored), held.indices, held.shape) for name, held in small.layers.items()}
    patch = patch_of(Adapter(layers))
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(4))
    held = moved(patch.weights)
    made = type(patch)(patch.loaded_keys, held)
    assert made.carried is patch.carried and made.layer == Q and made.loaded_keys == patch.loaded_keys
    assert torch.equal(merged(made, weight), merged(patch, weight))
    assert not torch.equal(merged(patch, weight), weight)
    held[1][0].zero_()  # its own, and no others: nothing is taken from the adapter again
    assert torch.equal(merged(made, weight), weight)


def test_a_copy_is_made_of_memory_that_is_not_filled_yet(patch_of, small):
    patch = patch_of(small)
    held = moved(patch.weights)
    values, held[1][0][:] = held[1][0].clone(), float("nan")
    made = type(patch)(patch.loaded_keys, held)
    held[1][0].copy_(values)
    weight = torch.zeros(8, 8)
    assert torch.equal(merged(made, weight), merged(patch, weight))


def test_the_tensors_that_are_asked_for_are_those_that_a_merge_reads(patch_of, small):
    def tensors(value):
        if isinstance(value, torch.Tensor):
            return [value]
        return [found for one in value for found in tensors(one)] if isinstance(value, list | tuple) else []

    (values,) = tensors(patch_of(small).weights)
    assert torch.equal(values, small.layers[Q].values)


@pytest.mark.parametrize("wavelet", ["db1", "sym4"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_beside_a_layer_the_output_gains_what_dw_makes_of_the_input(patch_of, make_adapter, dtype, wavelet):
    adapter = make_adapter({Q: (24, 16)}, wavelet=wavelet, p=40, scale=0.2)
    patch = patch_of(adapter)
    patch.weights = cast(patch.weights, dtype)
    patch.multiplier = -0.5
    generator = torch.Generator().manual_seed(6)
    layer = torch.nn.Linear(16, 24, dtype=dtype)
    x = torch.randn(2, 5, 16, generator=generator).to(dtype)
    with torch.inference_mode():
        base = layer(x)
        got, part = patch.bypass_forward(layer, x), patch.h(x, base)
    dw = -0.5 * x.double() @ adapter.delta(Q, torch.float64).T
    assert got.dtype == part.dtype == dtype and got.shape == base.shape
    for found, wanted in ((got, base.double() + dw), (part, dw)):  # each rounded once
        error = (found.double() - wanted).abs()
        assert bool((error <= torch.finfo(dtype).eps / 2 * wanted.abs() + 2e-5).all())
    assert float(dw.abs().max()) > 1


def test_what_a_node_left_serves_a_forward_that_is_trained_through(patch_of, make_adapter):
    adapter = make_adapter({Q: (8, 8)})
    patch, layer = patch_of(adapter), torch.nn.Linear(8, 8)
    with torch.inference_mode():
        patch.bypass_forward(layer, torch.ones(1, 8))
    x = torch.ones(1, 8, requires_grad=True)
    patch.bypass_forward(layer, x).sum().backward()
    torch.testing.assert_close(x.grad[0], (layer.weight + adapter.delta(Q)).sum(0))


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_gains_what_its_own_dw_makes(patch_of, make_adapter, groups):
    layer = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups)
    adapter = make_adapter({Q: tuple(layer.weight.shape)})
    patch = patch_of(adapter)
    patch.is_conv, patch.multiplier = True, 0.5
    patch.kw_dict = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": groups}
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(8))
    got = patch.bypass_forward(layer, x)
    dw = copy.deepcopy(layer).requires_grad_(False)
    dw.weight.copy_(adapter.delta(Q))
    dw.bias.zero_()
    torch.testing.assert_close(got, layer(x) + 0.5 * dw(x))
    assert float(dw(x).detach().abs().max()) > 0.1
    with pytest.raises(ValueError, match=r"to_q.*expected \[6, 3\], got \[6, [24]\]"):
        patch.h(torch.zeros(2, 3 * groups, 9, 9), got)


@pytest.mark.parametrize(("x", "out"), [((3, 9), (3, 8)), ((3, 8), (3, 9))])
def test_a_layer_of_another_shape_is_refused(comfy, patch_of, small, x, out):
    with pytest.raises(
        comfy("core").WaveFTError, match=r'"a.safetensors", layer ".*to_q".*expected \[.*\], got \[8, 8'
    ):
        patch_of(small).h(torch.zeros(x), torch.zeros(out))


def test_a_layer_of_another_kind_is_refused(comfy, patch_of, small):
    patch = patch_of(small)
    patch.is_conv = True
    with pytest.raises(comfy("core").WaveFTError, match="expected a convolution, got a weight of shape"):
        patch.h(torch.zeros(1, 8, 4, 4), torch.zeros(1, 8, 4, 4))


def test_comfyuis_trainer_is_told_to_leave_it(comfy, patch_of, small):
    patch, refusal = patch_of(small), comfy("core").WaveFTError
    with pytest.raises(refusal, match=r'"a.safetensors": expected a LoRA.*WaveFT Train'):
        patch.to_train()
    with pytest.raises(refusal, match="expected a LoRA"):
        type(patch).create_train(torch.zeros(8, 8), 4, 1.0)
