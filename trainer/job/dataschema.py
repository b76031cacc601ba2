"""Which pictures are seen and how: [general], [[datasets]] and [[datasets.subsets]], kohya's dataset file as it stands.

A value is taken from the subset, else from its dataset, else from [general], else from the defaults below.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from PIL import ImageColor
from pydantic import BeforeValidator, Field, field_validator, model_validator

from .section import Section
from .values import (
    ENDING,
    LARGEST_SEED,
    LARGEST_SIDE,
    MOST_EPOCHS,
    MOST_REPEATS,
    MOST_STEPS,
    Choice,
    Fraction,
    PathText,
    sides,
)

Interpolation = Annotated[
    Literal["auto", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box", "lanczos"], Choice
]
Resolution = Annotated[int | tuple[int, int], BeforeValidator(sides)]


class Views(Section):
    """Keys of a subset that a dataset or [general] may set for all of theirs. None = not said here."""

    caption_extension: str | None = Field(
        None,
        pattern=ENDING,
        description="of caption files, `.txt` unless given; `.caption` and `.txt` are tried after it",
    )
    missing_caption: Annotated[Literal["error", "class_tokens", "empty"], Choice] | None = Field(
        None,
        description="of a picture without caption file: `error`, `class_tokens` or `empty`. Unless given, "
        "`class_tokens` where the subset has some, else `error`",
    )
    shuffle_caption: bool | None = Field(None, description="see the caption's tags in a new order each time")
    caption_separator: str | None = Field(None, min_length=1, description='between tags, "," unless given')
    keep_tokens: int | None = Field(
        None, ge=0, le=10_000, description="first tags that are neither shuffled nor dropped"
    )
    keep_tokens_separator: str | None = Field(
        None,
        description='what stands between tags to keep and others, such as "|||"; a second one marks kept last tags',
    )
    secondary_separator: str | None = Field(None, description='within tags that stay together, such as ";;;"')
    enable_wildcard: bool | None = Field(
        None, description="draw one of `{a|b|c}`, and one line of a caption of several; else they are one text"
    )
    caption_prefix: str | None = Field(None, description="put before every caption, with a blank between")
    caption_suffix: str | None = Field(None, description="put after every caption, with a blank between")
    caption_dropout_rate: Fraction | None = Field(None, description="part of the views that are seen without caption")
    caption_dropout_every_n_epochs: int | None = Field(
        None, ge=0, le=MOST_EPOCHS, description="every n-th epoch is seen without captions"
    )
    caption_tag_dropout_rate: Fraction | None = Field(None, description="part of the tags that are left out")
    token_warmup_min: int | None = Field(
        None, ge=1, le=10_000, description="tags seen at first, when `token_warmup_step` is set"
    )
    token_warmup_step: float | None = Field(
        None,
        ge=0,
        le=MOST_STEPS,
        description="optimizer steps (below 1: part of the run) until all tags are seen; 0 = from the first",
    )
    flip_aug: bool | None = Field(None, description="mirror half of the views")
    color_aug: bool | None = Field(None, description="vary brightness, contrast, saturation and hue a little")
    random_crop: bool | None = Field(None, description="crop anywhere instead of about the centre")
    transparent_background: str | None = Field(
        None, description="colour (name or #rrggbb) put behind transparent pictures, `white` unless given"
    )
    num_repeats: int | None = Field(
        None, ge=1, le=MOST_REPEATS, description="how often each picture is seen in an epoch, 1 unless given"
    )
    resize_interpolation: Interpolation | None = Field(
        None, description="`auto` (unless given) = `area` down, `lanczos` up"
    )
    class_tokens: str | None = Field(None, description="caption of pictures that have no caption file")

    @field_validator("transparent_background")
    @classmethod
    def known_colour(cls, value: str | None) -> str | None:
        """Refuses colours that Pillow does not know."""
        try:
            if value is not None:
                ImageColor.getrgb(value)
        except ValueError:
            raise ValueError(f"expected a colour such as 'white' or '#808080', got {value!r}") from None
        return value


class Buckets(Views):
    """Keys of a dataset that [general] may set for all."""

    resolution: Resolution | None = Field(
        None,
        description="px, 16 to 8,192, of a square or `[width, height]`: the area trained; unless given the base's",
    )
    batch_size: int | None = Field(None, ge=1, le=1024, description="pictures at a time, 1 unless given")
    enable_bucket: bool | None = Field(
        None,
        description="keep each picture's aspect ratio, near the resolution's area; true unless given, kohya: false",
    )
    min_bucket_reso: int | None = Field(
        None, ge=8, le=LARGEST_SIDE, description="px, shortest side; half the resolution unless given"
    )
    max_bucket_reso: int | None = Field(
        None, ge=8, le=2 * LARGEST_SIDE, description="px, longest side; twice the resolution unless given"
    )
    bucket_reso_steps: int | None = Field(
        None,
        ge=8,
        le=LARGEST_SIDE,
        description="px, sides are multiples of it; unless given a 16th of the resolution, 64 at most",
    )
    bucket_no_upscale: bool | None = Field(None, description="train small pictures at their own size")
    validation_split: float | None = Field(None, ge=0, lt=1, description="as in [validation]")
    validation_seed: int | None = Field(None, ge=0, le=LARGEST_SEED, description="as in [validation]")


class General(Buckets):
    """Defaults of every dataset and subset."""


class Subset(Views):
    """One folder of pictures."""

    image_dir: PathText = Field(
        min_length=1,
        description="folder of images, or of folders named `N_concept` (N repeats, concept as `class_tokens`); with a "
        "`metadata_file` that file's folder unless given",
    )
    is_reg: bool = Field(False, description="regularisation (class) pictures: as many an epoch as there are others")
    num_class_images: int = Field(
        0,
        ge=0,
        le=100_000,
        description="of regularisation pictures: draw `class_tokens` with the base until there are so many",
    )
    alpha_mask: bool = Field(False, description="for `masked_loss`: transparency is the mask")
    conditioning_data_dir: PathText = Field(
        "", description="for `masked_loss`: folder of masks (white = trained) with the pictures' names"
    )
    metadata_file: PathText = Field("", description="kohya's JSON of captions and tags, instead of caption files")
    recursive: bool = Field(False, description="take pictures of folders inside too")

    @model_validator(mode="before")
    @classmethod
    def beside_its_metadata(cls, table: Any) -> Any:
        """Fills in the folder of a subset that names kohya's metadata alone, whose names are then full paths."""
        if isinstance(table, dict) and isinstance(table.get("metadata_file"), str) and "image_dir" not in table:
            return {**table, "image_dir": str(Path(table["metadata_file"]).parent)}
        return table


