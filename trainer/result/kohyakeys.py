"""The metadata that kohya's tools write and the UIs show, `ss_*`: true of what was trained, or left out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..job.config import is_hub_id
from ..job.schema import Job
from ..pictures.dataset import Picture
from ..preflight.preflight import Ready

if TYPE_CHECKING:
    from ..base.models import Base
    from ..methods.tuning import Product

KOHYA_BASE = "sdxl_base_v1-0"
# What of a UNet's config makes it SDXL's: an adapter for any other has layers that SDXL lacks, or of other sizes.
SDXL_UNET = {
    "block_out_channels": [320, 640, 1280],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "layers_per_block": 2,
}


def is_sdxl(base: Base) -> bool:
    """Returns whether the base is of SDXL's size, so that its adapters fit SDXL and its fine-tunes."""

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, list | tuple) else value

    return all(plain(base.unet.config.get(key)) == value for key, value in SDXL_UNET.items())


def base_name(job: Job) -> str:
    """Returns what the base is called: its hub id, or its file's or folder's name."""
    name = job.model.pretrained_model_name_or_path
    return name if is_hub_id(name) else Path(name).name.removesuffix(".safetensors")


def collect(product: Product, ready: Ready, steps: int, precision_name: str, base: Base) -> dict[str, str]:
    """Returns the keys; those of the pictures' folders and captions only where the job lets them be told."""
    job = ready.job
    name = job.model.pretrained_model_name_or_path
    values: dict[str, Any] = {
        "base_model_version": KOHYA_BASE if is_sdxl(base) else base_name(job),
        "v2": False,
        "sd_model_name": name if is_hub_id(name) else Path(name).name,
        "output_name": job.save.output_name,
        **product.kohya,
        "network_args": json.dumps(product.told, sort_keys=True),
        "training_comment": job.metadata.training_comment,
        "learning_rate": job.optimizer.learning_rate,
        "unet_lr": job.optimizer.learning_rate,
        "optimizer": optimizer_name(job),
        "lr_scheduler": job.optimizer.lr_scheduler,
        "lr_warmup_steps": job.optimizer.lr_warmup_steps,
        "max_grad_norm": job.optimizer.max_grad_norm,
        "mixed_precision": precision_name,
        "seed": job.train.seed,
        "resolution": f"({ready.resolution[0]}, {ready.resolution[1]})",
        "zero_terminal_snr": base.zero_terminal_snr,
        **length(ready, steps),
        **loss(job),
        **views(job),
    }
    if job.network.train_text_encoder:
        values["text_encoder_lr"] = job.optimizer.text_encoder_lr or job.optimizer.learning_rate
    if job.metadata.include_dataset_info:
        values |= dataset_info(ready.pictures)
    return {f"ss_{key}": str(value) for key, value in values.items()}


def optimizer_name(job: Job) -> str:
    """Returns the optimizer with its arguments in brackets, as kohya writes it."""
    given = ",".join(f"{key}={value}" for key, value in job.optimizer.optimizer_args.items())
    return job.optimizer.optimizer_type + (f"({given})" if given else "")


def length(ready: Ready, steps: int) -> dict[str, Any]:
    """Returns kohya's keys of how much was seen, and how often."""
    sizes = [ready.batch_size(number) for number in range(len(ready.job.datasets))]
    return {
        "steps": steps,
        "max_train_steps": ready.steps,
        "epoch": -(-steps * ready.pictures_per_step // ready.epoch_length),
        "num_epochs": -(-ready.steps * ready.pictures_per_step // ready.epoch_length),
        "num_train_images": sum(picture.repeats for picture in ready.pictures if not picture.is_reg),
        "num_reg_images": sum(picture.repeats for picture in ready.pictures if picture.is_reg),
        "num_validation_images": len(ready.validation),
        "batch_size_per_device": sizes[0] if len(set(sizes)) == 1 else sizes,
        "total_batch_size": ready.pictures_per_step,
        "gradient_accumulation_steps": ready.job.train.gradient_accumulation_steps,
    }


def loss(job: Job) -> dict[str, Any]:
    """Returns kohya's keys of the loss."""
    same = (
        "noise_offset", "noise_offset_random_strength", "adaptive_noise_scale", "multires_noise_iterations",
        "multires_noise_discount", "ip_noise_gamma", "ip_noise_gamma_random_strength", "min_snr_gamma", "loss_type",
        "huber_schedule", "huber_scale", "huber_c", "prior_loss_weight",
    )  # fmt: skip
    return {**{key: getattr(job.loss, key) for key in same}, "debiased_estimation": job.loss.debiased_estimation_loss}


def views(job: Job) -> dict[str, Any]:
    """Returns kohya's keys of captions and views, where all subsets agree on them."""
    same = (
        "caption_dropout_rate", "caption_dropout_every_n_epochs", "caption_tag_dropout_rate", "shuffle_caption",
        "keep_tokens", "flip_aug", "color_aug", "random_crop",
    )  # fmt: skip
    found = {key: {getattr(subset, key) for subset in job.subsets()} for key in same}
    return {key: values.pop() for key, values in found.items() if len(values) == 1}


def dataset_info(pictures: Iterable[Picture]) -> dict[str, str]:
    """Returns kohya's summary of the pictures: folders by name, tags of their captions, buckets; each as JSON."""
    dirs: dict[str, dict[str, dict[str, int]]] = {"dataset_dirs": {}, "reg_dataset_dirs": {}}
    tags: dict[str, Counter[str]] = {}
    buckets: Counter[tuple[int, int]] = Counter()
    errors = []
    for picture in pictures:
        folder, geometry = picture.path.parent.name, picture.geometry
        kind = dirs["reg_dataset_dirs" if picture.is_reg else "dataset_dirs"]
        kind.setdefault(folder, {"n_repeats": picture.repeats, "img_count": 0})["img_count"] += 1
        seen = picture.caption.plain().split(picture.caption.rules.caption_separator)
        tags.setdefault(folder, Counter()).update(tag.strip().lower() for tag in seen if tag.strip())
        buckets[geometry.bucket] += picture.repeats
        errors.append(abs(geometry.original[0] / geometry.original[1] - geometry.bucket[0] / geometry.bucket[1]))
    sizes = {
        str(number): {"resolution": size, "count": count}
        for number, (size, count) in enumerate(sorted(buckets.items()))
    }
    found: dict[str, Mapping[str, Any]] = {
        **dirs,
        "tag_frequency": tags,
        "bucket_info": {"buckets": sizes, "mean_img_ar_error": sum(errors) / len(errors) if errors else 0.0},
    }
    return {key: json.dumps(value, sort_keys=True, ensure_ascii=False) for key, value in found.items() if value}
