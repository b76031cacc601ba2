"""What a job could change to take less memory, with what each change saves: told where the device's was too small."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from ..base.modelfacts import ModelFacts
from ..job.schema import Job
from ..system.errors import reason
from . import estimate
from .estimate import Setting
from .preflight import Ready

SMALLEST = 0.05 * estimate.GB  # of a saving that is worth telling
STEPS_DOWN = (1024, 768, 512)  # px that are proposed instead


def levers(job: Job, facts: ModelFacts, resolution: tuple[int, int]) -> list[str]:
    """Returns what would take less memory, each with what it saves, the largest saving first.

    Args:
        job: as it ran out of memory.
        facts: of its base.
        resolution: (width, height) px.
    """
    batch = max(estimate.dataset_batches(job))
    given = estimate.setting(job, resolution, batch)
    now = estimate.memory(job, facts, given)
    if now is None:
        return []
    found = []
    for text, other in options(given, batch):
        changed = estimate.memory(job, facts, other)
        saved = now.total - changed.total if changed else 0.0
        if saved >= SMALLEST:
            found.append((saved, f"{text} (about {saved / estimate.GB:.1f} GB less)"))
    return [text for _, text in sorted(found, key=lambda pair: -pair[0])]


def out_of_memory(error: BaseException, ready: Ready) -> str:
    """Returns what is said when the device's memory was too small, with the levers there are and what each saves."""
    found = levers(ready.job, ready.facts, ready.resolution)
    plain = ["[train] gradient_checkpointing = true", "[general] batch_size = 1", "a smaller [general] resolution"]
    return f"{reason(error)} What would take less memory: {'; '.join(found or plain)}."


def options(given: Setting, batch: int) -> Iterable[tuple[str, Setting]]:
    """Yields what could be changed, as a job writes it, with the setting that comes of it."""
    if not given.checkpointing:
        yield "[train] gradient_checkpointing = true", replace(given, checkpointing=True)
    if batch > 1:
        yield (
            f"[general] batch_size = 1 with gradient_accumulation_steps {batch} times as many",
            replace(given, batch=1),
        )
    side = math.isqrt(given.width * given.height)
    if lower := next((px for px in STEPS_DOWN if px < side), None):
        yield f"[general] resolution = {lower}", replace(given, width=lower, height=lower)
    if given.compute == 4 or given.base == "fp32":
        yield (
            '[train] mixed_precision = "bf16" and [model] base_dtype = "auto"',
            replace(given, compute=2, base="auto"),
        )
    for base in ("fp8", "nf4"):
        if given.base in ("auto", "fp32"):
            yield f'[model] base_dtype = "{base}"', replace(given, base=base)
    if given.text[1]:
        yield "[network] train_text_encoder = false", replace(given, text=(False, False))
    elif given.text[0]:
        yield "[cache] cache_text_encoder_outputs = true", replace(given, text=(False, False))
    if given.vae:
        yield "[cache] cache_latents = true, without color_aug and random_crop", replace(given, vae=False)
