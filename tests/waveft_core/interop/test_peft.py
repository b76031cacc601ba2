"""Parity with the installed PEFT, by folders that its own `save_pretrained` writes and its `from_pretrained` reads."""

import json
import shutil
import warnings
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

from waveft_core import Adapter, Layer, Spec, WaveFTError, attach, load, merge, save
from waveft_core.basis.locations import draw
from waveft_core.interop.peft import WORKING, _order, read_peft, write_peft

EVEN = {"a": (12, 8), "b": (8, 20)}
ODD = {"a": (13, 8), "b": (9, 7), "c": (10, 12)}
PEFT = "peft is not installed: its own folders are the oracle here"


@pytest.fixture(scope="module")
def peft():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that it imports
        return pytest.importorskip("peft", reason=PEFT)


def model_of(shapes, dtype=torch.float64):
    return nn.ModuleDict({name: nn.Linear(n, m, bias=False) for name, (m, n) in shapes.items()}).to(dtype)


class Block(nn.Module):
    """Layers at deeper paths, one of which ends as another does."""

    def __init__(self):
        super().__init__()
        self.to_q = nn.Linear(8, 12)
        self.inner = nn.ModuleDict({"to_q": nn.Linear(8, 12), "to_k": nn.Linear(6, 10, bias=False)})

    def forward(self, x):
        return self.to_q(x)


def saved(peft, model, folder, dtype=torch.float64, **config):
    """Writes a folder as PEFT does, values drawn; returns each layer's dW by PEFT, by module path, float64."""
    config = {"target_modules": r".*", "n_frequency": 40, "scaling": 3.0, "random_loc_seed": 5, **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, peft.WaveFTConfig(**config), autocast_adapter_dtype=False)
        generator = torch.Generator().manual_seed(9)
        deltas = {}
        for path, module in wrapped.base_model.model.named_modules():
            if hasattr(module, "waveft_spectrum"):
                spectrum = module.waveft_spectrum["default"]
                spectrum.data = torch.randn(spectrum.shape, generator=generator, dtype=torch.float64).to(dtype)
                with torch.no_grad():
                    delta = module.get_delta_weight("default").double()
                deltas[path] = delta.t() if module.fan_in_fan_out else delta
        wrapped.save_pretrained(folder)
    return deltas


@pytest.mark.parametrize("shapes", [EVEN, ODD], ids=["even", "odd"])
@pytest.mark.parametrize(
    ("wavelet", "tolerance"),
    [
        *((name, 1e-12) for name in ("db1", "db2", "db10", "sym4", "coif1", "coif2", "coif3")),
        ("db3", 1e-10),  # a digit of PEFT's own table is wrong
        ("identity", 0),
    ],
)
def test_the_delta_is_pefts(peft, wavelet, tolerance, shapes, tmp_path):
    basis = {"use_idwt": False} if wavelet == "identity" else {"wavelet_family": wavelet}
    expected = saved(peft, model_of(shapes), tmp_path, target_modules=list(shapes), **basis)
    adapter = read_peft(tmp_path, model_of(shapes))
    assert adapter.layers.keys() == {f"lora_{name}" for name in shapes}
    assert (adapter.wavelet, adapter.scaling, adapter.locations) == (wavelet, 3.0, "peft:5")
    periodic = wavelet == "identity" or (wavelet == "db1" and shapes is EVEN)
    assert adapter.mode == ("periodization" if periodic else "zero")
    for name, delta in expected.items():
        assert delta.abs().max() > 0.1
        got = adapter.delta(f"lora_{name}")
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, delta, rtol=0, atol=tolerance * float(delta.abs().max()))


