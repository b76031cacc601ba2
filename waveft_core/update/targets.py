"""Finds the layers: those that a spec's targets match, and those that an adapter's names mean."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..errors import Refusal, WaveFTError, listed, nearest
from ..format.adapter import Adapter
from ..format.keys import layer_names, unwrapped
from ..pattern import compile_pattern
from .coefficients import NO_DATA_PARALLEL, Coefficients
from .storage import can_hold

Models: TypeAlias = nn.Module | Mapping[str, nn.Module]
StateDict: TypeAlias = Mapping[str, Tensor]
TRAINABLE = (nn.Linear, nn.Conv2d)


@dataclass(frozen=True)
class Target:
    """A place for an update: the layer's name in the file, its path, its module (None in a state dict), its weight."""

    name: str
    path: str
    module: nn.Module | None
    weight: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's own shape, whatever a quantised one is stored as."""
        if isinstance(self.module, nn.Linear) and not can_hold(self.weight):
            return self.module.out_features, self.module.in_features
        return tuple(self.weight.shape)

    @property
    def convolution(self) -> nn.Conv2d | None:
        """The module, where it is a convolution."""
        return self.module if isinstance(self.module, nn.Conv2d) else None


def parts(models: Models) -> Mapping[str | None, nn.Module]:
    """Returns the components of `models`; a model on its own is the component None.

    Raises:
        WaveFTError: something else than models.
    """
    if isinstance(models, nn.Module):
        return {None: models}
    wrong = [type(model).__name__ for model in models.values() if not isinstance(model, nn.Module)]
    if wrong or not models:
        got = listed(wrong) or "an empty mapping"
        raise WaveFTError(f"models: expected a model, a mapping of models, or a state dict, got {got}.")
    return {component: model for component, model in models.items()}  # noqa: C416 - mypy: the key's type is wider here


def select(models: Models, targets: tuple[str, ...] | str) -> list[Target]:
    """Returns the linear layers that `targets` match, in the models' own order.

    Args:
        targets: path suffixes matched at a component's boundary, or one regular expression for the whole path.

    Raises:
        WaveFTError: nothing matched in one of the models (naming the nearest paths), or a match that cannot be trained.
    """
    selected: list[Target] = []
    for component, model in parts(models).items():
        modules = {path: held for path, held in model.named_modules() if not isinstance(held, Coefficients)}
        matched = [path for path in modules if _matches(unwrapped(path), targets)]
        linear = [path for path, module in modules.items() if isinstance(module, TRAINABLE)]
        if not matched:
            wanted = [targets] if isinstance(targets, str) else targets
            close = dict.fromkeys(name for suffix in wanted for name in nearest(suffix, linear))
            of = f' of "{component}"' if component else ""
            raise WaveFTError(
                f"targets {targets!r}: expected to match linear or convolution layers{of}, got none. "
                f"Nearest names: {listed(close)}."
            )
        names = layer_names(modules, component)
        shared = _shared(names)
        for path in matched:
            target = _target(component, path, names[path], modules[path])
            if names[path] in shared:
                raise WaveFTError(
                    f'layer "{path}": expected a name of its own in the file, got one with '
                    f"{listed(shared[names[path]])}. Leave it out of the targets."
                )
            selected.append(target)
    check_trainable(selected, models)
    for target in selected:
        _check_held(target)
    _check_unshared(selected, list(_places(models)))
    return selected


def resolve(target: Models | StateDict, adapter: Adapter, leave_out: Collection[str] = ()) -> list[Target]:
    """Returns where each of the adapter's layers belongs, in the adapter's order.

    Args:
        leave_out: components whose layers are not applied, e.g. `{"te1", "te2"}`.

    Raises:
        WaveFTError: a layer that the target lacks, a name that fits two, or a weight of another shape.
    """
    fail = Refusal(adapter.source)
    leave_out = {leave_out} if isinstance(leave_out, str) else set(leave_out)
    omitted = tuple(f"lora_{component}_" for component in leave_out)
    wanted = [name for name in adapter.layers if not name.startswith(omitted)] if omitted else list(adapter.layers)
    if not wanted:
        raise fail(None, "layers", "some to apply", f"only those left out ({listed(leave_out)})", "Leave out less.")
    found: dict[str, list[Target]] = {}
    places = list(_places(target))
    for place in places:
        found.setdefault(place.name, []).append(place)
    missing = [name for name in wanted if name not in found]
    if missing:
        trained = (
            adapter.metadata.get("modelspec.architecture") or adapter.metadata.get("ss_base_model_version") or "unknown"
        )
        apart = sorted({part[1] for name in missing if (part := re.match(r"lora_(unet|te\d)_", name))})
        give = f", or give every component that it holds (here {', '.join(apart)}), or name those to leave out"
        raise fail(
            None,
            f"{len(missing)} of {len(wanted)} layers",
            "layers that the target model has",
            f"none of the names {listed(missing)}",
            f"The file was trained for: {trained}. Apply it to that model{give if apart else ''}.",
        )
    chosen = []
    for name in wanted:
        if len(found[name]) > 1:
            fits = listed(place.path for place in found[name])
            raise fail(name, "name", "one module of that name", fits, "Rename one of them in the model.")
        place = found[name][0]
        if place.shape != adapter.layers[name].shape:
            expected, got = list(adapter.layers[name].shape), list(place.shape)
            raise fail(name, f'weight of "{place.path}"', expected, got, "The file was trained for another model.")
        _check_held(place)
        chosen.append(place)
    _check_unshared(chosen, places)
    return chosen


