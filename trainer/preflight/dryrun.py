"""What a run will do, in words: a few lines before every run, the whole plan for `--dry-run`. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from ..base import cache
from ..job import jobtext
from ..job.config import is_hub_id
from ..methods import registry
from ..pictures.dataset import class_places
from ..pictures.plan import micro_batches
from ..samples import prompts
from ..system.console import clock, counted
from ..system.plaintext import shown
from . import estimate
from .preflight import Ready

MOST_NOTICES = 5  # that are printed before a run; a dry run prints them all
CAPTIONS = 5
DTYPES = ("float32", "bfloat16", "float16")  # which one encodes is the device's choice


def describe(ready: Ready, resume: Path | None = None, every_notice: bool = False) -> list[str]:
    """Returns the lines that say what the run will do."""
    job, begun = ready.job, ready.job.network.begins_with
    seen = ready.steps * ready.pictures_per_step
    base = job.model.pretrained_model_name_or_path
    width, height = ready.resolution
    texts = dict.fromkeys(repr(picture.caption.plain()) for picture in ready.pictures)
    shared = f", shared by {counted(ready.world_size, 'process')}" if ready.world_size > 1 else ""
    lines = [
        f"base        {base if is_hub_id(base) else Path(base).name}, trained at {width} x {height} px",
        f"pictures    {pictures(ready)}",
        f"captions    {'; '.join(islice(texts, CAPTIONS))}",
        f"steps       {ready.steps}, each of {counted(ready.pictures_per_step, 'picture')} "
        f"({batches(ready)} at a time{shared}): {seen} in all, {seen / ready.epoch_length:.1f} epochs",
        f"adapter     {f'goes on from {Path(begun).name}' if begun else registry.of(job.network).words()}",
        f"writes      {ready.folder.adapter}",
        *([f"resumes     {resume.name}"] if resume else []),
    ]
    most = len(ready.notices) if every_notice else MOST_NOTICES
    rest = [f"and {len(ready.notices) - most} more"] if len(ready.notices) > most else []
    lines += [f"notice      {text}" for text in (*ready.notices[:most], *rest)]
    return list(map(shown, lines))  # a line each, whatever the names in it hold


def pictures(ready: Ready) -> str:
    """Returns how many pictures there are, of which kind, and how many an epoch sees."""
    regular = sum(picture.is_reg for picture in ready.pictures)
    kinds = [f"{len(ready.pictures) - regular} to learn"]
    drawn = sum(picture.is_to_be_drawn for picture in ready.pictures)
    first = f" ({drawn} of them drawn first)" if drawn else ""
    kinds += [f"{regular} regularisation{first}"] if regular else []
    kinds += [f"{len(ready.validation)} for validation, never trained"] if ready.validation else []
    return f"{', '.join(kinds)}; {counted(ready.epoch_length, 'view')} an epoch"


def batches(ready: Ready) -> str:
    """Returns how many pictures are seen at a time, of each dataset where they differ."""
    return " or ".join(map(str, dict.fromkeys(map(ready.batch_size, range(len(ready.job.datasets))))))


def text(ready: Ready, resume: Path | None = None, verbose: bool = False) -> str:
    """Returns what `--dry-run` prints: what matters, in 25 lines; with `verbose` all that can be told.

    What is left out otherwise: further notices, the sizes that are trained, the first captions as they are encoded, the
    parts of the memory, and the job with every default.
    """
    first = [*describe(ready, resume, every_notice=verbose), *class_pictures(ready), *sizes(ready)]
    parts = ["\n".join([*first, *(costs(ready, verbose))])]
    if verbose:
        job = jobtext.with_resolution(ready.job, ready.resolution)
        captions = (f"  {caption!r}" for caption in first_captions(ready))
        parts += [
            "\n".join(bucket_table(ready)),
            "\n".join(["first captions, as they are encoded", *captions]),
            jobtext.marked_toml(job).strip("\n"),
        ]
    more = "" if verbose else " --verbose tells the rest: every default, size and caption."
    return "\n\n".join([*parts, f"Nothing was written, and no weight was read.{more}"])


def class_pictures(ready: Ready) -> Iterator[str]:
    """Yields how many class pictures the base draws before the run begins."""
    for subset in ready.job.subsets():
        if places := class_places(subset):
            where = f"of {subset.class_tokens!r} into {Path(subset.image_dir).name} first"
            yield f"draws       {counted(len(places), 'class picture')} {where}"


def bucket_table(ready: Ready) -> Iterator[str]:
    """Yields a row for each size that is trained, with what the worst of its pictures loses."""
    rows: list[tuple[str, ...]] = [("bucket, px", "pictures", "views an epoch", "cropped at most", "enlarged at most")]
    views = views_an_epoch(ready)
    for size in sorted({picture.geometry.bucket for picture in ready.pictures}):
        inside = [number for number, one in enumerate(ready.pictures) if one.geometry.bucket == size]
        places = [ready.pictures[number].geometry for number in inside]
        cropped, enlarged = max(one.cropped_away for one in places), max(one.enlarged for one in places)
        rows.append(
            (
                f"{size[0]} x {size[1]}", str(len(inside)), str(sum(views[number] for number in inside)),
                f"{cropped:.0%}", f"{enlarged:.2f} times" if enlarged > 1 else "no",
            )
        )  # fmt: skip
    return table(rows)


def views_an_epoch(ready: Ready) -> list[int]:
    """Returns how often an epoch sees each picture; regularisation pictures take turns, so that theirs are means."""
    turns = sum(picture.repeats for picture in ready.pictures if picture.is_reg)
    share = ready.plan.regular_views / turns if turns else 0
    return [round(one.repeats * share) if one.is_reg else one.repeats for one in ready.pictures]


def table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Yields the rows with their columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def first_captions(ready: Ready) -> list[str]:
    """Returns the final captions of the run's first views, as they are drawn and encoded."""
    found: list[str] = []
    for step in range(ready.steps):
        for micro in micro_batches(ready.plan, step, ready.batches_per_step, 0, 1):
            for row, seen in enumerate(micro.views):
                caption = ready.pictures[seen.picture].caption
                found.append(caption.draw(ready.job.train.seed, step, micro.first + row, seen.epoch, ready.steps))
        if len(found) >= CAPTIONS:
            break
    return found[:CAPTIONS]


