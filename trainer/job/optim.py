"""The optimizer, and the schedule of its learning rates, as a job names them; both tried before a run depends on them.

Torch is imported where one is made.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import re
import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..system.console import counted
from ..system.errors import UserError, reason
from ..system.patterns import pattern
from . import schema
from .optimcheck import CLASSES, check, finds_rate, whole_steps

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LRScheduler

PAPER_WEIGHT_DECAY = 1e-4
ADAMW = ("AdamW", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit")  # which all compute the same


def make(
    settings: schema.Optimizer, groups: list[dict[str, Any]], steps: int
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Returns the optimizer and the schedule of its learning rates, which is stepped once for each optimizer step.

    Args:
        settings: the job's.
        groups: {"params": fp32 coefficients, "lr": their learning rate} for each learning rate.
        steps: the run's optimizer steps.

    Raises:
        UserError: a class that is missing or is no optimizer or schedule, arguments that it does not take, or a
            schedule that does not reach the last step.
    """
    if faults := check(settings, steps) or trial(settings, [group["lr"] for group in groups], steps):
        raise UserError(faults)
    optimizer = make_optimizer(settings, groups)
    return optimizer, make_schedule(settings, optimizer, steps)


def trial(settings: schema.Optimizer, rates: Sequence[float], steps: int) -> list[str]:
    """Returns why the optimizer or the schedule cannot do the run, tried on a number or two of their own.

    One step of the optimizer, and the schedule walked to the run's last step. What is known here by name and has no
    arguments is not tried: it does.

    Args:
        settings: the job's.
        rates: of the parameter groups, in their order.
        steps: the run's optimizer steps.
    """
    plain = not settings.optimizer_args and not settings.lr_scheduler_args
    if plain and "." not in settings.optimizer_type + settings.lr_scheduler:
        return []
    import torch

    groups = [{"params": [torch.nn.Parameter(torch.zeros(2, 2))], "lr": rate} for rate in rates]
    try:
        optimizer = make_optimizer(settings, groups)
        if type(optimizer).__module__.partition(".")[0] != "bitsandbytes":  # whose steps need a GPU
            one_step(settings, optimizer)
        walk(settings, make_schedule(settings, optimizer, steps), steps)
    except UserError as error:
        return error.problems
    return []


def one_step(settings: schema.Optimizer, optimizer: torch.optim.Optimizer) -> None:
    """Takes a step of an optimizer over coefficients of no matter; UserError where it raises or breaks them."""
    import torch

    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for one in parameters:
        one.grad = torch.ones_like(one)
    try:
        optimizer.step()
    except Exception as error:
        raise UserError(
            f"[optimizer] optimizer_args: {settings.optimizer_type} raised in its first step: {reason(error)}. "
            "Correct them, or name another."
        ) from error
    if not all(one.isfinite().all() for one in parameters):
        raise UserError(
            f"[optimizer] optimizer_args: expected finite coefficients after the first step of "
            f"{settings.optimizer_type}, got others. Correct them."
        )


