"""What can be said of a job's optimizer and schedule before torch is imported."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from ..system import commandline
from ..system.console import counted
from . import schema

CLASSES = {
    "AdamW": "torch.optim.AdamW",
    "AdamW8bit": "bitsandbytes.optim.AdamW8bit",
    "PagedAdamW": "bitsandbytes.optim.PagedAdamW",
    "PagedAdamW8bit": "bitsandbytes.optim.PagedAdamW8bit",
    "Adafactor": "transformers.optimization.Adafactor",
    "Prodigy": "prodigyopt.Prodigy",
    "Lion": "lion_pytorch.Lion",
    "Lion8bit": "bitsandbytes.optim.Lion8bit",
    "SGD": "torch.optim.SGD",
}
DISTRIBUTIONS = {"lion_pytorch": "lion-pytorch"}  # what pip calls a package whose own name differs

# Of the named schedulers: those whose library would silently ignore arguments, and those that cannot do without some.
NO_ARGUMENTS = ("constant", "constant_with_warmup")
NEEDED = {
    "cosine_with_min_lr": (("min_lr_rate", "min_lr"), "{ min_lr_rate = 0.1 }"),
    "warmup_stable_decay": (("num_decay_steps",), "{ num_decay_steps = 0.2 }, steps or a part of the run"),
    "piecewise_constant": (("step_rules",), '{ step_rules = "1:100,0.1:300,0.01" }, factors and until when'),
}
KEYS = {"num_warmup_steps": "lr_warmup_steps", "num_training_steps": "[train] max_train_steps"}  # of the job


def check(settings: schema.Optimizer, steps: int | None = None) -> list[str]:
    """Returns the section's faults that can be known without torch.

    Args:
        settings: the job's.
        steps: the run's optimizer steps, where they are known.
    """
    found = package_faults("optimizer_type", settings.optimizer_type, CLASSES.get(settings.optimizer_type))
    found += package_faults("lr_scheduler", settings.lr_scheduler, None)
    found += argument_faults(settings) + rate_faults(settings)
    return found + (length_faults(settings, steps) if steps else [])


def notices(settings: schema.Optimizer) -> list[str]:
    """Returns what is no fault but may surprise."""
    name, found = settings.optimizer_type, []
    if name.endswith("8bit"):
        found.append("keeps tensors of less than 4,096 values in 32 bit")
    if name.startswith("Paged"):
        found.append("moves none of less than 100,000 values to the CPU")
    if not found:
        return []
    return [f"{name} saves memory only on layers of many coefficients: bitsandbytes {' and '.join(found)}"]


def package_faults(key: str, name: str, path: str | None) -> list[str]:
    """Returns whether the package is missing that a class comes from, named by itself or by its dotted path."""
    package = (path or name).partition(".")[0]
    if "." not in (path or name) or package in sys.modules or find_spec(package):
        return []
    line = commandline.install(DISTRIBUTIONS.get(package, package))
    remedy = f"Run: {line}" if path else "Install it, or correct the path."
    return [f'[optimizer] {key} "{name}": needs the package {package}, which is not installed. {remedy}']


def argument_faults(settings: schema.Optimizer) -> list[str]:
    """Returns arguments that are keys of the job, that nobody would read, and those that are missing."""
    name, given, found = settings.lr_scheduler, settings.lr_scheduler_args, []
    if "lr" in settings.optimizer_args:
        found.append("[optimizer] optimizer_args: lr is a key of its own. Write learning_rate.")
    found += [
        f"[optimizer] lr_scheduler_args: {argument} is a key of its own. Write {key}."
        for argument, key in KEYS.items()
        if argument in given
    ]
    for key, argument in (("lr_scheduler_num_cycles", "num_cycles"), ("lr_scheduler_power", "power")):
        if argument in given and settings.says(key):
            found.append(f"[optimizer] lr_scheduler_args: {argument} is {key}, which is given too. Remove one of them.")
    if name in NO_ARGUMENTS and given:
        found.append(f'[optimizer] lr_scheduler_args: "{name}" takes none, got {", ".join(given)}. Remove them.')
    needed, example = NEEDED.get(name, ((), ""))
    if needed and not set(needed) & set(given):
        found.append(f'[optimizer] lr_scheduler_args: "{name}" needs {" or ".join(needed)}. Write {example}.')
    if ("." in name or name == "piecewise_constant") and settings.lr_warmup_steps:
        found.append(f'[optimizer] lr_warmup_steps: "{name}" knows of no warm-up. Remove it.')
    return found


def rate_faults(settings: schema.Optimizer) -> list[str]:
    """Returns learning rates that the optimizer would ignore or refuse in the middle of things."""
    name = settings.optimizer_type
    if name == "Prodigy":
        return [
            f"[optimizer] {key}: Prodigy finds one rate for all layers. Remove it."
            for key in ("learning_rate_pattern", "text_encoder_lr")
            if getattr(settings, key)
        ]
    if name != "Adafactor":
        return []
    if finds_rate(settings):
        return [
            f"[optimizer] {key}: Adafactor's relative_step = true finds the rate itself. Remove one of them."
            for key in ("learning_rate", "learning_rate_pattern", "text_encoder_lr", "lr_scheduler")
            if settings.says(key)
        ]
    if settings.optimizer_args.get("warmup_init"):
        return [
            "[optimizer] optimizer_args: Adafactor's warmup_init needs relative_step = true. Set it, or remove this."
        ]
    return []


def length_faults(settings: schema.Optimizer, steps: int) -> list[str]:
    """Returns parts of the schedule that are longer than the run."""
    warmup = whole_steps(settings.lr_warmup_steps, steps)
    if warmup and warmup >= steps:
        return [
            f"[optimizer] lr_warmup_steps: expected less than the run's {counted(steps, 'step')}, got {warmup}. "
            "Lower it."
        ]
    decay = settings.lr_scheduler_args.get("num_decay_steps", 0)
    if type(decay) not in (int, float) or decay < 0:
        return [f"[optimizer] lr_scheduler_args num_decay_steps: expected steps or a part below 1, got {decay!r}."]
    decay = whole_steps(decay, steps)
    if warmup + decay > steps:
        return [
            f"[optimizer] lr_scheduler_args num_decay_steps: expected at most {steps - warmup} of the run's {steps} "
            f"steps, after a warm-up of {warmup}, got {decay}. Lower it."
        ]
    return []


def whole_steps(given: int | float, steps: int) -> int:
    """Returns a number of steps that may be given as a part of the run, of which at least one remains."""
    return max(1, round(given * steps)) if 0 < given < 1 else int(given)


def finds_rate(settings: schema.Optimizer) -> bool:
    """Returns whether Adafactor is asked to find its rate itself."""
    return settings.optimizer_type == "Adafactor" and bool(settings.optimizer_args.get("relative_step"))
