"""The job: every section and key, its unit, its default and what it accepts. Neither torch nor any file is touched.

Keys that kohya's sd-scripts has keep kohya's names; the sections are this project's. The defaults are the recipe of
the WaveFT paper.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from .values import (
    ENDING,
    FILE_NAME,
    LARGEST_SEED,
    LOCATIONS,
    SDXL_ATTENTION,
    WAVELETS,
    Choice,
    Fraction,
    PathText,
    as_prompts,
    no_number,
    pairs,
)


class Section(BaseModel):
    """A table of the job. Unknown keys are refused; "4" is not a number; nan and inf are not either."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Model(Section):
    """The frozen base."""

    pretrained_model_name_or_path: PathText = Field(
        min_length=1,
        description="SDXL base: a diffusers folder, a `.safetensors` file, or a hub id (needs `allow_download`)",
    )
    tokenizer: PathText = Field(
        "", description="for a single file: folder that holds `tokenizer/` and `tokenizer_2/`, or one CLIP tokenizer"
    )
    config: PathText = Field("", description="for a single file: folder with the model's configs in diffusers' layout")
    vae: PathText = Field("", description="folder of another VAE, in diffusers' layout; \"\" = the model's own")
    allow_download: bool = Field(False, description="let a hub id be downloaded; otherwise nothing touches the network")


class Network(Section):
    """The adapter."""

    coefficients: int = Field(2592, ge=1, description="trained wavelet coefficients of each layer (p)")
    scaling: float = Field(25.0, description="factor of the weight update (lambda), not 0; stored in the file")
    wavelet: str = Field(
        "db1", description="`db1` to `db38`, `sym2` to `sym20`, `coif1` to `coif17`, or `identity` (no transform)"
    )
    mode: Annotated[Literal["periodization", "zero"], Choice] = Field(
        "periodization", description="how the transform treats borders; `zero` is PEFT's"
    )
    locations: str = Field(
        "uniform:777",
        pattern=LOCATIONS,
        description="how positions are drawn: `uniform:SEED` or `peft:SEED`",
    )
    targets: list[str] | str = Field(
        list(SDXL_ATTENTION), description="layers: a list of path endings, or one regular expression for the whole path"
    )

    @field_validator("scaling")
    @classmethod
    def not_zero(cls, value: float) -> float:
        """Refuses a factor that would train nothing."""
        if value == 0:
            raise ValueError("expected a number other than 0, got 0: nothing would be trained")
        return value

    @field_validator("wavelet")
    @classmethod
    def known_wavelet(cls, value: str) -> str:
        """Refuses names that the core does not know."""
        if value == "haar":
            raise ValueError("expected one name for each wavelet, got 'haar'. Write 'db1', which is the same")
        if value != "identity" and value not in WAVELETS:
            raise ValueError(f"expected db1 to db38, sym2 to sym20, coif1 to coif17 or identity, got {value!r}")
        return value

    @field_validator("targets", mode="before")
    @classmethod
    def texts(cls, value: Any) -> Any:
        """Refuses what is neither a text nor a list of texts."""
        good = isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
        if not good or not value:
            raise ValueError(f"expected a list of path endings or one regular expression, got {value!r}")
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(
                    f"expected a list of path endings or one regular expression, got {value!r} ({error})"
                ) from None
        return value

    @field_validator("locations")
    @classmethod
    def seed_fits(cls, value: str) -> str:
        """Refuses seeds that no generator takes."""
        seed = value.partition(":")[2]
        if len(seed) > len(str(LARGEST_SEED)) or int(seed) > LARGEST_SEED:
            raise ValueError(f"expected a seed of at most {LARGEST_SEED}, got {value!r}")
        return value

    @model_validator(mode="after")
    def mode_is_used(self) -> Network:
        """Refuses borders for what has no transform."""
        if self.wavelet == "identity" and self.mode != "periodization":
            raise ValueError(f"mode: expected 'periodization' with wavelet 'identity', got {self.mode!r}. Remove it")
        return self


