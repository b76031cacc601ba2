import pytest
import torch

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
Q_KEY = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.mark.parametrize("limit", [1 << 20, 0])
def test_a_layer_merged_again_and_again_has_the_first_merges_bits(comfy, unet, make_adapter, limit):
    """Low VRAM merges at each forward: from the second on with a plan that was kept, up to a limit."""
    kept, weight = comfy("adapters.plans").Kept(limit), unet.model.state_dict()[Q_KEY]
    adapter = make_adapter({Q: (8, 8)})
    plans = [kept.plan(adapter, Q, weight) for _ in range(3)]
    assert plans[0] is None
    assert (plans[1] is plans[2]) == (limit > 0)
    merged = [adapter.add_(weight.clone(), Q, 0.7, plan) for plan in plans]
    assert all(torch.equal(merged[0], other) for other in merged)
    assert kept.nbytes == (plans[1].nbytes if limit else 0)
    del adapter, plans
    assert kept.nbytes == 0


def test_the_adapter_used_least_recently_loses_its_plans_first(comfy, unet, make_adapter):
    weight = unet.model.state_dict()[Q_KEY]
    first, second, third = (make_adapter({Q: (8, 8)}, seed=seed) for seed in range(3))
    kept = comfy("adapters.plans").Kept(int(2.5 * first.plan(Q, weight.dtype, weight.device).nbytes))
    for adapter in (first, second, first, second, first, third, third):
        plan = kept.plan(adapter, Q, weight)
    assert kept.plan(first, Q, weight) is kept.plan(first, Q, weight)
    assert kept.plan(third, Q, weight) is plan
    assert kept.plan(second, Q, weight) is None  # forgotten: as if it came for the first time
