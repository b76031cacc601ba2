import itertools

import numpy as np
import ptwt
import pytest
import pywt
import torch

from waveft_core import Adapter, Layer, WaveFTError

WAVELETS = [name for family in ("db", "sym", "coif") for name in pywt.wavelist(family)]
SHAPES = {
    "periodization": [(2, 2), (2, 4), (4, 2), (10, 6), (16, 24)],
    "zero": [(1, 1), (2, 4), (3, 2), (7, 10), (9, 9), (16, 13)],
}


def shapes_for(wavelet, mode):
    """The largest shape, and another one by turns: each axis alone is `test_atoms.py`'s, at many more sizes."""
    *rest, largest = SHAPES[mode]
    return [rest[WAVELETS.index(wavelet) // len(SHAPES) % len(rest)], largest]


def one(values, indices, shape, wavelet="db1", mode="periodization", scaling=1.0):
    layer = Layer(torch.tensor(values, dtype=torch.float64), torch.tensor(indices, dtype=torch.int32), shape)
    return Adapter({"lora_x": layer}, wavelet, mode, scaling)


# each wavelet in one mode by turns: in both, each axis alone is `test_atoms.py`'s
@pytest.mark.parametrize(("wavelet", "mode"), [*zip(WAVELETS, itertools.cycle(SHAPES), strict=False)])
def test_delta_is_pywavelets_idwt2(wavelet, mode, make_adapter, pywt_delta):
    taps = len(pywt.Wavelet(wavelet).rec_lo) ** 2
    for shape in shapes_for(wavelet, mode):
        adapter = make_adapter({"lora_x": shape}, max(5, 4_000 // taps), wavelet, mode, dtype=torch.float64)
        expected = pywt_delta(adapter, "lora_x")
        got = adapter.delta("lora_x")
        assert got.dtype == torch.float64
        assert got.shape == shape
        assert np.abs(got.numpy() - expected).max() <= 1e-12 * np.abs(expected).max(), shape


@pytest.mark.parametrize("wavelet", WAVELETS[::3])
def test_the_norm_of_delta_is_scaling_times_the_norm_of_the_values(wavelet, make_adapter):
    for shape in shapes_for(wavelet, "periodization"):
        adapter = make_adapter({"lora_x": shape}, 4, wavelet, scaling=-3.0, dtype=torch.float64)
        expected = 3.0 * adapter.layers["lora_x"].values.norm()
        torch.testing.assert_close(adapter.delta("lora_x").norm(), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("shape", [(4, 6), (7, 10), (9, 9), (16, 13)], ids=str)
@pytest.mark.parametrize("wavelet", ["db1", "db2", "db7", "sym4", "coif1", "coif3"])
def test_delta_in_zero_mode_is_ptwts_waverec2(wavelet, shape, make_adapter, plane):
    adapter = make_adapter({"lora_x": shape}, 60, wavelet, "zero", dtype=torch.float64)
    layer = adapter.layers["lora_x"]
    coeffs = torch.zeros(plane(wavelet, "zero", shape), dtype=torch.float64)
    coeffs.view(-1)[layer.indices.long()] = layer.values
    half_m, half_n = coeffs.shape[0] // 2, coeffs.shape[1] // 2
    aa, ad = coeffs[:half_m, :half_n], coeffs[:half_m, half_n:]
    da, dd = coeffs[half_m:, :half_n], coeffs[half_m:, half_n:]
    dense = ptwt.waverec2((aa, ptwt.WaveletDetailTuple2d(da, ad, dd)), wavelet).squeeze(0)
    expected = adapter.scaling * dense[: shape[0], : shape[1]]
    torch.testing.assert_close(adapter.delta("lora_x"), expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("index", "rows", "columns", "signs"),
    [
        # C is 4 x 4: rows 0-1 low-pass over rows, columns 0-1 low-pass over columns
        pytest.param(1, (0, 1), (2, 3), [[1, 1], [1, 1]], id="aa-0-1"),
        pytest.param(4, (2, 3), (0, 1), [[1, 1], [1, 1]], id="aa-1-0"),
        pytest.param(9, (0, 1), (2, 3), [[1, 1], [-1, -1]], id="da-0-1"),  # high-pass over rows: sign by row
        pytest.param(12, (2, 3), (0, 1), [[1, 1], [-1, -1]], id="da-1-0"),
        pytest.param(3, (0, 1), (2, 3), [[1, -1], [1, -1]], id="ad-0-1"),  # high-pass over columns: sign by column
        pytest.param(6, (2, 3), (0, 1), [[1, -1], [1, -1]], id="ad-1-0"),
        pytest.param(11, (0, 1), (2, 3), [[1, -1], [-1, 1]], id="dd-0-1"),
        pytest.param(14, (2, 3), (0, 1), [[1, -1], [-1, 1]], id="dd-1-0"),
    ],
)
@pytest.mark.parametrize("mode", ["periodization", "zero"])
def test_a_haar_coefficient_worked_by_hand(index, rows, columns, signs, mode):
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            expected[row, column] = 3.0 * 5.0 * 0.5 * signs[i][j]  # scaling * value * (1/sqrt 2)^2
    torch.testing.assert_close(one([5.0], [index], (4, 4), mode=mode, scaling=3.0).delta("lora_x"), expected)


def test_the_example_of_the_format_page():
    expected = [[1, -1, 0.5, 0.5], [-1, 1, 0.5, 0.5], [0, 0, 0, 0], [0, 0, 0, 0]]
    got = one([0.5, 1.0], [1, 10], (4, 4), scaling=2.0).delta("lora_x")
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


def test_identity_scatters_and_scales():
    got = one([1.0, -2.0, 4.0], [0, 4, 14], (3, 5), "identity", scaling=2.5).delta("lora_x")
    expected = torch.zeros(3, 5, dtype=torch.float64)
    expected[0, 0], expected[0, 4], expected[2, 4] = 2.5, -5.0, 10.0
    assert torch.equal(got, expected)


def test_haar_of_even_sizes_is_one_basis_in_both_modes():
    args = [0.5, -1.0, 2.0], [0, 13, 59], (6, 10), "db1"
    assert torch.equal(one(*args, "periodization").delta("lora_x"), one(*args, "zero").delta("lora_x"))


def test_delta_is_linear_in_the_values(make_adapter):
    first = make_adapter({"lora_x": (8, 6)}, 20, "db3", dtype=torch.float64)
    layer = first.layers["lora_x"]
    other = torch.randn(20, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    second = Adapter({"lora_x": Layer(other, layer.indices, layer.shape)}, "db3", scaling=first.scaling)
    both = Adapter(
        {"lora_x": Layer(2 * layer.values - other, layer.indices, layer.shape)}, "db3", scaling=first.scaling
    )
    expected = 2 * first.delta("lora_x") - second.delta("lora_x")
    torch.testing.assert_close(both.delta("lora_x"), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 4, 3, 1), (6, 2, 2, 2), (4, 3, 2)], ids=str)
@pytest.mark.parametrize("wavelet", ["db1", "db3", "identity"])
def test_a_convolutions_delta_is_the_matrix_one_in_its_own_shape(shape, wavelet, make_adapter, pywt_delta):
    adapter = make_adapter({"lora_x": shape}, 10, wavelet, dtype=torch.float64)
    got = adapter.delta("lora_x")
    assert got.shape == shape
    expected = pywt_delta(adapter, "lora_x").reshape(shape)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_delta_is_computed_wide_and_rounded_once(dtype, make_adapter):
    adapter = make_adapter({"lora_x": (8, 8)}, 40, "db2")
    wide = adapter.delta("lora_x")
    assert wide.dtype == torch.float32
    assert torch.equal(adapter.delta("lora_x", dtype=dtype), wide.to(dtype))
    exact = adapter.delta("lora_x", dtype=torch.float64)
    assert exact.dtype == torch.float64
    assert 0 < (exact - wide.double()).abs().max() < 1e-5 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_values_give_a_delta_of_their_dtype(dtype, make_adapter):
    adapter = make_adapter({"lora_x": (8, 8)}, dtype=dtype)
    assert adapter.delta("lora_x").dtype == dtype
    assert adapter.delta("lora_x", device="cpu").device.type == "cpu"


def test_a_delta_larger_than_asked_for_is_refused_before_it_is_made():
    huge = Adapter({"lora_x": Layer(torch.ones(1), torch.zeros(1, dtype=torch.int32), (2**15, 2**15))})
    with pytest.raises(WaveFTError, match=r'layer "lora_x", shape: expected at most 268435456 entries.*max_entries'):
        huge.delta("lora_x")
    small = one([1.0], [0], (4, 4))
    with pytest.raises(WaveFTError, match="expected at most 15 entries"):
        small.delta("lora_x", max_entries=15)
    assert small.delta("lora_x", max_entries=16).shape == (4, 4)


def test_an_unknown_layer_is_refused_with_the_names_there_are(make_adapter):
    adapter = make_adapter({"lora_a": (2, 2), "lora_b": (2, 2)})
    for call in (lambda: adapter.delta("lora_c"), lambda: adapter.add_(torch.zeros(2, 2), "lora_c")):
        with pytest.raises(WaveFTError, match=r'layer "lora_c".*"lora_a", "lora_b"'):
            call()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("strength", [1.0, -0.75, 0.3])
def test_add_is_weight_plus_strength_delta_rounded_once(dtype, strength, make_adapter):
    adapter = make_adapter({"lora_x": (8, 12)}, 3, "db2")
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(2)).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    expected = weight.double() + strength * adapter.delta("lora_x", dtype=torch.float64)
    copy = weight.clone()
    assert adapter.add_(copy, "lora_x", strength) is copy
    assert copy.dtype == dtype
    error = (copy.double() - expected).abs()
    assert (error <= expected.abs() * torch.finfo(dtype).eps * 0.51 + 8 * torch.finfo(wide).eps).all()
    untouched = adapter.delta("lora_x") == 0
    assert untouched.any()
    assert torch.equal(copy[untouched], weight[untouched])


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2],
    ids=str,
)
def test_add_writes_the_same_bits_whatever_the_strides_and_with_a_kept_plan(dtype, make_adapter):
    adapter = make_adapter({"lora_x": (8, 12)}, 3, "db2")
    weight = torch.randn(8, 12, generator=torch.Generator().manual_seed(2)).to(dtype)
    expected = adapter.add_(weight.clone(), "lora_x", 0.7)
    assert not torch.equal(expected.double(), weight.double())
    turned = weight.t().contiguous().t()
    assert not turned.is_contiguous()
    assert torch.equal(adapter.add_(turned, "lora_x", 0.7).double(), expected.double())
    plan = adapter.plan("lora_x", dtype, weight.device)
    for _ in range(2):
        assert torch.equal(adapter.add_(weight.clone(), "lora_x", 0.7, plan).double(), expected.double())
    values = adapter.layers["lora_x"].values.clone()
    assert torch.equal(adapter.add_(weight.clone(), "lora_x", 0.7, values=values).double(), expected.double())
    untouched = adapter.add_(weight.clone(), "lora_x", 0.7, values=values.zero_())  # those given, and no others
    assert torch.equal(untouched.double(), weight.double())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_add_reaches_a_convolution_in_any_memory_format(memory_format, make_adapter):
    adapter = make_adapter({"lora_x": (4, 2, 3, 3)})
    weight = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = weight + adapter.delta("lora_x")
    got = adapter.add_(weight.to(memory_format=memory_format), "lora_x")
    torch.testing.assert_close(got, expected)


def test_add_reaches_a_transposed_weight(make_adapter):
    adapter = make_adapter({"lora_x": (4, 6)})
    stored = torch.zeros(6, 4)
    adapter.add_(stored.t(), "lora_x")
    torch.testing.assert_close(stored.t(), adapter.delta("lora_x"))


@pytest.mark.parametrize("shape", [(12, 8), (8, 10), (96,), (8, 12, 1)], ids=str)
def test_add_refuses_another_shape(shape, make_adapter):
    adapter = make_adapter({"lora_x": (8, 12)})
    weight = torch.zeros(shape)
    with pytest.raises(WaveFTError, match=r'layer "lora_x", weight: expected \[8, 12\], got \[.*another model'):
        adapter.add_(weight, "lora_x")
    assert not weight.any()


def test_layers_are_sorted_and_cannot_be_written_to(make_adapter):
    adapter = make_adapter({"lora_b": (2, 2), "lora_a": (2, 2)}, metadata={"k": "v"})
    assert list(adapter.layers) == ["lora_a", "lora_b"]
    with pytest.raises(TypeError):
        adapter.layers["lora_c"] = adapter.layers["lora_a"]
    with pytest.raises(TypeError):
        adapter.metadata["k"] = "w"


def _layer(values=(1.0,), indices=(0,), shape=(4, 4), dtype=torch.float32, index_dtype=torch.int32):
    return Layer(torch.tensor(values, dtype=dtype), torch.tensor(indices, dtype=index_dtype), shape)


BROKEN = {
    "integer values": (
        _layer((1,), dtype=torch.int64),
        r"waveft_values: expected F32, F16 or BF16 \[p\], got torch.int64",
    ),
    "values of two axes": (
        Layer(torch.ones(1, 1), torch.zeros(1, dtype=torch.int32), (4, 4)),
        "waveft_values: expected",
    ),
    "int64 indices": (_layer(index_dtype=torch.int64), r"waveft_indices: expected I32 \[p\], got torch.int64"),
    "indices of two axes": (
        Layer(torch.ones(1), torch.zeros(1, 1, dtype=torch.int32), (4, 4)),
        "waveft_indices: expect",
    ),
    "one size": (_layer(shape=(16,)), r"waveft_shape: expected two to four sizes.*got \[16\]"),
    "five sizes": (_layer(shape=(2, 2, 2, 2, 2)), "waveft_shape: expected two to four sizes"),
    "a size of zero": (_layer(shape=(4, 0)), r"waveft_shape: expected .* at least 1, got \[4, 0\]"),
    "a negative size": (_layer(shape=(-4, -4)), "waveft_shape: expected .* at least 1"),
    "no coefficient": (_layer((), ()), "as many values as indices, at least one, got 0 values and 0 indices"),
    "lengths differ": (_layer((1.0, 2.0), (0,)), "got 2 values and 1 indices"),
    "odd sizes": (_layer(shape=(4, 5)), "expected even sizes under periodization"),
    "a plane of 2**31": (_layer(shape=(2**15, 2**16)), r"a plane of fewer than 2\*\*31"),
    "a negative index": (_layer((1.0, 2.0), (-1, 3)), r"strictly increasing within \[0, 16\), got -1, out of range"),
    "an index too large": (_layer((1.0, 2.0), (3, 16)), r"within \[0, 16\), got 16, out of range"),
    "a repeated index": (_layer((1.0, 2.0, 3.0), (1, 3, 3)), "got 3 after 3 at position 2"),
    "decreasing indices": (_layer((1.0, 2.0), (3, 1)), "got 1 after 3 at position 1"),
    "a negative index in the middle": (_layer((1.0, 2.0, 3.0), (1, -3, 4)), "got -3, out of range"),
    "NaN": (_layer((1.0, float("nan")), (0, 1)), "waveft_values: expected finite numbers, got NaN or infinity"),
    "infinity": (_layer((float("-inf"),)), "waveft_values: expected finite numbers"),
    "a product beyond float32": (_layer((2e38,)), r"scaling \* values within float32, got a larger product"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_layer_is_refused_by_name(case):
    layer, message = BROKEN[case]
    with pytest.raises(WaveFTError, match=message) as caught:
        Adapter({"lora_good": _layer(), "lora_bad": layer}, scaling=25.0, source="some/where.safetensors")
    assert str(caught.value).startswith('adapter "some/where.safetensors", layer "lora_bad", ')
    assert ". " in str(caught.value)  # a remedy follows


@pytest.mark.parametrize("name", ["", "a.b", "."])
def test_a_layer_name_has_no_dot(name):
    with pytest.raises(WaveFTError, match="a layer name without dots"):
        Adapter({name: _layer()})


@pytest.mark.parametrize("scaling", [float("nan"), float("inf"), -float("inf")])
def test_a_scaling_that_is_not_finite_is_refused(scaling):
    with pytest.raises(WaveFTError, match="scaling: expected a finite number"):
        Adapter({"lora_x": _layer()}, scaling=scaling)


def test_an_adapter_without_layers_is_refused():
    with pytest.raises(WaveFTError, match="at least one layer, got none"):
        Adapter({})


def test_an_unknown_basis_is_refused():
    with pytest.raises(WaveFTError, match="wavelet: expected"):
        Adapter({"lora_x": _layer()}, wavelet="dmey")
    with pytest.raises(WaveFTError, match="mode: expected"):
        Adapter({"lora_x": _layer()}, mode="periodic")


def test_the_largest_plane_is_accepted_without_being_made():
    last = 2**31 - 2**16 - 1
    Adapter({"lora_x": _layer((1.0,), (last,), (2**15 - 1, 2**16))}, "identity")


def test_a_path_in_the_place_of_an_adapter_is_refused_with_the_call_that_helps(tmp_path):
    from torch import nn

    from waveft_core import attach, combine, merge, merge_files, prune, reproject, summarize

    model = nn.Sequential(nn.Linear(4, 4))
    for call in (
        lambda: merge(model, "dog.safetensors"),
        lambda: attach(model, "dog.safetensors"),
        lambda: prune("dog.safetensors", keep=0.5),
        lambda: reproject("dog.safetensors", "db2"),
        lambda: summarize("dog.safetensors"),
        lambda: combine([("dog.safetensors", 1.0)]),
        lambda: merge_files(tmp_path, [("dog.safetensors", 1.0)], tmp_path / "out"),
    ):
        with pytest.raises(WaveFTError, match=r'expected an Adapter, got str. Use load\("dog.safetensors"\)'):
            call()
    adapter = one_layer()
    for call in (
        lambda: combine([adapter, adapter]),
        lambda: combine(adapter),
        lambda: merge_files(tmp_path, [adapter], tmp_path / "out"),
        lambda: merge_files(tmp_path, "dog.safetensors", tmp_path / "out"),
    ):
        with pytest.raises(
            WaveFTError, match=r"expected pairs \(Adapter, number\), got .*Give \[\(load\(path\), 1.0\)"
        ):
            call()


def test_an_adapter_says_what_it_is():
    assert repr(one_layer()) == "<Adapter, db1 periodization, 1 layers, 1 coefficients>"


def one_layer():
    return Adapter({"lora_0": Layer(torch.ones(1), torch.zeros(1, dtype=torch.int32), (4, 4))})