def after_a_step(settings: schema.Optimizer, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns the state of another optimizer of that kind after a step: the form that this one's will have.

    Its parameters are zeros of the same shapes, in the same groups.
    """
    import torch

    groups = [
        {"params": [torch.nn.Parameter(torch.zeros_like(one)) for one in group["params"]], "lr": group["lr"]}
        for group in optimizer.param_groups
    ]
    made = make_optimizer(settings, groups)
    for group, its in zip(made.param_groups, optimizer.param_groups, strict=True):
        if "initial_lr" in its:  # a schedule has put it there
            group["initial_lr"] = its["initial_lr"]
        for one in group["params"]:
            one.grad = torch.zeros_like(one)
    made.step()
    return made.state_dict()


def walk(settings: schema.Optimizer, schedule: LRScheduler, steps: int) -> None:
    """Walks a schedule from the first to the last step; UserError where it raises, or a rate is none."""
    where = f'[optimizer] lr_scheduler "{settings.lr_scheduler}"'
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer did not step
        for step in range(1, steps + 1):
            wrong = [rate for rate in schedule.get_last_lr() if not 0 <= rate < math.inf]
            if wrong:
                raise UserError(
                    f"{where}: expected learning rates of at least 0, got {float(wrong[0]):g} for step {step} of "
                    f"{steps}. Correct lr_scheduler_args."
                )
            try:
                schedule.step()  # after every step, the last one among them, as the run does
            except Exception as error:
                raise UserError(
                    f"{where}: expected a schedule for {counted(steps, 'step')}, got one that raises after step "
                    f"{step}: {reason(error)}. Correct lr_scheduler_args."
                ) from error


def rate_of(path: str, settings: schema.Optimizer) -> float:
    """Returns the learning rate of the layer at that path."""
    for expression, learning_rate in settings.learning_rate_pattern.items():
        if pattern(expression).search(path):
            return learning_rate
    if settings.text_encoder_lr and re.match(r"te\d\.", path):
        return settings.text_encoder_lr
    return settings.learning_rate


def make_optimizer(settings: schema.Optimizer, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Returns the optimizer by its name in the job, over fp32 coefficients; UserError where it cannot be made."""
    import torch

    name, arguments = settings.optimizer_type, dict(settings.optimizer_args)
    kind = find("optimizer_type", CLASSES.get(name, name), torch.optim.Optimizer, "closure")
    if {"train", "eval"} <= set(dir(kind)):
        raise UserError(
            f'[optimizer] optimizer_type "{name}": it keeps other weights for use than for training (schedule-free), '
            "which is not supported. Use another, with ema_decay for a running mean."
        )
    if name in ADAMW:
        arguments = {"weight_decay": PAPER_WEIGHT_DECAY, **arguments}
    if name == "AdamW":
        # hundreds of small tensors: fused takes them in one go, and each entry is computed by itself on every device
        arguments = {"fused": "foreach" not in arguments, **arguments}
    elif finds_rate(settings):  # the same rates, as a schedule that can be seen and resumed: see make_schedule
        groups = [{**group, "lr": 1.0} for group in groups]
        arguments = {**arguments, "lr": 1.0, "relative_step": False, "warmup_init": False}
    elif name == "Adafactor":
        arguments = {"scale_parameter": False, "relative_step": False, "warmup_init": False, **arguments}
    try:
        return kind(groups, **{"lr": settings.learning_rate, **arguments})
    except Exception as error:
        raise UserError(f"[optimizer] optimizer_args: {kind.__name__} refuses them: {reason(error)}.") from error


def make_schedule(settings: schema.Optimizer, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """Returns the schedule by its name in the job; UserError where it cannot be made."""
    from torch.optim.lr_scheduler import LambdaLR, LRScheduler

    name, arguments = settings.lr_scheduler, dict(settings.lr_scheduler_args)
    if finds_rate(settings):
        warmup = bool(settings.optimizer_args.get("warmup_init"))
        return LambdaLR(optimizer, partial(relative_rate, warmup=warmup))
    try:
        if "." in name:
            return find("lr_scheduler", name, LRScheduler, "metrics")(optimizer, **arguments)
        return named_schedule(settings, optimizer, steps, arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"[optimizer] lr_scheduler_args: {name} refuses them: {reason(error)}.") from error


def named_schedule(
    settings: schema.Optimizer, optimizer: torch.optim.Optimizer, steps: int, arguments: dict[str, Any]
) -> LRScheduler:
    """Returns a schedule that transformers knows by name, or diffusers."""
    name = settings.lr_scheduler
    if name == "piecewise_constant":
        from diffusers.optimization import get_piecewise_constant_schedule

        return get_piecewise_constant_schedule(optimizer, **arguments)
    from transformers import get_scheduler

    if name == "cosine_with_restarts":
        arguments = {"num_cycles": settings.lr_scheduler_num_cycles, **arguments}
    elif name == "polynomial":
        arguments = {"power": settings.lr_scheduler_power, **arguments}
    elif name == "warmup_stable_decay":
        arguments["num_decay_steps"] = whole_steps(arguments["num_decay_steps"], steps)
    warmup = whole_steps(settings.lr_warmup_steps, steps)
    return get_scheduler(name, optimizer, warmup, steps, scheduler_specific_kwargs=arguments)


def relative_rate(done: int, warmup: bool) -> float:
    """Returns the rate that Adafactor finds itself for the step after `done` ones."""
    return min(1e-6 * (done + 1) if warmup else 1e-2, 1 / math.sqrt(done + 1))


def find(key: str, path: str, parent: type, refused: str) -> Any:
    """Returns the class at a dotted path.

    Args:
        key: of the job, for errors.
        path: "package.module.Class".
        parent: what it must be a kind of.
        refused: an argument of its `step` that nothing here could give.

    Raises:
        UserError: it cannot be imported, or is of another kind.
    """
    module_name, _, name = path.rpartition(".")
    where, what = f'[optimizer] {key} "{path}"', f"{parent.__module__}.{parent.__name__}"
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(
            f"{where}: {module_name} cannot be imported: {reason(error)}. Correct or install it."
        ) from error
    kind = getattr(module, name, None)
    if kind is None:
        near = difflib.get_close_matches(name, dir(module), n=1)
        hint = f" Did you mean {module_name}.{near[0]}?" if near else ""
        raise UserError(f"{where}: {module_name} has no {name}.{hint}")
    fits = inspect.isclass(kind) and issubclass(kind, parent)
    if not fits:
        raise UserError(f"{where}: expected a kind of {what}, got {kind!r}. Name another class.")
    argument = inspect.signature(kind.step).parameters.get(refused)
    if argument is not None and argument.default is argument.empty:
        raise UserError(f"{where}: its step needs a {refused}, which is not supported. Name another class.")
    return kind
