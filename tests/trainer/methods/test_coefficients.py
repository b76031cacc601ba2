import numpy as np
import pytest
import pywt
import torch
from torch import nn

import waveft_core
from trainer.job.networks import Shira, Waveft
from trainer.methods import registry
from trainer.methods.tuning import Host
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


class Once:
    """Gradients of one batch."""

    def __init__(self, backward):
        self.run = backward
        self.asked = []

    def backward(self, batches):
        self.asked.append(batches)
        self.run()

    def sum_(self, tensor):
        return tensor


def host(unet):
    return Host({"unet": unet}, False, 0, 1)


def adapter(unet, network, **given):
    tuning = registry.of(network).attach(host(unet), **given)
    try:
        return tuning.product().adapter, tuning.memory()
    finally:
        tuning.detach()


def test_zeros_lie_where_the_seed_draws_them():
    unet = Unet()
    found, memory = adapter(unet, Waveft(coefficients=4, locations="uniform:3"))
    plain = waveft_core.attach({"unet": unet}, waveft_core.Spec(coefficients=4, locations="uniform:3")).adapter()
    assert found.layers.keys() == plain.layers.keys()
    assert all(torch.equal(held.indices, plain.layers[name].indices) for name, held in found.layers.items())
    assert not any(held.values.any() for held in found.layers.values())
    assert memory == {}


def test_shira_is_waveft_without_its_transform():
    unet = Unet()
    found, _ = adapter(unet, Shira(coefficients=4))
    same, _ = adapter(unet, Waveft(coefficients=4, wavelet="identity"))
    assert found.header == same.header and found.wavelet == "identity"
    assert all(torch.equal(held.indices, same.layers[name].indices) for name, held in found.layers.items())


@pytest.mark.parametrize("kind", [Waveft, Shira])
def test_the_gradient_chooses_among_the_chosen_layers_alone(kind):
    torch.manual_seed(0)
    unet, network = Unet(), kind(coefficients=3, locations="gradient:0", include=["to_q$"], exclude=[r"^down\.1"])
    x, context = torch.randn(5, 8), torch.randn(4, 12)
    once = Once(lambda: unet(x, context).square().sum().backward())
    found, memory = adapter(unet, network, warm_up=once)
    assert once.asked == [8]
    names = {"lora_down_0_to_q", "lora_mid_to_q"}
    assert {name.replace("lora_unet_", "lora_") for name in found.layers} == names
    assert {len(held.values) for held in found.layers.values()} == {3}
    # the plane of mid.to_q is 16 x 16 and the pool 3 x 16 of it: the chosen have the pool's largest gradients
    weight = unet.mid.to_q.weight.detach().clone().requires_grad_()
    h = torch.cat([unet.down[0](x, context)] * 2, -1)
    (h @ weight.T + unet.mid.to_k(context).mean(0)).square().sum().backward()
    plane = weight.grad.flatten().abs()
    if kind is Waveft:
        aa, (da, ad, dd) = pywt.dwt2(weight.grad.numpy(), "haar", mode="periodization")
        plane = torch.from_numpy(np.block([[aa, ad], [da, dd]])).flatten().abs()
    [name] = [name for name in found.layers if name.endswith("mid_to_q")]
    pool = waveft_core.basis.locations.draw("uniform:0", name, network.wavelet, "periodization", (16, 16), 48).long()
    best = pool[plane[pool].argsort(descending=True)[:3]].sort().values
    assert torch.equal(found.layers[name].indices.long(), best)

    again, _ = adapter(unet, network, saved=memory)  # a run that goes on looks at no gradient
    assert all(torch.equal(again.layers[name].indices, held.indices) for name, held in found.layers.items())


def test_a_file_to_start_from_brings_its_own(tmp_path):
    unet = Unet()
    begun, _ = adapter(unet, Waveft(coefficients=4, wavelet="db2"))
    for held in begun.layers.values():
        held.values.uniform_(-1, 1)
    waveft_core.save(begun, tmp_path / "a.safetensors")
    found, _ = adapter(unet, Waveft(network_weights=str(tmp_path / "a.safetensors")))
    assert found.header == begun.header
    assert all(torch.equal(found.layers[name].values, held.values) for name, held in begun.layers.items())
    with pytest.raises(UserError, match=r"network_weights .*expected entries of the weight itself \(SHiRA\), got db2"):
        registry.of(Shira(network_weights=str(tmp_path / "a.safetensors"))).attach(host(unet))


def test_detached_disabled_and_swapped_give_the_base_bit_for_bit():
    torch.manual_seed(0)
    unet = Unet()
    x, context = torch.randn(5, 8), torch.randn(4, 12)
    before = unet(x, context)
    tuning = registry.of(Waveft(coefficients=4)).attach(host(unet))
    with tuning.swapped([torch.ones_like(one) for one in tuning.parameters()]):
        assert not torch.equal(unet(x, context), before)
        with tuning.disabled():
            assert torch.equal(unet(x, context), before)
    assert torch.equal(unet(x, context), before)
    tuning.detach()
    assert torch.equal(unet(x, context), before)
