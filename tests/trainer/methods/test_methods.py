"""What holds for every method: it begins at the base, is the seed's alone, is swapped, saved, applied and taken out."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import waveft_core
from trainer.base.layershapes import Layer
from trainer.job import networks
from trainer.methods import package, registry, shipped
from trainer.system.errors import UserError

spec = importlib.util.spec_from_file_location("methods_conftest", Path(__file__).with_name("conftest.py"))
shared = importlib.util.module_from_spec(spec)
spec.loader.exec_module(shared)
ALL = tuple(shared.SETTINGS)
PEFTS = ("lora", "loha", "lokr", "adalora", "vera", "fourierft")
every = pytest.mark.parametrize("name", ALL)
of_peft = pytest.mark.parametrize("name", PEFTS)


def test_every_method_has_its_settings_and_its_own_name():
    assert [kind.NAME for kind in registry.KINDS] == list(networks.METHODS) == list(ALL)
    for name, model in networks.METHODS.items():
        assert name == registry.of(model()).NAME
        assert registry.of(model()).words()


@every
def test_it_begins_at_the_base_and_ends_there(attach, unet, inputs, name):
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    modules, output = dict(unet.named_modules()), unet(*inputs)
    tuning = attach(name)
    assert torch.equal(unet(*inputs), output)
    shared.moved(tuning)
    assert not torch.allclose(unet(*inputs), output)
    with tuning.disabled():
        assert torch.equal(unet(*inputs), output)
    assert not torch.allclose(unet(*inputs), output)
    tuning.detach()
    assert torch.equal(unet(*inputs), output)
    assert {key: id(module) for key, module in unet.named_modules()} == {
        key: id(module) for key, module in modules.items()
    }
    after = unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not hasattr(unet, "peft_config")


@every
def test_its_first_values_are_the_seeds_alone(attach, unet, name):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    tuning = attach(name)
    assert torch.equal(torch.get_rng_state(), state)  # no global draw was made
    first = {key: value.clone() for key, value in tuning.state_dict().items()}
    tuning.detach()
    torch.manual_seed(12)
    again = attach(name)
    assert all(torch.equal(value, first[key]) for key, value in again.state_dict().items())
    again.detach()
    few = attach(name, include=["^mid"])  # which other layers train does not matter
    assert all(torch.equal(value, first[key]) for key, value in few.state_dict().items())
    few.detach()
    drawn = name in ("lora", "loha", "lokr", "adalora")
    other = attach(name, seed=8).state_dict()
    assert all(torch.equal(value, other[key]) for key, value in first.items()) != drawn


@every
def test_its_size_is_counted_before_torch(attach, name):
    tuning = attach(name)
    method = registry.of(networks.METHODS[name](**shared.SETTINGS[name]))
    layers = [
        Layer(path, 16, 24 if path.endswith("to_k") else 16, path.endswith("to_out.0"))
        for path in tuning.paths.values()
    ]
    counts = method.counts(layers)
    assert counts == [sum(one.numel() for one in held) for held in tuning.layers.values()]
    assert sum(counts) == tuning.numel == sum(held.numel() for held in tuning.state_dict().values())
    assert f"{tuning.numel:,}" in method.size_words(counts)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_file_is_as_large_as_was_said(attach, tmp_path, name, dtype):
    tuning = attach(name)
    shared.moved(tuning)
    path = tmp_path / "a.safetensors"
    product = tuning.product()
    product.save(path, dtype)
    method = registry.of(networks.METHODS[name](**shared.SETTINGS[name]))
    layers = [
        Layer(path, 16, 24 if path.endswith("to_k") else 16, path.endswith("to_out.0"))
        for path in tuning.paths.values()
    ]
    expected = method.file_bytes(layers, method.counts(layers), dtype.itemsize) - 135 * method.TENSORS * len(tuning)
    body = sum(held.numel() * held.element_size() for held in load_file(path).values())
    assert body == pytest.approx(expected, rel=0.05, abs=400)  # factors, shapes
    assert product.is_in(path, dtype)
    before = path.read_bytes()
    product.save(path, dtype)
    assert path.read_bytes() == before


@every
def test_numbers_go_out_and_in_and_are_swapped(attach, unet, inputs, name):
    tuning = attach(name)
    state = shared.moved(tuning)
    output = unet(*inputs)
    assert all(torch.equal(held, state[key]) for key, held in tuning.state_dict().items())
    others = [torch.randn_like(one) for one in tuning.parameters()]
    with pytest.raises(KeyError, match="inside"), tuning.swapped(others):
        assert all(torch.equal(a, b) for a, b in zip(tuning.parameters(), others, strict=True))
        assert not torch.allclose(unet(*inputs), output)
        raise KeyError("inside")
    assert torch.equal(unet(*inputs), output)
    with pytest.raises(waveft_core.WaveFTError):
        tuning.load_state_dict(dict(list(state.items())[1:]))


@every
def test_only_its_numbers_get_gradients(attach, unet, inputs, name):
    tuning = attach(name)
    shared.moved(tuning)
    unet(*inputs).square().sum().backward()
    assert all(one.grad is not None and bool(one.grad.any()) for one in tuning.parameters())
    assert all(one.dtype == torch.float32 for one in tuning.parameters())
    own = {id(one) for one in tuning.parameters()}
    assert not [key for key, one in unet.named_parameters() if one.requires_grad and id(one) not in own]


@every
def test_a_file_gives_what_was_trained(attach, unet, inputs, tmp_path, name):
    tuning = attach(name)
    shared.moved(tuning)
    trained = unet(*inputs)
    tuning.product().save(tmp_path / "a.safetensors", torch.float32)
    tuning.product().save_diff(tmp_path / "b.safetensors", torch.float32, {"a": "b"})
    tuning.detach()
    base, before = unet(*inputs), {key: value.clone() for key, value in unet.state_dict().items()}
    with shipped.applied({"unet": unet}, tmp_path / "a.safetensors"):
        torch.testing.assert_close(unet(*inputs), trained)
    with shipped.applied({"unet": unet}, tmp_path / "a.safetensors", strength=0.0):
        assert torch.equal(unet(*inputs), base)
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())
    for key, difference in load_file(tmp_path / "b.safetensors").items():
        layer, _, kind = key.partition(".")
        place = tuning.paths[layer]
        unet.get_parameter(f"{place}.{'bias' if kind == 'diff_b' else 'weight'}").data += difference
    torch.testing.assert_close(unet(*inputs), trained)


@of_peft
def test_a_file_adds_what_pefts_own_layer_adds(attach, name):
    tuning = attach(name)
    shared.moved(tuning)
    product = tuning.product()
    for site in tuning.sites:
        mine = product.kind.delta(shipped.tensorfile.held_by(product.tensors, site.name), site.shape)["weight"]
        with torch.no_grad():
            torch.testing.assert_close(mine, site.layer.get_delta_weight("default"), atol=1e-6, rtol=1e-5)


RESETS = {
    "lora": ("reset_lora_parameters", (True,)),
    "adalora": ("reset_lora_parameters", ()),
    "loha": ("reset_adapter_parameters", ()),
    "lokr": ("reset_adapter_parameters", ()),
    "vera": ("reset_vera_parameters", (0.1,)),
    "fourierft": ("reset_fourier_parameters", ()),
}


@of_peft
def test_first_values_are_pefts_own(attach, name):
    tuning = attach(name)
    if name == "vera":
        draw = torch.Generator().manual_seed(0)
        bounds = {"vera_A": math.sqrt(6 / 24), "vera_B": math.sqrt(6 / 20)}  # Kaiming's, of what flows in
        for key, bound in bounds.items():
            held = next(iter(getattr(tuning.models[0], key).values()))
            assert torch.equal(held, torch.empty(held.shape).uniform_(-bound, bound, generator=draw))
    for site in tuning.sites:
        mine = {part: held.detach().clone() for part, held in site.parts.items()}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(5)
            method, arguments = RESETS[name]
            getattr(site.layer, method)("default", *arguments)
        for part, held in site.parts.items():  # as large, and zero where PEFT's are
            assert bool(held.any()) == bool(mine[part].any())
            if held.numel() > 16 and bool(held.any()):
                assert float(mine[part].std()) == pytest.approx(float(held.detach().std()), rel=0.5)
                assert float(mine[part].abs().max()) < 3 * float(held.detach().abs().max())


@pytest.mark.parametrize("name", ["lora", "loha", "lokr"])
def test_a_run_goes_on_from_a_file(attach, unet, inputs, tmp_path, name):
    tuning = attach(name)
    state = shared.moved(tuning)
    trained, path, tuning_layers = unet(*inputs), tmp_path / "a.safetensors", set(tuning.layers)
    tuning.product().save(path, torch.float32)
    tuning.detach()
    network = networks.METHODS[name](network_weights=str(path))
    again = registry.of(network).attach(shared.Host({"unet": unet}, False, 99, 6))
    assert again.layers.keys() == tuning_layers
    torch.testing.assert_close(unet(*inputs), trained)
    if name == "lora":
        assert all(torch.equal(held, state[key]) for key, held in again.state_dict().items())
    again.product().save(tmp_path / "b.safetensors", torch.float32)
    again.detach()
    with shipped.applied({"unet": unet}, tmp_path / "b.safetensors"):
        torch.testing.assert_close(unet(*inputs), trained)
    with pytest.raises(UserError, match="expected linear layers and convolutions of the base, got lora_unet_down"):
        registry.of(network).attach(
            shared.Host({"unet": torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4)})}, False, 0, 6)
        )


def test_lokr_whole_and_as_products(attach, unet, inputs, tmp_path):
    for given in ({"network_dim": 64}, {"network_dim": 1}, {"network_dim": 1, "factor": 8, "decompose_both": True}):
        tuning = attach("lokr", network_alpha=5.0, **given)
        shared.moved(tuning)
        trained = unet(*inputs)
        tuning.product().save(tmp_path / "a.safetensors", torch.float32)
        tuning.detach()
        with shipped.applied({"unet": unet}, tmp_path / "a.safetensors", strength=1.0):
            torch.testing.assert_close(unet(*inputs), trained)
    names = load_file(tmp_path / "a.safetensors")
    assert any(name.endswith(".alpha") for name in names)


def test_lokrs_alpha_is_folded_where_loaders_ignore_it(attach, tmp_path):
    tuning = attach("lokr", network_dim=64, network_alpha=5.0)
    shared.moved(tuning)
    tuning.product().save(tmp_path / "a.safetensors", torch.float32)
    held = load_file(tmp_path / "a.safetensors")
    assert not [name for name in held if name.endswith(".alpha")]
    site = tuning.sites[0]
    own = held[f"{site.name}.lokr_w1"]
    torch.testing.assert_close(own, site.parts["lokr_w1"].detach() * 5 / 64)


def test_sides_are_split_as_peft_splits_them():
    peft = pytest.importorskip("peft")
    from peft.tuners.lokr.layer import factorization

    from trainer.methods.lokr import split

    assert peft
    sides = [*range(1, 200), 320, 640, 768, 1280, 2048, 127, 1279]
    for side in sides:
        for factor in (-1, 1, 2, 3, 4, 8, 16, 33):
            assert split(side, factor) == factorization(side, factor), (side, factor)


def test_adaloras_ranks_fall_as_the_schedule_says(attach, unet, inputs):
    tuning = attach("adalora")
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=1e-2)
    left = []
    for step in range(1, 7):
        optimizer.zero_grad()
        (unet(*inputs).square().mean() + tuning.penalty()).backward()
        optimizer.step()
        tuning.stepped(step)
        left.append(sum(int((site.parts["lora_E"] != 0).sum()) for site in tuning.sites))
    assert left[0] == 3 * len(tuning)  # tinit = 1
    assert left[3:] == [len(tuning)] * 3  # tfinal = 2: from step 4 on
    assert left == sorted(left, reverse=True)
    held = tuning.product().tensors
    ranks = [len(held[name]) for name in held if name.endswith("lora_down.weight")]
    assert sum(ranks) == len(tuning)


def test_adalora_goes_on_as_if_it_had_not_stopped(attach, unet, inputs):
    def run(tuning, optimizer, first, last):
        for step in range(first, last + 1):
            optimizer.zero_grad()
            (unet(*inputs).square().mean() + tuning.penalty()).backward()
            optimizer.step()
            tuning.stepped(step)

    def begin():
        tuning = attach("adalora")
        return tuning, torch.optim.AdamW(tuning.parameters(), lr=1e-2)

    tuning, optimizer = begin()
    run(tuning, optimizer, 1, 6)
    straight = {key: value.clone() for key, value in tuning.state_dict().items()}
    tuning.detach()
    for stop in (1, 3, 4, 5):
        tuning, optimizer = begin()
        run(tuning, optimizer, 1, stop)
        state = {key: value.clone() for key, value in tuning.state_dict().items()}
        memory, moments = tuning.memory(), optimizer.state_dict()
        tuning.detach()
        tuning, optimizer = begin()
        tuning.load_state_dict(state)
        tuning.remember(memory)
        optimizer.load_state_dict(moments)
        run(tuning, optimizer, stop + 1, 6)
        assert all(torch.equal(value, straight[key]) for key, value in tuning.state_dict().items()), stop
        tuning.detach()


def test_adaloras_penalty_is_zero_for_orthogonal_factors_and_pefts_else(attach):
    tuning = attach("adalora", orth_reg_weight=0.25)
    shared.moved(tuning)
    norms = []
    for site in tuning.sites:
        for rows in (site.parts["lora_A"], site.parts["lora_B"].T):
            norms.append(float(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(3)).detach()))
    assert float(tuning.penalty().detach()) == pytest.approx(0.25 * sum(norms) / len(norms), rel=1e-5)
    with torch.no_grad():
        for site in tuning.sites:
            for part in ("lora_A", "lora_B"):
                torch.nn.init.orthogonal_(site.parts[part])
    assert float(tuning.penalty().detach()) == pytest.approx(0, abs=1e-5)


def test_adalora_without_ranks_to_take_away_is_svd_lora(attach, unet, inputs):
    tuning = attach("adalora", init_r=2, target_r=2, orth_reg_weight=0.0, tinit=0.1, tfinal=0.3, deltaT=10)
    assert tuning.penalty() is None
    unet(*inputs).sum().backward()
    for step in range(1, 7):
        tuning.stepped(step)
    assert tuning.models[0].peft_config["default"].rank_pattern is None


def test_a_run_too_short_for_adaloras_schedule_is_refused(attach):
    with pytest.raises(UserError, match=r"tinit, tfinal: expected steps between them .* got 1 \+ 2 of the run's 3"):
        attach("adalora", steps=3)


@pytest.mark.parametrize("steps", [1, 2])
def test_adalora_measures_importance_before_it_takes_ranks_away(attach, unet, inputs, steps):
    schedule = {"tinit": 0, "tfinal": 0, "deltaT": 1}
    if steps == 1:  # the one step would be the last of the schedule, before anything was measured
        with pytest.raises(UserError, match=r"got 0 \+ 0 of the run's 1"):
            attach("adalora", steps=steps, **schedule)
        return
    tuning = attach("adalora", steps=steps, **schedule)
    for step in range(1, steps + 1):
        unet(*inputs).sum().backward()
        tuning.stepped(step)
    assert tuning.models[0].peft_config["default"].rank_pattern is not None


def test_fourierft_may_begin_with_pefts_noise(attach, unet, inputs):
    base = unet(*inputs)
    tuning = attach("fourierft", init_weights=False)
    assert not torch.allclose(unet(*inputs), base)
    with tuning.disabled():
        assert torch.equal(unet(*inputs), base)


@pytest.mark.parametrize("name", ["vera", "fourierft"])
def test_pefts_own_folder_is_loaded_by_peft(attach, unet, inputs, tmp_path, name):
    peft = pytest.importorskip("peft")
    tuning = attach(name)
    shared.moved(tuning)
    trained = unet(*inputs)
    files = tuning.product().save_folders(tmp_path / "run-peft")
    assert [file.name for file in files] == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads(files[0].read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert str(tmp_path) not in files[0].read_text()
    tuning.detach()
    loaded = peft.PeftModel.from_pretrained(unet, tmp_path / "run-peft")
    torch.testing.assert_close(loaded(*inputs), trained)


@of_peft
def test_a_half_precision_base_trains_fp32_numbers(attach, unet, inputs, name):
    half = unet.to(torch.bfloat16)
    tuning = attach(name, model=half)
    assert all(one.dtype == torch.float32 for one in tuning.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        half(*(one.bfloat16() for one in inputs)).float().square().sum().backward()
    assert any(bool(one.grad.any()) for one in tuning.parameters())
    if name == "vera":
        held = next(iter(tuning.models[0].vera_A.values()))
        assert held.dtype == torch.float32 and not torch.equal(held, held.bfloat16().float())


@of_peft
def test_without_the_package_one_line_says_what_to_install(monkeypatch, name):
    monkeypatch.setattr(package.util, "find_spec", lambda _: None)
    with pytest.raises(
        UserError, match=r"method: .* package peft, which is not installed. Run: .*-m pip install .*peft>"
    ):
        package.load(name)
    monkeypatch.undo()
    monkeypatch.setattr(package.util, "find_spec", lambda _: True)
    monkeypatch.setattr(package.metadata, "version", lambda _: "0.9.1")
    assert "expected version 0.18 or later, got 0.9.1" in package.fault(name)


def test_what_is_no_adapter_is_refused(tmp_path, unet):
    from safetensors.torch import save_file

    with pytest.raises(UserError, match=r"expected a \.safetensors file"):
        shipped.load(tmp_path / "none.safetensors")
    save_file({"a.weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="expected an adapter of a method that is known here"):
        shipped.load(tmp_path / "a.safetensors")
    tensors = {"lora_unet_x.lora_down.weight": torch.zeros(1, 4), "lora_unet_x.lora_up.weight": torch.zeros(4, 1)}
    save_file(tensors, tmp_path / "b.safetensors")
    with (
        pytest.raises(UserError, match="expected layers of this base, got lora_unet_x"),
        shipped.applied({"unet": unet}, tmp_path / "b.safetensors"),
    ):
        pass
    save_file({**tensors, "lora_unet_x.lora_up.weight": torch.full((4, 1), torch.nan)}, tmp_path / "c.safetensors")
    with pytest.raises(UserError, match="expected finite numbers"):
        shipped.load(tmp_path / "c.safetensors")
    wrong = {f"lora_unet_mid_block_to_q.lora_{part}.weight": torch.zeros(shape) for part, shape in
             (("down", (1, 5)), ("up", (7, 1)))}  # fmt: skip
    save_file(wrong, tmp_path / "d.safetensors")
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    with (
        pytest.raises(UserError, match="trained for another base"),
        shipped.applied({"unet": unet}, tmp_path / "d.safetensors"),
    ):
        pass
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())


def test_convolutions_train_where_the_method_knows_them(tmp_path):
    from torch import nn

    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3, padding=1)

        def forward(self, x):
            return self.conv(x)

    x = torch.randn(2, 4, 5, 5)
    for name in ("waveft", "shira", "lora", "loha", "lokr", "adalora", "bitfit"):
        if name not in ("waveft", "shira", "bitfit"):
            pytest.importorskip("peft")
        model = Model().requires_grad_(False)
        network = networks.METHODS[name](targets=["conv"], **shared.SETTINGS[name])
        tuning = registry.of(network).attach(shared.Host({"unet": model}, False, 0, 9))
        shared.moved(tuning)
        trained = model(x)
        tuning.product().save(tmp_path / "a.safetensors", torch.float32)
        tuning.detach()
        with shipped.applied({"unet": model}, tmp_path / "a.safetensors"):
            torch.testing.assert_close(model(x), trained)
    for name in ("vera", "fourierft"):
        network = networks.METHODS[name](targets=["conv"], **shared.SETTINGS[name])
        with pytest.raises(UserError, match=f"{name} trains linear layers, got the convolution"):
            registry.of(network).attach(shared.Host({"unet": Model()}, False, 0, 9))
