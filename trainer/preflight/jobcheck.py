"""What is wrong with a job beyond its single keys: what they say against each other, and what they name. No torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..base import headers, layershapes
from ..base.modelfacts import ModelFacts
from ..job import jobtext, optimcheck
from ..job.networks import Shira, Waveft
from ..job.schema import Job, Subset
from ..job.values import LARGEST_SEED, MOST_STEPS
from ..methods import registry
from ..pictures import captions, folders
from ..run import trackers
from ..run.runfolder import RunFolder
from ..samples import prompts
from ..system.console import counted
from ..system.errors import reason
from ..system.patterns import pattern

ROOM = 50_000_000  # bytes: an adapter of SDXL's, its state, a report
EXAMPLE = "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def faults(job: Job, facts: ModelFacts, resolution: tuple[int, int], multiple: int, resumed: bool) -> list[str]:
    """Returns the job's faults that need neither torch nor a picture.

    Args:
        job: paths absolute.
        facts: of its base.
        resolution: (width, height) px, of the first dataset.
        multiple: px, of which every size must be a multiple.
        resumed: whether the run goes on from a state, so that its files are meant to be there.
    """
    steps = None if job.train.max_train_epochs else job.train.max_train_steps
    return [
        *registry.of(job.network).faults(job),
        *weights_faults(job),
        *pattern_faults(job, facts),
        *coefficient_faults(job, facts),
        *optimcheck.check(job.optimizer, steps),
        *trackers.check(job.logging),
        *prompts.faults(job, resolution, multiple),
        *trigger_faults(job),
        *(text for number, subset in enumerate(job.subsets(), 1) for text in subset_faults(job, subset, number)),
        *agreement_faults(job),
        *output_faults(job, resumed),
        *jobtext.faults(jobtext.public_job(job, resolution)),
    ]


def weights_faults(job: Job) -> list[str]:
    """Returns why the run cannot begin from the file that the job names."""
    path, where = Path(job.network.begins_with), "[network] network_weights"
    if not job.network.begins_with:
        return []
    method = registry.of(job.network)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "nothing there"
        return [f'{where} "{path}": expected a {method.TITLE} file, got {got}. Correct the path.']
    try:
        headers.read(path)
    except ValueError as error:
        return [f'{where} "{path}": {error}']
    if layershapes.of_file(path, method.TRAINED) is None:
        ending = method.TRAINED[0].removeprefix(".")
        return [f'{where} "{path}": expected a {method.TITLE} file, got one without {ending}. Name one of that method.']
    return []


def pattern_faults(job: Job, facts: ModelFacts) -> list[str]:
    """Returns targets and patterns that find no layer of a base whose layers' names are known before it is loaded."""
    network, shapes = job.network, layershapes.shapes(facts)
    if network.begins_with or not any(path.startswith("down_blocks.") for path in shapes):
        return []
    if not any(path.endswith(".to_q") for path in shapes):
        return []
    targeted = [path for path in shapes if layershapes.matches(path, network.targets)]
    if not targeted and all(path.startswith(("down_", "mid_", "up_", "conv_", "time_", "add_")) for path in shapes):
        return [f'[network] targets: {network.targets!r} finds no layer. A path looks like "{EXAMPLE}".']
    paths = targeted + (
        [layer.path for layer in layershapes.text_layers(job.model)] if network.train_text_encoder else []
    )
    kept = [path for path in paths if layershapes.chosen(path, network)]
    found = [*unmatched("[network] include", network.include, paths)]
    found += unmatched("[network] exclude", network.exclude, paths)
    if targeted and not kept and not found:
        return ["[network] include, exclude: expected to leave some of the targets' layers, got none. Take less away."]
    found += unmatched("[network] coefficients_pattern", getattr(network, "coefficients_pattern", {}), kept)
    return found + unmatched("[optimizer] learning_rate_pattern", job.optimizer.learning_rate_pattern, kept)


