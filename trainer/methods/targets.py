"""Which layers of the loaded models train, by the job's targets, include and exclude."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from waveft_core.format.keys import layer_names, unwrapped
from waveft_core.update.targets import Target, select

from ..base.layershapes import Layer, chosen
from ..base.models import Base
from ..job.networks import Network
from ..system.errors import UserError
from ..system.patterns import pattern

CLIP_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
UNET = "unet."


@dataclass(frozen=True)
class Chosen:
    """A layer that trains.

    Attributes:
        name: in the file.
        path: as patterns see it: the UNet's own, or with the text encoder's name before it.
        shape: of its weight.
        component: the model that it is in.
        place: its path there, wrappers' prefixes taken off.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    component: str
    place: str

    @property
    def layer(self) -> Layer:
        """The layer as a matrix, a convolution's kernel counted to its columns."""
        return Layer(self.path, self.shape[0], math.prod(self.shape[1:]))


def components(base: Base, network: Network) -> dict[str, nn.Module]:
    """Returns the models that are adapted: the UNet and, where asked, both text encoders."""
    found = {"unet": base.unet}
    if network.train_text_encoder:
        found |= {f"te{number + 1}": encoder for number, (_, encoder) in enumerate(base.text)}
    return found


def choose(models: Mapping[str, nn.Module], network: Network) -> list[Chosen]:
    """Returns the layers that the job's targets, include and exclude leave.

    Raises:
        UserError: none is left, or a pattern that finds none.
        WaveFTError: targets that match nothing, or layers that cannot be trained.
    """
    found = []
    for target in select(models, targets(network)):
        path = shown(target.path)
        if chosen(path, network):
            found.append(chosen_target(target))
    if not found:
        raise UserError("[network] include, exclude: expected to leave some of the targets' layers, got none.")
    check_patterns("[network] include", network.include, [layer.path for layer in found])
    return found


def by_name(models: Mapping[str, nn.Module], names: Collection[str], source: str) -> list[Chosen]:
    """Returns the layers of those names, in the models' own order: those of a file to start from.

    Raises:
        UserError: one that the models lack, or that cannot be trained.
    """
    found: dict[str, Target] = {}
    for component, model in models.items():
        modules = dict(model.named_modules())
        for place, name in layer_names(modules, component).items():
            module = modules[place]
            if name in names and isinstance(module, nn.Linear | nn.Conv2d):
                found[name] = Target(name, f"{component}.{place}", module, module.weight)
    if missing := sorted(set(names) - found.keys()):
        raise UserError(
            f'[network] network_weights "{source}": expected linear layers and convolutions of the base, got '
            f"{missing[0]} and {len(missing) - 1} more that it lacks. Name a file that was trained on such a base, and "
            "set train_text_encoder where it holds text encoders' layers."
        )
    return [chosen_target(target) for target in found.values()]


def chosen_target(target: Target) -> Chosen:
    """Returns what the core found."""
    component, _, place = target.path.partition(".")
    return Chosen(target.name, shown(target.path), target.shape, component, unwrapped(place))


def shown(path: str) -> str:
    """Returns a layer's path, its component before it, as patterns see it."""
    return unwrapped(path).removeprefix(UNET)


def targets(network: Network) -> tuple[str, ...] | str:
    """Returns the job's targets, with the text encoders' attention where they train too."""
    if isinstance(network.targets, str):
        clip = rf"|.*\.({'|'.join(CLIP_ATTENTION)})" if network.train_text_encoder else ""
        return f"(?:{network.targets}){clip}"
    return (*network.targets, *(CLIP_ATTENTION if network.train_text_encoder else ()))


def check_patterns(where: str, patterns: Sequence[str] | Mapping[str, object], paths: Sequence[str]) -> None:
    """Refuses a pattern that finds no layer: what it says would silently not happen."""
    for expression in patterns:
        if not any(pattern(expression).search(path) for path in paths):
            raise UserError(
                f"{where}: expected a regular expression that finds layers' paths, {expression!r} finds none. "
                f'A path looks like "{paths[len(paths) // 2]}".'
            )
