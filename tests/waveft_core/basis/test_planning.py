import pytest
import torch

from waveft_core.basis.locations import draw
from waveft_core.basis.planning import block_count, make_plan, sweeping_pays
from waveft_core.basis.sweep import Sweep
from waveft_core.basis.turns import InTurns

SDXL = [(640, 640), (640, 2048), (1280, 1280), (1280, 2048)]


@pytest.mark.parametrize("shape", SDXL, ids=str)
@pytest.mark.parametrize(
    ("wavelet", "sweeps"),
    [("identity", False), ("db1", False), ("db2", False), ("db4", False), ("coif2", True), ("db8", True)],
)
def test_at_the_papers_budget_long_filters_sweep_and_short_ones_keep_their_turns(wavelet, sweeps, shape):
    assert sweeping_pays(wavelet, "periodization", shape, 2592) == sweeps


def test_a_few_coefficients_of_a_large_weight_are_sorted():
    """A sweep marks all of a weight's blocks, and a shape in a file is only a claim."""
    assert not sweeping_pays("db8", "periodization", (2**15, 2**16), 2592)
    assert not sweeping_pays("db8", "periodization", (1280, 1280), 100)
    assert sweeping_pays("db1", "periodization", (1280, 1280), 100_000)


@pytest.mark.parametrize(("p", "kind"), [(1024, InTurns), (1025, Sweep)])
def test_the_plan_is_of_the_kind_that_the_rule_says(p, kind):
    indices = draw("uniform:1", "x", "db8", "periodization", (64, 64), p)
    assert block_count("db8", p) == 64 * p
    plan = make_plan("db8", "periodization", (64, 64), indices, torch.float64)
    assert type(plan) is kind
    assert plan.fits(torch.device("cpu"), torch.float64)
    assert not plan.fits(torch.device("cpu"), torch.float32)
