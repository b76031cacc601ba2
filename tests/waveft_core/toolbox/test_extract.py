import importlib
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from waveft_core import SDXL_ATTENTION, Adapter, Layer, WaveFTError, merge
from waveft_core.format.keys import original_paths
from waveft_core.toolbox.extract import extract, extract_deltas
from waveft_core.toolbox.selection import analyzed, fewest, largest, largest_of_all
from waveft_core.toolbox.sources import differences, opened
from waveft_core.toolbox.weights import Weights

extraction = importlib.import_module("waveft_core.toolbox.extract")  # the package may export the function of that name
WAVELETS = ["db1", "db2", "db3", "sym4", "coif2", "identity"]


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def one(delta, **budget):
    return extract_deltas([("lora_x", delta)], **budget)


def distance(delta, adapter):
    return float((delta - adapter.delta("lora_x", torch.float64)).norm())


@pytest.mark.parametrize("shape", [(2, 2), (4, 6), (16, 10), (6, 2, 3, 1)], ids=str)
@pytest.mark.parametrize("wavelet", WAVELETS)
def test_all_coefficients_give_the_difference_back(wavelet, shape):
    delta = random(*shape)
    made = one(delta, coefficients=delta.numel(), wavelet=wavelet)
    assert made.layers["lora_x"].shape == shape
    torch.testing.assert_close(made.delta("lora_x"), delta, rtol=0, atol=1e-9)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_the_analysis_is_pywavelets_and_keeps_the_norm(wavelet, idwt2):
    delta = random(8, 12)
    coeffs = analyzed(delta, wavelet)
    np.testing.assert_allclose(idwt2(coeffs.numpy(), wavelet, "periodization", (8, 12)), delta.numpy(), atol=1e-9)
    torch.testing.assert_close(coeffs.norm(), delta.norm(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("wavelet", ["db1", "db2", "sym4", "identity"])
def test_no_other_choice_of_positions_does_better(wavelet, idwt2):
    """Every subset of p of the 16 positions, its values by least squares: none comes closer than the p largest."""
    units = np.eye(16).reshape(16, 4, 4)
    atoms = torch.from_numpy(np.stack([idwt2(unit, wavelet, "periodization", (4, 4)).reshape(-1) for unit in units]))
    for p, seed in itertools.product((1, 2, 3, 5), (0, 1)):
        delta = random(4, 4, seed=seed)
        made = one(delta, coefficients=p, wavelet=wavelet)
        assert made.layers["lora_x"].values.numel() == p
        subsets = torch.tensor(list(itertools.combinations(range(16), p)))
        basis = atoms[subsets].transpose(1, 2)  # [C(16, p), 16, p]
        target = delta.reshape(1, 16, 1).expand(len(subsets), 16, 1)
        found = torch.linalg.lstsq(basis, target).solution
        errors = (basis @ found - target).norm(dim=(1, 2))
        assert distance(delta, made) <= float(errors.min()) + 1e-9
        assert tuple(made.layers["lora_x"].indices.tolist()) == tuple(subsets[errors.argmin()].tolist())
        assert float(errors.min()) < float(errors.median())  # the choice matters


def test_values_and_energies_worked_by_hand():
    # the 2 x 2 block [[3, 3], [1, 1]]: aa = 4, da = 2 (rows differ), the others 0
    told = []
    delta = torch.zeros(4, 4, dtype=torch.float64)
    delta[:2, 2:] = torch.tensor([[3.0, 3.0], [1.0, 1.0]])
    made = extract_deltas([("lora_x", delta)], coefficients=1, scaling=2.0, report=lambda *args: told.append(args))
    layer = made.layers["lora_x"]
    assert layer.indices.tolist() == [1]
    assert (made.wavelet, made.mode, made.scaling, made.locations) == ("db1", "periodization", 2.0, None)
    torch.testing.assert_close(layer.values, torch.tensor([2.0], dtype=torch.float64))
    assert told == [("lora_x", pytest.approx(16), pytest.approx(20))]
    assert one(delta, coefficients=9).layers["lora_x"].indices.tolist() == [1, 9]  # zeros are not kept
    assert one(delta, energy=0.8).layers["lora_x"].indices.tolist() == [1]
    assert one(delta, energy=0.801).layers["lora_x"].indices.tolist() == [1, 9]


@pytest.mark.parametrize("wavelet", ["db1", "db2", "identity"])
def test_a_merged_adapter_comes_out_again(wavelet, make_adapter, make_mlp):
    base, tuned = make_mlp(torch.float64), make_mlp(torch.float64)
    adapter = make_adapter({"lora_0": (12, 8), "lora_2": (6, 12)}, 5, wavelet, dtype=torch.float64)
    merge(tuned, adapter)
    made = extract(base, tuned, coefficients=5, wavelet=wavelet, scaling=adapter.scaling, targets=r"\d")
    assert list(made.layers) == ["lora_0", "lora_2"]
    for name, layer in adapter.layers.items():
        assert torch.equal(made.layers[name].indices, layer.indices)
        torch.testing.assert_close(made.layers[name].values, layer.values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999, 1])
def test_energy_keeps_the_fewest_that_reach_the_share(share):
    delta = random(8, 10, seed=3)
    told = []
    made = extract_deltas([("lora_x", delta)], energy=share, report=lambda *args: told.append(args))
    p = made.layers["lora_x"].values.numel()
    (_, kept, whole), squares = told[0], analyzed(delta, "db1").square().reshape(-1).sort(descending=True).values
    assert whole == pytest.approx(float(delta.square().sum()))
    assert kept == pytest.approx(float(squares[:p].sum()))
    assert kept >= share * whole * (1 - 1e-12)
    assert p == 1 or float(squares[: p - 1].sum()) < share * whole


def several(count=7):
    return [(f"lora_{index}", random(4, 2 * index + 2, seed=index) * (index + 1)) for index in range(count)]


@pytest.mark.parametrize("total", [1, 5, 17, 60, 1000])
def test_total_spends_one_budget_where_it_matters_most(total):
    told = []
    made = extract_deltas(several(), total=total, scaling=1.0, report=lambda *args: told.append(args))
    every = [(abs(c), name, k, c) for name, d in several() for k, c in enumerate(analyzed(d, "db1").flatten().tolist())]
    best = sorted(sorted(every, key=lambda item: -item[0])[:total], key=lambda item: item[1:3])
    got = [(n, k) for n, layer in made.layers.items() for k in layer.indices.tolist()]
    assert got == [(name, k) for _, name, k, _ in best]
    values = torch.cat([layer.values for layer in made.layers.values()])
    torch.testing.assert_close(values, torch.tensor([c for *_, c in best], dtype=torch.float64))
    assert [name for name, *_ in told] == [name for name, _ in several()]  # those that got none as well
    assert sum(kept for _, kept, _ in told) == pytest.approx(float(values.square().sum()))
    assert told[-1][2] == pytest.approx(float(several()[-1][1].square().sum()))


def test_ties_are_settled_by_layer_then_place():
    flat = [(f"lora_{name}", torch.ones(2, 4)) for name in "abc"]
    made = extract_deltas(flat, total=11, wavelet="identity")
    assert {name: layer.indices.tolist() for name, layer in made.layers.items()} == {
        "lora_a": list(range(8)),
        "lora_b": [0, 1, 2],
    }
    made = extract_deltas(flat, coefficients=3, wavelet="identity")
    assert all(layer.indices.tolist() == [0, 1, 2] for layer in made.layers.values())
    assert extract_deltas(flat, total=4, wavelet="identity").layers.keys() == {"lora_a"}


def test_the_pool_holds_no_more_than_twice_the_budget(monkeypatch):
    trim, held = extraction._Pool.trim, []

    def watched(pool, found, last=False):
        trim(pool, found, last)
        held.append(sum(layer.places.size for layer in found.values()))

    monkeypatch.setattr(extraction._Pool, "trim", watched)
    extract_deltas([(f"lora_{index:02}", random(8, 8, seed=index)) for index in range(40)], total=10)
    assert max(held) <= 20
    assert held[-1] == 10


@pytest.mark.parametrize("seed", range(5))
def test_largest_is_a_stable_sort(seed):
    sizes = np.random.default_rng(seed).integers(0, 6, 40).astype(np.float32)
    for count in (1, 7, 20, 39, 40, 50):
        assert largest(sizes, count).tolist() == sorted(np.argsort(-sizes, kind="stable")[:count].tolist())
    parts = [sizes[:13], sizes[13:13], sizes[13:]]
    chosen = largest_of_all(parts, 20)
    joined = [*chosen[0], *(chosen[2] + 13)]
    assert joined == largest(sizes, 20).tolist()
    assert chosen[1].size == 0


def test_fewest_by_hand():
    sizes = np.array([0.0, 2.0, 1.0, 2.0])  # squares 4, 4, 1: shares 4/9, 8/9, 1
    assert [fewest(sizes, share) for share in (0.01, 4 / 9, 0.45, 8 / 9, 0.9, 1)] == [1, 1, 2, 2, 3, 3]
    assert fewest(np.zeros(3), 0.5) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float8_e4m3fn], ids=str)
