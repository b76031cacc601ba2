import numpy as np
import pytest
import torch

from waveft_core import Adapter, Layer, WaveFTError, load, save
from waveft_core.toolbox.algebra import combine, energy, prune, reproject


def one(values, indices, shape=(4, 4), wavelet="db1", mode="periodization", scaling=1.0, dtype=torch.float32, **more):
    layer = Layer(torch.tensor(values, dtype=dtype), torch.tensor(indices, dtype=torch.int32), shape)
    return Adapter({"lora_x": layer}, wavelet, mode, scaling, **more)


def values_of(adapter, name="lora_x"):
    return dict(zip(adapter.layers[name].indices.tolist(), adapter.layers[name].values.tolist(), strict=True))


# --- combine


@pytest.mark.parametrize("scalings", [(2.0, 2.0, 2.0), (25.0, 1.0, -0.5)], ids=str)
@pytest.mark.parametrize(
    ("wavelet", "mode"), [("db1", "periodization"), ("db3", "zero"), ("identity", "periodization")]
)
def test_the_combined_delta_is_the_weighted_sum(wavelet, mode, scalings, make_adapter):
    shapes = [{"lora_a": (6, 8), "lora_b": (4, 2, 3, 1)}, {"lora_a": (6, 8)}, {"lora_a": (6, 8), "lora_c": (2, 2)}]
    if mode == "periodization":
        shapes[0]["lora_b"] = (4, 2, 2, 1)
    parts = [
        make_adapter(held, 20, wavelet, mode, scaling, seed=seed, dtype=torch.float64)
        for seed, (held, scaling) in enumerate(zip(shapes, scalings, strict=True))
    ]
    weights = [0.5, -2.0, 1.25]
    made = combine(list(zip(parts, weights, strict=True)))
    assert list(made.layers) == ["lora_a", "lora_b", "lora_c"]
    assert made.scaling == scalings[0]
    for name in made.layers:
        terms = [w * part.delta(name) for part, w in zip(parts, weights, strict=True) if name in part.layers]
        torch.testing.assert_close(made.delta(name), torch.stack(terms).sum(0), rtol=1e-12, atol=1e-12)
    union = set().union(*(part.layers["lora_a"].indices.tolist() for part in parts))
    assert set(made.layers["lora_a"].indices.tolist()) == union


def test_a_sum_worked_by_hand():
    first, second = one([1.0, 2.0], [0, 5], scaling=2.0), one([4.0, 3.0], [5, 9], scaling=1.0)
    assert values_of(combine([(first, 1.0), (second, 0.5)])) == {0: 1.0, 5: 3.0, 9: 0.75}
    assert values_of(combine([(second, 0.5), (first, 1.0)])) == {0: 2.0, 5: 6.0, 9: 1.5}


def test_a_position_whose_sum_is_zero_is_kept():
    adapter = one([1.0, 2.0], [0, 5])
    assert values_of(combine([(adapter, 1.0), (adapter, -1.0)])) == {0: 0.0, 5: 0.0}


def test_one_part_at_weight_one_is_the_adapter_itself(make_adapter, bits):
    adapter = make_adapter({"lora_a": (6, 8), "lora_b": (4, 4)}, scaling=25.0, locations="uniform:3")
    made = combine([(adapter, 1.0)])
    assert made.locations == "uniform:3"
    for name, layer in adapter.layers.items():
        assert bits(made.layers[name].values) == bits(layer.values)
        assert torch.equal(made.layers[name].indices, layer.indices)


def test_combining_is_symmetric_and_splits(make_adapter, bits):
    first, second = (make_adapter({"lora_a": (8, 8)}, 30, seed=seed) for seed in (1, 2))
    ours, theirs = combine([(first, 0.7), (second, 0.3)]), combine([(second, 0.3), (first, 0.7)])
    assert bits(ours.layers["lora_a"].values) == bits(theirs.layers["lora_a"].values)
    halves = combine([(first, 0.5), (first, 0.5)])
    assert bits(halves.layers["lora_a"].values) == bits(first.layers["lora_a"].values)


def test_sums_are_made_in_float64_and_rounded_once():
    tiny = 2.0**-30
    made = combine([(one([1.0], [0]), 1.0), (one([tiny], [0]), 1.0), (one([-1.0], [0]), 1.0)])
    assert made.layers["lora_x"].values.dtype == torch.float32
    assert values_of(made) == {0: tiny}  # float32 would have lost it


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_sums_dtype(dtype):
    half, wide = one([1.0], [0], dtype=dtype), one([1.0], [0], dtype=torch.float64)
    assert combine([(half, 1.0)]).layers["lora_x"].values.dtype == torch.float32
    assert combine([(half, 1.0), (wide, 1.0)]).layers["lora_x"].values.dtype == torch.float64


