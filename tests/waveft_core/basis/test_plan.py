import numpy as np
import pytest
import torch

from waveft_core.basis.plan import arithmetic_dtype
from waveft_core.basis.planning import make_plan
from waveft_core.basis.turns import joined

CASES = [
    pytest.param("db1", "periodization", (8, 12), 20, id="db1"),
    pytest.param("db1", "periodization", (4, 4), 16, id="db1-all"),
    pytest.param("db4", "periodization", (2, 6), 12, id="db4-wraps"),
    pytest.param("coif2", "periodization", (10, 16), 40, id="coif2"),
    pytest.param("db2", "zero", (5, 7), 30, id="db2-zero-odd"),
    pytest.param("coif1", "zero", (1, 1), 9, id="coif1-zero-tiny"),
    pytest.param("identity", "periodization", (3, 5), 7, id="identity"),
]


def drawn(plane, wavelet, mode, shape, p):
    across, along = plane(wavelet, mode, shape)
    generator = np.random.default_rng(3)
    return np.sort(generator.choice(across * along, min(p, across * along), replace=False)).astype(np.int32)


def contributions(atoms, wavelet, mode, shape, indices):
    """For each touched entry: its (coefficient, tap) pairs, coefficient by coefficient."""
    entries, taps = atoms(wavelet, mode, shape, indices)
    found = {}
    for coefficient in range(len(indices)):
        for entry, tap in zip(entries[coefficient], taps[coefficient], strict=True):
            if entry >= 0:
                found.setdefault(int(entry), []).append((coefficient, tap))
    return found


@pytest.mark.parametrize(("wavelet", "mode", "shape", "p"), CASES)
def test_each_touched_entry_is_there_once(plane, atoms, wavelet, mode, shape, p):
    indices = drawn(plane, wavelet, mode, shape, p)
    plan = make_plan(wavelet, mode, shape, torch.from_numpy(indices), torch.float32)
    expected = contributions(atoms, wavelet, mode, shape, indices)
    assert sorted(plan.places.entries().tolist()) == sorted(expected)
    assert len(set(plan.places.entries().tolist())) == len(plan.places)
    assert plan.turns[0].blocks is None
    for turn in plan.turns[1:]:
        assert len(set(turn.blocks.tolist())) == turn.blocks.numel(), "no two of a turn meet"
    assert sum(turn.atoms.numel() for turn in plan.turns) * plan.taps.shape[1] >= sum(map(len, expected.values()))
    assert (plan.places.entries().dtype, plan.turns[0].atoms.dtype) == (torch.int32, torch.int16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize(("wavelet", "mode", "shape", "p"), CASES)
def test_sums_run_in_ascending_coefficient_order_to_the_last_bit(plane, atoms, wavelet, mode, shape, p, dtype):
    indices = drawn(plane, wavelet, mode, shape, p)
    plan = make_plan(wavelet, mode, shape, torch.from_numpy(indices), dtype)
    values = torch.randn(len(indices), generator=torch.Generator().manual_seed(1), dtype=dtype)
    number = np.float32 if dtype == torch.float32 else np.float64
    found = contributions(atoms, wavelet, mode, shape, indices)
    expected = []
    for entry in plan.places.entries().tolist():
        terms = [number(values[coefficient].item()) * number(tap) for coefficient, tap in found[entry]]
        total = terms[0]
        for term in terms[1:]:
            total = total + term  # one rounding for each product, one for each sum
        expected.append(total)
    got = plan.sums(values)
    assert got.dtype == dtype
    assert got.numpy().tobytes() == np.array(expected, dtype=number).tobytes()


def test_sums_read_half_precision_values_in_the_plans_own_dtype(plane):
    indices = drawn(plane, "db2", "periodization", (8, 8), 30)
    plan = make_plan("db2", "periodization", (8, 8), torch.from_numpy(indices), torch.float32)
    values = torch.randn(len(indices), generator=torch.Generator().manual_seed(1)).bfloat16()
    assert torch.equal(plan.sums(values), plan.sums(values.float()))
    assert plan.sums(values).dtype == torch.float32


def test_sums_do_not_depend_on_the_number_of_threads(plane):
    indices = drawn(plane, "db2", "periodization", (256, 256), 40_000)
    plan = make_plan("db2", "periodization", (256, 256), torch.from_numpy(indices), torch.float32)
    values = torch.randn(len(indices), generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = plan.sums(values)
        torch.set_num_threads(2)
        assert all(torch.equal(plan.sums(values), alone) for _ in range(3))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("wavelet", "mode"),
    [("db1", "periodization"), ("db3", "periodization"), ("db2", "zero"), ("identity", "periodization")],
)
def test_layers_side_by_side_have_the_sums_that_they_have_alone(plane, wavelet, mode):
    shapes = [(8, 12), (4, 4), (16, 6)] if mode == "periodization" else [(5, 7), (4, 4), (1, 9)]
    plans = [
        make_plan(wavelet, mode, shape, torch.from_numpy(drawn(plane, wavelet, mode, shape, p)), torch.float32)
        for shape, p in zip(shapes, (40, 7, 11), strict=True)
    ]
    values = [torch.randn(plan.coefficients, generator=torch.Generator().manual_seed(2)) for plan in plans]
    alone = torch.cat([plan.sums(held) for plan, held in zip(plans, values, strict=True)])
    assert torch.equal(joined(plans).sums(torch.cat(values)), alone)


def test_only_float64_is_updated_in_float64():
    assert arithmetic_dtype(torch.float64) == torch.float64
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert arithmetic_dtype(dtype) == torch.float32