def test_differences_are_taken_in_float32(dtype):
    before, after = random(4, 6, seed=1).to(dtype), random(4, 6, seed=2).to(dtype)
    ((name, delta),) = differences({"a.to_q.weight": before}, {"a.to_q.weight": after})
    assert (name, delta.dtype) == ("lora_a_to_q", torch.float32)
    assert torch.equal(delta, after.float() - before.float())
    made = extract({"a.to_q.weight": before}, {"a.to_q.weight": after}, coefficients=3)
    assert made.layers["lora_a_to_q"].values.dtype == torch.float32


def test_differences_of_float64_stay_float64():
    before, after = random(4, 6, seed=1), random(4, 6, seed=2, dtype=torch.float32)
    ((_, delta),) = differences({"a.to_q.weight": before}, {"a.to_q.weight": after})
    assert torch.equal(delta, after.double() - before)


class Stored:
    """Weights as files have them: listed by slots, read one by one."""

    def __init__(self, weights):
        self.slots = {
            name: SimpleNamespace(name=name, path=path, component="unet", shape=tuple(weight.shape))
            for name, (path, weight) in weights.items()
        }
        self._weights = {name: weight for name, (_, weight) in weights.items()}
        self.asked = []

    def read(self, name):
        self.asked.append(name)
        return self._weights[name]


