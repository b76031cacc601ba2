import tracemalloc

import numpy as np
import pytest
import torch

from waveft_core import Adapter, Layer, WaveFTError, summarize
from waveft_core.basis import planning
from waveft_core.basis.atoms import axis, coeffs_shape, filters, touched, wavelets
from waveft_core.basis.norm import norm
from waveft_core.basis.planning import make_plan


def drawn(wavelet, mode, shape, seed=0):
    across, along = coeffs_shape(wavelet, mode, shape)
    generator = np.random.default_rng(seed)
    # each coefficient of coif17 is 10,404 entries of what the norm is compared with, and meets all the others
    most = 12 if wavelet != "identity" and filters(wavelet).shape[1] > 20 else 40
    count = min(most, max(1, across * along // 3))
    indices = np.sort(generator.choice(across * along, count, replace=False))
    return indices.astype(np.int32), generator.normal(size=indices.size)


SHAPES = [(7, 30), (90, 6), (1, 200), (2, 3, 3, 3)]


@pytest.mark.parametrize("wavelet", wavelets())
def test_the_norm_is_that_of_the_entries(wavelet):
    turn = sorted(wavelets()).index(wavelet)  # (8, 8) and one of the others by turns
    for mode, shape in (("periodization", (8, 8)), ("zero", (8, 8)), ("zero", SHAPES[turn % len(SHAPES)])):
        if mode == "zero" and wavelet == "identity":
            continue
        indices, values = drawn(wavelet, mode, shape)
        plan = make_plan(wavelet, mode, shape, torch.from_numpy(indices), torch.float64)
        expected = float(plan.sums(torch.from_numpy(values)).norm())
        assert norm(wavelet, mode, shape, indices, values) == pytest.approx(expected, rel=1e-9)


def test_an_atom_that_is_nearly_all_cropped_has_its_small_norm():
    """Not as a difference of two large numbers: the tail of db38 that is left is 1e-12 of it."""
    plan = make_plan("db38", "zero", (1, 4), torch.tensor([0], dtype=torch.int32), torch.float64)
    left = float(plan.sums(torch.ones(1, dtype=torch.float64)).norm())
    assert 0 < left < 1e-9
    assert norm("db38", "zero", (1, 4), np.array([0]), np.ones(1)) == pytest.approx(left, rel=1e-6)


@pytest.mark.parametrize("wavelet", ["db1", "db2", "db38", "sym20", "coif17", "identity"])
@pytest.mark.parametrize("mode", ["periodization", "zero"])
def test_touched_coefficients_alone_are_the_rows_of_the_whole_table(wavelet, mode):
    if wavelet == "identity" and mode == "zero":
        return
    for size in (2, 30, 100):
        side = axis(wavelet, mode, size)
        places = np.array([0, side.count // 2, side.count - 1])
        entries, taps = touched(wavelet, mode, size, places)
        assert np.array_equal(entries, side.positions[places])
        assert np.array_equal(taps, side.taps[places])


@pytest.mark.parametrize("columns", [2**20, 2**24])
@pytest.mark.parametrize("wavelet", ["db1", "db38"])
def test_memory_follows_the_coefficients_not_the_claimed_shape(columns, wavelet):
    """A file of 440 bytes took 2.7 GB to inspect: a table of every column that it claimed."""
    layer = Layer(torch.ones(2), torch.tensor([0, columns // 2], dtype=torch.int32), (1, columns))
    adapter = Adapter({"lora_unet_0": layer}, wavelet, "zero")
    tracemalloc.start()
    summarize(adapter)
    adapter.plan("lora_unet_0", torch.float32, torch.device("cpu"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21


def test_the_norm_of_many_coefficients_needs_memory_for_them_alone():
    """Their entries would be 1444 times as many for db38."""
    count = 50_000
    indices, values = np.arange(count, dtype=np.int32), np.ones(count)
    tracemalloc.start()
    norm("db38", "zero", (300, 300), indices[: 300 * 300], values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * count


def test_more_places_than_a_plan_may_take_are_refused_with_the_figure(monkeypatch):
    monkeypatch.setattr(planning, "MOST_BLOCKS", 1000)
    layer = Layer(torch.ones(10), torch.arange(10, dtype=torch.int32), (64, 64))
    adapter = Adapter({"lora_0": layer}, "db38", "zero")
    with pytest.raises(WaveFTError, match=r"at most 1000 blocks .* got 14440 \(10 coefficients of db38\)"):
        adapter.plan("lora_0", torch.float32, torch.device("cpu"))
