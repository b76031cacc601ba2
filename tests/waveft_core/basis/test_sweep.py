"""A sweep beside a plan in turns: the same bits in the same order, and nothing kept but the coefficients' places."""

import tracemalloc

import numpy as np
import pytest
import torch

from waveft_core import WaveFTError
from waveft_core.basis.locations import draw
from waveft_core.basis.sweep import _LAST, Sweep
from waveft_core.basis.turns import planned

CASES = [
    pytest.param("db8", "periodization", (64, 48), 700, id="db8"),
    pytest.param("db8", "periodization", (2, 6), 12, id="db8-goes-round"),
    pytest.param("db38", "zero", (7, 9), 60, id="db38-zero"),
    pytest.param("coif2", "zero", (5, 7), 30, id="coif2-zero-odd"),
    pytest.param("db2", "periodization", (4, 2, 3, 3), 40, id="db2-convolution"),
    pytest.param("db1", "periodization", (4, 4), 16, id="db1-all"),
    pytest.param("identity", "periodization", (3, 5), 7, id="identity"),
]
BITS = {torch.float32: torch.int32, torch.float64: torch.int64}


def both(wavelet, mode, shape, p, dtype):
    indices = draw("uniform:1", "x", wavelet, mode, shape, p)
    return planned(wavelet, mode, shape, indices, dtype), Sweep.of(wavelet, mode, shape, indices, dtype)


def odd_values(p, dtype):
    """Random ones, and zeros of both signs among them."""
    values = torch.randn(p, generator=torch.Generator().manual_seed(1), dtype=dtype)
    values[::3], values[1::3] = -0.0, values[1::3].clamp(min=0.0)
    return values


@pytest.mark.parametrize("dtype", BITS, ids=["fp32", "fp64"])
@pytest.mark.parametrize(("wavelet", "mode", "shape", "p"), CASES)
def test_a_sweep_has_the_bits_and_the_order_of_the_turns(wavelet, mode, shape, p, dtype):
    turns, sweep = both(wavelet, mode, shape, p, dtype)
    values = odd_values(p, dtype)
    assert torch.equal(sweep.places.entries(), turns.places.entries())
    assert (sweep.places.corners, sweep.places.paired) == (turns.places.corners, turns.places.paired)
    expected, got = turns.sums(values), sweep.sums(values)
    assert got.dtype == dtype
    assert torch.equal(got.view(BITS[dtype]), expected.view(BITS[dtype]))
    assert torch.equal(sweep.dense(values, 0.3), turns.dense(values, 0.3))
    assert (sweep.coefficients, sweep.basis) == (turns.coefficients, turns.basis)


def test_many_contributions_are_added_in_order_on_any_number_of_threads():
    turns, sweep = both("db8", "periodization", (128, 128), 4000, torch.float32)  # each entry gets 62 of them
    values = odd_values(4000, torch.float32)
    expected, threads = turns.sums(values), torch.get_num_threads()
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            assert torch.equal(sweep.sums(values), expected)
    finally:
        torch.set_num_threads(threads)


def test_half_precision_values_are_read_in_the_plans_own_dtype():
    _, sweep = both("db2", "periodization", (8, 8), 30, torch.float32)
    values = torch.randn(30).bfloat16()
    assert torch.equal(sweep.sums(values), sweep.sums(values.float()))


def test_it_is_cast_and_moved_as_a_plan_in_turns_is():
    turns, sweep = both("db8", "zero", (9, 12), 50, torch.float32)
    values = odd_values(50, torch.float64)
    cpu = torch.device("cpu")
    assert sweep.to(cpu, torch.float32) is sweep
    wide = sweep.to(cpu, torch.float64)
    assert torch.equal(wide.sums(values), turns.to(cpu, torch.float64).sums(values))
    elsewhere = sweep.to(torch.device("meta"), torch.float32)  # what keeps an order where an add promises none
    assert elsewhere.turns
    assert elsewhere.device.type == "meta"


def test_it_keeps_the_places_of_its_coefficients_and_nothing_else():
    indices = draw("uniform:1", "x", "db8", "periodization", (64, 64), 600)
    tracemalloc.start()
    sweep = Sweep.of("db8", "periodization", (64, 64), indices, torch.float32)
    assert tracemalloc.get_traced_memory()[0] < 4000
    tracemalloc.stop()
    assert sweep.nbytes == 600 * 4
    before = sweep.places.entries()
    indices.zero_()  # an adapter that somebody changes afterwards
    _LAST.clear()
    assert torch.equal(sweep.places.entries(), before)


def test_a_sweep_is_at_hand_for_as_long_as_it_lives():
    _, one = both("db8", "periodization", (16, 16), 20, torch.float32)
    _, two = both("db4", "periodization", (16, 16), 20, torch.float32)
    assert one.places is one.places
    assert two.places.starts.tolist() != one.places.starts.tolist()
    assert list(_LAST) == [one]
    del one
    assert not _LAST


def test_a_lack_of_memory_is_said_in_words(monkeypatch):
    _, sweep = both("db8", "periodization", (16, 16), 20, torch.float32)

    def no_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(np, "flatnonzero", no_memory)
    with pytest.raises(WaveFTError, match="expected enough for the blocks that 20 coefficients of db8 touch"):
        sweep.sums(torch.ones(20))
