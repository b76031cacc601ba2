import re

import pytest
import torch

UNET = [
    f"lora_unet_{block}_{index}_1_transformer_blocks_0_{kind}_to_{part}"
    for block, index in (("input_blocks", 4), ("output_blocks", 3))
    for kind in ("attn1", "attn2")
    for part in ("q", "k", "v", "out_0")
]
MIDDLE = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
DIFFUSERS = "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v"
TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_out_proj"
FEED_FORWARD = "lora_unet_input_blocks_4_1_transformer_blocks_0_ff_net_2"
OTHER = "lora_blocks_0_mlp"
ALL = [*UNET, MIDDLE, DIFFUSERS, TEXT, FEED_FORWARD, OTHER]


@pytest.fixture
def whole(make_adapter, carry):
    return carry(make_adapter(dict.fromkeys(ALL, (8, 8)), p=32))


@pytest.fixture
def left(comfy, whole):
    """Returns a function from a filter's fields to {layer: factor} of what it changes, 0 for what is gone."""
    filters = comfy("adapters.filters")

    def left(**fields):
        made = filters.Filter(**fields).left_of(whole).adapter
        found = {}
        for name, layer in whole.adapter.layers.items():
            after = made.layers.get(name)
            factor = float((after.values / layer.values).median()) if after is not None else 0.0
            if factor != 1:
                found[name] = pytest.approx(factor)
        return found

    return left


@pytest.mark.parametrize(
    ("group", "pattern"),
    [
        ("attn1", "_attn1_"),
        ("attn2", "_attn2_"),
        ("to_q", "_to_q$"),
        ("to_k", "_to_k$"),
        ("to_v", "_to_v$"),
        ("to_out", "_to_out_0$|_out_proj$"),
        ("input_blocks", "input_blocks"),
        ("middle_block", "middle_block"),
        ("output_blocks", "output_blocks|up_blocks"),
    ],
)
def test_a_group_touches_the_layers_that_it_names_and_no_others(left, group, pattern):
    named = [name for name in ALL if re.search(pattern, name)]
    assert named
    assert left(factors={group: 0.5}) == dict.fromkeys(named, 0.5)
    assert left(factors={group: 0.0}) == dict.fromkeys(named, 0.0)


def test_factors_of_several_groups_multiply(left):
    found = left(factors={"attn1": 0.5, "to_q": -2.0, "input_blocks": 3.0})
    assert found["lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"] == -3.0
    assert found["lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_v"] == 3.0
    assert found[FEED_FORWARD] == 3.0
    assert TEXT not in found


def test_a_sub_band_is_that_quadrant_of_c(comfy, whole):
    made = comfy("adapters.filters").Filter({"aa": 0.0, "dd": 2.0}).left_of(whole).adapter
    for name, layer in whole.adapter.layers.items():
        plane = torch.zeros(64)
        plane[layer.indices.long()] = layer.values
        plane = plane.view(8, 8)
        plane[:4, :4] *= 0
        plane[4:, 4:] *= 2
        got = torch.zeros(64)
        got[made.layers[name].indices.long()] = made.layers[name].values
        assert torch.equal(got.view(8, 8), plane)


def test_only_and_except_choose_by_name(left):
    assert set(left(only="output_blocks_3", without="attn2")) == {
        name for name in ALL if "output_blocks_3" not in name or "attn2" in name
    }


def test_filters_chain(left, comfy):
    first = comfy("adapters.filters").Filter({"attn1": 0.5})
    assert left(factors={"attn1": 0.5}, previous=first)[MIDDLE] == 0.25


def test_a_filter_that_changes_nothing_returns_the_adapter_itself(comfy, whole):
    filters = comfy("adapters.filters")
    assert filters.Filter().left_of(whole) is whole
    assert filters.Filter(dict.fromkeys(filters.GROUPS, 1.0)).left_of(whole) is whole


