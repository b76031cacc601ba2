"""The job that an SDXL experiment trains: the nano base and a drawn robot, or the reader's own base and photographs."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from trainer.comparison import cells
from trainer.job import config
from trainer.job.jobtext import job_toml
from trainer.job.schema import Job
from trainer.system.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SMALL, FULL = ROOT / "jobs" / "compare.toml", ROOT / "jobs" / "paper" / "waveft.toml"
DRAWN = "robot"  # what the small job trains
WEIGHTS, END_BYTES = (".safetensors", ".bin", ".ckpt"), 2**20
# Where the metrics' networks lie in the folder of --metrics, under the names that their owners gave them.
METRICS = {
    "image_model": "dinov2-base",
    "clip_model": "clip-vit-base-patch32",
    "lpips_backbone": "vgg16-397923af.pth",
    "lpips_heads": "vgg.pth",
    "cmmd_reference": "coco",
}


def options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what is trained on what."""
    parser.add_argument("--base", metavar="PATH", help="an SDXL base; the nano base unless given")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="a folder of folders of photos, one a subject")
    parser.add_argument(
        "--metrics",
        type=Path,
        metavar="DIR",
        help=f"a folder with what of these there is: {', '.join(METRICS.values())}",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="change a key of the job",
    )


def is_small(asked: argparse.Namespace) -> bool:
    """Returns whether the small form is asked for: by name, or by giving no base."""
    return bool(asked.small or not asked.base)


def job(asked: argparse.Namespace) -> Job:
    """Returns the job: the paper's recipe for the reader's base, the comparison's example for the nano base.

    Raises:
        UserError: a base without photographs, a folder without a network, or a key that is none.
    """
    changes = list(asked.overrides)
    if asked.base:
        if not asked.photos:
            raise UserError("--base: expected --photos DIR beside it, a folder of folders of photos, one a subject.")
        changes.insert(0, f"model.pretrained_model_name_or_path={Path(asked.base).expanduser().resolve()}")
    if asked.metrics:
        changes[:0] = metrics(asked.metrics)
    return config.load(SMALL if is_small(asked) else FULL, changes)


def metrics(folder: Path) -> list[str]:
    """Returns the keys of [evaluation] for what a folder holds.

    Raises:
        UserError: it holds none of it.
    """
    folder = folder.expanduser().resolve()
    found = [f"evaluation.{key}={folder / name}" for key, name in METRICS.items() if (folder / name).exists()]
    if not found:
        raise UserError(f'--metrics "{folder}": expected one of {", ".join(METRICS.values())} in it, got none.')
    return ["evaluation.preset=paper", *found]


def subjects(asked: argparse.Namespace, out: Path) -> list[tuple[str, Job]]:
    """Returns each subject with its job, which writes below `out`."""
    photos = asked.photos.expanduser().resolve() if asked.photos else None
    found = cells.subjects(job(asked), photos)
    return [(name if photos else DRAWN, placed(one, out / "runs" / cells.plain(name))) for name, one in found]


def fingerprint(base: str) -> str:
    """Returns what tells one base from another of the same name: sizes, and both ends of every file with weights."""
    path, found = Path(base), hashlib.sha256()
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.suffix in WEIGHTS)
    for file in files:
        size = file.stat().st_size
        with file.open("rb") as opened:
            ends = opened.read(END_BYTES)
            opened.seek(max(0, size - END_BYTES))
            ends += opened.read(END_BYTES)
        found.update(f"{file.name} {size}".encode() + ends)
    return found.hexdigest()[:16]


def settings(job: Job) -> dict[str, str]:
    """Returns what a cell's numbers depend on: the job, and the base's own weights."""
    return {"job": job_toml(job), "base": fingerprint(job.model.pretrained_model_name_or_path)}


def placed(job: Job, folder: Path) -> Job:
    """Returns the job, writing into a folder, over what a run that was cut off left there."""
    save = job.save.model_copy(update={"output_dir": str(folder.resolve()), "overwrite": True})
    return job.model_copy(update={"save": save})
