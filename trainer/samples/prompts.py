"""Which pictures a run draws: the prompts of the job and of its file, each with all that its picture depends on.

Torch is not imported.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ..job.promptfile import read_placed
from ..job.schema import Job, Prompt
from ..pictures import captions
from ..system import commandline
from ..system.errors import UserError

NEEDS = {"lms": "scipy"}  # sampler -> the package that it cannot do without


@dataclass(frozen=True)
class Shot:
    """One picture to draw: two equal shots with the same weights give the same picture.

    Attributes:
        prompt, negative_prompt: final texts, as they are encoded.
        seed: of the noise that it begins with, and of the sampler's own.
        width, height: px.
        steps: of denoising.
        guidance_scale: classifier-free guidance; 1 or less = off.
        sampler: one of `values.SAMPLERS`.
    """

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str


def shots(job: Job, resolution: tuple[int, int]) -> list[Shot]:
    """Returns the pictures of the job's prompts and then of its file's, `samples_per_prompt` of each, seeds counted up.

    Raises:
        UserError: the prompt file cannot be read.
    """
    numbers = range(job.sample.samples_per_prompt)
    return [shot(prompt, job, resolution, number) for _, prompt in placed(job) for number in numbers]


def shot(prompt: Prompt, job: Job, resolution: tuple[int, int], number: int) -> Shot:
    """Returns the `number`-th picture of a prompt, what it leaves open taken from [sample]."""
    sample, trigger = job.sample, job.metadata.trigger_phrase
    guidance = sample.guidance_scale if prompt.guidance_scale is None else prompt.guidance_scale
    return Shot(
        captions.fill_trigger(prompt.prompt, trigger),
        captions.fill_trigger(prompt.negative_prompt, trigger),
        (job.train.seed if prompt.seed is None else prompt.seed) + number,
        prompt.width or sample.width or resolution[0],
        prompt.height or sample.height or resolution[1],
        prompt.sample_steps or sample.sample_steps,
        guidance,
        prompt.sample_sampler or sample.sample_sampler,
    )


def placed(job: Job) -> list[tuple[str, Prompt]]:
    """Returns every prompt with where it stands; UserError where the prompt file cannot be read."""
    given = [(f"[sample] prompts {number + 1}", prompt) for number, prompt in enumerate(job.sample.prompts)]
    return given + (read_placed(Path(job.sample.sample_prompts)) if job.sample.sample_prompts else [])


def faults(job: Job, resolution: tuple[int, int], multiple: int) -> list[str]:
    """Returns what is wrong with the job's samples: the file, sizes, the trigger, a sampler that cannot run here."""
    try:
        found, problems = placed(job), []
    except UserError as error:
        found = placed(job.model_copy(update={"sample": job.sample.model_copy(update={"sample_prompts": ""})}))
        problems = [f"[sample] sample_prompts: {problem}" for problem in error.problems]
    for where, sizes in [("[sample]", job.sample), *found]:
        for key in ("width", "height"):
            value = getattr(sizes, key)
            if value and value % multiple:
                nearest = max(1, round(value / multiple)) * multiple
                problems.append(f"{where} {key}: expected a multiple of {multiple} px, got {value}. Write {nearest}.")
    if not job.metadata.trigger_phrase:
        problems += [
            f"{where}: asks for the trigger, but [metadata] trigger_phrase is empty. Set it."
            for where, prompt in found
            if captions.has_trigger(f"{prompt.prompt} {prompt.negative_prompt}")
        ]
    used = dict.fromkeys(shot(prompt, job, resolution, 0).sampler for _, prompt in found)
    return problems + [
        f'sampler "{name}": needs {NEEDS[name]}, which is not installed. Choose another, or run: '
        + commandline.install(NEEDS[name])
        for name in used
        if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None
    ]


def read(path: Path) -> list[Prompt]:
    """Returns the prompts of a file.

    Raises:
        UserError: it cannot be read, or is no prompt file; with every fault found and its line.
    """
    return [prompt for _, prompt in read_placed(path)]
