"""What only the libraries themselves can tell of a job, tried before the base is loaded, by the dry run and the run.

Torch is imported only for a job that asks for something of it: another device, arguments of an optimizer or a schedule,
an adapter to start from. A tokenizer is made only for captions that may be too long.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..base import layershapes, vocabulary
from ..base.modelfacts import ModelFacts
from ..job import optim
from ..job.schema import Job
from ..pictures.picture import Picture
from ..system.errors import UserError

MARKS = 2  # of start and end, beside the tokens of a text
USUAL_DEVICES = ("auto", "cpu")


def faults(job: Job, facts: ModelFacts, steps: int) -> list[str]:
    """Returns what device, optimizer, schedule and adapter file would refuse when the run begins."""
    return [*device_faults(job), *optim.trial(job.optimizer, rates(job, facts), steps), *weights_faults(job, facts)]


def rates(job: Job, facts: ModelFacts) -> list[float]:
    """Returns the learning rates of the parameter groups: of the layers that are known, else all that the job names."""
    settings = job.optimizer
    found = None if job.network.begins_with else layershapes.layers(facts, job.model, job.network)
    if found:
        return list(dict.fromkeys(optim.rate_of(layer.path, settings) for layer in found))
    text = [settings.text_encoder_lr] if settings.text_encoder_lr else []
    return list(dict.fromkeys([settings.learning_rate, *settings.learning_rate_pattern.values(), *text]))


def device_faults(job: Job) -> list[str]:
    """Returns whether torch has the device and the precision that the job names; what it leaves open always fits."""
    if job.train.device in USUAL_DEVICES and job.train.mixed_precision != "bf16":
        return []
    from ..base import precision

    try:
        precision.choose(job.train)
    except UserError as error:
        return error.problems
    return []


def weights_faults(job: Job, facts: ModelFacts) -> list[str]:
    """Returns why the adapter that the run would start from is damaged, or is none of this base's."""
    path = job.network.begins_with
    if not path:
        return []
    import torch

    import waveft_core
    from waveft_core.update.targets import resolve

    from ..methods import shipped

    try:
        adapter = shipped.load(Path(path))
        if facts.unet_shapes and isinstance(adapter, waveft_core.Adapter):
            base = {name: torch.empty(shape, device="meta") for name, shape in facts.unet_shapes.items()}
            # what text encoders have is seen when they are loaded
            resolve(base, adapter, leave_out=("te1", "te2") if job.network.train_text_encoder else ())
    except (UserError, waveft_core.WaveFTError) as error:
        return [f'[network] network_weights "{path}": {error}']
    return []


def long_captions(job: Job, pictures: Sequence[Picture]) -> list[str]:
    """Returns a notice for every picture whose caption's end the encoders do not see."""
    most = job.model.max_token_length  # a token is a byte or more
    long = [one for one in pictures if len(one.caption.plain().encode()) > most]
    if not long:
        return []
    try:
        made = vocabulary.of_base(job.model)
    except (UserError, OSError, ValueError, KeyError):  # a hub id's, which nobody has fetched yet
        return []
    return list(too_long(long, made, most + MARKS))


def too_long(pictures: Sequence[Picture], made: Sequence[Any], seen: int) -> Iterator[str]:
    """Yields the notices of captions that have more tokens than are seen, by any of the tokenizers."""
    for picture in pictures:
        count = max(len(tokenizer(picture.caption.plain(), truncation=False).input_ids) for tokenizer in made)
        if count > seen:
            yield f"{picture.path.name}: its caption has {count} tokens, the encoders see the first {seen}"