def sizes(ready: Ready) -> list[str]:
    """Returns how much is trained and written, and what of the caches is there already."""
    job, facts = ready.job, ready.facts
    counts = estimate.trained(job, facts)
    if counts is None:
        lines = ["trains      not known before the base is loaded: its files do not name the layers here"]
    else:
        lines = [
            f"trains      {registry.of(job.network).size_words(counts)}",
            f"files       adapter {megabytes(estimate.file_bytes(job, facts))}, "
            + (f"state {megabytes(estimate.state_bytes(job, facts))}" if job.save.save_state else "no state")
            + saved(ready),
        ]
    return lines + [f"cache       {line}" for line in cache_lines(ready)]


def megabytes(size: int | None) -> str:
    """Returns a size in words."""
    return "unknown" if size is None else f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def saved(ready: Ready) -> str:
    """Returns how often both are written."""
    save = ready.job.save
    if save.save_every_n_steps:
        return f", every {counted(save.save_every_n_steps, 'step')} and at the end"
    if save.save_every_n_epochs:
        return f", every {counted(save.save_every_n_epochs, 'epoch')} and at the end"
    return ", at the end"


def cache_lines(ready: Ready) -> Iterator[str]:
    """Yields what is encoded before training, and how much of it earlier runs have left."""
    settings, facts = ready.job.cache, ready.facts
    trained = ready.job.network.train_text_encoder
    if settings.cache_latents:
        views = [(one, flip) for one in (*ready.pictures, *ready.validation) for flip in cache.fixed_flips(one)]
        names = [
            {
                f"{one.path} {flip}"  # nobody knows its content yet
                if one.is_to_be_drawn
                else cache.latents_key(one, flip, facts.vae_identity, dtype, settings.sample_posterior)
                for one, flip in views
            }
            for dtype in DTYPES
        ]
        yield f"latents {hits(ready, 'latents', settings.cache_latents_to_disk, names)}"
    if settings.cache_text_encoder_outputs and not trained:
        shots = prompts.shots(ready.job, ready.resolution)
        texts = {one.caption.plain() for one in (*ready.pictures, *ready.validation)}
        texts |= {said for shot in shots for said in (shot.prompt, shot.negative_prompt)}
        names = [
            {cache.text_key(said, facts.text_identity, dtype, ready.job.model.chunks) for said in texts}
            for dtype in DTYPES
        ]
        yield f"texts {hits(ready, 'texts', settings.cache_text_encoder_outputs_to_disk, names)}" + (
            ", and what is drawn of captions that vary" if any(one.caption.varies for one in ready.pictures) else ""
        )


def hits(ready: Ready, kind: str, on_disk: bool, names: Iterable[set[str]]) -> str:
    """Returns how many entries of a cache are there already, in the dtype of which most are."""
    store = cache.Store(ready.cache_folder / kind if on_disk else None)
    there, missing = max(store.count(wanted) for wanted in names)
    total = there + missing
    return (
        f"{total}, of which {there} on the disk and {missing} to encode" if on_disk else f"{total} to encode, in memory"
    )


def costs(ready: Ready, verbose: bool = False) -> Iterator[str]:
    """Yields the memory and the time that the run will take, as far as they can be estimated."""
    job, facts = ready.job, ready.facts
    largest = max((one.geometry.bucket for one in ready.pictures), key=lambda size: size[0] * size[1])
    given = estimate.setting(job, largest, max(estimate.dataset_batches(job)))
    memory = estimate.memory(job, facts, given)
    if memory is None:
        yield "memory      not known before the base is loaded"
        return
    place = "on the CPU" if job.train.device == "cpu" else "on the device"
    yield f"memory      about {memory.total / estimate.GB:.1f} GB {place} (an estimate)"
    if verbose:
        gigabytes = {
            part: getattr(memory, part) / estimate.GB for part in ("weights", "trained", "activations", "overhead")
        }
        again = ", blocks computed again (gradient_checkpointing)" if given.checkpointing else ""
        yield f"            weights {gigabytes['weights']:.2f}, counted in the files, {given.compute} bytes each"
        yield f"            what trains, its gradients and its optimizer {gigabytes['trained']:.2f}"
        yield (
            f"            activations {gigabytes['activations']:.2f}, by the layers' shapes, of {given.batch} x "
            f"{largest[0]} x {largest[1]} px{again}"
        )
        yield f"            libraries and gaps {gigabytes['overhead']:.2f}"
    views = ready.steps * ready.pictures_per_step
    times = [
        f"{clock(max(1.0, seconds))} on {device}"
        for device, seconds in estimate.seconds(job, facts, given, views).items()
    ]
    yield f"time        about {', '.join(times)} (an estimate, for {counted(views, 'view')})"
