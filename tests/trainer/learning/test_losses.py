import math

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch.nn.functional import interpolate

from trainer.job import schema
from trainer.learning import losses
from trainer.learning.noising import Noising
from trainer.system.errors import UserError

SCHEDULER = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
CPU = torch.device("cpu")
TIMESTEPS = torch.tensor([0, 300, 999])


def schedule(velocity=False, zero=False):
    return Noising(SCHEDULER, CPU, velocity, zero)


def with_snr(*ratios, velocity=False):
    """A schedule of these signal-to-noise ratios."""
    noising = schedule(velocity)
    noising.alphas = torch.tensor([1.0 if math.isinf(ratio) else ratio / (ratio + 1) for ratio in ratios])
    return noising, torch.arange(len(ratios))


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(3, 4, 6, 6, generator=generator) for _ in range(2))


def measure(pair, masks=None, noising=None, timesteps=TIMESTEPS, **settings):
    return losses.per_picture(*pair, timesteps, noising or schedule(), schema.Loss(**settings), masks)


def test_squared_and_absolute_errors(pair):
    squares = torch.stack([torch.nn.functional.mse_loss(a, b) for a, b in zip(*pair, strict=True)])
    assert torch.allclose(measure(pair), squares)
    plain = torch.stack([torch.nn.functional.l1_loss(a, b) for a, b in zip(*pair, strict=True)])
    assert torch.allclose(measure(pair, loss_type="l1"), plain)


def kohyas_threshold(kind, c, timestep):
    if kind == "constant":
        return c
    if kind == "exponential":
        return math.exp(math.log(c) / 1000 * timestep)
    alpha = SCHEDULER.alphas_cumprod[timestep].item()
    return (1 - c) / (1 + ((1 - alpha) / alpha) ** 0.5) ** 2 + c


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("schedule", ["constant", "exponential", "snr"])
@pytest.mark.parametrize("kind", ["huber", "smooth_l1"])
def test_huber_is_kohyas(pair, kind, schedule, scale):
    found = measure(pair, loss_type=kind, huber_schedule=schedule, huber_c=0.3, huber_scale=scale)
    for row, timestep in enumerate(TIMESTEPS.tolist()):
        c = scale * kohyas_threshold(schedule, 0.3, timestep)
        square = (pair[0][row] - pair[1][row]).double() ** 2
        error = (2 * c if kind == "huber" else 2) * ((square + c**2).sqrt() - c)
        assert found[row].item() == pytest.approx(error.mean().item(), rel=1e-5)


def test_huber_keeps_errors_that_are_far_below_its_threshold():
    tiny = torch.full((1, 4, 2, 2), 1e-5, requires_grad=True)
    loss = measure((tiny, torch.zeros(1, 4, 2, 2)), timesteps=torch.tensor([0]), loss_type="huber", huber_c=1.0)
    assert loss.item() == pytest.approx(1e-10, rel=1e-4)  # in fp32, sqrt(d^2 + 1) - 1 is 0
    loss.sum().backward()
    assert tiny.grad.sum().item() == pytest.approx(2e-5, rel=1e-4)


@pytest.mark.parametrize("kind", ["l1", "huber", "smooth_l1"])
def test_no_error_has_no_gradient_that_is_not_finite(kind):
    predicted = torch.zeros(3, 4, 2, 2, requires_grad=True)
    measure((predicted, torch.zeros(3, 4, 2, 2)), loss_type=kind, noising=schedule(zero=True)).sum().backward()
    assert predicted.grad.abs().max() == 0


def test_the_loss_is_fp32_whatever_the_prediction_is():
    predicted = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).bfloat16()
    loss = measure((predicted, torch.zeros(2, 1, 1, 1)), timesteps=torch.tensor([5, 6]))
    assert loss.dtype == torch.float32
    assert loss.tolist() == [1, 9]


def test_each_picture_is_its_own(pair):
    everything = {"loss_type": "huber", "min_snr_gamma": 5.0, "debiased_estimation_loss": True}
    rows = [measure([part[n : n + 1] for part in pair], timesteps=TIMESTEPS[n : n + 1], **everything) for n in range(3)]
    assert torch.allclose(torch.cat(rows), measure(pair, **everything))


def test_masks_hide_errors_and_the_mean_is_over_all():
    error, masks = torch.zeros(2, 4, 2, 2), torch.zeros(2, 4, 4)
    error[:, :, 0, 0] = 2.0
    error[:, :, 1, 1] = 4.0
    masks[0, :2, 0] = 1.0  # half of the first cell
    masks[1, 2:, 2:] = 1.0  # all of the last
    found = measure((error, torch.zeros_like(error)), masks, timesteps=torch.tensor([1, 2]))
    assert found.tolist() == [0.5 * 4 / 4, 16 / 4]


def test_masks_are_resized_by_area(pair):
    masks = torch.rand(3, 13, 9, generator=torch.Generator().manual_seed(0))
    weights = interpolate(masks[:, None], size=(6, 6), mode="area")
    assert torch.allclose(measure(pair, masks), ((pair[0] - pair[1]) ** 2 * weights).mean(dim=(1, 2, 3)))
    assert torch.allclose(measure(pair, torch.ones(3, 48, 48)), measure(pair))


def weigh(noising, timesteps, **settings):
    return losses.weights(timesteps, noising, schema.Loss(**settings))


