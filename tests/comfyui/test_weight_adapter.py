"""All that ComfyUI does with a weight adapter: each part of it is served or refused in words, and none is new.

A version of ComfyUI that gains a method or a place fails here: decide what ours is to do there, see to it that it does,
and say so in the lists below.
"""

import json
from pathlib import Path

import pytest

from tests.comfyui.weights import attention_shapes, write_adapter

pytestmark = pytest.mark.comfyui

PACK = Path(__file__).parents[2]
SERVED, REFUSED, INHERITED = "served", "refused in words", "inherited, and right as it is"
METHODS = {
    "load": SERVED,  # stock.py
    "calculate_weight": SERVED,
    "h": SERVED,
    "bypass_forward": SERVED,
    "to_train": REFUSED,
    "create_train": REFUSED,
    "calculate_shape": INHERITED,  # None: the weight keeps its shape
    "g": INHERITED,  # the identity, as for LoRAs
}
# What ComfyUI reads or sets on an adapter; the rest of what it sets for a bypass is not looked at.
ATTRIBUTES = {"name", "loaded_keys", "weights", "multiplier", "shape"}
# Functions of ComfyUI that handle adapters, and what they meet in ours.
PLACES = {
    "comfy/lora.py: load_lora": "asks `load` for each name",
    "comfy/lora.py: calculate_weight": "calls `calculate_weight`",
    "comfy/lora.py: calculate_shape": "calls `calculate_shape`",
    "comfy/lora.py: prefetch_prepared_value": "copies by `type(patch)(loaded_keys, weights)`",
    "comfy/sd.py: load_bypass_lora_for_models": "sorts adapters from plain patches",
    "comfy/weight_adapter/bypass.py: BypassForwardHook.__init__": "sets multiplier, is_conv and kw_dict",
    "comfy/weight_adapter/bypass.py: BypassForwardHook._bypass_forward": "calls `bypass_forward`, or `h` and `g`",
    "comfy/weight_adapter/bypass.py: BypassForwardHook._move_adapter_weights_to_device": "casts tensors of `weights`",
    "comfy/weight_adapter/bypass.py: BypassForwardHook.inject": "logs the class's name",
    "comfy/weight_adapter/bypass.py: BypassInjectionManager.add_adapter": "holds it",
    "comfy/weight_adapter/bypass.py: BypassInjectionManager.create_injections": "hangs it onto its layer",
    "comfy/weight_adapter/bypass.py: create_bypass_injections_from_patches": "takes it out of a patch",
    "comfy_extras/nodes_train.py: TrainLoraNode.define_schema": "lists the kinds that can be trained: ours is none",
    "comfy_extras/nodes_train.py: TrainLoraNode.INPUT_TYPES": "as define_schema, in older versions",
    "comfy_extras/nodes_train.py: TrainLoraNode.execute": "as _create_weight_adapter, in older versions",
    "comfy_extras/nodes_train.py: TrainLoraNode.train": "as _create_weight_adapter, in older versions",
    "comfy_extras/nodes_train.py: _create_weight_adapter": "asks `load`, which refuses: its existing_lora",
}


@pytest.fixture(scope="module")
def found(comfyui, checkpoint, tmp_path_factory):
    """What in_process/weight_adapter.py prints."""
    folder, path = tmp_path_factory.mktemp("adapter"), checkpoint("micro")
    (folder / "models/waveft").mkdir(parents=True)
    write_adapter(folder / "models/waveft/a.safetensors", attention_shapes(path))
    arguments = (PACK, path, folder / "models", "a.safetensors")
    return json.loads(comfyui.script("in_process/weight_adapter.py", *arguments).splitlines()[-1])


def test_every_method_was_decided_about(found):
    methods = {name for name, parameters in found["interface"].items() if parameters is not None}
    assert methods <= set(METHODS), "ComfyUI gained a method: serve it or refuse it in layerpatch.py, then list it"
    assert set(found["interface"]) - methods <= ATTRIBUTES
    own = {name for name, decided in METHODS.items() if decided is not INHERITED}
    assert own <= set(found["ours"])
    assert not {name for name, decided in METHODS.items() if decided is INHERITED} & set(found["ours"])


def test_ours_takes_every_argument_that_comfyui_s_own_take(found):
    for name, parameters in found["interface"].items():
        if parameters is not None and name in found["ours"]:
            asked, taken = (of[name].split(", ") for of in (found["interface"], found["ours"]))
            assert asked == taken[: len(asked)], name


def test_every_place_that_handles_adapters_is_known(found):
    assert {"comfy/lora.py: load_lora", "comfy/lora.py: calculate_weight"} <= set(found["places"])
    assert set(found["places"]) <= set(PLACES), "ComfyUI handles adapters in a new place: see what it does with ours"


def test_a_copy_for_dynamic_vram_merges_the_same_bits_and_asks_for_what_it_reads(found):
    if found["dynamic"] is None:
        pytest.skip("this ComfyUI does not copy patches")
    assert found["dynamic"]["same"] == found["dynamic"]["layers"] == 88
    assert found["dynamic"]["asked"] == found["dynamic"]["needed"] > 0


def test_beside_its_layer_it_adds_what_dw_makes_of_the_input(found):
    for name, figures in found["bypass"].items():
        if figures is None:
            pytest.skip("this ComfyUI has no bypass")
        print(f"\nbypass, {name}: {figures}", end="")
        assert figures["layers"] == 88 and figures["restored"]
        bound = {"torch.float32": 1e-6, "torch.float16": 1e-3, "torch.bfloat16": 8e-3}[name]  # one rounding of the sum
        assert figures["error"] <= bound, name


def test_a_merge_in_float16_loses_nothing_of_a_base_that_float16_cannot_hold(found):
    for name, figures in found["half"].items():
        if figures is None:
            pytest.skip("this ComfyUI merges in float32 everywhere")
        print(f"\nmerged in float16, {name}: {figures}", end="")
        assert figures["ours"]["layers"] == 88
        assert figures["ours"]["changed"] == 0 and figures["ours"]["excess"] <= 1e-6
        assert figures["stock"]["changed"] > 0, "nothing was lost: nothing was tried"


def test_comfyui_s_trainer_is_told_that_it_cannot_go_on_from_our_file(found):
    assert "Train LoRA" in found["trained"] and "WaveFT Train" in found["trained"]


def test_a_deep_copy_merges_the_same(found):
    assert found["deep copy"]