def coefficient_faults(job: Job, facts: ModelFacts) -> list[str]:
    """Returns that a layer has fewer places than the job gives it coefficients, where the layers are known."""
    network = job.network
    if not isinstance(network, Waveft | Shira) or network.begins_with:  # others have no places to run out of
        return []
    layers = layershapes.layers(facts, job.model, network) or []
    counts = registry.of(network).counts(layers)
    full = [
        (layershapes.plane(layer, network), count, layer.path)
        for layer, count in zip(layers, counts, strict=True)
        if layer.rows and count > layershapes.plane(layer, network)
    ]
    if not full:
        return []
    places, count, path = min(full)
    more = f" and {len(full) - 1} more" if len(full) > 1 else ""
    return [
        f'[network] coefficients: expected at most {places} for layer "{path}"{more}, which has no more places, got '
        f"{count}. Lower it, or write coefficients_pattern for such layers."
    ]


def unmatched(where: str, patterns: list[str] | dict, paths: list[str]) -> list[str]:
    """Returns the patterns that find none of the paths: what they say would silently not happen."""
    return [
        f'{where}: {expression!r} finds no layer that trains. A path looks like "{paths[len(paths) // 2]}".'
        for expression in patterns
        if paths and not any(pattern(expression).search(path) for path in paths)
    ]


def trigger_faults(job: Job) -> Iterator[str]:
    """Yields the texts for captions that ask for a trigger phrase that the job does not have."""
    for number, subset in enumerate(job.subsets(), 1):
        texts = (subset.class_tokens, subset.caption_prefix, subset.caption_suffix)
        if not job.metadata.trigger_phrase and captions.has_trigger(" ".join(text for text in texts if text)):
            yield (
                f"[[datasets.subsets]] {number}: asks for the trigger, but [metadata] trigger_phrase is empty. Set it."
            )


def subset_faults(job: Job, subset: Subset, number: int) -> Iterator[str]:
    """Yields what a folder's keys say against each other."""
    where, folder = f"[[datasets.subsets]] {number}", Path(subset.image_dir)
    if not folder.is_dir() and not (subset.num_class_images and not folder.exists()):
        yield f'{where} image_dir "{folder}": {folders.not_a_folder(folder)}'
    if subset.metadata_file and not Path(subset.metadata_file).is_file():
        yield f'{where} metadata_file "{subset.metadata_file}": expected a file, got none. Correct the path.'
    if subset.conditioning_data_dir and not Path(subset.conditioning_data_dir).is_dir():
        yield (
            f'{where} conditioning_data_dir "{subset.conditioning_data_dir}": '
            f"{folders.not_a_folder(Path(subset.conditioning_data_dir))}"
        )
    if subset.num_class_images and not subset.is_reg:
        yield f"{where} num_class_images: only regularisation pictures are drawn. Set is_reg = true, or remove it."
    elif subset.num_class_images and not subset.class_tokens:
        yield f'{where} num_class_images: class_tokens says what is drawn. Write it, e.g. "a dog".'
    if subset.alpha_mask and subset.conditioning_data_dir:
        yield f"{where} alpha_mask: expected one mask, got conditioning_data_dir too. Remove one of them."
    output = Path(job.save.output_dir)
    if subset.recursive and folder in (output, *output.parents):
        yield (
            f'{where} recursive: "{subset.image_dir}" holds output_dir, whose samples would be trained. '
            "Name another output_dir."
        )


def agreement_faults(job: Job) -> Iterator[str]:
    """Yields keys that have no effect because of what another one says, or lacks."""
    subsets, validation = job.subsets(), job.validation
    if job.loss.masked_loss and not any(subset.alpha_mask or subset.conditioning_data_dir for subset in subsets):
        yield (
            "[loss] masked_loss: no folder has masks. Set alpha_mask or conditioning_data_dir in [[datasets.subsets]], "
            "or remove it."
        )
    split = validation.validation_split or job.general.validation_split
    if not split and not any(dataset.validation_split for dataset in job.datasets):
        for key in ("validate_every_n_steps", "max_validation_steps"):
            if getattr(validation, key):
                yield f"[validation] {key}: validation_split is 0. Set it, e.g. 0.1, or remove this."


def output_faults(job: Job, resumed: bool) -> list[str]:
    """Returns why nothing can be written, or what would be overwritten."""
    run = RunFolder(Path(job.save.output_dir), job.save.output_name)
    if fault := name_fault(job, run):
        return [fault]  # and nothing of that name can be asked for
    places = {"[save] output_dir": job.save.output_dir}
    if job.cache.cache_latents_to_disk or job.cache.cache_text_encoder_outputs_to_disk:
        places["[cache] cache_dir"] = job.cache.cache_dir
    if job.logging.log_with != "none":
        places["[logging] logging_dir"] = job.logging.logging_dir
    found = [text for where, path in places.items() if path and (text := unwritable(where, Path(path)))]
    return found or existing_faults(job, resumed)


