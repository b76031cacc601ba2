import math

import pytest
from torch import nn

from trainer.job.networks import Waveft
from trainer.job.optim import rate_of
from trainer.job.schema import Optimizer
from trainer.learning import rates
from trainer.methods import registry
from trainer.methods.tuning import Host
from trainer.system.errors import UserError


class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        layer = {name: nn.Linear(8, 8, bias=False) for name in ("to_q", "to_k")}
        self.down, self.mid = nn.ModuleList([nn.ModuleDict(layer)]), nn.ModuleDict({"to_q": nn.Linear(8, 8)})


def test_every_layer_learns_at_its_own_rate():
    tuning = registry.of(Waveft(coefficients=4)).attach(Host({"unet": Unet()}, False, 0, 1))
    settings = Optimizer(learning_rate=1e-3, learning_rate_pattern={"^mid": 1e-2})
    made = rates.groups(tuning, settings)
    assert sorted((group["lr"], len(group["params"])) for group in made) == [(1e-3, 2), (1e-2, 1)]
    held = {id(parameter) for group in made for parameter in group["params"]}
    assert held == {id(parameter) for parameter in tuning.parameters()}
    mids = {id(held[0]) for name, held in tuning.layers.items() if tuning.paths[name].startswith("mid")}
    assert {id(p) for group in made if group["lr"] == 1e-2 for p in group["params"]} == mids
    with pytest.raises(UserError, match=r"learning_rate_pattern: .*'\^up' finds none"):
        rates.groups(tuning, Optimizer(learning_rate_pattern={"^up": 1.0}))


def test_text_encoders_have_a_rate_that_a_pattern_overrules():
    settings = Optimizer(learning_rate=1e-3, text_encoder_lr=1e-5, learning_rate_pattern={"^te2": 1e-6})
    assert [rate_of(path, settings) for path in ("down.0", "te1.layers", "te2.layers")] == [1e-3, 1e-5, 1e-6]
    assert math.isclose(rate_of("te1.x", Optimizer(learning_rate=2e-3)), 2e-3)
