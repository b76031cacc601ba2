import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from torch.nn.functional import interpolate

from trainer.job import schema
from trainer.learning.noising import Noising, draw_noise, perturbed
from trainer.system import rng

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CPU = torch.device("cpu")
LATENTS = (
    torch.randn(4, 12, 10, generator=torch.Generator().manual_seed(1)) + torch.tensor([0.5, -2, 0, 1])[:, None, None]
)


def plain(velocity=False, zero=False, **config):
    return Noising(DDPMScheduler(**BETAS, **config), CPU, velocity, zero)


def draws(purpose="noise"):
    return rng.generator(0, purpose)


def white():
    return torch.randn(LATENTS.shape, generator=draws())


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 4, 5, 5, generator=generator) for _ in range(2))
    return clean, noise, torch.tensor([0, 500, 999])


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, DDIMScheduler])
def test_noising_is_ddpms_whatever_the_bases_sampler(tensors, kind):
    noising, oracle = Noising(kind(**BETAS), CPU, False, False), DDPMScheduler(**BETAS)
    assert noising.steps == 1000
    assert torch.allclose(noising.mix(*tensors), oracle.add_noise(*tensors), atol=1e-6)
    assert noising.target(*tensors) is tensors[1]


def test_velocity(tensors):
    assert torch.allclose(
        plain(velocity=True).target(*tensors), DDPMScheduler(**BETAS).get_velocity(*tensors), atol=1e-6
    )


def test_zero_terminal_snr_is_the_papers_algorithm_1(tensors):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    roots = (1 - betas).cumprod(0).sqrt()  # sqrt of alpha-bar
    expected = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    # whether the scheduler's own config says it or not
    for noising in (plain(True, True), plain(True, True, rescale_betas_zero_snr=True)):
        assert torch.allclose(noising.alphas.double(), expected**2, atol=1e-5)
        assert noising.alphas[0] == pytest.approx(1 - 0.00085)
        assert noising.alphas[-1] == 0
        assert torch.equal(noising.mix(*tensors)[2], tensors[1][2])  # pure noise
        assert torch.equal(noising.target(*tensors)[2], -tensors[0][2])  # whose velocity is the picture
    assert plain(True, False, rescale_betas_zero_snr=True).alphas[-1] > 0.004


def test_snr_by_hand():
    noising = plain(zero=True)
    noising.alphas = torch.tensor([1.0, 0.75, 0.5, 0.0])
    assert noising.snr(torch.tensor([0, 1, 2, 3, 1])).tolist() == [float("inf"), 3, 1, 0, 3]


@pytest.mark.parametrize(("first", "end", "expected"), [(0, 1000, (0, 999)), (200, 400, (200, 399)), (7, 8, (7, 7))])
def test_timesteps_fill_the_jobs_range(first, end, expected):
    noising, loss = plain(), schema.Loss(min_timestep=first, max_timestep=end)
    assert (noising.timestep(0.0, loss), noising.timestep(1 - 2**-53, loss)) == expected
    halfway = [noising.timestep((n + 0.5) / (end - first), loss) for n in range(end - first)]
    assert halfway == list(range(first, end))  # each as likely


def test_timesteps_of_a_shorter_schedule():
    noising = plain(num_train_timesteps=100)
    assert noising.timestep(0.999999, schema.Loss()) == 99
    assert noising.timestep(0.0, schema.Loss(min_timestep=500)) == 99


def test_white_noise_is_the_generators_first_draw_whatever_is_added():
    assert torch.equal(draw_noise(LATENTS, draws(), schema.Loss()), white())


def test_noise_offset_moves_whole_channels():
    source = draws()
    expected = torch.randn(LATENTS.shape, generator=source) + 0.5 * torch.randn(4, 1, 1, generator=source)
    assert torch.equal(draw_noise(LATENTS, draws(), schema.Loss(noise_offset=0.5)), expected)


def test_noise_offset_of_random_strength():
    source = draws()
    noise, strength = torch.randn(LATENTS.shape, generator=source), 0.5 * torch.rand(1, generator=source)
    assert 0 < strength < 0.5
    loss = schema.Loss(noise_offset=0.5, noise_offset_random_strength=True)
    expected = noise + strength * torch.randn(4, 1, 1, generator=source)
    assert torch.equal(draw_noise(LATENTS, draws(), loss), expected)


@pytest.mark.parametrize("scale", [0.2, -0.2])
def test_adaptive_noise_scale_follows_each_channels_mean(scale):
    source = draws()
    noise, shift = torch.randn(LATENTS.shape, generator=source), torch.randn(4, 1, 1, generator=source)
    strengths = (0.1 + scale * LATENTS.mean(dim=(1, 2)).abs()).clamp(min=0).view(4, 1, 1)
    assert (strengths == 0).any() == (scale < 0)  # channels far from 0
    loss = schema.Loss(noise_offset=0.1, adaptive_noise_scale=scale)
    assert torch.allclose(draw_noise(LATENTS, draws(), loss), noise + strengths * shift, atol=1e-6)


def test_multires_noise_is_kohyas_pyramid():
    """The formula as kohya's trainer has it, over the same draws."""
    source, discount = draws(), 0.4
    noise = torch.randn(LATENTS.shape, generator=source)[None]
    sizes = []
    for number in range(6):
        ratio = 2 + 2 * torch.rand(1, dtype=torch.float64, generator=source).item()
        size = max(1, int(12 / ratio**number)), max(1, int(10 / ratio**number))
        coarse = torch.randn(1, 4, *size, generator=source)
        noise = noise + discount**number * interpolate(coarse, (12, 10), mode="bilinear")
        sizes.append(size)
        if 1 in size:
            break
    assert sizes[0] == (12, 10) and 1 in sizes[-1] and len(sizes) < 6
    loss = schema.Loss(multires_noise_iterations=6, multires_noise_discount=discount)
    found = draw_noise(LATENTS, draws(), loss)
    assert torch.allclose(found, (noise / noise.std())[0], atol=1e-6)
    assert found.std() == pytest.approx(1, abs=1e-5)
    # fewer iterations are other noise
    fewer = draw_noise(LATENTS, draws(), loss.model_copy(update={"multires_noise_iterations": 1}))
    assert not torch.allclose(fewer, found)


@pytest.mark.parametrize("random", [False, True])
def test_ip_noise_is_mixed_in_alone(random):
    noise = white()
    assert perturbed(noise, draws(), schema.Loss()) is noise
    source = draws("ip")
    strength = 0.1 * torch.rand(1, generator=source) if random else 0.1
    expected = noise + strength * torch.randn(LATENTS.shape, generator=source)
    loss = schema.Loss(ip_noise_gamma=0.1, ip_noise_gamma_random_strength=random)
    assert torch.allclose(perturbed(noise, draws("ip"), loss), expected)
    assert torch.equal(noise, white())  # what the target is made of


def test_draws_are_the_generators_alone():
    settings = (
        schema.Loss(noise_offset=0.1, noise_offset_random_strength=True, ip_noise_gamma=0.2),
        schema.Loss(multires_noise_iterations=3, ip_noise_gamma=0.2, ip_noise_gamma_random_strength=True),
    )
    for loss in settings:
        found = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            source, before = draws(), torch.get_rng_state()
            found.append(perturbed(draw_noise(LATENTS, source, loss), source, loss))
            assert torch.equal(before, torch.get_rng_state())
        assert torch.equal(*found)
