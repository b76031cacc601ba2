import pytest

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def node(comfy):
    return comfy("nodes.hook").WaveFTHook


def test_its_inputs_are_final(node):
    # saved workflows hold widgets by position
    schema = node.define_schema()
    assert [i.id for i in schema.inputs] == ["adapter", "strength_model", "strength_clip", "filter", "prev_hooks"]
    assert [(o.id, o.kind, o.display_name) for o in schema.outputs] == [("hooks", "HOOKS", "HOOKS")]
    assert {(i.min, i.max) for i in schema.inputs if i.kind == "FLOAT"} == {(-20.0, 20.0)}


def test_a_hook_carries_the_adapter_and_its_strengths(node, carry, small):
    carried = carry(small)
    (group,) = node.execute(carried, 0.7, -0.4)
    (hook,) = group.hooks
    assert hook.carried is carried
    assert (hook._strength_model, hook._strength_clip) == (0.7, -0.4)


def test_the_filter_is_applied(comfy, node, carry, small):
    kept = comfy("filters").Filter(factors={"attn2": 0.0})
    (group,) = node.execute(carry(small), 1.0, 1.0, filter=kept)
    assert list(group.hooks[0].carried.adapter.layers) == [Q]


def test_it_chains(node, carry, small):
    (first,) = node.execute(carry(small), 1.0, 1.0)
    (second,) = node.execute(carry(small), 1.0, 1.0, prev_hooks=first)
    assert (len(first.hooks), len(second.hooks)) == (1, 2)
    assert node.execute(carry(small), 0.0, 0.0, prev_hooks=second)[0] is second
