"""What the adapter file says of how it was made, in keys that hubs, UIs and kohya's tools read: no date, no path."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..job.jobtext import job_toml, public_job
from ..job.schema import Job
from ..methods import registry
from ..preflight.preflight import Ready
from ..system.reading import open_regular
from . import kohyakeys
from .kohyakeys import base_name, is_sdxl

if TYPE_CHECKING:
    from ..base.models import Base
    from ..methods.tuning import Product

ARCHITECTURE = "stable-diffusion-xl-v1-base"


def public_toml(ready: Ready) -> str:
    """Returns the job as it goes into files that are passed on: every default written out, paths cut short.

    Where `include_dataset_info` is off, the folders of pictures are numbered in the place of their names.
    """
    return job_toml(public(ready))


def public_table(ready: Ready) -> dict[str, Any]:
    """Returns the same job as a table."""
    return public(ready).model_dump(exclude_none=True)


def public(ready: Ready) -> Job:
    """Returns the job with nothing private in it."""
    job = public_job(ready.job, ready.resolution)
    return job if job.metadata.include_dataset_info else nameless(job)


def nameless(job: Job) -> Job:
    """Returns the job with a number for the name of every folder and file of pictures."""
    names = ("image_dir", "conditioning_data_dir", "metadata_file")
    number, datasets = 0, []
    for dataset in job.datasets:
        subsets = []
        for subset in dataset.subsets:
            number += 1
            hidden = {name: f"{name}_{number}" for name in names if getattr(subset, name)}
            subsets.append(subset.model_copy(update=hidden))
        datasets.append(dataset.model_copy(update={"subsets": subsets}))
    return job.model_copy(update={"datasets": datasets})


def collect(
    product: Product, ready: Ready, steps: int, precision_name: str, base: Base, tensor_hash: str
) -> dict[str, str]:
    """Returns the metadata of the adapter after `steps` optimizer steps; none where the job wants none.

    Args:
        product: what the file holds.
        ready: the checked job.
        steps: optimizer steps done.
        precision_name: what the base computed in: "no", "fp16" or "bf16".
        base: that it was trained on.
        tensor_hash: hexadecimal SHA-256 of the file's tensors, header left out.
    """
    if ready.job.metadata.no_metadata:
        return {}
    return {
        **modelspec(ready, base, tensor_hash),
        **kohyakeys.collect(product, ready, steps, precision_name, base),
        "sshs_model_hash": tensor_hash,
        "sshs_legacy_hash": tensor_hash[:8],
        "waveft.job": public_toml(ready),
    }


def modelspec(ready: Ready, base: Base, tensor_hash: str) -> dict[str, str]:
    """Returns the keys of Stability AI's model metadata standard; optional ones where the job gives them."""
    job, given, method = ready.job, ready.job.metadata, registry.of(ready.job.network)
    limited = (job.loss.min_timestep, job.loss.max_timestep) != (0, 1000)
    optional = {
        "author": given.metadata_author,
        "description": given.metadata_description,
        "license": given.metadata_license,
        "tags": given.metadata_tags,
        "trigger_phrase": given.trigger_phrase,
        "timestep_range": f"{job.loss.min_timestep},{job.loss.max_timestep}" if limited else "",
    }
    fields = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{ARCHITECTURE if is_sdxl(base) else base_name(job)}/{method.ARCHITECTURE}",
        "implementation": "diffusers",
        "title": given.metadata_title or job.save.output_name,
        "resolution": f"{ready.resolution[0]}x{ready.resolution[1]}",
        "prediction_type": "v" if base.prediction == "v_prediction" else "epsilon",
        "usage_hint": method.USAGE.hint if is_sdxl(base) else f"{base_name(job)} alone, which no UI loads: from Python",
        "hash_sha256": f"0x{tensor_hash}",
        **{key: value for key, value in optional.items() if value},
    }
    return {f"modelspec.{key}": value for key, value in fields.items()}


def hash_tensors(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a safetensors file's tensors, as kohya's tools compute it: header left out."""
    with open_regular(path) as file:
        file.seek(8 + struct.unpack("<Q", file.read(8))[0])
        return hashlib.file_digest(file, "sha256").hexdigest()
