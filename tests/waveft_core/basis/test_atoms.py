import numpy as np
import pytest
import pywt
import torch

from waveft_core import WaveFTError
from waveft_core.basis.atoms import (
    axis,
    check_wavelet,
    coeffs_shape,
    filters,
    matrix_shape,
    wavelets,
)
from waveft_core.basis.blocks import block_entries, block_taps, blocks

WAVELETS = [name for family in ("db", "sym", "coif") for name in pywt.wavelist(family)]
SIZES = {"periodization": (2, 4, 6, 10, 32), "zero": (1, 2, 3, 4, 7, 10, 33)}
FEW = ("db1", "db2", "sym3", "coif1", "db10", "identity")


def matrix(wavelet, mode, size):
    """D [count, size] from the axis's positions and taps, taps that fall on one place added up."""
    side = axis(wavelet, mode, size)
    dense = np.zeros((side.count, size))
    for row in range(side.count):
        for place, tap in zip(side.positions[row], side.taps[row], strict=True):
            if place >= 0:
                dense[row, place] += tap
            else:
                assert tap == 0
    return dense


def pywt_matrix(wavelet, mode, size):
    """The same by PyWavelets: each row is the synthesis of one unit coefficient."""
    half = size // 2 if mode == "periodization" else (size + len(pywt.Wavelet(wavelet).rec_lo) - 1) // 2
    rows = []
    for unit in np.eye(2 * half):
        rows.append(pywt.idwt(unit[:half], unit[half:], wavelet, mode)[:size])
    return np.array(rows)


def test_the_format_knows_three_families_and_identity():
    assert set(wavelets()) == {*WAVELETS, "identity"}
    assert len(WAVELETS) == 38 + 19 + 17
    assert not {"haar", "dmey", "bior2.2", "rbio1.1"} & set(wavelets())


@pytest.mark.parametrize("mode", SIZES)
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_one_axis_is_pywavelets_idwt_of_each_unit_coefficient(wavelet, mode):
    for size in SIZES[mode]:
        expected = pywt_matrix(wavelet, mode, size)
        got = matrix(wavelet, mode, size)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-13, size


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_periodization_is_orthonormal_and_zero_a_parseval_frame(wavelet):
    for size in SIZES["periodization"]:
        square = matrix(wavelet, "periodization", size)
        assert np.abs(square @ square.T - np.eye(size)).max() < 1e-10
    for size in SIZES["zero"]:
        tall = matrix(wavelet, "zero", size)
        assert np.abs(tall.T @ tall - np.eye(size)).max() < 1e-10


@pytest.mark.parametrize("mode", SIZES)
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_analyze_is_the_matrix_product_transposed(wavelet, mode):
    generator = torch.Generator().manual_seed(0)
    for size in SIZES[mode]:
        x = torch.randn(5, size, generator=generator, dtype=torch.float64)
        expected = torch.from_numpy(matrix(wavelet, mode, size)) @ x.t()
        got = axis(wavelet, mode, size).analyze(x)
        assert got.shape == expected.shape
        assert (got - expected).abs().max() <= 1e-12 * x.abs().max(), size


@pytest.mark.parametrize("mode", SIZES)
@pytest.mark.parametrize("wavelet", ["db1", "db4", "coif2"])
def test_analyze_keeps_the_dtype_and_leaves_its_input_alone(wavelet, mode):
    wide = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = wide.float().t()  # not contiguous: [3, 6]
    before = x.clone()
    got = axis(wavelet, mode, 6).analyze(x)
    assert got.dtype == torch.float32
    assert torch.equal(x, before)
    expected = axis(wavelet, mode, 6).analyze(x.double())
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)


def test_analyze_of_identity_is_the_transpose():
    x = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(axis("identity", "periodization", 3).analyze(x), x.t())


@pytest.mark.parametrize("wavelet", FEW)
def test_analyze_of_no_tokens_has_no_columns(wavelet):
    assert axis(wavelet, "periodization", 8).analyze(torch.empty(0, 8)).shape == (8, 0)


