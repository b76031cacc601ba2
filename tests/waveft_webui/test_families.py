"""What holds in every family: whole or not at all, exact, out again, and never stale."""

import os

import pytest
import torch

from tests.waveft_webui.stand_in import CROSS, SHAPES, TE1, TE2, UNET, Processing
from waveft_core import Adapter
from waveft_webui import files
from waveft_webui.applying import is_text


def expected(base, *parts):
    """W + w * dW, rounded once an adapter: what the UIs' own arithmetic allows."""
    found = {layer: weight.clone() for layer, weight in base.items()}
    for adapter, unet, te in parts:
        for layer in adapter.layers:
            adapter.add_(found[layer], layer, te if is_text(layer) else unet)
    return found


def same(first, second):
    return {layer for layer in first if not torch.equal(first[layer], second[layer])} == set()


@pytest.fixture
def base(ui, write):
    write("other", {UNET: (8, 8)})
    return ui.draw().weights


def test_a_tag_gives_the_cores_own_merge_and_without_it_the_base_comes_back(ui, base, write):
    dog = write("dog")
    drawn = ui.draw("<lora:dog:0.8>")
    assert same(drawn.weights, expected(base, (dog, 0.8, 0.8)))
    assert all(not torch.equal(drawn.weights[layer], base[layer]) for layer in SHAPES)
    assert set(drawn.hashes) == {"dog"} and drawn.comments == []
    assert same(ui.draw().weights, base)


def test_text_encoders_and_unet_have_strengths_of_their_own_and_zero_is_the_base(ui, base, write):
    dog = write("dog")
    assert same(ui.draw("<lora:dog:te=0.5:unet=1.5>").weights, expected(base, (dog, 1.5, 0.5)))
    assert same(ui.draw("<lora:dog:te=0:unet=1.5>").weights, expected(base, (dog, 1.5, 0)))
    assert same(ui.draw("<lora:dog:0>").weights, base)


def test_two_at_once_are_summed_in_the_prompts_order(ui, base, write):
    dog, cat = write("dog"), write("cat", seed=5, wavelet="db2")
    drawn = ui.draw("<lora:dog:0.7>", "<lora:cat:-0.4>")
    assert same(drawn.weights, expected(base, (dog, 0.7, 0.7), (cat, -0.4, -0.4)))


def test_a_file_of_text_encoders_alone_or_of_parts_of_a_fused_attention_is_applied_whole(ui, base, write):
    some = write("some", {TE2["q"]: (8, 8), TE2["v"]: (8, 8)})
    out = write("out", {TE2["out"]: (8, 8)}, seed=2)
    assert same(ui.draw("<lora:some:1>").weights, expected(base, (some, 1, 1)))
    assert same(ui.draw("<lora:out:1>").weights, expected(base, (out, 1, 1)))


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({UNET: (8, 8), CROSS: (6, 8)}, "expected the shapes of this checkpoint"),
        ({UNET: (8, 8), "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q": (8, 8)}, "1 of"),
        ({UNET: (8, 8), "lora_te3_text_model_encoder_layers_0_self_attn_q_proj": (8, 8)}, "does not have"),
        ({UNET: (8, 8), TE1: (6, 4)}, "expected the shapes"),
    ],
)
def test_what_does_not_fit_whole_changes_nothing_and_is_not_named(ui, base, write, shapes, said, capsys):
    dog = write("dog")
    write("wrong", shapes)
    drawn = ui.draw("<lora:wrong:1>", "<lora:dog:1>")
    assert same(drawn.weights, expected(base, (dog, 1, 1)))
    assert set(drawn.hashes) == {"dog"}
    (comment,) = drawn.comments
    assert comment.startswith("WaveFT: ") and "wrong" in comment and said in comment
    assert comment.endswith("The picture is drawn without it.")
    assert comment.removeprefix("WaveFT: ") in capsys.readouterr().out
    assert same(ui.draw().weights, base)


def test_a_side_at_strength_zero_need_not_fit(ui, base, write):
    odd = write("odd", {UNET: (8, 8), TE1: (6, 4)})
    drawn = ui.draw("<lora:odd:te=0:unet=1>")
    assert drawn.comments == []
    assert torch.equal(drawn.weights[UNET], odd.add_(base[UNET].clone(), UNET))
    assert torch.equal(drawn.weights[TE1], base[TE1])


def test_a_damaged_file_is_left_out_with_its_own_words(ui, base, write, tmp_path):
    write("dog")
    path = tmp_path / "dog.safetensors"
    ui.networks.list_available_networks()
    path.write_bytes(path.read_bytes()[:-40])
    drawn = ui.draw("<lora:dog:1>")
    assert same(drawn.weights, base) and drawn.hashes == {}
    assert "expected a whole safetensors file" in drawn.comments[0]
    assert "dog" in drawn.comments[0] and str(tmp_path) not in drawn.comments[0]


