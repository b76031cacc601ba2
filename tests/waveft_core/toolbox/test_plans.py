import pytest
import torch

from waveft_core.toolbox.plans import Kept

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize("limit", [1 << 20, 0])
def test_a_layer_merged_again_and_again_has_the_first_merges_bits(make_adapter, limit):
    """Low VRAM merges at each forward: from the second on with a plan that was kept, up to a limit."""
    kept, weight = Kept(limit), torch.ones(8, 8)
    adapter = make_adapter({Q: (8, 8)})
    plans = [kept.plan(adapter, Q, weight) for _ in range(3)]
    assert plans[0] is None
    assert (plans[1] is plans[2]) == (limit > 0)
    merged = [adapter.add_(weight.clone(), Q, 0.7, plan) for plan in plans]
    assert all(torch.equal(merged[0], other) for other in merged)
    assert kept.nbytes == (plans[1].nbytes if limit else 0)
    del adapter, plans
    assert kept.nbytes == 0


def test_plans_are_kept_at_once_where_that_is_asked_for(make_adapter):
    kept, weight = Kept(1 << 20, at_once=True), torch.ones(8, 8)
    adapter = make_adapter({Q: (8, 8)})
    plans = [kept.plan(adapter, Q, weight) for _ in range(2)]
    assert plans[0] is plans[1]
    assert kept.nbytes == plans[0].nbytes
    assert torch.equal(adapter.add_(weight.clone(), Q, 0.7, plans[0]), adapter.add_(weight.clone(), Q, 0.7))


def test_the_adapter_used_least_recently_loses_its_plans_first(make_adapter):
    weight = torch.ones(8, 8)
    first, second, third = (make_adapter({Q: (8, 8)}, seed=seed) for seed in range(3))
    kept = Kept(int(2.5 * first.plan(Q, weight.dtype, weight.device).nbytes))
    for adapter in (first, second, first, second, first, third, third):
        plan = kept.plan(adapter, Q, weight)
    assert kept.plan(first, Q, weight) is kept.plan(first, Q, weight)
    assert kept.plan(third, Q, weight) is plan
    assert kept.plan(second, Q, weight) is None  # forgotten: as if it came for the first time
