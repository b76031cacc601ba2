import pytest
import torch

from trainer import optim, schema
from trainer.errors import UserError


def make(steps=10, **settings):
    return optim.make(schema.Optimizer(**settings), [torch.nn.Parameter(torch.ones(3))], steps)


def test_the_papers_adamw_is_the_default():
    optimizer, schedule = make()
    group = optimizer.param_groups[0]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["lr"], group["weight_decay"], group["fused"]) == (1e-4, 1e-4, True)
    assert schedule.get_last_lr() == [1e-4]


@pytest.mark.parametrize("name", ["SGD", "Adafactor", "adamw"])
def test_every_optimizer_steps(name):
    optimizer, schedule = make(optimizer_type=name, learning_rate=0.1)
    parameter = optimizer.param_groups[0]["params"][0]
    parameter.sum().backward()
    optimizer.step()
    schedule.step()
    assert (parameter < 1).all()


def test_arguments_reach_the_optimizer():
    optimizer, _ = make(optimizer_args={"weight_decay": 0.5, "foreach": True})
    assert optimizer.param_groups[0]["weight_decay"] == 0.5
    assert optimizer.param_groups[0]["foreach"] is True


def test_an_argument_that_it_does_not_take():
    with pytest.raises(UserError, match=r"\[optimizer\] optimizer_args: AdamW refuses them.*wieght"):
        make(optimizer_args={"wieght_decay": 0.5})


def rates(**settings):
    optimizer, schedule = make(learning_rate=1.0, **settings)
    seen = []
    for _ in range(10):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return seen


def test_rates_over_the_run():
    assert rates() == [1.0] * 10
    assert rates(lr_scheduler="linear") == pytest.approx([1 - n / 10 for n in range(10)])
    assert rates(lr_scheduler="constant_with_warmup", lr_warmup_steps=4)[:5] == [0, 0.25, 0.5, 0.75, 1]
    cosine = rates(lr_scheduler="cosine")
    assert cosine[0] == 1 and cosine[5] == pytest.approx(0.5)
