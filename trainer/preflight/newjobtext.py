"""The text of a new job: its head, its tables with a comment for each choice, and what the pictures ask for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..base import layershapes
from ..base.modelfacts import ModelFacts
from ..job.jobtext import quoted
from ..job.networks import Waveft
from ..job.schema import Model
from ..pictures.contents import CAPTION_ENDINGS, Found
from ..system import commandline
from ..system.console import counted
from . import preflight

FEW_LAYERS = 4  # p of SDXL's default is at most a quarter of each layer
SMALL_BASE = 2  # else p is this many times m + n
FAR = 3  # folders up from which on a path is written in full
COMMENT = 40  # column
ENOUGH_TO_SPARE = 4  # pictures: from here on one is kept for validation, and of many a tenth
LEAST_SPARED = 0.1
OUTPUT = "output"
FETCHES = "allow_download = true"


def head(found: Found, output: Path) -> Iterator[str]:
    """Yields the comment that opens the job: its command, and what was found."""
    count, told = len(found.files), f"{found.captioned or 'none'} with a caption file"
    yield f"# {commandline.program()} train {output.name}"
    yield "#"
    yield f"# {counted(count, 'picture')} in {found.folder.name}{', '.join(span(found.sizes))}, {told}."
    for one in found.concepts:
        views = counted(one.repeats, "view")
        yield f"#   {one.folder.name}: {views} each an epoch, {one.tokens!r} where no caption file is"
    if found.transparent:
        yield "# Some are transparent and are put on white (transparent_background). To learn only what is not, set"
        yield "# alpha_mask = true in [[datasets.subsets]] and masked_loss = true in [loss]."
    yield "#"
    yield "# Relative paths are relative to this file's folder. Every key: docs/job.md. Begin with --dry-run."


def span(sizes: list[tuple[int, int]]) -> Iterator[str]:
    """Yields the smallest and the largest size, after a comma, in words."""
    if sizes:
        small, large = (pick(sizes, key=lambda size: size[0] * size[1]) for pick in (min, max))
        yield f", {small[0]} x {small[1]}" + (f" to {large[0]} x {large[1]}" if small != large else "") + " px"


def job_lines(
    found: Found,
    base: str,
    hub: tuple[bool, bool],
    facts: ModelFacts,
    trigger: str | None,
    folder: Path,
    output_name: str,
) -> Iterator[str]:
    """Yields the job's lines; `hub` is whether the base is a hub id, and whether something must be fetched."""
    name, (is_hub, fetches) = plain_name(found.folder.name), hub
    p, why = coefficients(facts, base)
    yield from table("[model]")
    yield line("pretrained_model_name_or_path", quoted(base) if is_hub else place(base, folder))
    if is_hub:
        yield line("allow_download", "true", "fetches the base once")
    elif fetches:
        yield line(f"# {FETCHES.partition(' ')[0]}", "true", "fetches CLIP's vocabulary once (1.4 MB)")
    yield from table("[network]")
    yield line("coefficients", p, f"of each layer (p); {why}")
    yield line("scaling", "25.0", "how strongly they act: less keeps more of the base's own style")
    yield from table("[optimizer]")
    yield line("learning_rate", "1e-4")
    yield from table("[train]")
    yield line("max_train_steps", 500, "optimizer steps; the paper's recipe, 2000 views")
    yield line("gradient_accumulation_steps", 4, "batches for one step")
    yield line("seed", 42)
    if found.masks:
        yield from table("[loss]")
        yield line("masked_loss", "true", "only what is white in the masks is learnt")
    yield from table("[cache]")
    yield line("cache_latents_to_disk", "true", "the next run of these pictures starts at once")
    yield from table("[save]")
    yield line("output_dir", quoted(OUTPUT))
    yield line("output_name", quoted(output_name))
    yield line("save_every_n_steps", 100, "checkpoints to compare, and to go on from with --resume latest")
    yield line("keep_last", 3, "and the best by validation loss")
    yield from table("[sample]", "drawn before, during and after training, from the same seeds")
    yield line("prompts", '["{trigger}", "{trigger} in the snow", "{trigger} on a red background"]')
    yield line("sample_every_n_steps", 250)
    if len(found.files) >= ENOUGH_TO_SPARE:
        yield from table("[validation]", "pictures that are never trained tell which step is best")
        yield line("validation_split", max(LEAST_SPARED, round(1 / len(found.files), 2)), "part of them; 0 trains all")
        yield line("validate_every_n_steps", 100)
    yield from table("[metadata]")
    phrase = f"sks {name.replace('_', ' ')}" if trigger is None else trigger
    yield line("trigger_phrase", quoted(phrase), "takes the place of {trigger} in captions and prompts")
    yield from table("[general]")
    yield line(
        "resolution", facts.resolution or preflight.SDXL_RESOLUTION, "px; pictures keep their shapes near that area"
    )
    yield line("batch_size", 1)
    yield from table("[[datasets]]")
    yield "  [[datasets.subsets]]"
    yield line("  image_dir", place(str(found.folder), folder))
    yield from (f"  {text}" for text in caption_lines(found, folder))


def table(title: str, comment: str = "") -> list[str]:
    """Returns the lines that begin a table."""
    return ["", f"{title.ljust(COMMENT)}# {comment}" if comment else title]


def line(key: str, value: object, comment: str = "") -> str:
    """Returns a key's line."""
    text = f"{key} = {value}"
    return f"{text.ljust(COMMENT - 2)}  # {comment}" if comment else text


def caption_lines(found: Found, folder: Path) -> Iterator[str]:
    """Yields the keys that say which captions and masks the pictures have."""
    if found.captioned and found.ending != CAPTION_ENDINGS[0]:
        yield line("caption_extension", quoted(found.ending))
    if found.captioned < len(found.files) and not found.concepts:
        some = "the pictures without a caption file" if found.captioned else "every picture: DreamBooth's way"
        yield line("class_tokens", '"{trigger}"', f"caption of {some}")
    if found.captioned and not found.asks:
        yield line("# caption_prefix", '"{trigger},"', "would put the trigger before the captions, which lack it")
    if found.captioned:
        yield line("# caption_dropout_rate", 0.05, "would show that part of the views without caption")
    if found.masks:
        yield line("conditioning_data_dir", place(str(found.masks), folder), "masks: white is learnt")


def coefficients(facts: ModelFacts, base: str) -> tuple[int, str]:
    """Returns p for the base, and why: SDXL's default, or less where its layers are small."""
    default = Waveft.model_fields["coefficients"].default
    layers = layershapes.layers(facts, Model(pretrained_model_name_or_path=base), Waveft()) or []
    if all(layer.rows * layer.columns >= FEW_LAYERS * default for layer in layers):
        return default, "more learn more of the subject, and change more of the base"
    return SMALL_BASE * max(
        layer.rows + layer.columns for layer in layers
    ), "this base is small: SDXL's 2592 is too many"


def place(path: str, folder: Path) -> str:
    """Returns a path as a job writes it, in quotes: seen from the job's folder where it is near, else in full."""
    try:
        seen = Path(os.path.relpath(path, folder))
    except ValueError:  # another drive
        seen = Path(path)
    return quoted((Path(path) if seen.parts[:FAR] == ("..",) * FAR else seen).as_posix())


def plain_name(name: str) -> str:
    """Returns a folder's name as files can be called: without N_ and strange letters."""
    found = re.fullmatch(r"\d+_(.+)", name)
    return re.sub(r"[^\w .+-]+", "_", found[1] if found else name).strip(" ._+-") or "waveft"