def test_a_model_a_mapping_a_state_dict_and_files_are_all_sources():
    name, path = "lora_unet_input_blocks_4_1_to_q", "input_blocks.4.1.to_q"
    weights = random(4, 6), random(4, 6, seed=1)
    stored = Stored({name: (path, weights[0])})
    module = nn.ModuleDict({"input_blocks": nn.ModuleDict({"4": nn.ModuleDict({"1": nn.ModuleDict()})})}).double()
    module["input_blocks"]["4"]["1"]["to_q"] = nn.Linear(6, 4, bias=False)
    module = module.double()
    with torch.no_grad():
        module.get_submodule(path).weight.copy_(weights[1])
    state = {f"{path}.weight": weights[1], f"{path}.bias": random(4), "input_blocks.0.norm.weight": random(4)}
    expected = {name: weights[1] - weights[0]}
    for tuned in (module, {"unet": module}, state, module.state_dict()):
        got = dict(differences(stored, tuned))
        assert got.keys() == expected.keys()
        assert torch.equal(got[name], expected[name])
        assert not got[name].requires_grad
    assert opened(stored) is stored
    assert list(opened(state).slots) == [name]  # neither the bias nor the norm


def test_one_layer_is_read_at_a_time():
    weights = {f"lora_{index}_to_q": (f"{index}.to_q", random(4, 4, seed=index)) for index in range(3)}
    base, tuned = Stored(weights), Stored({name: (path, held + 1) for name, (path, held) in weights.items()})
    made = differences(base, tuned)
    assert (base.asked, tuned.asked) == ([], [])
    next(made)
    assert (base.asked, tuned.asked) == (["lora_0_to_q"], ["lora_0_to_q"])