def test_haar_of_even_sizes_mixes_modes():
    periodic, zero = one([1.0], [3], dtype=torch.float64), one([2.0], [3], mode="zero", dtype=torch.float64)
    for parts in ([periodic, zero], [zero, periodic]):
        made = combine([(part, 1.0) for part in parts])
        assert made.mode == "periodization"
        torch.testing.assert_close(made.delta("lora_x"), periodic.delta("lora_x") + zero.delta("lora_x"))
    assert combine([(zero, 1.0), (zero, 1.0)]).mode == "zero"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(("db2", "periodization", (4, 4)), id="wavelet"),
        pytest.param(("identity", "periodization", (4, 4)), id="identity"),
        pytest.param(("db1", "zero", (4, 5)), id="odd sizes"),
    ],
)
def test_different_bases_are_refused_with_the_remedy(other):
    wavelet, mode, shape = other
    with pytest.raises(WaveFTError, match=rf"basis: expected .*db1 periodization, got {wavelet} {mode}\. .*reproject"):
        combine([(one([1.0], [0]), 1.0), (one([1.0], [0], shape, wavelet, mode, source="b"), 1.0)])
    with pytest.raises(WaveFTError, match=r"basis: expected .*db2 zero, got db2 periodization"):
        combine([(one([1.0], [0], wavelet="db2", mode="zero"), 1.0), (one([1.0], [0], wavelet="db2"), 1.0)])


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 10**400, "1", None, True])
def test_a_weight_that_is_no_number_is_refused(weight):
    with pytest.raises(WaveFTError, match=r'adapter "a\.safetensors", weight: expected a finite number'):
        combine([(one([1.0], [0], source="a.safetensors"), weight)])


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(WaveFTError, match="combine: expected at least one adapter, got none"):
        combine([])
    with pytest.raises(WaveFTError, match=r'adapter "b", layer "lora_x": expected shape \[4, 4\].*got \[4, 6\]'):
        combine([(one([1.0], [0]), 1.0), (one([1.0], [0], (4, 6), source="b"), 1.0)])
    with pytest.raises(WaveFTError, match=r'layer "lora_x": expected sums within torch\.float32'):
        combine([(one([1e38], [0]), 10.0)])


def test_a_scaling_of_zero_is_a_delta_of_zero():
    nothing, something = one([7.0], [0], scaling=0.0), one([1.0], [5], scaling=2.0)
    for parts in ([nothing, something], [something, nothing]):
        made = combine([(part, 1.0) for part in parts])
        assert (made.scaling, values_of(made)) == (2.0, {0: 0.0, 5: 1.0})
    assert combine([(nothing, 1.0), (nothing, 1.0)]).scaling == 0.0


def test_metadata_that_agree_and_say_what_it_is_for_are_kept():
    common = {"modelspec.architecture": "sdxl/waveft", "ss_base_model_version": "sdxl_base_v1-0", "waveft.job": "..."}
    first = one([1.0], [0], metadata={**common, "ss_steps": "1", "sshs_model_hash": "x"}, locations="peft:1")
    second = one([1.0], [3], metadata={**common, "ss_steps": "2", "sshs_model_hash": "x"}, locations="peft:2")
    made = combine([(first, 1.0), (second, 1.0)])
    assert made.metadata == {key: common[key] for key in ("modelspec.architecture", "ss_base_model_version")}
    assert made.locations is None
    assert combine([(first, 1.0), (first, 1.0)]).locations == "peft:1"


def test_a_combined_adapter_can_be_saved(tmp_path, make_adapter):
    made = combine([(make_adapter({"lora_a": (6, 8)}, seed=seed), 0.5) for seed in (1, 2)])
    save(made, tmp_path / "a.safetensors")
    again = load(tmp_path / "a.safetensors")
    assert torch.equal(again.layers["lora_a"].values, made.layers["lora_a"].values)


# --- prune and energy


