import pytest
import torch
from torch import nn
from torch.func import functional_call

from waveft_core import Spec, attach, merge

KINDS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2},
    "1x1": {"kernel_size": 1},
    "dilated": {"kernel_size": (3, 2), "dilation": 2, "padding": (2, 1)},
    "grouped": {"kernel_size": 3, "groups": 2},
    "same": {"kernel_size": (3, 1), "padding": "same"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "reflect": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
}


def convolution(kind, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 6, **KINDS[kind])).to(dtype).requires_grad_(False)


def loss_of(output):
    mask = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (output * mask.to(output.dtype)).tanh().sum()


@pytest.mark.parametrize("wavelet", ["db1", "db2"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_autograds_through_the_dense_weight(kind, wavelet):
    model, x = convolution(kind), torch.randn(2, 4, 9, 8, dtype=torch.float64, requires_grad=True)
    base = model[0].weight.detach().clone()
    tuning = attach(model, Spec(coefficients=20, wavelet=wavelet, scaling=0.5, targets=("0",)))
    with torch.no_grad():
        tuning.parameters()[0].normal_()
    tuning.refresh()
    loss_of(model(x)).backward()

    adapter = tuning.adapter()
    weight = (base + adapter.delta("lora_0")).requires_grad_(True)
    y = x.detach().clone().requires_grad_(True)
    loss_of(functional_call(convolution(kind)[0], {"weight": weight}, y)).backward()
    torch.testing.assert_close(x.grad, y.grad)
    for place in range(0, 20, 5):  # each coefficient's derivative: its atom against dL/dW
        unit = torch.zeros(20, dtype=torch.float64)
        unit[place] = 1.0
        with tuning.swapped([unit]):
            atom = tuning.adapter().delta("lora_0")
        torch.testing.assert_close(
            tuning.parameters()[0].grad[place], (atom * weight.grad).sum(), rtol=1e-9, atol=1e-10
        )


def test_one_image_without_a_batch():
    model, x = convolution("3x3"), torch.randn(4, 9, 8, dtype=torch.float64)
    tuning = attach(model, Spec(coefficients=20, targets=("0",)))
    loss_of(model(x[None])[0]).backward()
    batched = tuning.parameters()[0].grad.clone()
    tuning.parameters()[0].grad = None
    loss_of(model(x)).backward()
    torch.testing.assert_close(tuning.parameters()[0].grad, batched)


def test_channels_last_trains_to_the_same_weights_and_comes_back(bits):
    x = torch.randn(2, 4, 9, 8)
    adapters, before = [], None
    for last in (False, True):
        model = convolution("3x3", torch.float32)
        if last:
            model.to(memory_format=torch.channels_last)
        before = bits(model[0].weight)
        tuning = attach(model, Spec(coefficients=20, targets=("0",)))
        optimizer = torch.optim.AdamW(tuning.parameters(), lr=1e-2, fused=True)
        for _ in range(4):
            loss_of(model(x)).backward()
            optimizer.step()
            optimizer.zero_grad()
        adapters.append(tuning.adapter())
        tuned = model[0].weight.clone()
        tuning.detach()
        assert bits(model[0].weight) == before
        merge(model, adapters[-1])
        assert torch.equal(model[0].weight, tuned)
    torch.testing.assert_close(adapters[0].layers["lora_0"].values, adapters[1].layers["lora_0"].values)


def test_a_model_that_becomes_channels_last_while_attached(bits):
    model, x = convolution("3x3", torch.float32), torch.randn(2, 4, 9, 8)
    before = bits(model[0].weight)
    tuning = attach(model, Spec(coefficients=20, targets=("0",)))
    with torch.no_grad():
        tuning.parameters()[0].normal_()
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x), expected)
    tuning.detach()
    assert bits(model[0].weight) == before
