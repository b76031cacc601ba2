import torch

from trainer.system import rng


def test_draws_are_a_function_of_their_arguments():
    first = torch.randn(5, generator=rng.generator(1, "noise", 2, 3))
    assert torch.equal(first, torch.randn(5, generator=rng.generator(1, "noise", 2, 3)))
    for other in ((2, "noise", 2, 3), (1, "flip", 2, 3), (1, "noise", 3, 2), (1, "noise", 2), (1, "noise", 23)):
        assert not torch.equal(first, torch.randn(5, generator=rng.generator(*other)))


def test_the_number_is_fixed_for_good():
    assert rng.integer(42, "noise", 0, 0) == 2101484432142601279


def test_uniform_is_even():
    values = torch.tensor([rng.uniform(0, "timestep", step) for step in range(4000)])
    assert 0 <= values.min() < 0.01 and 0.99 < values.max() < 1
    assert torch.histc(values, 10, 0, 1).min() > 330


def test_the_global_state_is_left_alone():
    before = torch.get_rng_state()
    torch.randn(3, generator=rng.generator(1, "noise", 1))
    assert torch.equal(before, torch.get_rng_state())