def test_an_overflow_is_refused_before_anything_changes(world, write):
    world.dtype = torch.float16
    world.switch()
    world.register()
    write("dog")
    base = world.draw().weights
    drawn = world.draw("<lora:dog:1000000>")
    assert same(drawn.weights, base)
    assert "Lower the strength" in drawn.comments[0]


@pytest.fixture
def packing(world):
    """Forge, the one that packs a weight again after a merge; `packing.pack(layer, kind)` makes GGUF of one."""
    if world.title != "Forge":
        pytest.skip("it does not merge into packed weights")
    return world


def test_gguf_that_cannot_be_packed_again_is_refused_before_anything_changes(packing, write):
    write("dog")
    packing.pack(CROSS, "BF16")
    packing.register()
    base, held = packing.draw().weights, packing.unpacked(CROSS)
    drawn = packing.draw("<lora:dog:0.8>")
    assert same(drawn.weights, base) and torch.equal(packing.unpacked(CROSS), held)
    assert drawn.hashes == {} and "got GGUF BF16, which Forge cannot pack again" in drawn.comments[0]
    assert packing.draw("<lora:dog:te=0.8:unet=0>").comments == []
    packing.networks.dynamic_args = {"online_lora": True}  # "(fp16 LoRA)": it stays as it is
    packing.current.forge_objects_original.unet.model.storage_dtype = "gguf"
    packing.merge = lambda: None
    assert packing.draw("<lora:dog:0.8>").comments == []


def test_gguf_that_can_is_merged_into(packing, write):
    dog = write("dog")
    packing.pack(UNET, "Q8_0")
    packing.register()
    held = packing.unpacked(UNET).float().clone()
    assert packing.draw("<lora:dog:0.8>").comments == []
    wanted = dog.add_(held.clone(), UNET, 0.8)
    assert not torch.equal(packing.unpacked(UNET).float(), held)
    assert torch.allclose(packing.unpacked(UNET).float(), wanted, atol=float(wanted.abs().max()) / 127)


def test_an_overflow_in_floats_that_a_gguf_file_holds_is_refused_as_any(packing, write):
    packing.dtype = torch.float16
    packing.switch()
    packing.pack(UNET, None)
    packing.register()
    write("dog")
    assert "Lower the strength" in packing.draw("<lora:dog:1000000>").comments[0]


def test_a_strength_that_is_no_number_is_refused(ui, base, write):
    write("dog")
    drawn = ui.draw("<lora:dog:nan>")
    assert same(drawn.weights, base)
    assert "expected a finite number, got nan" in drawn.comments[0]


def test_a_file_that_is_written_anew_is_read_again_under_the_same_prompt(ui, base, write, tmp_path):
    write("dog")
    ui.draw("<lora:dog:1>")
    before = (tmp_path / "dog.safetensors").stat()
    dog = write("dog", seed=9)
    assert same(ui.draw("<lora:dog:1>").weights, expected(base, (dog, 1, 1)))
    dog = write("dog", seed=11)
    os.utime(tmp_path / "dog.safetensors", ns=(before.st_atime_ns, before.st_mtime_ns - 10**9))  # an older backup
    assert same(ui.draw("<lora:dog:1>").weights, expected(base, (dog, 1, 1)))


def test_the_prompt_is_encoded_anew_where_an_adapter_changed_under_the_same_words(ui, base, write):
    def draws(**more):
        cell = Processing()
        cell.cached_c, cell.cached_hr_uc = ["words", "encoded"], ["words", "encoded", 1]
        vars(cell).update(more)
        ui.draw("<lora:dog:1>", processing=cell)
        return cell.cached_c, cell.cached_hr_uc

    forgotten, kept = ([None, None], [None, None, None]), (["words", "encoded"], ["words", "encoded", 1])
    write("dog")
    assert draws() == forgotten
    assert draws() == kept, "nothing changed: the UI need not encode again"
    write("dog", seed=9)
    assert draws() == forgotten
    assert draws(waveft_strength=0.5) == forgotten
    assert draws(waveft_factors={"dd": "0"}) == forgotten


