"""What a run is, so that another process can go on with it: the fingerprint of its job, and its state in and out.

Every draw is a function of the step (`rng`), so that the step and the tensors below are all there is to keep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .job import jobtext, optim
from .job.config import map_paths
from .job.networks import FIRST
from .methods import registry
from .pictures.picture import Picture
from .preflight.preflight import Ready
from .result.runparts import Parts
from .run import state, statecheck
from .system.console import counted
from .system.errors import UserError
from .system.reading import open_regular

REMEDY = "Resume from another state (--resume FILE), or begin anew."
NAMED = 3  # pictures in a message


def agree(ready: Ready, saved: dict[str, Any], device: torch.device) -> list[str]:
    """Returns what may surprise in going on with a saved run.

    Raises:
        UserError: the saved run is another one, or is longer than the job.
    """
    words = {"pictures": other_pictures(saved.get("pictures"), ready.pictures)}
    before = {"network.method": FIRST, **saved["fingerprint"]}  # which states of earlier versions do not name
    faults, notices = state.differences(before, fingerprint(ready, device), words)
    if saved["step"] > ready.steps:
        faults.append(
            f"[train] max_train_steps: expected at least the saved run's {counted(saved['step'], 'step')}, got "
            f"{ready.steps}. Raise it."
        )
    if faults:
        raise UserError(faults)
    return notices


def fingerprint(ready: Ready, device: torch.device) -> dict[str, Any]:
    """Returns what makes a run the one it is: the job's keys, the contents that its paths lead to, and the machine.

    Paths themselves are left out: a run whose folders were moved is the same run.
    """
    job = map_paths(jobtext.public_job(ready.job, ready.resolution), lambda _: "")
    return {
        **dict(flat(job.model_dump(exclude_none=True, exclude={"datasets", "general"}))),
        "model": str(ready.facts.identity),
        "pictures": digest(*(repr((one.digest, one.caption, one.geometry, one.is_reg)) for one in ready.pictures)),
        "pictures seen": digest(*map(seen, ready.pictures)),
        "batch sizes": str(sorted({one.dataset: ready.batch_size(one.dataset) for one in ready.pictures}.items())),
        "network_weights": file_digest(ready.job.network.begins_with),
        "world_size": ready.world_size,
        **state.environment(device),
        **{name: state.version(name) for name in registry.of(ready.job.network).PACKAGES},
    }


def known(picture: Picture) -> tuple[str, str]:
    """Returns short names for a picture's content and for its caption."""
    return picture.digest[:16], digest(repr(picture.caption))


def other_pictures(saved: Sequence[tuple[str, str]] | None, pictures: Sequence[Picture]) -> str:
    """Returns in words how pictures and captions differ from a saved run's.

    Args:
        saved: what `known` gave for each of them; None in a state that an earlier version wrote.
        pictures: those of now.
    """
    expected = "expected pictures and captions as in the saved run"
    if saved is None:
        return f"{expected}, got others"
    before, now = dict(saved), dict(map(known, pictures))
    more = [one.path.name for one in pictures if known(one)[0] not in before]
    fewer = len(before.keys() - now.keys())
    other = [one.path.name for one in pictures if before.get(known(one)[0], known(one)[1]) != known(one)[1]]
    got = [f"{len(more)} more ({named(more)})"] if more else []
    got += [f"{fewer} fewer"] if fewer else []
    got += [f"other captions of {len(other)} ({named(other)})"] if other else []
    return f"{expected}, got {', '.join(got) or 'them in another order or at other sizes ([general] resolution)'}"


def named(names: Sequence[str]) -> str:
    """Returns the first names of many."""
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")


def seen(picture: Picture) -> str:
    """Returns how a picture is seen, its mask's content included."""
    colours = (picture.color, picture.background, picture.interpolation)
    mask = picture.mask_digest[:16] if picture.mask else picture.alpha_mask
    return repr((picture.repeats, picture.flip, picture.random_crop, colours, mask))


def flat(table: Any, name: str = "") -> list[tuple[str, Any]]:
    """Returns the table's values with their places, "section.key"."""
    if isinstance(table, dict):
        return [pair for key, value in table.items() for pair in flat(value, f"{name}.{key}".lstrip("."))]
    return [(name, table if isinstance(table, str | int | float) else str(table))]


def digest(*texts: str) -> str:
    """Returns a short name for the texts."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def file_digest(path: str) -> str:
    """Returns a short name for a file's content, or "" for no file."""
    if not path:
        return ""
    with open_regular(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def collect(parts: Parts, step: int) -> dict[str, Any]:
    """Returns the state of a run after `step` optimizer steps, as tensors and plain values on the CPU."""
    held = {
        "step": step,
        "fingerprint": fingerprint(parts.ready, parts.forward.place.device),
        "pictures": [known(one) for one in parts.ready.pictures],
        "values": parts.tuning.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "schedule": parts.schedule.state_dict(),
        "scaler": parts.scaler.state_dict(),
    }
    if parts.ema is not None:
        held["ema"] = parts.ema.state_dict()
    if remembered := parts.tuning.memory():
        held["method"] = remembered
    return on_cpu(held)


def on_cpu(value: Any) -> Any:
    """Returns the value with every tensor in it copied to the CPU."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(item) for item in value)
    return value


def memory(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns what a saved run's method needs beside its numbers; earlier versions kept the one thing by its name."""
    return saved.get("method", {key: saved[key] for key in ("indices",) if key in saved})


def restore(parts: Parts, saved: dict[str, Any]) -> None:
    """Puts a saved state into a run that was built anew.

    Raises:
        UserError: it is none of this run's: a layer, a tensor or a number of another form; the run is as it was built.
    """
    if found := unlike(parts, saved):
        raise UserError(f"the saved run{found}. {REMEDY}")
    parts.tuning.load_state_dict(saved["values"])
    if remembered := memory(saved):
        parts.tuning.remember(remembered)
    parts.optimizer.load_state_dict(saved["optimizer"])
    parts.schedule.load_state_dict(saved["schedule"])
    parts.scaler.load_state_dict(saved["scaler"])
    if parts.ema is not None:
        parts.ema.load_state_dict(saved["ema"])


def unlike(parts: Parts, saved: dict[str, Any]) -> str:
    """Returns what of a saved state has another form than this run's own, with its place, or ""."""
    now = {"values": parts.tuning.state_dict(), "schedule": parts.schedule.state_dict()}
    now["scaler"] = parts.scaler.state_dict()
    if remembered := parts.tuning.memory():
        now["method"] = remembered
        saved = {**saved, "method": memory(saved)}
    if parts.ema is not None:
        now["ema"] = parts.ema.state_dict()
    for name, held in now.items():
        if found := statecheck.other(saved.get(name), held, f"/{name}"):
            return found
    # of an optimizer nothing is known before its first step: another one is made, of the same kind, which takes one
    optimizer, begun = optim.after_a_step(parts.ready.job.optimizer, parts.optimizer), saved["optimizer"]
    if not isinstance(begun.get("state"), dict):
        return "/optimizer: expected its state, got none"
    held = {**optimizer, "state": {} if not begun["state"] else optimizer["state"]}
    if found := statecheck.other(begun, held, "/optimizer"):
        return found
    last = saved["schedule"].get("last_epoch", saved["step"])
    if last != saved["step"] and "." not in parts.ready.job.optimizer.lr_scheduler:
        return f"/schedule/last_epoch: expected {saved['step']}, as its step, got {last}"
    return ""