def existing_faults(job: Job, resumed: bool) -> list[str]:
    """Returns what would be overwritten: the one fault that hinders no other check."""
    run = RunFolder(Path(job.save.output_dir), job.save.output_name)
    if resumed or job.save.overwrite or not (there := earlier(run)):
        return []
    go_on = " go on with --resume latest," if run.states() else ""
    return [f'[save] output_name: "{there}" exists. Choose another name,{go_on} or set overwrite = true.']


def name_fault(job: Job, run: RunFolder) -> str:
    """Returns that the run's name is too long for its files' suffixes, which would show when they are written."""
    count = len(job.sample.prompts) * job.sample.samples_per_prompt if job.sample.prompts else 0
    count = max(count, 99) if job.sample.sample_prompts else count  # of a file that is read later
    seeds = [job.train.seed, *(prompt.seed or 0 for prompt in job.sample.prompts)]
    steps = MOST_STEPS if job.train.max_train_epochs else job.train.max_train_steps
    seed = LARGEST_SEED if job.sample.sample_prompts else max(seeds) + job.sample.samples_per_prompt
    fault = run.too_long(steps, count, seed)
    return f"[save] output_name: {fault}" if fault else ""


def earlier(run: RunFolder) -> Path | None:
    """Returns a file that an earlier run of that name has left, None where there is none."""
    return next((path for path in (run.adapter, *run.states(), *run.checkpoints()) if path.exists()), None)


def unwritable(where: str, folder: Path) -> str:
    """Returns why a folder cannot be made or written to, or ""."""
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not nearest.is_dir():
            return f'{where} "{folder}": expected a folder, got the file "{nearest}". Name another.'
        if not os.access(nearest, os.W_OK | os.X_OK):
            return f'{where} "{folder}": "{nearest}" cannot be written to. Name another.'
        room = shutil.disk_usage(nearest).free
    except OSError as error:
        return f'{where} "{folder}": cannot be used ({reason(error)}). Name another.'
    if room < ROOM:
        wanted, got = (f"{size // 10**6} MB" for size in (ROOM, room))
        return f'{where} "{folder}": expected {wanted} of room, got {got}. Make room, or name another.'
    return ""


def notices(job: Job) -> Iterator[str]:
    """Yields what is no fault of the job but may surprise."""
    subsets, cache = job.subsets(), job.cache
    yield from registry.of(job.network).notices(job)
    for key in ("color_aug", "random_crop"):
        if cache.cache_latents and any(getattr(subset, key) for subset in subsets):
            yield f"{key}: each view is another, so that those pictures are encoded as they are seen, and the VAE stays"
    masks = any(subset.alpha_mask or subset.conditioning_data_dir for subset in subsets)
    if masks and not job.loss.masked_loss:
        yield "masks are named, but [loss] masked_loss is false: they have no effect"
    if job.loss.says("prior_loss_weight") and not any(subset.is_reg for subset in subsets):
        yield "[loss] prior_loss_weight: no folder has is_reg = true, so that it has no effect"
    if job.save.keep_last and not (job.save.save_every_n_steps or job.save.save_every_n_epochs):
        yield "[save] keep_last: nothing is saved on the way, so that it has no effect"
    if job.model.vae_dtype == "fp16" and not job.model.vae:
        yield "[model] vae_dtype: SDXL's own VAE gives NaN in fp16; name one that was made for it in [model] vae"
    every = {"[save] save_every_n_steps": job.save.save_every_n_steps}
    every["[sample] sample_every_n_steps"] = job.sample.sample_every_n_steps
    every["[validation] validate_every_n_steps"] = job.validation.validate_every_n_steps
    for key, count in every.items():
        if not job.train.max_train_epochs and count > job.train.max_train_steps:
            steps = counted(job.train.max_train_steps, "step")
            yield f"{key}: {count} is more than the run's {steps}, so that it has no effect"
