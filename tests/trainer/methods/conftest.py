"""A small model with SDXL's names, every method on it, and PEFT's own layers to compare with."""

import pytest
import torch
from torch import nn

from trainer.job import networks
from trainer.methods import registry
from trainer.methods.tuning import Host

SETTINGS = {
    "waveft": {"coefficients": 24},
    "shira": {"coefficients": 24},
    "lora": {"network_dim": 2, "network_alpha": 3.0},
    "loha": {"network_dim": 2},
    "lokr": {"network_dim": 3, "network_alpha": 2.0},
    "adalora": {"init_r": 3, "target_r": 1, "tinit": 1, "tfinal": 2, "deltaT": 1},
    "vera": {"network_dim": 20},
    "fourierft": {"n_frequency": 24},
    "bitfit": {},
}
SHAPES = {"to_q": (16, 16), "to_k": (16, 24), "to_out": (16, 16)}


class Block(nn.Module):
    def __init__(self, width=16, context=24):
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x, context):
        return self.to_out[0](torch.tanh(self.to_q(x) + self.to_k(context).mean(0)))


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down_blocks = nn.ModuleList([Block(), Block()])
        self.mid_block, self.up_blocks = Block(), nn.ModuleList([Block()])

    def forward(self, x, context):
        for block in (*self.down_blocks, self.mid_block, *self.up_blocks):
            x = x + block(x, context)
        return x


@pytest.fixture
def unet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Unet().requires_grad_(False)


@pytest.fixture
def inputs():
    draw = torch.Generator().manual_seed(1)
    return torch.randn(5, 16, generator=draw), torch.randn(4, 24, generator=draw)


@pytest.fixture
def attach(unet):
    """The function from a method's name and settings to what trains in `unet`."""

    def make(name, seed=7, steps=6, model=None, **given):
        if name not in ("waveft", "shira", "bitfit"):
            pytest.importorskip("peft")
        network = networks.METHODS[name](**{"targets": ["to_q", "to_k", "to_out.0"], **SETTINGS[name], **given})
        return registry.of(network).attach(Host({"unet": model or unet}, False, seed, steps))

    return make


def moved(tuning, seed=3, size=0.2):
    """Gives every trained number a value of its own."""
    draw = torch.Generator().manual_seed(seed)
    state = {name: size * torch.randn(held.shape, generator=draw) for name, held in tuning.state_dict().items()}
    tuning.load_state_dict(state)
    return state