def test_energy_is_the_squared_norm_of_delta(make_adapter):
    for wavelet in ("db1", "db4", "identity"):
        adapter = make_adapter({"lora_a": (6, 8), "lora_b": (10, 2)}, 9, wavelet, scaling=-3.0, dtype=torch.float64)
        expected = sum(float(adapter.delta(name).square().sum()) for name in adapter.layers)
        assert energy(adapter) == pytest.approx(expected, rel=1e-9)
    assert energy(one([3.0, 4.0], [0, 1], scaling=2.0)) == 100.0


def two_layers():
    first = Layer(torch.tensor([1.0, -5.0, 2.0, 4.0]), torch.tensor([0, 3, 7, 9], dtype=torch.int32), (4, 4))
    second = Layer(torch.tensor([-3.0, 0.5]), torch.tensor([2, 5], dtype=torch.int32), (2, 4))
    return Adapter({"lora_a": first, "lora_b": second}, scaling=2.0, locations="uniform:1", metadata={"ss_x": "y"})


@pytest.mark.parametrize(
    ("budget", "first", "second"),
    [
        ({"coefficients": 1}, {3: -5.0}, {2: -3.0}),
        ({"coefficients": 3}, {3: -5.0, 7: 2.0, 9: 4.0}, {2: -3.0, 5: 0.5}),
        ({"keep": 0.5}, {3: -5.0, 9: 4.0}, {2: -3.0}),
        ({"keep": 0.6}, {3: -5.0, 7: 2.0, 9: 4.0}, {2: -3.0}),  # 3.6 of 6: four
        ({"keep": 0.01}, {3: -5.0}, None),  # never none at all
        ({"keep": 1 / 3}, {3: -5.0, 9: 4.0}, None),
        ({"energy": 25 / 55.25}, {3: -5.0}, None),  # squares 25, 16, 9, 4, 1, 0.25
        ({"energy": 0.46}, {3: -5.0, 9: 4.0}, None),
        ({"energy": 0.9}, {3: -5.0, 9: 4.0}, {2: -3.0}),
        ({"energy": 0.99}, {0: 1.0, 3: -5.0, 7: 2.0, 9: 4.0}, {2: -3.0}),
    ],
    ids=str,
)
def test_prune_worked_by_hand(budget, first, second):
    made = prune(two_layers(), **budget)
    assert values_of(made, "lora_a") == first
    assert (values_of(made, "lora_b") if "lora_b" in made.layers else None) == second
    assert (made.scaling, made.locations, made.metadata) == (2.0, None, {"ss_x": "y"})


@pytest.mark.parametrize("budget", [{"coefficients": 4}, {"coefficients": 99}, {"keep": 1}, {"energy": 1.0}], ids=str)
def test_prune_that_drops_nothing_leaves_the_adapter(budget):
    made = prune(two_layers(), **budget)
    assert made.locations == "uniform:1"
    assert [layer.values.tolist() for layer in made.layers.values()] == [[1.0, -5.0, 2.0, 4.0], [-3.0, 0.5]]


def test_ties_go_to_the_first_layer_and_place():
    flat = Layer(torch.tensor([1.0, -1.0, 1.0]), torch.tensor([1, 4, 6], dtype=torch.int32), (4, 4))
    adapter = Adapter({"lora_b": flat, "lora_a": flat})
    made = prune(adapter, keep=4 / 6)
    assert (values_of(made, "lora_a"), values_of(made, "lora_b")) == ({1: 1.0, 4: -1.0, 6: 1.0}, {1: 1.0})
    assert values_of(prune(adapter, coefficients=2), "lora_b") == {1: 1.0, 4: -1.0}
    assert values_of(prune(adapter, energy=0.5), "lora_a") == {1: 1.0, 4: -1.0, 6: 1.0}


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.999])
def test_prune_by_energy_is_the_fewest_that_reach_it(share, make_adapter):
    adapter = make_adapter({"lora_a": (16, 16), "lora_b": (8, 8)}, 50, scaling=3.0)
    made = prune(adapter, energy=share)
    count = sum(layer.values.numel() for layer in made.layers.values())
    squares = np.sort(np.concatenate([layer.values.double().numpy() ** 2 for layer in adapter.layers.values()]))[::-1]
    assert energy(made) >= share * energy(adapter) * (1 - 1e-12)
    assert squares[: count - 1].sum() < share * squares.sum()
    assert energy(made) == pytest.approx(9 * squares[:count].sum())


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "budget: expected exactly one of coefficients, keep, energy, got none"),
        ({"keep": 0.5, "energy": 0.5}, 'budget: expected exactly one of .*got "keep", "energy"'),
        ({"keep": float("nan")}, "keep: expected a share above 0, at most 1, got nan"),
        ({"keep": 0.0}, "keep: expected"),
        ({"keep": 1.5}, "keep: expected"),
        ({"keep": True}, "keep: expected"),
        ({"energy": -0.5}, "energy: expected"),
        ({"energy": "0.9"}, "energy: expected"),
        ({"coefficients": 0}, "coefficients: expected a whole number of at least 1, got 0"),
        ({"coefficients": 2.0}, "coefficients: expected a whole number"),
    ],
    ids=str,
)
def test_budgets_that_cannot_be_are_refused(budget, message):
    with pytest.raises(WaveFTError, match=message):
        prune(two_layers(), **budget)


