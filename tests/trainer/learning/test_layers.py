import math

import numpy as np
import pytest
import pywt
import torch
from torch import nn

import waveft_core
from trainer.job.schema import Network, Optimizer
from trainer.learning import layers
from trainer.system.errors import UserError


class Block(nn.Module):
    def __init__(self, width, context):
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)

    def forward(self, x, context):
        return self.to_q(x) + self.to_k(context).mean(0)


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList([Block(8, 12), Block(16, 12)])
        self.mid = Block(16, 12)

    def forward(self, x, context):
        return self.mid(torch.cat([self.down[0](x, context)] * 2, -1), context)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleDict({"q_proj": nn.Linear(8, 8), "mlp": nn.Linear(8, 8)})])


def chosen(components=None, **network):
    components = components or {"unet": Unet()}
    return {layer.path: layer for layer in layers.choose(components, Network(**network))}


def test_every_target_gets_the_fixed_p():
    found = chosen(coefficients=5)
    assert [*found] == [f"{block}.{name}" for block in ("down.0", "down.1", "mid") for name in ("to_q", "to_k")]
    assert {layer.coefficients for layer in found.values()} == {5}
    assert found["down.0.to_k"].shape == (8, 12)


def test_include_and_exclude():
    assert [*chosen(include=["^down"], exclude=[r"to_k$"])] == ["down.0.to_q", "down.1.to_q"]
    with pytest.raises(UserError, match="expected to leave some"):
        chosen(exclude=["."])
    with pytest.raises(UserError, match=r"include: .*'\^donw' finds none.* looks like"):
        chosen(include=["^down", "^donw"])


def test_a_pattern_has_the_say_over_both_allocations():
    found = chosen(coefficients=5, coefficients_pattern={"^mid": 9, r"to_q$": 3})
    assert [layer.coefficients for layer in found.values()] == [3, 5, 3, 5, 9, 9]
    with pytest.raises(UserError, match=r"coefficients_pattern: .*'\^up' finds none"):
        chosen(coefficients_pattern={"^up": 1})


def test_proportional_follows_m_plus_n_and_keeps_the_sum():
    found = chosen(coefficients=100, allocation="proportional")
    sides = {"down.0.to_q": 16, "down.0.to_k": 20, "down.1.to_q": 32, "down.1.to_k": 28, "mid.to_q": 32, "mid.to_k": 28}
    mean = sum(sides.values()) / 6
    assert {path: layer.coefficients for path, layer in found.items()} == {
        path: round(100 * side / mean) for path, side in sides.items()
    }
    assert abs(sum(layer.coefficients for layer in found.values()) - 600) <= 3


def test_on_sdxl_proportional_is_loras_rank_one():
    widths = [640, 1280]  # a layer's m + n is LoRA rank 1's size; their mean over SDXL's attention is 2592 (paper)
    one = [layers.Chosen("", "", (width, width), 0) for width in widths]
    assert [layers.sides(layer) for layer in one] == [1280, 2560]
    assert layers.sides(layers.Chosen("", "", (8, 4, 3, 3), 0)) == 8 + 36


def test_text_encoders_join_where_asked():
    components = {"unet": Unet(), "te1": Encoder(), "te2": Encoder()}
    found = chosen(components, train_text_encoder=True, include=["^te", "^mid"])
    assert [*found] == ["mid.to_q", "mid.to_k", "te1.layers.0.q_proj", "te2.layers.0.q_proj"]
    by_expression = chosen(components, train_text_encoder=True, targets=r"mid\.to_q")
    assert [*by_expression] == ["mid.to_q", "te1.layers.0.q_proj", "te2.layers.0.q_proj"]


def test_zeros_lie_where_the_seed_draws_them():
    network = Network(coefficients=4, locations="uniform:3")
    unet = Unet()
    found = layers.zeros(network, layers.choose({"unet": unet}, network))
    plain = waveft_core.attach({"unet": unet}, waveft_core.Spec(coefficients=4, locations="uniform:3"))
    assert found.layers.keys() == plain.adapter().layers.keys()
    assert all(torch.equal(held.indices, plain.adapter().layers[name].indices) for name, held in found.layers.items())
    assert not any(held.values.any() for held in found.layers.values())


def test_the_gradient_chooses_among_the_chosen_layers_alone():
    torch.manual_seed(0)
    unet, network = Unet(), Network(coefficients=3, locations="gradient:0", include=["to_q$"], exclude=[r"^down\.1"])
    components = {"unet": unet}
    listed = layers.choose(components, network)
    x, context = torch.randn(5, 8), torch.randn(4, 12)

    def backward():
        unet(x, context).square().sum().backward()

    found = layers.by_gradient(components, network, listed, backward, lambda tensor: tensor)
    assert sorted(found.layers) == sorted(layer.name for layer in listed)
    assert {len(held.values) for held in found.layers.values()} == {3}
    # the plane of mid.to_q is 16 x 16 and the pool 3 x 16 of it: the chosen have the pool's largest gradients
    weight = unet.mid.to_q.weight.detach().clone().requires_grad_()
    h = torch.cat([unet.down[0](x, context)] * 2, -1)
    (h @ weight.T + unet.mid.to_k(context).mean(0)).square().sum().backward()
    aa, (da, ad, dd) = pywt.dwt2(weight.grad.numpy(), "haar", mode="periodization")
    plane = torch.from_numpy(np.block([[aa, ad], [da, dd]])).flatten().abs()
    [name] = [layer.name for layer in listed if layer.path == "mid.to_q"]
    pool = waveft_core.basis.locations.draw("uniform:0", name, "db1", "periodization", (16, 16), 48).long()
    best = pool[plane[pool].argsort(descending=True)[:3]].sort().values
    assert torch.equal(found.layers[name].indices.long(), best)


def test_every_layer_learns_at_its_own_rate():
    unet = Unet()
    network = Network(coefficients=4)
    adapter = layers.zeros(network, layers.choose({"unet": unet}, network))
    tuning = waveft_core.attach({"unet": unet}, adapter)
    known = layers.paths({"unet": unet}, adapter)
    settings = Optimizer(learning_rate=1e-3, learning_rate_pattern={"^mid": 1e-2})
    made = layers.groups(tuning, known, settings)
    assert sorted((group["lr"], len(group["params"])) for group in made) == [(1e-3, 4), (1e-2, 2)]
    held = {id(parameter) for group in made for parameter in group["params"]}
    assert held == {id(parameter) for parameter in tuning.parameters()}
    mids = {id(p) for name, p in zip(tuning.names, tuning.parameters(), strict=True) if known[name].startswith("mid")}
    assert {id(p) for group in made if group["lr"] == 1e-2 for p in group["params"]} == mids
    with pytest.raises(UserError, match=r"learning_rate_pattern: .*'\^up' finds none"):
        layers.groups(tuning, known, Optimizer(learning_rate_pattern={"^up": 1.0}))


def test_text_encoders_have_a_rate_that_a_pattern_overrules():
    settings = Optimizer(learning_rate=1e-3, text_encoder_lr=1e-5, learning_rate_pattern={"^te2": 1e-6})
    assert [layers.rate(path, settings) for path in ("down.0", "te1.layers", "te2.layers")] == [1e-3, 1e-5, 1e-6]
    assert math.isclose(layers.rate("te1.x", Optimizer(learning_rate=2e-3)), 2e-3)
