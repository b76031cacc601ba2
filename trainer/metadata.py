"""What the adapter file says of how it was made, in keys that hubs, UIs and kohya's tools read: no date, no path."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from .config import is_hub_id
from .jobtext import job_toml, public_job
from .preflight import Ready

ARCHITECTURE = "stable-diffusion-xl-v1-base/waveft"
KOHYA_BASE = "sdxl_base_v1-0"


def public_toml(ready: Ready) -> str:
    """Returns the job as it goes into files that are passed on: every default written out, paths cut short."""
    return job_toml(public_job(ready.job, ready.resolution))


def collect(ready: Ready, steps: int, precision_name: str, prediction: str, tensor_hash: str) -> dict[str, str]:
    """Returns the metadata of the adapter after `steps` optimizer steps.

    Args:
        ready: the checked job.
        steps: optimizer steps done.
        precision_name: what the base computed in: "no", "fp16" or "bf16".
        prediction: the scheduler's prediction_type.
        tensor_hash: hexadecimal SHA-256 of the file's tensors, header left out.
    """
    return {
        **modelspec(ready, prediction, tensor_hash),
        **kohya(ready, steps, precision_name),
        "sshs_model_hash": tensor_hash,
        "sshs_legacy_hash": tensor_hash[:8],
        "waveft.job": public_toml(ready),
    }


def modelspec(ready: Ready, prediction: str, tensor_hash: str) -> dict[str, str]:
    """Returns the keys of Stability AI's model metadata standard; optional ones where the job gives them."""
    given = ready.job.metadata
    optional = {
        "author": given.metadata_author,
        "description": given.metadata_description,
        "license": given.metadata_license,
        "tags": given.metadata_tags,
        "trigger_phrase": given.trigger_phrase,
    }
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": ARCHITECTURE,
        "implementation": "diffusers",
        "title": given.metadata_title or ready.job.save.output_name,
        "resolution": f"{ready.resolution}x{ready.resolution}",
        "prediction_type": "v" if prediction == "v_prediction" else "epsilon",
        "hash_sha256": f"0x{tensor_hash}",
        **{key: value for key, value in optional.items() if value},
    }
    return {f"modelspec.{key}": value for key, value in fields.items()}


def kohya(ready: Ready, steps: int, precision_name: str) -> dict[str, str]:
    """Returns the keys that kohya's tools write and the UIs show."""
    job, count = ready.job, len(ready.epoch)
    base = job.model.pretrained_model_name_or_path
    values: dict[str, Any] = {
        "base_model_version": KOHYA_BASE,
        "network_module": "waveft",
        "output_name": job.save.output_name,
        "sd_model_name": base if is_hub_id(base) else Path(base).name,
        "steps": steps,
        "max_train_steps": job.train.max_train_steps,
        "epoch": -(-steps * ready.global_batch // count),
        "num_train_images": count,
        "num_batches_per_epoch": -(-count // job.general.batch_size),
        "total_batch_size": ready.global_batch,
        "gradient_accumulation_steps": job.train.gradient_accumulation_steps,
        "learning_rate": job.optimizer.learning_rate,
        "optimizer": job.optimizer.optimizer_type,
        "lr_scheduler": job.optimizer.lr_scheduler,
        "lr_warmup_steps": job.optimizer.lr_warmup_steps,
        "max_grad_norm": job.optimizer.max_grad_norm,
        "mixed_precision": precision_name,
        "seed": job.train.seed,
        "resolution": f"({ready.resolution}, {ready.resolution})",
        "noise_offset": job.loss.noise_offset,
        "min_snr_gamma": job.loss.min_snr_gamma,
        "caption_dropout_rate": job.general.caption_dropout_rate,
        "datasets": json.dumps([{"num_repeats": subset.num_repeats} for subset in job.subsets()]),
    }
    return {f"ss_{key}": str(value) for key, value in values.items()}


def hash_tensors(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a safetensors file's tensors, as kohya's tools compute it: header left out."""
    with path.open("rb") as file:
        file.seek(8 + struct.unpack("<Q", file.read(8))[0])
        return hashlib.file_digest(file, "sha256").hexdigest()