def test_an_adapter_of_zeros_has_no_energy_to_keep():
    zeros = one([0.0, 0.0], [1, 2])
    with pytest.raises(WaveFTError, match="energy: expected values other than 0, got zeros"):
        prune(zeros, energy=0.9)
    assert values_of(prune(zeros, keep=0.5)) == {1: 0.0}
    assert energy(zeros) == 0.0


# --- reproject


def test_reprojecting_onto_the_same_basis_changes_nothing(make_adapter):
    adapter = make_adapter({"lora_a": (6, 8), "lora_b": (4, 2, 3, 2)}, 7, "db2", dtype=torch.float64)
    made, error = reproject(adapter, "db2")
    assert error < 1e-9
    for name, layer in adapter.layers.items():
        assert torch.equal(made.layers[name].indices, layer.indices)
        torch.testing.assert_close(made.layers[name].values, layer.values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("coefficients", [None, 3, 48])
@pytest.mark.parametrize("wavelet", ["db1", "sym4", "identity"])
def test_the_error_is_that_of_the_deltas(wavelet, coefficients, make_adapter):
    adapter = make_adapter({"lora_a": (6, 8), "lora_b": (8, 6)}, 10, "db3", dtype=torch.float64, metadata={"ss_x": "y"})
    made, error = reproject(adapter, wavelet, coefficients=coefficients)
    assert (made.wavelet, made.mode, made.scaling) == (wavelet, "periodization", adapter.scaling)
    assert all(layer.values.numel() <= (coefficients or 10) for layer in made.layers.values())
    left = sum(float((adapter.delta(name) - made.delta(name)).square().sum()) for name in adapter.layers)
    assert error == pytest.approx((left / energy(adapter)) ** 0.5, rel=1e-6, abs=1e-9)
    assert (error < 1e-9) == (coefficients == 48)
    assert made.metadata == {"ss_x": "y"}


def test_the_error_counts_the_rounding_of_float32(make_adapter):
    adapter = make_adapter({"lora_a": (8, 8)}, 64)
    made, error = reproject(adapter, "db2")
    assert made.layers["lora_a"].values.dtype == torch.float32
    assert 0 < error < torch.finfo(torch.float32).eps


def test_zero_mode_comes_to_periodization(make_adapter):
    adapter = make_adapter({"lora_a": (8, 6)}, 12, "db2", "zero", dtype=torch.float64)
    made, error = reproject(adapter, "db2", coefficients=48)
    assert error < 1e-9
    torch.testing.assert_close(made.delta("lora_a"), adapter.delta("lora_a"), rtol=0, atol=1e-9)


def test_reprojecting_zeros_is_zeros():
    made, error = reproject(one([0.0], [3]), "db2")
    assert (error, list(values_of(made).values())) == (0.0, [0.0])
    assert reproject(one([2.0], [3], scaling=0.0), "db2")[1] == 0.0


def test_reprojecting_tells_of_each_layer(make_adapter):
    told = []
    adapter = make_adapter({"lora_a": (6, 8), "lora_b": (4, 4)}, 10)
    reproject(adapter, "db2", progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (1, 2)]


def test_what_cannot_be_reprojected_is_refused():
    with pytest.raises(WaveFTError, match='mode: expected "periodization", whose atoms are an orthonormal basis'):
        reproject(one([1.0], [0]), "db2", "zero")
    with pytest.raises(WaveFTError, match=r'layer "lora_x": expected even sizes for wavelet "db2", got \[5, 4\]'):
        reproject(one([1.0], [0], (5, 4), mode="zero"), "db2")
    assert reproject(one([1.0], [0], (5, 4), mode="zero"), "identity", coefficients=20)[1] < 1e-7
    with pytest.raises(WaveFTError, match="coefficients: expected a whole number"):
        reproject(one([1.0], [0]), "db2", coefficients=0)