def test_layers_without_a_difference_are_left_out():
    base = {"a.to_q.weight": random(4, 4), "b.to_q.weight": random(4, 4)}
    tuned = {**base, "b.to_q.weight": random(4, 4, seed=1)}
    told = []
    made = extract(base, tuned, coefficients=2, metadata={"ss_x": "y"}, report=lambda *args: told.append(args))
    assert list(made.layers) == ["lora_b_to_q"]
    assert made.metadata == {"ss_x": "y"}
    assert told[0] == ("lora_a_to_q", 0.0, 0.0)
    for budget in ({"coefficients": 2}, {"energy": 0.9}, {"total": 5}):
        with pytest.raises(WaveFTError, match=r"layers: expected some that differ, got none that differs\. Check"):
            extract(base, base, **budget)


def test_components_that_one_side_lacks_are_no_fault():
    both = {"lora_unet_a_to_q": ("a.to_q", random(4, 4))}
    whole = Stored({**both, "lora_te1_text_model_to_q": ("text_model.to_q", random(4, 4))})
    tuned = Stored({"lora_unet_a_to_q": ("a.to_q", random(4, 4, seed=1))})
    assert [name for name, _ in differences(whole, tuned)] == ["lora_unet_a_to_q"]
    assert [name for name, _ in differences(tuned, whole)] == ["lora_unet_a_to_q"]


def test_what_does_not_fit_is_refused_before_anything_is_read():
    base = {"a.to_q.weight": random(4, 4), "b.to_k.weight": random(4, 4)}
    with pytest.raises(WaveFTError, match=r'1 layers: expected them in both.*none in the tuned one of "lora_b_to_k"'):
        differences(base, {"a.to_q.weight": random(4, 4)})
    with pytest.raises(WaveFTError, match=r'got none in the base of "lora_b_to_k"'):
        differences({"a.to_q.weight": random(4, 4)}, base)
    with pytest.raises(WaveFTError, match=r'layer "lora_a_to_q": expected one shape in both.*\[4, 4\] and \[4, 6\]'):
        differences(base, {**base, "a.to_q.weight": random(4, 6)})
    with pytest.raises(WaveFTError, match=r"targets .*: expected to match layers that both models have, got none"):
        differences(base, base, targets=("proj",))
    for wrong in (3, "a.safetensors", {"a": 3}):
        with pytest.raises(WaveFTError, match="expected a model"):
            differences(wrong, base)
    with pytest.raises(WaveFTError, match='layer "lora_a_b": expected one module of that name'):
        opened({"a.b.weight": random(2, 2), "a_b.weight": random(2, 2)})