class Optimizer(Section):
    """How the coefficients move."""

    optimizer_type: Annotated[Literal["adamw", "sgd", "adafactor"], Choice] = Field(
        "adamw", description="`AdamW`, `SGD` or `Adafactor`"
    )
    learning_rate: float = Field(1e-4, gt=0, description="step size at its highest")
    optimizer_args: Annotated[dict[str, Any], BeforeValidator(pairs)] = Field(
        {}, description="further arguments of the optimizer, as a table; AdamW's `weight_decay` is 1e-4 unless given"
    )
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are scaled down to this norm; 0 = off")
    lr_scheduler: Annotated[Literal["constant", "constant_with_warmup", "linear", "cosine"], Choice] = Field(
        "constant", description="`constant`, `constant_with_warmup`, `linear` or `cosine`"
    )
    lr_warmup_steps: int = Field(0, ge=0, description="optimizer steps until the full learning rate")

    @field_validator("optimizer_type", mode="before")
    @classmethod
    def no_small_bits(cls, value: Any) -> Any:
        """Refuses optimizers that would only seem to save memory."""
        if isinstance(value, str) and "8bit" in value.lower():
            raise ValueError(f"{value} would save nothing: a layer has too few coefficients for 8 bits. Write 'AdamW'")
        return value

    @model_validator(mode="after")
    def warmup_is_used(self) -> Optimizer:
        """Refuses a warm-up that the scheduler would ignore."""
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ValueError('lr_warmup_steps: lr_scheduler "constant" has no warm-up. Write "constant_with_warmup"')
        return self


class Train(Section):
    """Length, precision and place of the run."""

    max_train_steps: int = Field(500, ge=1, description="optimizer steps")
    gradient_accumulation_steps: int = Field(4, ge=1, description="batches for one optimizer step")
    seed: int = Field(
        42, ge=0, le=LARGEST_SEED, description="of the order, noise, timesteps, flips and caption dropout"
    )
    mixed_precision: Annotated[Literal["auto", "no", "fp16", "bf16"], Choice] = Field(
        "auto", description="of the frozen base; `auto` = bf16 on a GPU that has it, else `no`. Coefficients stay fp32"
    )
    gradient_checkpointing: Annotated[Literal["auto", True, False], BeforeValidator(no_number)] = Field(
        "auto", description="less memory for more time; `auto` = on a GPU"
    )
    device: str = Field("auto", min_length=1, description="`auto`, `cpu`, `cuda`, `cuda:1`, `mps`")
    threads: int = Field(0, ge=0, description="CPU threads; 0 = torch's own choice")


class Loss(Section):
    """What is minimised: the mean squared error of the predicted noise (or velocity, where the base predicts that)."""

    noise_offset: float = Field(0.0, ge=0, description="share of noise that is the same all over a channel; 0 = off")
    min_snr_gamma: float = Field(
        0.0, ge=0, description="upper bound of the signal-to-noise weight; 0 = off, 5 is usual"
    )


class Save(Section):
    """Where the files go."""

    output_dir: PathText = Field("output", min_length=1, description="folder of everything that the run writes")
    output_name: str = Field("waveft", pattern=FILE_NAME, description="start of every file's name")
    save_precision: Annotated[Literal["float", "fp16", "bf16"], Choice] = Field(
        "float", description="of the values in the adapter file: `float` (fp32), `fp16` or `bf16`"
    )
    overwrite: bool = Field(False, description="replace an adapter file that is already there")


class Prompt(Section):
    """One prompt to draw before and after."""

    prompt: str = Field(description="text; `{trigger}` is filled in")
    negative_prompt: str = Field("", description="what guidance leads away from")
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED, description="of the first picture; `train.seed` unless given")