def test_the_origin_says_what_was_filtered(comfy, whole):
    made = comfy("adapters.filters").Filter({"attn1": 0.5, "aa": 1.0}, only="attn").left_of(whole)
    assert made.origin == {"filtered": {"attn1": 0.5, "only_layers": "attn"}, "of": whole.origin}
    assert made.title == "a.safetensors (filtered)"
    assert comfy("adapters.filters").Filter({"attn2": 0.5}).left_of(made).title == made.title


def test_nothing_left_is_refused_with_the_files_name(comfy, whole):
    with pytest.raises(comfy("core").WaveFTError, match=r'filter of "a.safetensors": expected some layers left'):
        comfy("adapters.filters").Filter(only="no such layer").left_of(whole)


def test_a_sub_band_that_is_all_there_is_leaves_nothing(comfy, make_adapter, carry):
    from waveft_core import Adapter, Layer

    layer = Layer(torch.ones(1), torch.zeros(1, dtype=torch.int32), (8, 8))  # in aa
    carried = carry(Adapter({MIDDLE: layer}))
    with pytest.raises(comfy("adapters.filters").Emptied, match="some coefficients left"):
        comfy("adapters.filters").Filter({"aa": 0.0}).left_of(carried)


@pytest.mark.parametrize("expression", [r"\w?" * 22 + "!", r"(\w+)+\.", "(.*)*z", "(.*x){9}", r"\w*\w*\w*!"])
def test_an_expression_that_would_hang_the_server_is_searched_for_all_the_same(left, expression):
    # Python's own engine would take from seconds to hours; tests/waveft_core/test_pattern.py counts the work
    assert left(without=expression) == {}


def test_what_cannot_be_searched_in_bounded_time_is_refused(comfy):
    with pytest.raises(comfy("core").WaveFTError, match=r"only_layers .*got groupref"):
        comfy("adapters.filters").compiled(r"(\w)\1", "only_layers")


@pytest.mark.parametrize(
    "expression", ["output_blocks_[3-5]_1", "attn[12]_to_(q|k)$", "^lora_unet_.*_to_.*", r"\d+", "a{2}"]
)
def test_a_plain_expression_finds_what_it_says(comfy, expression):
    found = comfy("adapters.filters").compiled(expression, "only_layers")
    assert [name for name in ALL if found.search(name)] == [name for name in ALL if re.search(expression, name)]


def test_names_too_long_to_search_in_are_refused(comfy, make_adapter, carry):
    carried = carry(make_adapter({"lora_" + "x" * 300: (8, 8)}))
    filters = comfy("adapters.filters")
    assert filters.Filter({"aa": 0.5}).left_of(carried).adapter.layers
    with pytest.raises(comfy("core").WaveFTError, match=r"at most 200 letters to search in, got 305"):
        filters.Filter(only="x").left_of(carried)


def test_an_adapter_that_did_not_come_is_said(comfy):
    with pytest.raises(comfy("core").WaveFTError, match="adapter: expected something connected"):
        comfy("adapters.filters").kept(None, None)


def test_a_broken_expression_says_where(comfy):
    filters = comfy("adapters.filters")
    assert filters.checked("only_layers", None) is True and filters.checked("only_layers", " ") is True
    assert 'only_layers "a(b"' in filters.checked("only_layers", "a(b")
    widgets = {**dict.fromkeys(filters.GROUPS, 1.0), "only_layers": "", "except_layers": "a(b"}
    with pytest.raises(comfy("core").WaveFTError, match=r'except_layers "a\(b"'):
        filters.from_widgets(**widgets)
    with pytest.raises(comfy("core").WaveFTError, match="character 2"):
        filters.compiled("a(b", "only_layers")


def test_factors_of_identity_are_refused_by_sub_band_alone(comfy, make_adapter, carry):
    carried = carry(make_adapter({MIDDLE: (8, 8)}, wavelet="identity"))
    filters = comfy("adapters.filters")
    assert filters.Filter({"attn1": 0.5}).left_of(carried).adapter.layers
    with pytest.raises(comfy("core").WaveFTError, match="no sub-bands"):
        filters.Filter({"aa": 0.5}).left_of(carried)