@pytest.mark.parametrize(
    "wrong", [torch.ones(4, 4, dtype=torch.int8), torch.ones(4, 4, device="meta")], ids=["int8", "meta"]
)
def test_weights_that_cannot_be_subtracted_are_refused(wrong):
    base = {"a.to_q.weight": random(4, 4)}
    with pytest.raises(WaveFTError, match='layer "lora_a_to_q": expected float weights, got'):
        list(differences(base, {"a.to_q.weight": wrong}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "zero"}, 'mode: expected "periodization", whose atoms are an orthonormal basis, got "zero"'),
        ({"wavelet": "haar"}, "wavelet: expected"),
        ({"coefficients": None}, "budget: expected exactly one of coefficients, energy, total, got none"),
        ({"total": 5}, 'got "coefficients", "total"'),
        ({"coefficients": 0}, "coefficients: expected a whole number of at least 1, got 0"),
        ({"coefficients": True}, "coefficients: expected a whole number"),
        ({"coefficients": None, "total": 2.0}, "total: expected a whole number"),
        ({"coefficients": None, "energy": float("nan")}, "energy: expected a share above 0, at most 1, got nan"),
        ({"coefficients": None, "energy": 0}, "energy: expected a share above 0"),
        ({"coefficients": None, "energy": 1.01}, "energy: expected a share above 0"),
        ({"scaling": 0}, "scaling: expected a finite number other than 0"),
        ({"scaling": float("inf")}, "scaling: expected a finite number other than 0"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_are_refused(change, message):
    with pytest.raises(WaveFTError, match=message):
        one(random(4, 4), **{"coefficients": 2, **change})


def test_differences_that_cannot_be_are_refused():
    with pytest.raises(WaveFTError, match=r'layer "lora_x": expected even sizes .* got \[4, 5\].*wavelet = "identity"'):
        one(random(4, 5), coefficients=2)
    assert one(random(3, 5), coefficients=2, wavelet="identity").layers["lora_x"].values.numel() == 2
    broken = random(4, 4)
    broken[1, 2] = float("nan")
    with pytest.raises(WaveFTError, match='layer "lora_x": expected a finite difference, got NaN or infinity'):
        one(broken, coefficients=2)
    with pytest.raises(WaveFTError, match='layer "lora_x": expected it once, got it twice'):
        extract_deltas([("lora_x", random(4, 4))] * 2, coefficients=2)
    with pytest.raises(WaveFTError, match="layers: expected some that differ, got none"):
        extract_deltas([], coefficients=2)


def test_an_extracted_adapter_is_a_valid_one_and_can_be_extracted_again(make_adapter):
    first = one(random(8, 8), coefficients=7, wavelet="db2")
    assert isinstance(first, Adapter)
    assert isinstance(first.layers["lora_x"], Layer)
    again = one(first.delta("lora_x"), coefficients=7, wavelet="db2")
    assert torch.equal(again.layers["lora_x"].indices, first.layers["lora_x"].indices)
    torch.testing.assert_close(again.layers["lora_x"].values, first.layers["lora_x"].values, rtol=1e-9, atol=0)


def test_a_folder_against_a_checkpoint_of_the_other_spelling(tmp_path):
    nano = Path(__file__).resolve().parents[3] / "models" / "nano-sdxl"
    (file,) = (nano / "unet").glob("*.safetensors")
    held = safetensors.torch.load_file(file)
    originals = original_paths([key.rpartition(".")[0] for key in held])
    state = {}
    for key, tensor in held.items():
        path, _, kind = key.rpartition(".")
        state[f"model.diffusion_model.{originals[path]}.{kind}"] = tensor
    changed = "input_blocks.4.1.transformer_blocks.0.attn2.to_k"
    weight = state[f"model.diffusion_model.{changed}.weight"]
    delta = torch.zeros(weight.shape)
    delta[:2, :2] = 1.0
    state[f"model.diffusion_model.{changed}.weight"] = (weight + delta).to(torch.float16)
    safetensors.torch.save_file(state, tmp_path / "tuned.safetensors")
    base, tuned = Weights.open(nano), Weights.open(tmp_path / "tuned.safetensors")
    made = extract(base, tuned, energy=0.99)
    assert list(made.layers) == ["lora_unet_" + changed.replace(".", "_")]
    torch.testing.assert_close(made.delta(*made.layers), delta, rtol=0, atol=0.01)
    ends = tuple(f".{suffix}.weight" for suffix in SDXL_ATTENTION)
    assert len(list(differences(base, tuned))) == sum(key.endswith(ends) for key in held)
