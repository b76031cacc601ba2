import re
from pathlib import Path

import numpy as np
import pytest
import pywt

ROOT = Path(__file__).resolve().parents[1]
DOC = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
TAPS = {
    name: (int(length), np.array([float(tap) for tap in taps.split(",")]))
    for name, length, taps in re.findall(r"^\| `(\w+)` \| (\d+) \| ([-0-9., ]+) \|$", DOC, re.MULTILINE)
}


def documented_delta(wavelet: str, mode: str, shape: tuple[int, int], entries: dict[int, float]) -> np.ndarray:
    """dW / scaling [m, n] from the page's "Without a wavelet library" and its table, word by word."""
    k, lo = TAPS[wavelet]
    hi = np.array([(-1) ** t * lo[k - 1 - t] for t in range(k)])
    halves = [size // 2 if mode == "periodization" else (size + k - 1) // 2 for size in shape]

    def one_axis(place: int, half: int, size: int) -> np.ndarray:
        i, g = (place, lo) if place < half else (place - half, hi)
        u = np.zeros(size)
        for t in range(k):
            if mode == "periodization":
                u[(2 * i + t - (k // 2 - 1)) % size] += g[t]
            elif 0 <= 2 * i + t - (k - 2) < size:
                u[2 * i + t - (k - 2)] += g[t]
        return u

    delta = np.zeros(shape)
    for index, value in entries.items():
        row, column = divmod(index, 2 * halves[1])
        delta += value * np.outer(one_axis(row, halves[0], shape[0]), one_axis(column, halves[1], shape[1]))
    return delta


def test_the_table_lists_the_common_wavelets():
    assert list(TAPS) == ["db1", "db2", "db3", "db4", "sym4", "coif1"]


@pytest.mark.parametrize("name", TAPS)
def test_the_taps_are_pywavelets_own_to_the_last_digit(name):
    length, taps = TAPS[name]
    assert length == len(taps)
    assert taps.tolist() == list(pywt.Wavelet(name).rec_lo)


@pytest.mark.parametrize(("mode", "shape"), [("periodization", (2, 12)), ("zero", (5, 8)), ("zero", (1, 3))])
@pytest.mark.parametrize("name", TAPS)
def test_the_formula_without_a_library_is_pywavelets_idwt2(name, mode, shape):
    k = len(pywt.Wavelet(name).rec_lo)
    big = shape if mode == "periodization" else tuple(2 * ((size + k - 1) // 2) for size in shape)
    coeffs = np.random.default_rng(0).normal(size=big)
    half_m, half_n = big[0] // 2, big[1] // 2
    aa, ad = coeffs[:half_m, :half_n], coeffs[:half_m, half_n:]
    da, dd = coeffs[half_m:, :half_n], coeffs[half_m:, half_n:]
    expected = pywt.idwt2((aa, (da, ad, dd)), name, mode)[: shape[0], : shape[1]]
    got = documented_delta(name, mode, shape, dict(enumerate(coeffs.ravel().tolist())))
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_the_example_by_hand_is_right():
    rows = re.search(r"dW = \[(\[.*?\])\]", DOC, re.DOTALL)
    assert rows is not None
    printed = np.array([[float(x) for x in row.split(",")] for row in re.findall(r"\[([^\[\]]+)\]", rows[1])])
    np.testing.assert_allclose(
        2 * documented_delta("db1", "periodization", (4, 4), {1: 0.5, 10: 1.0}), printed, atol=1e-12
    )
