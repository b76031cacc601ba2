import pytest
import torch

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
Q_KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
K_KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture
def parts(comfy, carry, small, make_adapter):
    """Two adapters and a function that applies one."""
    patch = comfy("patching.patch")
    other = make_adapter({Q: (8, 8)}, seed=5)
    put = lambda model, carried, strength: patch.apply(model, None, [patch.Part(carried, strength, 1.0)])[0]  # noqa: E731
    return carry(small, "a"), carry(other, "b"), put


def merged_by(base, found, key, layer):
    """W plus what `applied` says, which must be what ComfyUI's merge makes of the patches."""
    total = base.model.state_dict()[key].clone()
    for one in found:
        if layer in one.strengths:
            total += one.strengths[layer] * one.carried.adapter.delta(layer)
    return total


def test_adapters_and_their_strengths_are_read_off_the_patches(comfy, parts, unet):
    a, b, put = parts
    found = comfy("patching.applied").applied(put(put(unet, a, 0.5), b, -2.0))
    assert [one.carried for one in found] == [a, b]
    assert [dict(one.strengths) for one in found] == [{Q: 0.5, K: 0.5}, {Q: -2.0}]
    assert comfy("patching.applied").applied(unet) == []


def test_one_applied_twice_adds_up_and_one_that_cancels_is_gone(comfy, parts, unet):
    a, b, put = parts
    twice = comfy("patching.applied").applied(put(put(unet, a, 0.5), a, 0.25))
    assert [dict(one.strengths) for one in twice] == [{Q: 0.75, K: 0.75}]
    assert comfy("patching.applied").applied(put(put(unet, b, 0.5), b, -0.5)) == []


def test_a_merge_of_models_multiplies_strengths(comfy, parts, unet):
    """ModelMergeSimple and its by-block relatives: add_patches(other's key patches, 1 - ratio, ratio)."""
    a, b, put = parts
    first, second = put(unet, a, 1.0), put(unet, b, 1.0)
    made = first.clone()
    for key, ratio in ((Q_KEY, 0.75), (K_KEY, 0.25)):
        made.add_patches({key: second.get_key_patches()[key]}, 1.0 - ratio, ratio)
    found = comfy("patching.applied").applied(made)
    assert [dict(one.strengths) for one in found] == [{Q: 0.75, K: 0.25}, {Q: 0.25}]
    for key, layer in ((Q_KEY, Q), (K_KEY, K)):
        torch.testing.assert_close(made.merged(key), merged_by(unet, found, key, layer), rtol=0, atol=1e-5)


def test_others_patches_are_left_out_and_a_weight_that_is_set_forgets(comfy, parts, unet):
    a, _, put = parts
    made = put(unet, a, 1.0)
    made.add_patches({Q_KEY: ("diff", (torch.zeros(8, 8),))}, 1.0, 1.0)
    assert [dict(one.strengths) for one in comfy("patching.applied").applied(made)] == [{Q: 1.0, K: 1.0}]
    made.add_patches({Q_KEY: ("set", (torch.zeros(8, 8),))}, 1.0, 1.0)
    assert [dict(one.strengths) for one in comfy("patching.applied").applied(made)] == [{K: 1.0}]
