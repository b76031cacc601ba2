"""Puts trainable coefficients into a model's layers: all refusals first, then the changes, or none of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..basis.locations import draw
from ..basis.plan import Plan, arithmetic_dtype
from ..basis.planning import make_plan
from ..errors import WaveFTError
from ..format.adapter import Adapter, check_adapter
from ..versions import check_torch_trains
from .active import Update
from .beside import Beside
from .coefficients import Coefficients, InWeight
from .gradient import Sampler
from .ledger import ledger_of, refuse_overflow
from .lock import LOCK, locked
from .spec import Spec, check_strength
from .storage import can_hold, check_weight
from .targets import Models, Target, check_trainable, parts, resolve, select
from .tuning import Tuning

NAME = "waveft"


def attach(
    models: Models, spec: Spec | Adapter, name: str | None = None, beside: bool = False, strength: float = 1.0
) -> Tuning:
    """Puts trainable coefficients into the models' layers and returns them.

    Threads may attach, detach, dial and step on one model at the same time: each call is whole before the next begins
    (`lock.py`). Hooks come and go with it, so that no other thread may run the model just then: PyTorch refuses.

    Args:
        models: one model, or a mapping of components such as `{"unet": ..., "te1": ..., "te2": ...}`.
        spec: what to train, from zero; or an adapter to go on from.
        name: of the tuning, where several are attached to one model; by default `waveft`, `waveft_2`, ...
        beside: run every layer's update beside its weight, as for quantised layers, and write to none.
        strength: the tuning's, from the start.

    Raises:
        WaveFTError: no layer matched, a layer that cannot be trained, more coefficients than a layer's C has entries,
            a name that is taken, or a torch that is too old to train.
    """
    check_torch_trains()
    if torch.is_inference_mode_enabled():
        raise WaveFTError(
            "attach: expected to be called outside torch.inference_mode, where no parameter can train, got a call "
            "within it. Leave it first, or merge the adapter."
        )
    check_strength(strength)
    with LOCK:
        tuning = _attached(models, spec, name, beside, strength)
        compiled = [model for model in parts(models).values() if hasattr(model, "_orig_mod")]
        for model in compiled:  # its graph cannot look at the values, its entrance can
            tuning.watch(model)
    if compiled:
        torch.compiler.reset()  # graphs that were made before know nothing of the hooks
    return tuning


def _attached(models: Models, spec: Spec | Adapter, name: str | None, beside: bool, strength: float) -> Tuning:
    """Returns the tuning of the models' layers, all of them changed or none."""
    if isinstance(spec, Spec):
        targets = select(models, spec.targets)
    else:
        check_adapter(spec)
        targets = resolve(models, spec)
        check_trainable(targets, models)
    name = _free_name(models, targets, name)
    held = [not beside and can_hold(target.weight) for target in targets]
    for target, holds in zip(targets, held, strict=True):
        if can_hold(target.weight):  # beside it too: a ledger keeps its flag
            check_weight(target.weight, target.path)
        if not holds:
            _check_beside(target)
    drawn = [_start(target, spec) for target in targets]  # every refusal comes before the first change
    plans = [  # all before the weights are asked for: what they need stays in the cache
        make_plan(spec.wavelet, spec.mode, target.shape, indices, values.dtype) if holds else None
        for target, holds, (values, indices) in zip(targets, held, drawn, strict=True)
    ]
    layers: list[tuple[Target, Coefficients]] = []
    try:
        for target, start, plan in zip(targets, drawn, plans, strict=True):
            layers.append((target, _install(target, *start, spec, plan, strength)))
        refuse_overflow(layer.ledger for _, layer in layers if isinstance(layer, InWeight))
    except BaseException:
        for _, layer in layers:
            if isinstance(layer, InWeight):
                layer.ledger.remove(layer.update)
        raise
    _lay_values_together([layer for _, layer in layers if isinstance(layer, InWeight)])
    return Tuning(name, layers, spec, strength)


def _lay_values_together(layers: Sequence[InWeight]) -> None:
    """Puts the layers' values one behind the other in memory, where they are read as one; each stays a parameter."""
    groups: dict[tuple[torch.device, torch.dtype], list[InWeight]] = {}
    for layer in layers:
        groups.setdefault((layer.values.device, layer.values.dtype), []).append(layer)
    for group in groups.values():
        together = torch.cat([layer.values.detach() for layer in group])
        for layer, part in zip(group, torch.split(together, [layer.values.numel() for layer in group]), strict=True):
            layer.values.data = part  # each with a version of its own
            layer.saw()


@locked
def attached(models: Models) -> dict[str, Tuning]:
    """Returns what is attached to the models, by name, in the order of attaching."""
    found: dict[str, Tuning] = {}
    for model in parts(models).values():
        for module in model.modules():
            if isinstance(module, Coefficients) and isinstance(module.owner, Tuning):
                found[module.owner.name] = module.owner
    return found


def _free_name(models: Models, targets: Sequence[Target], name: str | None) -> str:
    """Returns the name of a new tuning, which is also that of its module below each layer."""
    taken = attached(models)

    def free(name: str) -> bool:
        return name not in taken and not any(hasattr(target.module, name) for target in targets)

    if name is None:
        return next(filter(free, itertools.chain([NAME], (f"{NAME}_{k}" for k in itertools.count(2)))))
    if not name.isidentifier() or not free(name):
        raise WaveFTError(
            f"name: expected a Python identifier that the layers do not have, got {name!r}. Choose another, or detach "
            "the tuning of that name."
        )
    return name


def _check_beside(target: Target) -> None:
    """Refuses a layer whose update cannot run beside its weight."""
    if target.weight.is_meta:
        check_weight(target.weight, target.path)
    kind = type(target.weight).__name__
    if not isinstance(target.module, nn.Linear) or kind in ("DTensor", "UninitializedParameter"):
        got = f"{type(target.module).__name__} with {kind} of {str(target.weight.dtype).removeprefix('torch.')}"
        raise WaveFTError(
            f'layer "{target.path}": expected a linear layer with a whole weight, got {got}. Load the model '
            "unquantised and unsharded, or leave the layer out."
        )


def _start(target: Target, spec: Spec | Adapter) -> tuple[Tensor, Tensor]:
    """Returns a layer's first values [p] and its indices [p] int32, on the weight's device."""
    weight = target.weight
    wide = arithmetic_dtype(weight.dtype)
    if isinstance(spec, Adapter):
        held = spec.layers[target.name]
        return held.values.to(weight.device, wide, copy=True), held.indices
    indices = draw(spec.locations, target.name, spec.wavelet, spec.mode, target.shape, spec.coefficients)
    return torch.zeros(spec.coefficients, dtype=wide, device=weight.device), indices


def _install(
    target: Target, values: Tensor, indices: Tensor, spec: Spec | Adapter, plan: Plan | None, strength: float
) -> Coefficients:
    factor = spec.scaling * strength
    sampler = Sampler(spec.wavelet, spec.mode, target.shape, indices, factor, target.convolution)
    if plan is None:
        return Beside(target.path, values, sampler)
    update = Update(target.path, plan, values, factor)
    ledger = ledger_of(target.weight, target.path)
    layer = InWeight(target.path, values, sampler, update, ledger)
    ledger.add(update)  # last: nothing may fail once the weight is changed
    return layer
