import pytest

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def node(comfy):
    return comfy("nodes.hook").WaveFTHook


def test_its_inputs_are_final(node):
    # saved workflows hold widgets by position
    schema = node.define_schema()
    assert [i.id for i in schema.inputs] == ["adapter", "strength_model", "strength_clip", "filter", "prev_hooks"]
    assert [(o.id, o.kind, o.display_name) for o in schema.outputs] == [
        ("hooks", "HOOKS", "HOOKS"),
        ("report", "STRING", "report"),
    ]
    assert {(i.min, i.max) for i in schema.inputs if i.kind == "FLOAT"} == {(-20.0, 20.0)}


def test_a_hook_carries_the_adapter_and_its_strengths(node, carry, small):
    carried = carry(small)
    group, _ = node.execute(carried, 0.7, -0.4)
    (hook,) = group.hooks
    assert hook.carried is carried
    assert (hook._strength_model, hook._strength_clip) == (0.7, -0.4)


def test_the_filter_is_applied(comfy, node, carry, small):
    kept = comfy("adapters.filters").Filter(factors={"attn2": 0.0})
    group, _ = node.execute(carry(small), 1.0, 1.0, filter=kept)
    assert list(group.hooks[0].carried.adapter.layers) == [Q]


def test_it_chains(node, carry, small):
    first, _ = node.execute(carry(small), 1.0, 1.0)
    second, _ = node.execute(carry(small), 1.0, 1.0, prev_hooks=first)
    assert (len(first.hooks), len(second.hooks)) == (1, 2)
    assert node.execute(carry(small), 0.0, 0.0, prev_hooks=second)[0] is second


def test_the_report_says_what_text_encoder_layers_need(node, carry, small, make_adapter):
    text = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
    _, report = node.execute(carry(make_adapter({Q: (8, 8), text: (6, 6)})), 0.5, 2.0)
    assert "model: 1 layer, at strength 0.5 times the keyframes'" in report
    assert "CLIP: 1 layer, at strength 2 times the keyframes', where Set CLIP Hooks" in report
    assert "model: 2 layers, left out by strength 0" in node.execute(carry(small), 0.0, 1.0)[1]
    assert "CLIP" not in node.execute(carry(small), 1.0, 1.0)[1]
    assert "CLIP" not in node.execute(carry(make_adapter({Q: (8, 8), text: (6, 6)})), 1.0, 0.0)[1]


def test_a_strength_that_is_no_number_is_refused(comfy, node, carry, small):
    with pytest.raises(comfy("core").WaveFTError, match="finite number, got nan"):
        node.execute(carry(small), float("nan"), 1.0)