class Dataset(Buckets):
    """Subsets that share settings."""

    subsets: list[Subset] = Field(min_length=1, description="the folders")


DEFAULTS: dict[str, Any] = {
    "caption_extension": ".txt",
    "caption_separator": ",",
    "keep_tokens_separator": "",
    "secondary_separator": "",
    "caption_prefix": "",
    "caption_suffix": "",
    "token_warmup_min": 1,
    "transparent_background": "white",
    "num_repeats": 1,
    "batch_size": 1,
    "enable_bucket": True,
    "resize_interpolation": "auto",
    **dict.fromkeys(("shuffle_caption", "enable_wildcard", "flip_aug", "color_aug", "random_crop"), False),
    **dict.fromkeys(("bucket_no_upscale",), False),
    **dict.fromkeys(("keep_tokens", "caption_dropout_every_n_epochs"), 0),
    **dict.fromkeys(("caption_dropout_rate", "caption_tag_dropout_rate", "token_warmup_step"), 0.0),
}


def filled(subset: Subset, dataset: Dataset, general: General) -> Subset:
    """Returns the subset with every key of `Views` that it leaves open filled in."""
    return subset.model_copy(update=inherited(Views, subset, dataset, general))


def inherited(kind: type[Section], *layers: Section) -> dict[str, Any]:
    """Returns each key of `kind` from the first layer that says it, else its default."""
    found = {}
    for key in kind.model_fields:
        said = (getattr(layer, key) for layer in layers if getattr(layer, key, None) is not None)
        found[key] = next(said, DEFAULTS.get(key))
    return found
