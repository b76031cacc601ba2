"""A merge in float16, as ComfyUI makes it on GPUs, of a base that float16 cannot hold."""

import gc

import pytest
import torch

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
Q_KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
CAST = [torch.float32, torch.bfloat16]


@pytest.fixture
def merged(comfy, carry, unet, small):
    """Returns a function that applies `small` to Q's weight, stored in a dtype, and merges it in another."""

    def merge(stored, merging, *, before=None, said=torch.float32, key=Q_KEY):
        weight = (unet.model.state_dict()[Q_KEY] * 1e-3).to(stored)  # bfloat16's range, not only its bits
        weight[0, 0] = 1e-7
        unet.model.state_dict()[Q_KEY] = weight
        patch = comfy("patching.patch").model_patches(unet.model, carry(small))[Q_KEY]
        cast = weight.to(merging, copy=True)
        if before is not None:
            before(cast)
        got = patch.calculate_weight(cast, key, 0.7, 1.0, None, lambda delta: delta, said)
        return weight, got

    return merge


@pytest.mark.parametrize("stored", CAST, ids=str)
def test_what_no_patch_touches_keeps_its_bits_and_the_sum_is_rounded_once(merged, small, stored):
    weight, got = merged(stored, torch.float16)
    delta = 0.7 * small.delta(Q, torch.float64)
    untouched = delta == 0
    assert 0 < int(untouched.sum()) < untouched.numel()
    assert torch.equal(got.to(stored)[untouched], weight[untouched])
    error = (got.to(stored).double() - (weight.double() + delta)).abs()
    assert bool((error <= torch.finfo(stored).eps / 2 * (weight.double() + delta).abs() + 1e-7).all())
    assert not torch.equal(weight.half().to(stored), weight), "float16 holds these weights: nothing was tried"


def test_entries_that_an_earlier_patch_changed_keep_its_change(merged, small):
    weight, got = merged(torch.float32, torch.float16, before=lambda cast: cast[1].add_(1))
    wanted = weight.double() + 0.7 * small.delta(Q, torch.float64)
    wanted[1] += 1
    error = (got.double() - wanted).abs()
    assert bool((error[1] <= 2e-3).all())
    assert bool((torch.cat([error[:1], error[2:]]) <= 1e-7).all())


@pytest.mark.parametrize(
    ("stored", "merging", "said"),
    [
        (torch.float16, torch.float16, torch.float32),  # nothing was lost
        (torch.float8_e4m3fn, torch.float16, torch.float32),
        (torch.float32, torch.float32, torch.float32),
        (torch.float32, torch.float16, torch.float16),  # at each forward: the layer computes in it
    ],
    ids=str,
)
def test_where_nothing_was_lost_or_the_layer_computes_in_it_the_copy_is_written_in_place(merged, stored, merging, said):
    _, got = merged(stored, merging, said=said)
    assert got.dtype == merging


def test_a_model_that_is_gone_or_taken_apart_is_done_without(comfy, unet):
    original = comfy("patching.original").Original
    weight = torch.ones(8, 8, dtype=torch.float16)
    module = torch.nn.Linear(8, 8)
    held = original(module, "weight")
    assert held.restored(module.weight.detach().half()).dtype == torch.float32
    assert original(module, "weight").restored(torch.ones(8, 4).half()).dtype == torch.float16
    del module
    gc.collect()
    assert held.restored(weight) is weight


def test_a_quantised_original_is_left_alone(comfy, unet):
    class Quantised(torch.Tensor):
        pass

    unet.model.state_dict()[Q_KEY] = torch.ones(8, 8).as_subclass(Quantised)
    weight = torch.ones(8, 8, dtype=torch.float16)
    assert comfy("patching.original").Original(unet.model, Q_KEY).restored(weight) is weight
