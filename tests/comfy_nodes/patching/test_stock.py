"""Our class on ComfyUI's list of kinds of LoRA; `load_lora` is called for every layer name of a model."""

import gc

import pytest
import torch
from safetensors.torch import load_file

from waveft_core import save

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"


@pytest.fixture
def stock(comfy):
    return comfy("patching.stock")


@pytest.fixture
def tensors(small, tmp_path):
    """A file's tensors, as ComfyUI hands them on."""
    save(small, tmp_path / "a.safetensors")
    return load_file(tmp_path / "a.safetensors")


def load_lora(stock, lora, names=(Q, "lora_unet_other", K)):
    """Returns {name: layer} and the names that were not claimed, as ComfyUI's `load_lora` finds them."""
    found, claimed = {}, set()
    for name in names:
        layer = stock.WaveFTAdapter.load(name, lora, None, None, claimed)
        if layer is not None:
            found[name] = layer
            claimed |= layer.loaded_keys
    return found, set(lora) - claimed


class TestRegister:
    @pytest.fixture
    def kinds(self, stock, monkeypatch):
        monkeypatch.delenv(stock.SWITCH, raising=False)
        return stock.comfy.weight_adapter.adapters

    def test_it_is_added_once(self, stock, kinds):
        stock.register()
        stock.register()
        assert kinds == [stock.WaveFTAdapter]

    def test_it_is_not_added_to_a_twin_of_another_copy_of_the_pack(self, stock, kinds):
        twin = type("WaveFTAdapter", (), {})
        kinds.append(twin)
        stock.register()
        assert kinds == [twin]

    @pytest.mark.parametrize("said", ["0", "false", "Off", " no "])
    def test_the_environment_turns_it_off(self, stock, kinds, monkeypatch, said):
        monkeypatch.setenv(stock.SWITCH, said)
        stock.register()
        assert kinds == []

    @pytest.mark.parametrize("said", ["", "1", "on"])
    def test_or_does_not(self, stock, kinds, monkeypatch, said):
        monkeypatch.setenv(stock.SWITCH, said)
        stock.register()
        assert kinds == [stock.WaveFTAdapter]


class TestLoad:
    def test_every_layer_is_found_and_every_tensor_claimed(self, stock, tensors, small, unet):
        found, left = load_lora(stock, tensors)
        assert set(found) == {Q, K} and not left
        weight = unet.model.state_dict()["diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"]
        merged = found[Q].calculate_weight(weight.clone(), "w", 0.5, 1.0, None, lambda a: a)
        torch.testing.assert_close(merged, weight + 0.5 * small.delta(Q), rtol=0, atol=1e-6)
        assert found[Q].name == "waveft"

    def test_the_header_is_claimed_where_the_model_has_no_layer(self, stock, tensors):
        found, left = load_lora(stock, tensors, names=["lora_unet_other"])
        assert not found and left == set(tensors) - {"waveft.header"}

    def test_others_loras_are_left_alone(self, stock):
        lora = {f"{Q}.lora_up.weight": torch.zeros(8, 1), f"{Q}.lora_down.weight": torch.zeros(1, 8)}
        assert load_lora(stock, lora) == ({}, set(lora))

    def test_callers_that_name_nothing_claimed_are_served(self, stock, tensors):
        assert stock.WaveFTAdapter.load(Q, tensors, None, None) is not None
        assert stock.WaveFTAdapter.load("diffusion_model.other", tensors, None, None) is None

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda lora: lora.pop(f"{K}.waveft_indices"), f'"{K}".*waveft_indices'),
            (lambda lora: lora.pop("waveft.header"), "a tensor waveft.header, got none"),
            (lambda lora: lora.update({f"{Q}.lora_up.weight": torch.zeros(8, 1)}), "lora_up.weight"),
            (lambda lora: lora.update({f"{Q}.alpha": torch.tensor(1.0)}), "alpha"),
            (lambda lora: lora[f"{Q}.waveft_values"].fill_(torch.nan), f'"{Q}".*finite'),
        ],
    )
    def test_a_file_that_is_wrong_anywhere_is_refused(self, comfy, stock, tensors, change, words):
        change(tensors)
        with pytest.raises(comfy("core").WaveFTError, match=f"LoRA node's file.*{words}"):
            load_lora(stock, tensors)

    def test_the_tensors_are_copies(self, stock, tensors, small):
        layer = load_lora(stock, tensors)[0][Q]
        for tensor in tensors.values():
            tensor.zero_()
        assert torch.equal(layer.carried.adapter.layers[Q].values, small.layers[Q].values)


class TestMemory:
    def test_a_file_is_read_once(self, stock, tensors):
        first, second = (load_lora(stock, tensors)[0] for _ in range(2))
        assert len({id(layer.carried) for found in (first, second) for layer in found.values()}) == 1
        assert load_lora(stock, dict(tensors))[0][Q].carried is first[Q].carried

    def test_two_files_are_not_taken_for_each_other(self, stock, tensors, make_adapter, tmp_path):
        save(make_adapter({Q: (8, 8)}, seed=9), tmp_path / "b.safetensors")
        other = load_file(tmp_path / "b.safetensors")
        first = load_lora(stock, tensors)[0][Q].carried
        assert load_lora(stock, other)[0][Q].carried is not first
        assert load_lora(stock, tensors)[0][Q].carried is first

    def test_it_is_forgotten_with_the_file(self, stock, tensors):
        load_lora(stock, tensors)
        assert len(stock._READ) == 1
        tensors.clear()
        gc.collect()
        assert stock._READ == {}

    def test_a_node_may_exchange_add_or_remove_tensors(self, stock, tensors, small):
        load_lora(stock, tensors)
        halved = load_lora(stock, tensors | {f"{Q}.waveft_values": tensors[f"{Q}.waveft_values"] / 2})[0][Q]
        assert torch.equal(halved.carried.adapter.layers[Q].values, small.layers[Q].values / 2)
        rest = {name: tensor for name, tensor in tensors.items() if not name.startswith(Q)}
        assert set(load_lora(stock, rest)[0]) == {K}
        added = {name.replace(Q, "lora_unet_other"): tensor for name, tensor in tensors.items()} | tensors
        assert set(load_lora(stock, added)[0]) == {Q, K, "lora_unet_other"}


@pytest.mark.parametrize("name", [Q, "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"])
def test_comfyuis_trainer_is_told_to_leave_it(comfy, stock, tensors, name):
    # as Train LoRA asks for an existing_lora: by modules' paths, without a set for the names that are used
    with pytest.raises(comfy("core").WaveFTError, match=r"Train LoRA.*expected a LoRA, got a WaveFT.*WaveFT Train"):
        stock.WaveFTAdapter.load(name, tensors, 1.0, None)
    assert stock.WaveFTAdapter.load(name, {}, 1.0, None) is None