def _places(target: Models | StateDict) -> Iterator[Target]:
    """Yields every weight that a layer's name could mean."""
    if isinstance(target, Mapping) and any(isinstance(value, Tensor) for value in target.values()):
        weights = {key.removesuffix(".weight"): value for key, value in target.items() if key.endswith(".weight")}
        for path, name in layer_names(weights).items():
            held = weights[path]
            assert isinstance(held, Tensor)
            yield Target(name, path, None, held)
        return
    for component, model in parts(target).items():  # type: ignore[arg-type]
        modules = dict(model.named_modules())
        for path, name in layer_names(modules, component).items():
            if isinstance(getattr(modules[path], "weight", None), Tensor):
                yield _target(component, path, name, modules[path])


def _target(component: str | None, path: str, name: str, module: nn.Module) -> Target:
    weight = getattr(module, "weight", None)
    held = weight if isinstance(weight, Tensor) else torch.empty(0)  # a container is refused by what it is
    return Target(name, f"{component}.{path}" if component else path, module, held)


def _matches(path: str, targets: tuple[str, ...] | str) -> bool:
    if isinstance(targets, str):
        return compile_pattern(targets, "targets").fullmatch(path)
    return any(path == suffix or path.endswith(f".{suffix}") for suffix in targets)


def _shared(names: Mapping[str, str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for path, name in names.items():
        grouped.setdefault(name, []).append(path)
    return {name: paths for name, paths in grouped.items() if len(paths) > 1}


def check_trainable(targets: list[Target], models: Models) -> None:
    """Refuses layers whose coefficients would get no gradient.

    Raises:
        WaveFTError: a layer that is no `nn.Linear` or `nn.Conv2d`, one that `nn.MultiheadAttention` uses without its
            forward, or a model within `nn.DataParallel`.
    """
    modules = list(_modules(models))
    if any(isinstance(module, nn.DataParallel) for module in modules):
        raise WaveFTError(f"models: {NO_DATA_PARALLEL}")
    unrun = {id(held.out_proj) for held in modules if isinstance(held, nn.MultiheadAttention)}
    for target in targets:
        if not isinstance(target.module, TRAINABLE):
            got = type(target.module).__name__
            raise WaveFTError(
                f'layer "{target.path}": expected nn.Linear or nn.Conv2d, got {got}. Leave it out of what is trained.'
            )
        if id(target.module) in unrun:
            raise WaveFTError(
                f'layer "{target.path}": expected a layer whose forward runs, got the out_proj of '
                "nn.MultiheadAttention, which uses the weight without it. Leave it out of what is trained."
            )


def _modules(models: Models) -> Iterator[nn.Module]:
    for model in parts(models).values():
        yield from model.modules()


def _check_held(place: Target) -> None:
    """Refuses a weight that the module computes anew for each forward: what is written to it would be lost."""
    if place.module is not None and place.module._parameters.get("weight") is not place.weight:
        raise WaveFTError(
            f'layer "{place.path}": expected a weight of its own, got one computed from others (a parametrization, or '
            "weight norm). Make it a plain weight first (parametrize.remove_parametrizations), or leave the layer out."
        )


def _memory_of(weight: Tensor) -> int:
    """Returns a number that two weights have in common where they share memory."""
    return weight.data_ptr() if can_hold(weight) else id(weight)


def _check_unshared(chosen: list[Target], places: list[Target]) -> None:
    """Refuses a weight that another layer uses too: an update meant for one would change both."""
    users: dict[int, list[str]] = {}
    for place in places:
        if not place.weight.is_meta:
            users.setdefault(_memory_of(place.weight), []).append(place.path)
    for target in reversed(chosen):  # of two targets, the later one is named
        others = [path for path in users.get(_memory_of(target.weight), []) if path != target.path]
        if others and target.weight.numel():
            raise WaveFTError(
                f'layer "{target.path}": expected a weight of its own, got the one of {listed(others)}. '
                "Untie them, or leave the layer out."
            )
