"""diffusers' schedulers by the names that kohya, k-diffusion and ComfyUI give them, set up as a base was trained."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from ..base.models import Base

# name in a job -> diffusers' class, what it must be told, and the name that A1111 writes into its pictures
SAMPLERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "euler_a": ("EulerAncestralDiscreteScheduler", {}, "Euler a"),
    "euler": ("EulerDiscreteScheduler", {}, "Euler"),
    "ddim": ("DDIMScheduler", {}, "DDIM"),
    "ddpm": ("DDPMScheduler", {}, "DDPM"),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}, "PLMS"),
    "lms": ("LMSDiscreteScheduler", {}, "LMS"),
    "heun": ("HeunDiscreteScheduler", {}, "Heun"),
    "dpm_2": ("KDPM2DiscreteScheduler", {}, "DPM2"),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}, "DPM2 a"),
    # its last step cannot go to zero noise
    "dpmsolver": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        "DPM Solver",
    ),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}, "DPM++ 2M"),
    "dpmsingle": ("DPMSolverSinglestepScheduler", {"lower_order_final": True}, "DPM++ 2S"),
}
# Of diffusers' defaults for pictures, two are wrong for latents: they lie far outside -1 to 1, and the last step is not
# to noise of exactly zero.
LATENTS = {"clip_sample": False, "set_alpha_to_one": False}
OWN = "model"  # the base's own sampler


def make(name: str, base: Base) -> Any:
    """Returns a new scheduler of that name on the base's noise schedule.

    A schedule that ends in pure noise begins at its very last timestep: from any other, a base that was trained on it
    draws grey pictures (Lin et al. 2023).
    """
    import diffusers

    config = dict(base.scheduler.config)
    told: dict[str, Any] = {"prediction_type": base.prediction}
    kind = type(base.scheduler)
    if name != OWN:
        title, settings, _ = SAMPLERS[name]
        kind, told = getattr(diffusers, title), {**LATENTS, **settings, **told}
    if base.zero_terminal_snr:
        told["timestep_spacing"] = "trailing"
        if "rescale_betas_zero_snr" in inspect.signature(kind.__init__).parameters:
            told["rescale_betas_zero_snr"] = True
        else:
            told["trained_betas"] = zero_terminal_betas(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "dpmsolver" is an old one, and asked for
        return kind.from_config(config, **told)


def zero_terminal_betas(config: dict[str, Any]) -> list[float]:
    """Returns the betas of the schedule, rescaled to end in noise that is pure to 2**-24, as Euler's sampler has it."""
    from diffusers import EulerDiscreteScheduler

    alphas = EulerDiscreteScheduler.from_config(config, rescale_betas_zero_snr=True).alphas_cumprod.double().tolist()
    return [1 - after / before for before, after in zip([1.0, *alphas], alphas, strict=False)]


def shown_name(name: str) -> str:
    """Returns the sampler's name as A1111 writes it."""
    return SAMPLERS[name][2] if name in SAMPLERS else name
