import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler

from trainer import losses, rng, schema

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CPU = torch.device("cpu")


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 5, 5, generator=generator) for _ in range(2))
    return clean, noise, torch.tensor([0, 500, 999])


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DDIMScheduler])
def test_noising_is_ddpms_whatever_the_bases_sampler(tensors, kind):
    noising, oracle = losses.Noising(kind(**BETAS), CPU), DDPMScheduler(**BETAS)
    assert noising.steps == 1000
    assert torch.allclose(noising.mix(*tensors), oracle.add_noise(*tensors), atol=1e-6)
    assert noising.target(*tensors) is tensors[1]


def test_velocity_where_the_scheduler_says_so(tensors):
    noising = losses.Noising(EulerDiscreteScheduler(**BETAS, prediction_type="v_prediction"), CPU)
    oracle = DDPMScheduler(**BETAS).get_velocity(*tensors)
    assert torch.allclose(noising.target(*tensors), oracle, atol=1e-6)


@pytest.mark.parametrize(("kind", "one"), [("epsilon", 0), ("v_prediction", 1)])
def test_min_snr_by_hand(kind, one):
    noising = losses.Noising(DDPMScheduler(**BETAS, prediction_type=kind), CPU)
    timesteps = torch.tensor([0, 999])
    alpha = noising.alphas[timesteps]
    snr = alpha / (1 - alpha)
    assert snr[0] > 5 > snr[1]
    expected = torch.stack([5 / (snr[0] + one), snr[1] / (snr[1] + one)])
    assert torch.allclose(noising.weights(timesteps, 5.0), expected)
    assert noising.weights(timesteps, 0.0).tolist() == [1, 1]


def test_noise_offset_moves_whole_channels():
    def draw(offset):
        return losses.draw_noise(torch.Size((4, 8, 8)), rng.generator(0, "noise"), schema.Loss(noise_offset=offset))

    moved = draw(0.5) - draw(0.0)
    assert torch.allclose(moved, moved[:, :1, :1].expand_as(moved), atol=1e-6)
    assert moved.abs().max() > 0


def test_the_loss_is_fp32_and_weighs_pictures():
    predicted = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).bfloat16()
    loss = losses.mean_squared_error(predicted, torch.zeros(2, 1, 1, 1), torch.tensor([1.0, 0.5]))
    assert loss.dtype == torch.float32
    assert loss.item() == (1 + 0.5 * 9) / 2