def test_no_weights_are_ones():
    assert weigh(*with_snr(0, 1, math.inf)).tolist() == [1, 1, 1]


def test_min_snr_by_hand():
    noising, timesteps = with_snr(0, 0.25, 4, 10, math.inf)
    found = weigh(noising, timesteps, min_snr_gamma=5.0)
    assert found.tolist() == pytest.approx([1, 1, 1, 0.5, 0])
    noising, timesteps = with_snr(0, 0.25, 4, 10, math.inf, velocity=True)
    found = weigh(noising, timesteps, min_snr_gamma=5.0)
    assert found.tolist() == pytest.approx([0, 0.25 / 1.25, 4 / 5, 5 / 11, 0])  # divided by snr + 1


def test_min_snr_of_the_bases_schedule():
    snr = compute_snr(SCHEDULER, TIMESTEPS)
    assert snr[0] > 5 > snr[2]
    assert torch.allclose(weigh(schedule(), TIMESTEPS, min_snr_gamma=5), snr.clamp(max=5) / snr, rtol=1e-4)
    assert torch.allclose(weigh(schedule(True), TIMESTEPS, min_snr_gamma=5), snr.clamp(max=5) / (snr + 1), rtol=1e-4)


def test_min_snr_of_velocity_weighs_as_that_of_noise():
    """The error of velocity is (snr + 1) / snr times that of the noise it implies: the weighted ones are equal."""
    noise_error, timesteps = torch.full((3, 4, 2, 2), 0.1), TIMESTEPS
    alpha = schedule().alphas[timesteps].view(-1, 1, 1, 1)
    zero = torch.zeros_like(noise_error)
    as_noise = measure((noise_error, zero), min_snr_gamma=3.0)
    as_velocity = measure((noise_error / alpha.sqrt(), zero), noising=schedule(True), min_snr_gamma=3.0)
    assert torch.allclose(as_noise, as_velocity, rtol=1e-4)
    scaled = {"noising": schedule(True), "scale_v_pred_loss_like_noise_pred": True}
    scaled = measure((noise_error / alpha.sqrt(), zero), **scaled)
    assert torch.allclose(scaled[1:], measure((noise_error, zero))[1:], rtol=1e-4)  # the first is bounded


def test_debiased_by_hand():
    noising, timesteps = with_snr(0.25, 4, 1000, 4000, math.inf)
    found = weigh(noising, timesteps, debiased_estimation_loss=True)
    least = 1000**-0.5
    assert found.tolist() == pytest.approx([2, 0.5, least, least, least], rel=1e-3)
    noising, timesteps = with_snr(0.25, 4, math.inf, velocity=True)
    found = weigh(noising, timesteps, debiased_estimation_loss=True)
    assert found.tolist() == pytest.approx([0.8, 0.2, 1 / 1001])
    # no step of SDXL's own schedule is touched by the lower bound
    snr = compute_snr(SCHEDULER, torch.tensor([999]))
    assert weigh(schedule(), torch.tensor([999]), debiased_estimation_loss=True).item() == pytest.approx(
        snr.item() ** -0.5, rel=1e-4
    )


def test_velocity_scaled_like_noise():
    noising, timesteps = with_snr(0, 0.25, 4, math.inf, velocity=True)
    found = weigh(noising, timesteps, scale_v_pred_loss_like_noise_pred=True)
    assert found.tolist() == pytest.approx([0.001 / 1.001, 0.2, 0.8, 1000 / 1001])
    with pytest.raises(UserError, match="scale_v_pred_loss_like_noise_pred: expected a base that predicts velocity"):
        weigh(*with_snr(1.0), scale_v_pred_loss_like_noise_pred=True)


@pytest.mark.parametrize("velocity", [False, True])
def test_weights_multiply_and_are_finite_everywhere(velocity):
    noising, timesteps = with_snr(0, 1e-30, 2.0, 1e30, math.inf, velocity=velocity)
    each = [{"min_snr_gamma": 5.0}, {"debiased_estimation_loss": True}]
    if velocity:
        each.append({"scale_v_pred_loss_like_noise_pred": True})
    product = torch.stack([weigh(noising, timesteps, **one) for one in each]).prod(dim=0)
    found = weigh(noising, timesteps, **{key: value for one in each for key, value in one.items()})
    assert torch.allclose(found, product)
    assert found.isfinite().all()


@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("huber_schedule", ["constant", "exponential", "snr"])
def test_nothing_waits_for_the_device(velocity, huber_schedule):
    """On the meta device there are no numbers: whatever read one would raise."""
    noising = schedule(velocity)
    noising.alphas = noising.alphas.to("meta")
    loss = schema.Loss(
        loss_type="huber",
        huber_schedule=huber_schedule,
        min_snr_gamma=5.0,
        debiased_estimation_loss=True,
        scale_v_pred_loss_like_noise_pred=velocity,
    )
    clean, noise = (torch.empty(2, 4, 6, 6, device="meta") for _ in range(2))
    timesteps, masks = torch.empty(2, dtype=torch.int64, device="meta"), torch.empty(2, 48, 48, device="meta")
    noisy, target = noising.mix(clean, noise, timesteps), noising.target(clean, noise, timesteps)
    found = losses.per_picture(noisy.bfloat16(), target, timesteps, noising, loss, masks)
    assert (found.shape, found.dtype) == ((2,), torch.float32)
