"""MMD of equal sets, of two points, and against a double loop."""

import math

import pytest
import torch

from trainer.measures import mmd


def rows(count, seed):
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def test_equal_sets_are_at_no_distance():
    held = rows(9, 0)
    assert mmd.mmd(held, held) == pytest.approx(0, abs=1e-10)
    assert mmd.mmd(held, held.flip(0)) == pytest.approx(0, abs=1e-10)


def test_it_is_symmetric_and_grows_with_the_distance():
    first, second = rows(9, 0), rows(7, 1)
    assert mmd.mmd(first, second) == pytest.approx(mmd.mmd(second, first))
    near, far = (mmd.mmd(first, first + by, normalise=False) for by in (0.1, 1.0))
    assert 0 < near < far


def test_two_points_in_closed_form():
    x, y = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]])  # 5 apart
    expected = 1000 * (2 - 2 * math.exp(-25 / (2 * 2**2)))
    assert mmd.mmd(x, y, sigma=2, normalise=False) == pytest.approx(expected)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_it_is_the_double_loop(estimator, monkeypatch):
    monkeypatch.setattr(mmd, "BLOCK", 2)  # so that blocks matter
    x, y = rows(5, 0).double(), rows(4, 1).double()

    def kernel(a, b):
        return math.exp(-float((a - b).square().sum()) / 2)

    def within(held):
        pairs = [(i, j) for i in range(len(held)) for j in range(len(held)) if estimator == "biased" or i != j]
        return sum(kernel(held[i], held[j]) for i, j in pairs) / len(pairs)

    across = sum(kernel(a, b) for a in x for b in y) / 20
    expected = within(x) + within(y) - 2 * across
    assert mmd.mmd(x, y, 1.0, 1.0, estimator, normalise=False) == pytest.approx(expected)


def test_it_is_the_package_clip_mmd_s():
    package = pytest.importorskip("clip_mmd.calculation")
    x, y = (torch.nn.functional.normalize(rows(count, seed).double()) for count, seed in ((30, 0), (20, 1)))
    assert mmd.mmd(x, y) == pytest.approx(float(package.mmd(x, y)), abs=1e-9)


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        mmd.mmd(rows(1, 0), rows(5, 1), estimator="unbiased")
    with pytest.raises(ValueError, match="at least 1"):
        mmd.mmd(rows(0, 0), rows(5, 1))