def test_every_value_is_the_one_of_its_own_position(peft, tmp_path):
    """All m*n coefficients, so that a wrong order of any two shows."""
    expected = saved(peft, model_of({"a": (6, 10)}), tmp_path, target_modules=["a"], n_frequency=60)
    delta = read_peft(tmp_path, {"a": (6, 10)}).delta("lora_a")
    torch.testing.assert_close(delta, expected["a"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("wavelet", ["db1", "db2", "sym4", "coif2", "identity"])
@pytest.mark.parametrize("shapes", [EVEN, ODD], ids=["even", "odd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_there_and_back_gives_the_same_tensors(peft, wavelet, shapes, dtype, tmp_path):
    basis = {"use_idwt": False} if wavelet == "identity" else {"wavelet_family": wavelet}
    saved(peft, model_of(shapes, dtype), tmp_path / "a", dtype, target_modules=list(shapes), **basis)
    write_peft(read_peft(tmp_path / "a", model_of(shapes)), tmp_path / "b", model_of(shapes))
    before, after = (safetensors.torch.load_file(tmp_path / which / "adapter_model.safetensors") for which in "ab")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert tensor.dtype == dtype
        assert after[key].dtype == dtype
        assert torch.equal(after[key], tensor)
    configs = [json.loads((tmp_path / which / "adapter_config.json").read_text()) for which in "ab"]
    kept = ("n_frequency", "scaling", "random_loc_seed", "use_idwt", "fan_in_fan_out", "peft_type")
    assert [configs[0][key] for key in kept] == [configs[1][key] for key in kept]


@pytest.mark.parametrize("proportional", [False, True])
def test_pattern_and_proportional_budgets(peft, proportional, tmp_path):
    config = {"proportional_parameters": proportional, "n_frequency": 33, "target_modules": ["to_q", "to_k"]}
    pattern = {} if proportional else {"n_frequency_pattern": {"inner.to_q": 11, "to_k": 7}}
    expected = saved(peft, Block().double(), tmp_path / "a", **config, **pattern)
    adapter = read_peft(tmp_path / "a", Block())
    counts = {name: layer.values.numel() for name, layer in adapter.layers.items()}
    if not proportional:
        assert counts == {"lora_to_q": 33, "lora_inner_to_q": 11, "lora_inner_to_k": 7}
    assert len(set(counts.values())) > 1
    for path, delta in expected.items():
        torch.testing.assert_close(adapter.delta("lora_" + path.replace(".", "_")), delta, rtol=0, atol=1e-12)
    write_peft(adapter, tmp_path / "b", Block())
    read = loaded(peft, Block().double(), tmp_path / "b")
    assert read.keys() == expected.keys()
    for path, delta in expected.items():
        torch.testing.assert_close(read[path], delta, rtol=0, atol=1e-12)


def test_a_pattern_for_a_path_that_another_ends_with(peft, tmp_path):
    config = {"n_frequency": 11, "n_frequency_pattern": {"^to_q": 30}, "target_modules": ["to_q", "to_k"]}
    expected = saved(peft, Block().double(), tmp_path / "a", **config)
    adapter = read_peft(tmp_path / "a", Block())
    assert {name: layer.values.numel() for name, layer in adapter.layers.items()} == {
        "lora_to_q": 30,
        "lora_inner_to_q": 11,
        "lora_inner_to_k": 11,
    }
    write_peft(adapter, tmp_path / "b", Block())
    for path, delta in loaded(peft, Block().double(), tmp_path / "b").items():
        torch.testing.assert_close(delta, expected[path], rtol=0, atol=1e-12)


def loaded(peft, model, folder):
    """Each layer's dW in a model that PEFT loads the folder into, by module path."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False)
    return {
        path: module.get_delta_weight("default").detach()
        for path, module in wrapped.base_model.model.named_modules()
        if hasattr(module, "waveft_spectrum")
    }


def test_what_is_trained_here_runs_in_peft(peft, tmp_path, make_mlp):
    model = make_mlp(torch.float64)
    spec = Spec(coefficients=9, scaling=2.0, locations="peft:31", targets=("0", "2"))
    tuning = attach(model, spec)
    with torch.no_grad():
        for index, values in enumerate(tuning.parameters()):
            values.copy_(torch.randn(9, generator=torch.Generator().manual_seed(index)))
    tuning.refresh()
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, adapter = model(x).detach(), tuning.adapter()
    tuning.detach()
    write_peft(adapter, tmp_path / "out", model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.PeftModel.from_pretrained(model, tmp_path / "out", autocast_adapter_dtype=False)
    torch.testing.assert_close(wrapped(x), expected, rtol=0, atol=1e-12)


def test_a_transposed_weight(peft, tmp_path):
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils", reason="transformers is not installed")
    model = nn.ModuleDict({"a": pytorch_utils.Conv1D(12, 8), "b": pytorch_utils.Conv1D(10, 6)}).double()
    assert model["a"].weight.shape == (8, 12)  # [in, out]
    expected = saved(peft, model, tmp_path / "a", target_modules=["a", "b"], fan_in_fan_out=True, wavelet_family="db2")
    base = {"a": (8, 12), "b": (6, 10)}
    adapter = read_peft(tmp_path / "a", base)
    assert adapter.layers["lora_a"].shape == (8, 12)
    for name, delta in expected.items():
        torch.testing.assert_close(adapter.delta(f"lora_{name}"), delta, rtol=0, atol=1e-12)
    write_peft(adapter, tmp_path / "b", base)
    before, after = (safetensors.torch.load_file(tmp_path / which / "adapter_model.safetensors") for which in "ab")
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text())["fan_in_fan_out"] is True


def test_an_imported_adapter_is_saved_loaded_and_merged_as_any_other(peft, tmp_path):
    model = model_of(EVEN, torch.float32)
    saved(peft, model_of(EVEN, torch.float32), tmp_path / "a", torch.float32, target_modules=list(EVEN))
    adapter = read_peft(tmp_path / "a", model)
    save(adapter, tmp_path / "ours.safetensors")
    again = load(tmp_path / "ours.safetensors")
    before = model["a"].weight.detach().clone()
    merge(model, again)
    torch.testing.assert_close(model["a"].weight.detach(), before + adapter.delta("lora_a"))
    write_peft(again, tmp_path / "b", model)
    assert torch.equal(*(spectrum(tmp_path / which, "a") for which in "ab"))


def spectrum(folder, path):
    return safetensors.torch.load_file(folder / "adapter_model.safetensors")[f"base_model.model.{path}.waveft_spectrum"]


def test_the_working_wavelets_are_those_whose_filters_peft_has(peft):
    import pywt
    from peft.tuners.waveft.constants import WAVELET_REDUCTIONS
    from peft.tuners.waveft.wavelet import Wavelet

    def works(name):
        try:
            bank = torch.tensor(Wavelet(name).filter_bank[2:], dtype=torch.float64)
        except ValueError:
            return False
        ours = torch.tensor([pywt.Wavelet(name).rec_lo, pywt.Wavelet(name).rec_hi], dtype=torch.float64)
        return bank.shape == ours.shape and float((bank - ours).abs().max()) < 1e-11

    assert [name for name in WAVELET_REDUCTIONS if works(name)] == list(WORKING)


# --- without PEFT


@pytest.mark.parametrize(
    "case",
    [("db1", "periodization", (8, 12)), ("db3", "zero", (9, 7)), ("identity", "periodization", (5, 4))],
    ids=str,
)
def test_the_draw_is_that_of_locations(case):
    wavelet, mode, shape = case
    order = _order(wavelet, mode, shape, 17, 777, False)
    assert torch.equal(order.sort().values.int(), draw("peft:777", "lora_x", wavelet, mode, shape, 17))


def write_folder(folder, values=5, path="a", config=None, **tensors):
    folder.mkdir(exist_ok=True)
    spectra = {f"base_model.model.{path}.waveft_spectrum": torch.arange(1.0, values + 1)}
    safetensors.torch.save_file({**spectra, **tensors}, folder / "adapter_model.safetensors")
    written = {"peft_type": "WAVEFT", "n_frequency": 5, "scaling": 2.0, "random_loc_seed": 3, **(config or {})}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


def test_the_first_drawn_value_is_at_the_first_drawn_position(tmp_path):
    adapter = read_peft(write_folder(tmp_path, config={"use_idwt": False}), {"a": (4, 6)})
    drawn = torch.randperm(24, generator=torch.Generator().manual_seed(3))[:5].tolist()
    layer = adapter.layers["lora_a"]
    assert dict(zip(layer.indices.tolist(), layer.values.tolist(), strict=True)) == {
        place: float(rank + 1) for rank, place in enumerate(drawn)
    }


def test_diffusers_keys_and_an_sdxl_checkpoints_names(tmp_path):
    path = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    blocks = ["input_blocks_5_1", "input_blocks_7_1", "input_blocks_8_1", "middle_block_1"]
    blocks += [f"output_blocks_{index}_1" for index in range(6)]
    others = {f"lora_unet_{block}_transformer_blocks_0_attn1_to_q": (2, 2) for block in blocks}
    slots = {}
    for layer, shape in {name: (4, 6), **others}.items():
        block = layer.removeprefix("lora_unet_").removesuffix("_transformer_blocks_0_attn1_to_q")
        kind, _, number = block.rpartition("blocks_")
        dotted = f"{kind}blocks.{number.replace('_', '.')}" if kind else "middle_block.1"
        original = f"{dotted}.transformer_blocks.0.attn1.to_q"
        slots[layer] = SimpleNamespace(name=layer, path=original, component="unet", shape=shape)
    base = SimpleNamespace(slots=slots, read=dict)
    folder = write_folder(tmp_path / "a", path=path)
    adapter = read_peft(folder, base)
    assert list(adapter.layers) == [name]
    # copies: the file that some versions of the library map into memory is written anew below
    read = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    tensors = {key: tensor.clone() for key, tensor in read.items()}
    bare = {key.removeprefix("base_model.model."): tensor for key, tensor in tensors.items()}
    safetensors.torch.save_file(bare, folder / "adapter_model.safetensors")
    assert list(read_peft(folder, base).layers) == [name]
    write_peft(adapter, tmp_path / "b", base)  # back under diffusers' path
    assert torch.equal(spectrum(tmp_path / "b", path), tensors[f"base_model.model.{path}.waveft_spectrum"])
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text())["target_modules"] == [path]
    slots.popitem()  # no SDXL any more: its numbers say nothing
    with pytest.raises(WaveFTError, match=r'layer "base_model.model.down_blocks.*expected one of the base\'s.*folder'):
        read_peft(write_folder(tmp_path / "c", path=path), base)
    with pytest.raises(WaveFTError, match=r"expected an attention layer of SDXL.*as a diffusers folder"):
        write_peft(adapter, tmp_path / "d", base)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"wavelet_family": "coif4"},
            r"family: expected one of db1, .*got 'coif4', whose filters in PEFT are not",
        ),
        ({"wavelet_family": "coif5"}, r"got 'coif5', whose filters in PEFT are not.*48 taps"),
        ({"wavelet_family": "db11"}, "got 'db11', which PEFT cannot compute"),
        ({"wavelet_family": "sym11"}, "got 'sym11', which PEFT cannot compute"),
        ({"wavelet_family": "coif6"}, "got 'coif6', which PEFT cannot compute"),
        ({"wavelet_family": 3}, "got 3, which PEFT cannot compute"),
        ({"peft_type": "LORA"}, "peft_type: expected \"WAVEFT\", got 'LORA'"),
        ({"modules_to_save": ["head"]}, r"modules_to_save: expected none, got \['head'\]"),
        ({"bias": "all"}, "bias: expected none, got 'all'"),
        ({"scaling": "25"}, "expected a WaveFT config, got scaling '25'"),
        ({"scaling": float("nan")}, "got scaling nan"),
        ({"random_loc_seed": 2**64}, "got random_loc_seed"),
        ({"use_idwt": 1}, "got use_idwt 1"),
        ({"n_frequency": 0}, "n_frequency: expected a whole number of at least 1, got 0"),
        ({"n_frequency": 6}, r'layer "lora_a": expected 6 values by its config and the base, got 5'),
        ({"n_frequency_pattern": {"a": 4}}, "expected 4 values by its config"),
        ({"n_frequency_pattern": {"(": 4}}, r"pattern '\(': expected a regular expression"),
        ({"n_frequency_pattern": {"a": "x"}}, "n_frequency_pattern: expected a whole number"),
        ({"n_frequency_pattern": [1]}, "pattern: expected a JSON object"),
    ],
    ids=str,
)
def test_configs_that_cannot_be_imported_are_refused(config, message, tmp_path):
    with pytest.raises(WaveFTError, match=message):
        read_peft(write_folder(tmp_path, config=config), {"a": (4, 6)})


def test_a_wavelet_that_is_not_used_does_not_matter(tmp_path):
    folder = write_folder(tmp_path, config={"wavelet_family": "coif4", "use_idwt": False})
    assert read_peft(folder, {"a": (4, 6)}).wavelet == "identity"


def test_files_that_cannot_be_imported_are_refused(tmp_path):
    shapes = {"a": (4, 6)}
    with pytest.raises(WaveFTError, match=r"expected PEFT's adapter_config.json, got none there"):
        read_peft(tmp_path / "nowhere", shapes)
    folder = write_folder(tmp_path / "extra", **{"base_model.model.head.weight": torch.ones(2, 2)})
    with pytest.raises(WaveFTError, match=r'tensor "base_model.model.head.weight": expected WaveFT spectra'):
        read_peft(folder, shapes)
    with pytest.raises(WaveFTError, match=r'layer "base_model.model.b": expected one of the base\'s'):
        read_peft(write_folder(tmp_path / "other", path="b"), shapes)
    with pytest.raises(WaveFTError, match=r"expected linear layers, got \"lora_a\""):
        read_peft(write_folder(tmp_path / "conv"), {"a": (4, 6, 1, 1)})
    with pytest.raises(WaveFTError, match="expected 4 values by its config and the base, got 5"):
        read_peft(write_folder(tmp_path / "small"), {"a": (2, 2)})
    pickled = write_folder(tmp_path / "pickle")
    shutil.move(pickled / "adapter_model.safetensors", pickled / "adapter_model.bin")
    with pytest.raises(WaveFTError, match=r"got adapter_model.bin, a pickle.*safe_serialization=True"):
        read_peft(pickled, shapes)
    (pickled / "adapter_model.bin").unlink()
    with pytest.raises(WaveFTError, match=r"expected a .safetensors file, got none there"):
        read_peft(pickled, shapes)
    for text in ("{", "[" * 100_000, "[1]"):
        (pickled / "adapter_config.json").write_text(text)
        with pytest.raises(WaveFTError, match=r"adapter_config\.json"):
            read_peft(pickled, shapes)


def peft_adapter(wavelet="db1", mode="periodization", shape=(8, 12), locations="peft:7", **more):
    indices = draw("peft:7", "lora_a", wavelet, mode, shape, 10)
    return Adapter({"lora_a": Layer(torch.randn(10), indices, shape)}, wavelet, mode, locations=locations, **more)


@pytest.mark.parametrize(
    ("adapter", "base", "message"),
    [
        (peft_adapter(locations="uniform:7"), {"a": (8, 12)}, 'locations: expected "peft:SEED".*got uniform:7.*.diff'),
        (peft_adapter(locations=None), {"a": (8, 12)}, 'locations: expected "peft:SEED".*got None'),
        (
            peft_adapter(locations="peft:8"),
            {"a": (8, 12)},
            'positions: expected those .* draws for seed 8.*"lora_a"',
        ),
        (peft_adapter(), {"b": (8, 12)}, 'layers "lora_a": expected layers of the base, got none'),
        (peft_adapter(), {"a": (12, 8)}, r"layer \"lora_a\": expected the base's \[12, 8\], got \[8, 12\]"),
        (peft_adapter("coif4", "zero"), {"a": (8, 12)}, "wavelet: expected one that PEFT computes.*got coif4"),
    ],
    ids=["uniform", "unknown", "another seed", "another layer", "another shape", "coif4"],
)
def test_adapters_that_peft_cannot_hold_are_refused(adapter, base, message, tmp_path):
    with pytest.raises(WaveFTError, match=message):
        write_peft(adapter, tmp_path / "out", base)
    assert not (tmp_path / "out").exists()


def test_a_periodic_wavelet_of_longer_filters_is_not_pefts(tmp_path):
    layer = Layer(torch.randn(3), torch.tensor([1, 5, 9], dtype=torch.int32), (8, 12))
    adapter = Adapter({"lora_a": layer}, "db2", locations="peft:7")
    with pytest.raises(WaveFTError, match='mode: expected "zero", PEFT\'s for db2, got periodization'):
        write_peft(adapter, tmp_path / "out", {"a": (8, 12)})
    with pytest.raises(WaveFTError, match="expected an existing folder"):
        write_peft(peft_adapter(), tmp_path / "no" / "out", {"a": (8, 12)})


def test_writing_twice_gives_the_same_bytes(tmp_path):
    adapter = peft_adapter()
    for which in "ab":
        write_peft(adapter, tmp_path / which, {"a": (8, 12)})
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


@pytest.mark.parametrize("held", ["", "text_model."], ids=["bare", "with text_model"])
@pytest.mark.parametrize("called", ["", "text_model."], ids=["bare", "with text_model"])
def test_a_text_encoders_paths_with_and_without_text_model(held, called, tmp_path):
    name, path = "lora_te1_text_model_encoder_q_proj", "encoder.q_proj"
    slots = {name: SimpleNamespace(name=name, path=held + path, component="te1", shape=(4, 6))}
    folder = write_folder(tmp_path / "a", path=called + path)
    assert list(read_peft(folder, SimpleNamespace(slots=slots, read=dict)).layers) == [name]


def test_layers_of_two_components_are_refused(tmp_path):
    layers, slots = {}, {}
    for component in ("unet", "te1"):
        name = f"lora_{component}_a"
        layers[name] = Layer(torch.ones(3), draw("peft:7", name, "db1", "periodization", (4, 6), 3), (4, 6))
        slots[name] = SimpleNamespace(name=name, path="a", component=component, shape=(4, 6))
    with pytest.raises(WaveFTError, match=r"layers: expected one component's, got those of te1, unet"):
        write_peft(Adapter(layers, locations="peft:7"), tmp_path / "out", SimpleNamespace(slots=slots, read=dict))
