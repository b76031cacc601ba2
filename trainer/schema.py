"""The job: every section and key, its unit, its default and what it accepts. Neither torch nor any file is touched.

Keys that kohya's sd-scripts has keep kohya's names; the sections are this project's. The defaults are the recipe of
the WaveFT paper. The sections that say which pictures are seen, kohya's dataset file, are in `dataschema`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from .dataschema import Dataset, General, Subset, filled
from .section import Section
from .values import (
    DOTTED,
    FILE_NAME,
    LARGEST_SEED,
    LOCATIONS,
    OPTIMIZERS,
    SAMPLERS,
    SCHEDULERS,
    SDXL_ATTENTION,
    WAVELETS,
    Choice,
    Fraction,
    PathText,
    Pattern,
    Switch,
    as_prompts,
    fold_name,
    fold_sampler,
    pairs,
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


FREE = ("network_weights", "train_text_encoder")  # of [network]: what a file to start from does not settle


class Network(Section):
    """The adapter."""

    coefficients: int = Field(2592, ge=1, description="trained wavelet coefficients of a layer (p)")
    allocation: Annotated[Literal["fixed", "proportional"], Choice] = Field(
        "fixed",
        description="`fixed` = one p for all layers; `proportional` = p follows m + n, as a LoRA's size does, and "
        "`coefficients` is its mean",
    )
    coefficients_pattern: dict[Pattern, Annotated[int, Field(ge=1)]] = Field(
        {}, description="p of the layers whose path a regular expression finds, e.g. `{ '^mid_block' = 5000 }`"
    )
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
        description="how positions are drawn: `uniform:SEED`, `peft:SEED`, or `gradient:SEED` (where the base's own "
        "gradient is largest)",
    )
    location_batches: int = Field(8, ge=1, description="batches whose gradient places the positions of `gradient:SEED`")
    targets: list[str] | str = Field(
        list(SDXL_ATTENTION), description="layers: a list of path endings, or one regular expression for the whole path"
    )
    include: list[Pattern] = Field(
        [], description="of those, only layers whose path one of these regular expressions finds"
    )
    exclude: list[Pattern] = Field([], description="and none that one of these finds, e.g. `['^up_blocks\\.0']`")
    train_text_encoder: bool = Field(False, description="adapt the attention of both text encoders too")
    network_weights: PathText = Field(
        "", description="WaveFT file to start from; its layers, positions, wavelet and scaling take the place of these"
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
    def settings_are_used(self) -> Network:
        """Refuses what another key makes meaningless."""
        if self.wavelet == "identity" and self.mode != "periodization":
            raise ValueError(f"mode: expected 'periodization' with wavelet 'identity', got {self.mode!r}. Remove it")
        if self.says("location_batches") and not self.locations.startswith("gradient:"):
            raise ValueError(
                f"location_batches: only gradient:SEED needs it, locations is {self.locations!r}. Remove it"
            )
        if self.network_weights:
            idle = [key for key in Network.model_fields if key not in FREE and self.says(key)]
            if idle:
                raise ValueError(f"{idle[0]}: network_weights brings its own. Remove {', '.join(idle)}")
        return self


class Optimizer(Section):
    """How the coefficients move."""

    optimizer_type: Annotated[str, BeforeValidator(fold_name(OPTIMIZERS))] = Field(
        "AdamW",
        min_length=1,
        description=f"{', '.join(f'`{name}`' for name in OPTIMIZERS)}, or the dotted path of a class",
    )
    learning_rate: float = Field(1e-4, gt=0, description="step size at its highest")
    learning_rate_pattern: dict[Pattern, Annotated[float, Field(gt=0)]] = Field(
        {}, description="of the layers whose path a regular expression finds, e.g. `{ '^down_blocks' = 5e-5 }`"
    )
    text_encoder_lr: float | None = Field(None, gt=0, description="of the text encoders; `learning_rate` unless given")
    optimizer_args: Annotated[dict[str, Any], BeforeValidator(pairs)] = Field(
        {},
        description='further arguments of the optimizer, as a table or kohya\'s list of "key=value" texts; '
        "`weight_decay` of `AdamW` and its 8-bit and paged kinds is 1e-4 unless given",
    )
    max_grad_norm: float = Field(1.0, ge=0, description="gradients are scaled down to this norm; 0 = off")
    lr_scheduler: Annotated[str, BeforeValidator(fold_name(SCHEDULERS))] = Field(
        "constant",
        min_length=1,
        description=f"{', '.join(f'`{name}`' for name in SCHEDULERS)}, or the dotted path of a class",
    )
    lr_warmup_steps: int | float = Field(
        0, ge=0, description="optimizer steps until the full learning rate; below 1, the part of the run"
    )
    lr_scheduler_num_cycles: float = Field(1, gt=0, description="of `cosine_with_restarts`: how often it starts anew")
    lr_scheduler_power: float = Field(1.0, gt=0, description="of `polynomial`")
    lr_scheduler_args: Annotated[dict[str, Any], BeforeValidator(pairs)] = Field(
        {}, description="further arguments of the scheduler, e.g. `{ min_lr_rate = 0.1 }` for `cosine_with_min_lr`"
    )

    @field_validator("optimizer_type", "lr_scheduler")
    @classmethod
    def known_or_dotted(cls, value: str, info: ValidationInfo) -> str:
        """Refuses names that nobody knows; whether a dotted path leads to a class is seen later."""
        names = OPTIMIZERS if info.field_name == "optimizer_type" else SCHEDULERS
        if value not in names and not re.fullmatch(DOTTED, value):
            raise ValueError(f"expected one of {', '.join(names)}, or the dotted path of a class, got {value!r}")
        return value

    @model_validator(mode="after")
    def settings_are_used(self) -> Optimizer:
        """Refuses what the scheduler would ignore, and rates that its optimizer does not mean."""
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ValueError('lr_warmup_steps: lr_scheduler "constant" has no warm-up. Write "constant_with_warmup"')
        for key, used in (("lr_scheduler_num_cycles", "cosine_with_restarts"), ("lr_scheduler_power", "polynomial")):
            if self.says(key) and self.lr_scheduler != used:
                raise ValueError(f'{key}: only lr_scheduler "{used}" has it, this is "{self.lr_scheduler}". Remove it')
        if isinstance(self.lr_warmup_steps, float) and self.lr_warmup_steps >= 1:
            raise ValueError(f"lr_warmup_steps: expected whole steps or a part below 1, got {self.lr_warmup_steps}")
        if self.optimizer_type == "Prodigy" and self.learning_rate < 0.1:
            raise ValueError(
                f"learning_rate: Prodigy finds the step size itself and expects about 1.0, got {self.learning_rate:g}. "
                "Write 1.0"
            )
        return self


class Train(Section):
    """Length, precision and place of the run."""

    max_train_steps: int = Field(500, ge=1, description="optimizer steps")
    max_train_epochs: int = Field(0, ge=0, description="instead of `max_train_steps`: how often every picture is seen")
    gradient_accumulation_steps: int = Field(4, ge=1, description="batches, on each device, for one optimizer step")
    seed: int = Field(
        42, ge=0, le=LARGEST_SEED, description="of the order, noise, timesteps, crops, flips and captions"
    )
    mixed_precision: Annotated[Literal["auto", "no", "fp16", "bf16"], Choice] = Field(
        "auto",
        description="what the base computes in; `auto` = bf16 on a GPU that has it, else `no`. Coefficients stay fp32",
    )
    gradient_checkpointing: Switch = Field("auto", description="less memory for more time; `auto` = on a GPU")
    attention: Annotated[Literal["sdpa", "xformers", "eager"], Choice] = Field(
        "sdpa", description="`sdpa` = torch's own; `xformers` must be installed; `eager` = the plain formula"
    )
    torch_compile: bool = Field(False, description="compile the UNet: a slow first step, then faster ones on a GPU")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="save a running mean of the coefficients instead of the last ones; 0 = off, 0.99 is usual"
    )
    device: str = Field("auto", min_length=1, description="`auto`, `cpu`, `cuda`, `cuda:1`, `mps`")
    threads: int = Field(0, ge=0, description="CPU threads; 0 = torch's own choice")

    @model_validator(mode="after")
    def one_length(self) -> Train:
        """Refuses a run of two lengths."""
        if self.max_train_epochs and self.says("max_train_steps"):
            raise ValueError("max_train_epochs: expected one length, got max_train_steps too. Remove one of them")
        return self


class Loss(Section):
    """What is minimised: how far the predicted noise (or velocity, where the base predicts that) is off."""

    loss_type: Annotated[Literal["l2", "l1", "huber", "smooth_l1"], Choice] = Field("l2", description="of the error")
    huber_schedule: Annotated[Literal["constant", "exponential", "snr"], Choice] = Field(
        "snr", description="of `huber` and `smooth_l1`: how the threshold follows the timestep"
    )
    huber_c: float = Field(0.1, gt=0, description="of `huber` and `smooth_l1`: the threshold")
    huber_scale: float = Field(1.0, gt=0, description="of `huber` and `smooth_l1`: factor of the threshold")
    min_snr_gamma: float = Field(
        0.0, ge=0, description="upper bound of the signal-to-noise weight; 0 = off, 5 is usual"
    )
    debiased_estimation_loss: bool = Field(False, description="weigh by 1 / sqrt(signal-to-noise ratio)")
    scale_v_pred_loss_like_noise_pred: bool = Field(False, description="for velocity: weigh as if noise were predicted")
    noise_offset: float = Field(0.0, ge=0, description="share of noise that is the same all over a channel; 0 = off")
    noise_offset_random_strength: bool = Field(False, description="draw that share between 0 and `noise_offset`")
    adaptive_noise_scale: float = Field(
        0.0, description="added to `noise_offset`, times the mean absolute value of the latents; 0 = off"
    )
    multires_noise_iterations: int = Field(
        0, ge=0, description="coarser layers of noise added to it; 0 = off, 6 is usual"
    )
    multires_noise_discount: Fraction = Field(0.3, description="weight of each coarser layer over the one before")
    ip_noise_gamma: float = Field(
        0.0, ge=0, description="input perturbation: noise added to the noised latents alone; 0 = off"
    )
    ip_noise_gamma_random_strength: bool = Field(False, description="draw it between 0 and `ip_noise_gamma`")
    min_timestep: int = Field(0, ge=0, description="first timestep that is trained")
    max_timestep: int = Field(1000, ge=1, le=1000, description="timesteps below this one are trained")
    prior_loss_weight: float = Field(1.0, ge=0, description="weight of regularisation (class) pictures")
    masked_loss: bool = Field(
        False, description="weigh the loss by each picture's mask (`alpha_mask` or `conditioning_data_dir`)"
    )

    @model_validator(mode="after")
    def settings_are_used(self) -> Loss:
        """Refuses what another key makes meaningless."""
        if self.loss_type in ("l1", "l2"):
            for key in ("huber_schedule", "huber_c", "huber_scale"):
                if self.says(key):
                    raise ValueError(
                        f'{key}: only huber and smooth_l1 have it, loss_type is "{self.loss_type}". Remove it'
                    )
        if self.noise_offset and self.multires_noise_iterations:
            raise ValueError("noise_offset: expected it or multires_noise_iterations, got both. Remove one of them")
        for key, needs in (
            ("noise_offset_random_strength", "noise_offset"),
            ("adaptive_noise_scale", "noise_offset"),
            ("ip_noise_gamma_random_strength", "ip_noise_gamma"),
        ):
            if getattr(self, key) and not getattr(self, needs):
                raise ValueError(f"{key}: it changes {needs}, which is 0. Set {needs} or remove it")
        if self.says("multires_noise_discount") and not self.multires_noise_iterations:
            raise ValueError("multires_noise_discount: multires_noise_iterations is 0. Set it, or remove this")
        if self.min_timestep >= self.max_timestep:
            raise ValueError(
                f"min_timestep: expected less than max_timestep = {self.max_timestep}, got {self.min_timestep}"
            )
        return self


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
    save_every_n_steps: int = Field(0, ge=0, description="optimizer steps between checkpoints; 0 = only at the end")
    save_every_n_epochs: int = Field(0, ge=0, description="epochs between checkpoints; 0 = off")
    keep_last: int = Field(0, ge=0, description="how many checkpoints stay; 0 = all")
    save_state: bool = Field(
        True, description="with every checkpoint, and when stopped, keep what `--resume` needs to go on exactly"
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
    width: int | None = Field(None, ge=8, description="px; as in [sample] unless given")
    height: int | None = Field(None, ge=8, description="px; as in [sample] unless given")
    sample_steps: int | None = Field(None, ge=1, description="as in [sample] unless given")
    guidance_scale: float | None = Field(None, ge=0, description="as in [sample] unless given")
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
    sample_every_n_steps: int = Field(0, ge=0, description="optimizer steps between samples; 0 = only before and after")
    sample_every_n_epochs: int = Field(0, ge=0, description="epochs between samples; 0 = off")
    sample_at_first: bool = Field(True, description="draw them before training too, to compare with")
    sample_sampler: Annotated[Literal[SAMPLERS], BeforeValidator(fold_sampler)] = Field(  # type: ignore[valid-type]
        "euler_a", description=", ".join(f"`{name}`" for name in SAMPLERS)
    )
    sample_steps: int = Field(28, ge=1, description="denoising steps")
    guidance_scale: float = Field(6.0, ge=0, description="classifier-free guidance; 1 or less = off")
    width: int | None = Field(None, ge=8, description="px; the resolution unless given")
    height: int | None = Field(None, ge=8, description="px; the resolution unless given")
    samples_per_prompt: int = Field(1, ge=1, description="pictures of each prompt, with seeds counted up")


class Validation(Section):
    """Pictures that are never trained, and the loss on them at fixed timesteps and noise."""

    validation_split: float = Field(0.0, ge=0, lt=1, description="part of the pictures that is kept out of training")
    validation_seed: int = Field(0, ge=0, le=LARGEST_SEED, description="of which they are, and of their noise")
    validate_every_n_steps: int = Field(0, ge=0, description="optimizer steps between; 0 = only before and after")
    max_validation_steps: int = Field(0, ge=0, description="pictures at most; 0 = all")
    timesteps: list[Annotated[int, Field(ge=0, lt=1000)]] = Field(
        [200, 400, 600, 800], min_length=1, description="at which each picture's loss is measured"
    )


class Logging(Section):
    """Who is told of the run beside `metrics.jsonl`, which is always written."""

    log_with: Annotated[Literal["none", "tensorboard", "wandb", "all"], Choice] = Field(
        "none", description="`none`, `tensorboard`, `wandb` or `all`; each must be installed (`pip install` its name)"
    )
    logging_dir: PathText = Field("", description='where; "" = `logs` in `output_dir`')
    log_tracker_name: str = Field("waveft", pattern=FILE_NAME, description="project of wandb, folder of TensorBoard")
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
    network: Network = Network()
    optimizer: Optimizer = Optimizer()
    train: Train = Train()
    loss: Loss = Loss()
    cache: Cache = Cache()
    save: Save = Save()
    sample: Sample = Sample()
    validation: Validation = Validation()
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