@pytest.mark.parametrize(
    ("wavelet", "mode", "shape"),
    [
        ("db1", "periodization", (4, 6)),
        ("db3", "periodization", (4, 10)),
        ("db3", "zero", (5, 4)),
        ("coif1", "zero", (1, 3)),
        ("identity", "periodization", (3, 5)),
        ("db2", "periodization", (4, 2, 1, 3)),
    ],
)
def test_an_atom_is_the_outer_product_of_its_row_and_column_filters(wavelet, mode, shape):
    m, n = shape[0], int(np.prod(shape[1:]))
    rows = np.eye(m) if wavelet == "identity" else pywt_matrix(wavelet, mode, m)
    columns = np.eye(n) if wavelet == "identity" else pywt_matrix(wavelet, mode, n)
    count = len(rows) * len(columns)
    assert coeffs_shape(wavelet, mode, shape) == (len(rows), len(columns))
    found = blocks(wavelet, mode, shape, np.arange(count, dtype=np.int32))
    entries = block_entries(wavelet, mode, shape, found.of_coefficient.reshape(-1)).reshape(count, -1)
    taps = block_taps(wavelet)[found.codes].reshape(count, -1)
    assert entries.shape == taps.shape == (count, filters(wavelet).shape[1] ** 2)
    for index in range(count):
        dense = np.zeros(m * n)
        kept = entries[index] >= 0
        np.add.at(dense, entries[index][kept], taps[index][kept])
        i, j = divmod(index, len(columns))
        np.testing.assert_allclose(dense.reshape(m, n), np.outer(rows[i], columns[j]), rtol=0, atol=1e-13)


def test_a_convolution_is_seen_as_a_matrix():
    assert matrix_shape((8, 4, 3, 3)) == (8, 36)
    assert matrix_shape((8, 4, 3)) == (8, 12)
    assert coeffs_shape("db1", "periodization", (8, 4, 3, 3)) == (8, 36)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (5, 5), (4, 1, 3, 3), (1, 2)], ids=str)
def test_odd_sizes_are_refused_under_periodization_alone(shape):
    with pytest.raises(
        WaveFTError, match=r"expected even sizes under periodization, got \[\d+, \d+\]\. Leave"
    ) as caught:
        coeffs_shape("db1", "periodization", shape)
    assert str(list(shape)) in str(caught.value)
    assert coeffs_shape("identity", "periodization", shape) == matrix_shape(shape)
    m, n = matrix_shape(shape)
    assert coeffs_shape("db1", "zero", shape) == (m + m % 2, n + n % 2)
    assert coeffs_shape("db2", "zero", shape) == (2 * ((m + 3) // 2), 2 * ((n + 3) // 2))


@pytest.mark.parametrize(
    "wavelet", ["haar", "dmey", "bior2.2", "DB1", "db0", "db39", "sym1", "coif18", "", None, 1, ["db1"]]
)
def test_unknown_wavelets_are_refused_with_what_there_is(wavelet):
    with pytest.raises(WaveFTError, match=r"wavelet: expected one of .*db1\.\.db38.*identity, got ") as caught:
        check_wavelet(wavelet, "periodization")
    assert repr(wavelet) in str(caught.value)
    assert ('Use "db1"' in str(caught.value)) == (wavelet == "haar")


@pytest.mark.parametrize("mode", ["per", "symmetric", "Zero", "", None, 0, ["zero"]])
def test_unknown_modes_are_refused(mode):
    with pytest.raises(WaveFTError, match="mode: expected one of periodization, zero, got "):
        check_wavelet("db1", mode)


def test_identity_knows_one_mode():
    check_wavelet("identity", "periodization")
    with pytest.raises(WaveFTError, match='expected "periodization" with wavelet "identity", got \'zero\''):
        check_wavelet("identity", "zero")


def test_the_shared_filters_cannot_be_written_to():
    with pytest.raises(ValueError, match="read-only"):
        filters("db2")[0, 0] = 1.0


@pytest.mark.parametrize("mode", ["periodization", "zero"])
@pytest.mark.parametrize("wavelet", FEW)
def test_synthesis_is_analysis_backwards_and_pywts_idwt(wavelet, mode):
    if wavelet == "identity" and mode == "zero":
        pytest.skip("identity has one mode")
    for size in SIZES[mode]:
        side = axis(wavelet, mode, size)
        coeffs = torch.randn(side.count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
        made = side.synthesize(coeffs)
        dense = matrix(wavelet, mode, size)
        torch.testing.assert_close(made, coeffs.t() @ torch.as_tensor(dense), rtol=0, atol=1e-12)
        if wavelet != "identity":
            low, high = np.split(coeffs.numpy(), 2)
            expected = pywt.idwt(low, high, wavelet, mode, axis=0)[:size]
            np.testing.assert_allclose(made.numpy(), expected.T, rtol=0, atol=1e-12)