def test_multipliers_in_the_tag_are_the_cores_and_change_under_the_same_strength(ui, base, write):
    dog = write("dog")
    from waveft_core.toolbox.filters import Multipliers

    def filtered(**factors):
        return expected(base, (Multipliers(factors).apply(dog, "dog"), 0.5, 0.5))

    assert same(ui.draw("<lora:dog:0.5:dd=0:attn2=0.25>").weights, filtered(dd=0.0, attn2=0.25))
    assert same(ui.draw("<lora:dog:0.5:attn1=0>").weights, filtered(attn1=0.0))
    assert same(ui.draw("<lora:dog:0.5>").weights, expected(base, (dog, 0.5, 0.5)))
    only = expected(base, (Multipliers(only="attn2").apply(dog, "dog"), 0.5, 0.5))
    assert same(ui.draw("<lora:dog:0.5:only=attn2>").weights, only)
    assert same(ui.draw("<lora:dog:0.5:aa=0:ad=0:da=0:dd=0>").weights, base)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (["<lora:dog:1:dd=much>"], 'dog, dd: expected a finite number, got "much"'),
        (["<lora:dog:1:only=(a>"], 'dog, only "(a"'),
        (["<lora:dog:1:dd=0>", "<lora:dog:1>"], "expected one tag of that name"),
    ],
)
def test_multipliers_that_are_none_are_refused_in_words(ui, base, write, tags, said):
    write("dog")
    drawn = ui.draw(*tags)
    assert same(drawn.weights, base)
    assert said in drawn.comments[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_merge_at_every_forward_as_where_memory_is_short_is_the_same_and_rounds_once(world, write, dtype):
    if not hasattr(world, "at_forward"):
        pytest.skip("A1111 merges before a picture, whatever memory it has")
    world.dtype = dtype
    world.switch()
    world.register()
    dog = write("dog")
    base = world.draw().weights
    merged = expected(base, (dog, 0.8, 0.8))
    assert same(world.draw("<lora:dog:0.8>").weights, merged)
    for layer in (UNET, CROSS):
        found = world.at_forward(layer)
        assert found.dtype == dtype and torch.equal(found, merged[layer])
        assert torch.equal(world.at_forward(layer), found)


def test_another_checkpoint_is_fitted_anew(ui, base, write):
    dog = write("dog")
    assert ui.draw("<lora:dog:1>").comments == []
    ui.switch({UNET: (10, 8)})
    base = ui.draw().weights
    drawn = ui.draw("<lora:dog:1>")
    assert same(drawn.weights, base) and drawn.hashes == {}
    assert f'"{UNET}"' in drawn.comments[0]
    ui.switch()
    base = ui.draw().weights
    drawn = ui.draw("<lora:dog:1>")
    assert drawn.comments == []
    assert same(drawn.weights, expected(base, (dog, 1, 1)))


def test_reload_ui_registers_in_place_of_the_first_time(ui, base, write):
    dog = write("dog")
    gate = ui.register()
    ui.register()
    assert ui.register() is not gate
    assert same(ui.draw("<lora:dog:1>").weights, expected(base, (dog, 1, 1)))
    assert sum(getattr(kind, "waveft", False) for kind in getattr(ui.networks, "module_types", [])) <= 1


def test_what_is_not_ours_goes_on_as_before(ui, base, write, tmp_path):
    from safetensors.torch import save_file

    save_file({"lora_unet_x.lora_up.weight": torch.ones(2, 2)}, str(tmp_path / "stock.safetensors"))
    dog = write("dog")
    drawn = ui.draw("<lora:stock:1>", "<lora:dog:1>")
    assert same(drawn.weights, expected(base, (dog, 1, 1)))
    assert drawn.comments == []


def test_a_second_merge_of_the_same_adapter_keeps_its_plans_and_an_unused_one_keeps_none(ui, base, write):
    write("dog")
    for strength in (1, 0.5, 0.25):
        ui.draw(f"<lora:dog:{strength}>")
    assert files.PLANS.nbytes > 0
    ui.draw()
    assert files.PLANS.nbytes == 0


def ours(capsys):
    """Our lines: some UIs print their own beside them."""
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("[WaveFT]")]


def test_the_console_says_once_what_is_loaded(ui, base, write, capsys):
    write("dog")
    capsys.readouterr()
    ui.draw("<lora:dog:0.8>")
    ui.draw("<lora:dog:0.8>")
    assert ours(capsys) == ["[WaveFT] dog: 7 layers (db1, 42 coefficients), unet 0.8, te 0.8"]
    ui.draw("<lora:dog:0.8:attn2=0>")
    (said,) = ours(capsys)
    assert said.endswith("dog: 6 of 7 layers (db1, 42 coefficients), unet 0.8, te 0.8, with attn2=0")


def test_an_axis_multiplies_the_prompts_own(ui, base, write):
    dog = write("dog")
    cell = Processing()
    cell.waveft_strength, cell.waveft_factors = 0.5, {"attn1": "0"}
    drawn = ui.draw("<lora:dog:0.8>", processing=cell)
    left = {layer: held for layer, held in dog.layers.items() if "attn1" not in layer}
    assert same(drawn.weights, expected(base, (Adapter(left, "db1", scaling=1.7), 0.4, 0.4)))
    noted = cell.extra_generation_params
    assert (noted["WaveFT strength"], noted["WaveFT multipliers"]) == ("0.5", "attn1=0")
    cell.waveft_strength, cell.waveft_factors = 1.0, {}  # the next cell, which shares the infotext
    assert same(ui.draw("<lora:dog:0.8>", processing=cell).weights, expected(base, (dog, 0.8, 0.8)))
    assert not [key for key in cell.extra_generation_params if "WaveFT" in key]