class Sample(Section):
    """Pictures drawn before and after training, from the same seeds."""

    prompts: Annotated[list[Prompt], BeforeValidator(as_prompts)] = Field([], description="texts, or tables as below")
    sample_steps: int = Field(28, ge=1, description="denoising steps, with the base's own scheduler")
    guidance_scale: float = Field(6.0, ge=0, description="classifier-free guidance; 1 or less = off")
    width: int | None = Field(None, ge=8, description="px; the resolution unless given")
    height: int | None = Field(None, ge=8, description="px; the resolution unless given")
    samples_per_prompt: int = Field(1, ge=1, description="pictures of each prompt, with seeds counted up")


class Metadata(Section):
    """What the adapter file says of itself."""

    metadata_title: str = Field("", description='"" = `output_name`')
    metadata_author: str = Field("", description="name as it shall be read")
    metadata_description: str = Field("", description="free text")
    metadata_license: str = Field("", description="such as `CC-BY-4.0`")
    metadata_tags: str = Field("", description="separated by commas")
    trigger_phrase: str = Field("", description="replaces `{trigger}` and `[trigger]` in captions and prompts")


CAPTION_EXTENSION = Field(
    ".txt", pattern=ENDING, description="of caption files; `.caption` and `.txt` are tried after it"
)


class General(Section):
    """Defaults of every dataset and subset."""

    resolution: int | None = Field(
        None, ge=16, description="px, of the square that is trained; the base's own unless given"
    )
    batch_size: int = Field(1, ge=1, description="pictures at a time")
    caption_extension: str = CAPTION_EXTENSION
    caption_prefix: str = Field("", description="put before every caption, as it is")
    caption_suffix: str = Field("", description="put after every caption, as it is")
    caption_dropout_rate: Fraction = Field(0.0, description="part of the pictures that are seen without caption")
    flip_aug: bool = Field(False, description="mirror half of the pictures seen")


class Pictures(Section):
    """What a dataset or subset may set otherwise than [general]."""

    caption_extension: str | None = Field(None, pattern=ENDING, description="as in [general]")
    caption_prefix: str | None = Field(None, description="as in [general]")
    caption_suffix: str | None = Field(None, description="as in [general]")
    caption_dropout_rate: Fraction | None = Field(None, description="as in [general]")
    flip_aug: bool | None = Field(None, description="as in [general]")


class Subset(Pictures):
    """One folder of pictures."""

    image_dir: PathText = Field(min_length=1, description="folder of images")
    class_tokens: str | None = Field(None, description="caption of pictures that have no caption file")
    num_repeats: int = Field(1, ge=1, description="how often each picture is seen in an epoch")


class Dataset(Pictures):
    """Subsets that share settings."""

    subsets: list[Subset] = Field(min_length=1, description="the folders")


class Job(Section):
    """A whole job.toml."""

    config_version: Literal[1] = Field(1, description="of the job's own format")
    model: Model
    network: Network = Network()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    loss: Loss = Loss()
    save: Save = Save()
    sample: Sample = Sample()
    metadata: Metadata = Metadata()
    general: General = General()
    datasets: list[Dataset] = Field(min_length=1)

    @model_validator(mode="after")
    def warmup_ends(self) -> Job:
        """Refuses a warm-up that lasts to the end of the run or beyond it."""
        warmup, steps = self.optimizer.lr_warmup_steps, self.train.max_train_steps
        if warmup >= steps:
            raise ValueError(f"[optimizer] lr_warmup_steps: expected less than max_train_steps = {steps}, got {warmup}")
        return self

    def subsets(self) -> list[Subset]:
        """Returns every subset, with what it leaves open taken from its dataset and then from [general]."""
        filled = []
        for dataset in self.datasets:
            for subset in dataset.subsets:
                settings = {key: getattr(self.general, key) for key in Pictures.model_fields}
                for layer in (dataset, subset):
                    settings |= {key: value for key in settings if (value := getattr(layer, key)) is not None}
                filled.append(subset.model_copy(update=settings))
        return filled
