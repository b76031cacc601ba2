"""The job: every section and key, its unit, its default and what it accepts. Neither torch nor any file is touched.

Keys that kohya's sd-scripts has keep kohya's names; the sections are this project's. The defaults are the recipe of
the WaveFT paper. The sections that say which pictures are seen, kohya's dataset file, are in `dataschema`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from .dataschema import Dataset, General, Subset, filled
from .evalschema import Evaluation
from .learnschema import Loss, Optimizer, Train
from .networks import AnyNetwork, Waveft
from .section import Section
from .values import (
    FILE_NAME,
    LARGEST_SEED,
    LARGEST_SIDE,
    MOST_EPOCHS,
    MOST_STEPS,
    SAMPLERS,
    Choice,
    PathText,
    Switch,
    as_prompts,
    fold_sampler,
)


class Model(Section):
    """The frozen base."""

    pretrained_model_name_or_path: PathText = Field(
        min_length=1,
        description="SDXL base: a diffusers folder, a `.safetensors` file, or a hub id (needs `allow_download`)",
    )
    tokenizer: PathText = Field(
        "",
        description="for a single file: folder that holds CLIP's vocabulary (`tokenizer/` and `tokenizer_2/`, or one "
        'tokenizer, or a ComfyUI folder); "" = looked for beside the file, in the hub cache and in installed packages',
    )
    config: PathText = Field(
        "", description="for a single file: folder with configs in diffusers' layout; \"\" = SDXL's, which we ship"
    )
    max_token_length: Annotated[Literal[75, 150, 225], Choice] = Field(
        75,
        description="tokens of a caption or prompt that are read: 75, or two or three times as many in chunks of 75, "
        "as kohya's sd-scripts do",
    )
    vae: PathText = Field(
        "",
        description="another VAE: folder in diffusers' layout, `.safetensors` file, or hub id (as above); "
        '"" = the model\'s own',
    )
    vae_dtype: Annotated[Literal["auto", "fp32", "bf16", "fp16"], Choice] = Field(
        "auto", description="`auto` = fp32, or half where the VAE's config says it is safe (`force_upcast = false`)"
    )
    v_parameterization: Switch = Field(
        "auto", description="whether the base predicts velocity; `auto` = as its scheduler config or its file says"
    )
    zero_terminal_snr: Switch = Field(
        "auto", description="whether the noise schedule ends in pure noise; `auto` = as its config or its file says"
    )
    base_dtype: Annotated[Literal["auto", "fp32", "fp8", "nf4"], Choice] = Field(
        "auto",
        description="how the UNet's weights are kept; `auto` = as `mixed_precision` computes, `fp8` = half of bf16's "
        "memory for linear layers, `nf4` = a quarter for those of attention (needs bitsandbytes)",
    )
    allow_download: bool = Field(
        False, description="fetch hub ids and CLIP's vocabulary; otherwise nothing touches the network"
    )

    @property
    def chunks(self) -> int:
        """Of 75 tokens that are read of a text."""
        return self.max_token_length // 75


class Cache(Section):
    """What the frozen encoders make of pictures and captions, kept so that they run once."""

    cache_latents: bool = Field(
        True,
        description="encode every picture once, in memory; off, and where `color_aug` or `random_crop` draws new "
        "views, the VAE stays and encodes as it goes",
    )
    cache_latents_to_disk: bool = Field(False, description="keep them for the next run too")
    cache_text_encoder_outputs: bool = Field(
        True,
        description="encode every caption once, in memory, and let the text encoders go; off, or trained, they stay",
    )
    cache_text_encoder_outputs_to_disk: bool = Field(False, description="keep them for the next run too")
    cache_dir: PathText = Field("", description='where; "" = `cache` in `output_dir`. Never beside the pictures')
    sample_posterior: bool = Field(
        False, description="draw each view from the VAE's mean and deviation; off, the mean is taken"
    )

    @model_validator(mode="after")
    def disk_needs_cache(self) -> Cache:
        """Refuses a cache that is off and kept."""
        for key in ("cache_latents", "cache_text_encoder_outputs"):
            if getattr(self, f"{key}_to_disk") and not getattr(self, key):
                raise ValueError(f"{key}_to_disk: {key} is false. Set it, or remove this")
        return self


class Save(Section):
    """Where the files go, and how often."""

    output_dir: PathText = Field("output", min_length=1, description="folder of everything that the run writes")
    output_name: str = Field("waveft", pattern=FILE_NAME, description="start of every file's name")
    save_precision: Annotated[Literal["float", "fp16", "bf16"], Choice] = Field(
        "float", description="of the values in the adapter file: `float` (fp32), `fp16` or `bf16`"
    )
    save_every_n_steps: int = Field(
        0, ge=0, le=MOST_STEPS, description="optimizer steps between checkpoints; 0 = only at the end"
    )
    save_every_n_epochs: int = Field(0, ge=0, le=MOST_EPOCHS, description="epochs between checkpoints; 0 = off")
    keep_last: int = Field(0, ge=0, le=MOST_STEPS, description="how many checkpoints stay; 0 = all")
    save_state: bool = Field(
        True, description="with every checkpoint, and when stopped, keep what `--resume` needs to go on exactly"
    )
    save_diff: bool = Field(
        False,
        description="write the finished adapter as whole weight differences too, `NAME-diff.safetensors`: large, for "
        "UIs that do not know its own kind",
    )
    overwrite: bool = Field(False, description="replace files of an earlier run of that name")

    @field_validator("output_name")
    @classmethod
    def no_checkpoint(cls, value: str) -> str:
        """Refuses a name that another run gives to its checkpoints."""
        if re.search(r"-step[0-9]{8,}$", value):
            raise ValueError(f"expected a name that does not end as checkpoints do (-step00000100), got {value!r}")
        return value


class Prompt(Section):
    """One prompt to draw."""

    prompt: str = Field(description="text; `{trigger}` is filled in")
    negative_prompt: str = Field("", description="what guidance leads away from")
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED, description="of the first picture; `train.seed` unless given")
    width: int | None = Field(None, ge=8, le=LARGEST_SIDE, description="px; as in [sample] unless given")
    height: int | None = Field(None, ge=8, le=LARGEST_SIDE, description="px; as in [sample] unless given")
    sample_steps: int | None = Field(None, ge=1, le=1000, description="as in [sample] unless given")
    guidance_scale: float | None = Field(None, ge=0, le=1000, description="as in [sample] unless given")
    sample_sampler: Annotated[str, BeforeValidator(fold_sampler)] | None = Field(
        None, description="as in [sample] unless given"
    )

    @field_validator("sample_sampler")
    @classmethod
    def known_sampler(cls, value: str | None) -> str | None:
        """Refuses samplers that nobody knows."""
        if value is not None and value not in SAMPLERS:
            raise ValueError(f"expected one of {', '.join(SAMPLERS)}, got {value!r}")
        return value


class Sample(Section):
    """Pictures drawn before, during and after training, from the same seeds."""

    prompts: Annotated[list[Prompt], BeforeValidator(as_prompts)] = Field([], description="texts, or tables as below")
    sample_prompts: PathText = Field(
        "",
        description="file with further prompts: kohya's `.txt` (`a dog --n blurry --w 1024 --d 7`), `.toml` or `.json`",
    )
    sample_every_n_steps: int = Field(
        0, ge=0, le=MOST_STEPS, description="optimizer steps between samples; 0 = only before and after"
    )
    sample_every_n_epochs: int = Field(0, ge=0, le=MOST_EPOCHS, description="epochs between samples; 0 = off")
    sample_at_first: bool = Field(True, description="draw them before training too, to compare with")
    sample_sampler: Annotated[Literal[SAMPLERS], BeforeValidator(fold_sampler)] = Field(  # type: ignore[valid-type]
        "euler_a", description=", ".join(f"`{name}`" for name in SAMPLERS)
    )
    sample_steps: int = Field(28, ge=1, le=1000, description="denoising steps")
    guidance_scale: float = Field(6.0, ge=0, le=1000, description="classifier-free guidance; 1 or less = off")
    width: int | None = Field(None, ge=8, le=LARGEST_SIDE, description="px; the resolution unless given")
    height: int | None = Field(None, ge=8, le=LARGEST_SIDE, description="px; the resolution unless given")
    samples_per_prompt: int = Field(1, ge=1, le=1000, description="pictures of each prompt, with seeds counted up")


class Validation(Section):
    """Pictures that are never trained, and the loss on them at fixed timesteps and noise."""

    validation_split: float = Field(0.0, ge=0, lt=1, description="part of the pictures that is kept out of training")
    validation_seed: int = Field(0, ge=0, le=LARGEST_SEED, description="of which they are, and of their noise")
    validate_every_n_steps: int = Field(
        0, ge=0, le=MOST_STEPS, description="optimizer steps between; 0 = only before and after"
    )
    max_validation_steps: int = Field(0, ge=0, le=MOST_STEPS, description="pictures at most; 0 = all")
    timesteps: list[Annotated[int, Field(ge=0, lt=1000)]] = Field(
        [200, 400, 600, 800], min_length=1, description="at which each picture's loss is measured"
    )


class Logging(Section):
    """Who is told of the run beside `metrics.jsonl`, which is always written."""

    log_with: Annotated[Literal["none", "tensorboard", "wandb", "all"], Choice] = Field(
        "none", description="`none`, `tensorboard`, `wandb` or `all`; each must be installed (`pip install` its name)"
    )
    logging_dir: PathText = Field("", description='where; "" = `logs` in `output_dir`')
    log_tracker_name: str = Field(
        "waveft", max_length=100, pattern=FILE_NAME, description="project of wandb, folder of TensorBoard"
    )
    wandb_run_name: str = Field("", description='of wandb; "" = `output_name`')

    @model_validator(mode="after")
    def settings_are_used(self) -> Logging:
        """Refuses what nobody is told; kohya takes a `logging_dir` alone for TensorBoard."""
        if self.log_with == "none":
            for key in ("logging_dir", "log_tracker_name", "wandb_run_name"):
                if self.says(key):
                    raise ValueError(f'{key}: log_with is "none". Write "tensorboard", "wandb" or "all", or remove it')
        if self.log_with == "tensorboard" and self.wandb_run_name:
            raise ValueError('wandb_run_name: log_with is "tensorboard". Write "wandb" or "all", or remove it')
        return self


class Metadata(Section):
    """What the adapter file says of itself."""

    metadata_title: str = Field("", description='"" = `output_name`')
    metadata_author: str = Field("", description="name as it shall be read")
    metadata_description: str = Field("", description="free text")
    metadata_license: str = Field("", description="such as `CC-BY-4.0`")
    metadata_tags: str = Field("", description="separated by commas")
    trigger_phrase: str = Field("", description="replaces `{trigger}` and `[trigger]` in captions and prompts")
    training_comment: str = Field("", description="free text, kohya's `ss_training_comment`")
    no_metadata: bool = Field(False, description="write nothing into the file that loading it does not need")
    include_dataset_info: bool = Field(True, description="name image folders and count the captions' tags in the file")


class Job(Section):
    """A whole job.toml."""

    config_version: Literal[1] = Field(1, description="of the job's own format")
    model: Model
    network: AnyNetwork = Waveft()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    loss: Loss = Loss()
    cache: Cache = Cache()
    save: Save = Save()
    sample: Sample = Sample()
    validation: Validation = Validation()
    evaluation: Evaluation = Evaluation()
    logging: Logging = Logging()
    metadata: Metadata = Metadata()
    general: General = General()
    datasets: list[Dataset] = Field(min_length=1)

    @model_validator(mode="after")
    def sections_agree(self) -> Job:
        """Refuses what sections say against each other."""
        warmup, steps = self.optimizer.lr_warmup_steps, self.train.max_train_steps
        if not self.train.max_train_epochs and warmup >= steps:
            raise ValueError(f"[optimizer] lr_warmup_steps: expected less than max_train_steps = {steps}, got {warmup}")
        if self.optimizer.text_encoder_lr and not self.network.train_text_encoder:
            raise ValueError("[optimizer] text_encoder_lr: set [network] train_text_encoder = true, or remove it")
        if self.loss.scale_v_pred_loss_like_noise_pred and self.model.v_parameterization is False:
            raise ValueError(
                "[loss] scale_v_pred_loss_like_noise_pred: [model] v_parameterization is false. Remove one of them"
            )
        sample = self.sample
        if (sample.sample_every_n_steps or sample.sample_every_n_epochs) and not (
            sample.prompts or sample.sample_prompts
        ):
            raise ValueError(
                "[sample] sample_every_n_steps: there are no prompts. Give [sample] prompts or sample_prompts"
            )
        return self

    def subsets(self) -> list[Subset]:
        """Returns every subset, with what it leaves open taken from its dataset and then from [general]."""
        return [filled(subset, dataset, self.general) for dataset in self.datasets for subset in dataset.subsets]
