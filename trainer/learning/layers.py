"""Which layers train, how many coefficients each has, where they lie, and at which rate they learn."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

import waveft_core
from waveft_core.basis.locations import draw
from waveft_core.format.keys import unwrapped
from waveft_core.update.targets import resolve, select

from ..base.models import Base
from ..job.schema import Network, Optimizer
from ..system.errors import UserError

CLIP_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
UNET = "unet."


@dataclass(frozen=True)
class Chosen:
    """A layer that trains: its name in the file, its path as patterns see it, its weight's shape, and its p."""

    name: str
    path: str
    shape: tuple[int, ...]
    coefficients: int


def models(base: Base, network: Network) -> dict[str, nn.Module]:
    """Returns the components that are adapted: the UNet and, where asked, both text encoders."""
    found = {"unet": base.unet}
    if network.train_text_encoder:
        found |= {f"te{number + 1}": encoder for number, (_, encoder) in enumerate(base.text)}
    return found


def choose(components: Mapping[str, nn.Module], network: Network) -> list[Chosen]:
    """Returns the layers that the job's targets, include and exclude leave, with the p that each gets.

    Raises:
        UserError: none is left, or a pattern that finds none.
        WaveFTError: targets that match nothing, or layers that cannot be trained.
    """
    found = []
    for target in select(components, targets(network)):
        path = unwrapped(target.path).removeprefix(UNET)
        kept = not network.include or any(re.search(pattern, path) for pattern in network.include)
        if kept and not any(re.search(pattern, path) for pattern in network.exclude):
            found.append(Chosen(target.name, path, target.shape, network.coefficients))
    if not found:
        raise UserError("[network] include, exclude: expected to leave some of the targets' layers, got none.")
    check_patterns("[network] coefficients_pattern", network.coefficients_pattern, found)
    check_patterns("[network] include", network.include, found)
    mean = sum(map(sides, found)) / len(found)
    return [Chosen(one.name, one.path, one.shape, count(one, network, mean)) for one in found]


def targets(network: Network) -> tuple[str, ...] | str:
    """Returns the job's targets, with the text encoders' attention where they train too."""
    if isinstance(network.targets, str):
        clip = rf"|.*\.({'|'.join(CLIP_ATTENTION)})" if network.train_text_encoder else ""
        return f"(?:{network.targets}){clip}"
    return (*network.targets, *(CLIP_ATTENTION if network.train_text_encoder else ()))


def sides(layer: Chosen) -> int:
    """Returns m + n of the layer's matrix, a convolution's kernel counted to n."""
    rows = layer.shape[0]
    return rows + torch.Size(layer.shape).numel() // rows


def count(layer: Chosen, network: Network, mean: float) -> int:
    """Returns the layer's p: its pattern's, or the job's own, spread as m + n where it says so."""
    for pattern, coefficients in network.coefficients_pattern.items():
        if re.search(pattern, layer.path):
            return coefficients
    if network.allocation == "proportional":
        return max(1, round(network.coefficients * sides(layer) / mean))
    return network.coefficients


def check_patterns(where: str, patterns: Sequence[str] | Mapping[str, object], layers: Sequence[Chosen]) -> None:
    """Refuses a pattern that finds no layer: what it says would silently not happen."""
    for pattern in patterns:
        if not any(re.search(pattern, layer.path) for layer in layers):
            example = layers[len(layers) // 2].path
            raise UserError(
                f"{where}: expected a regular expression that finds layers' paths, {pattern!r} finds none. "
                f'A path looks like "{example}".'
            )


def spec(network: Network, layers: Sequence[Chosen]) -> waveft_core.Spec:
    """Returns the core's description of exactly these layers."""
    paths = (re.sub(r"^te\d\.", "", layer.path) for layer in layers)
    settings = network.model_dump(include={"scaling", "wavelet", "mode", "locations"})
    return waveft_core.Spec(**settings, targets="|".join(dict.fromkeys(map(re.escape, paths))))


def zeros(network: Network, layers: Sequence[Chosen]) -> waveft_core.Adapter:
    """Returns an adapter of zeros at the positions that the job's seed draws; every p is checked."""
    kind, _, seed = network.locations.partition(":")
    locations = f"uniform:{seed}" if kind == "gradient" else network.locations  # the candidates' own
    made = {}
    for layer in layers:
        indices = draw(locations, layer.name, network.wavelet, network.mode, layer.shape, layer.coefficients)
        made[layer.name] = waveft_core.Layer(torch.zeros(layer.coefficients), indices, layer.shape)
    return waveft_core.Adapter(made, network.wavelet, network.mode, network.scaling, network.locations)


def by_gradient(
    components: Mapping[str, nn.Module],
    network: Network,
    layers: Sequence[Chosen],
    backward: Callable[[], None],
    reduce: Callable[[torch.Tensor], object],
) -> waveft_core.Adapter:
    """Returns an adapter of zeros where the gradient that `backward` makes is largest.

    Args:
        backward: runs the warm-up batches, `loss.backward()` for each.
        reduce: sums a tensor over the processes in place.
    """
    counts = {layer.name: layer.coefficients for layer in layers}
    with waveft_core.Probe(components, spec(network, layers), coefficients=counts) as probe:
        backward()
    found = probe.choose(reduce=reduce)
    held = {name: found.layers[name] for name in counts}  # both text encoders have layers of the same paths
    return waveft_core.Adapter(held, found.wavelet, found.mode, found.scaling, found.locations)


def groups(tuning: waveft_core.Tuning, paths: Mapping[str, str], settings: Optimizer) -> list[dict]:
    """Returns the optimizer's parameter groups, one for each learning rate that the job gives.

    Args:
        tuning: the attached coefficients.
        paths: layer name -> path as patterns see it.
        settings: the job's.

    Raises:
        UserError: a pattern that finds no layer.
    """
    shown = [Chosen(name, paths[name], (), 0) for name in tuning.names]
    check_patterns("[optimizer] learning_rate_pattern", settings.learning_rate_pattern, shown)
    by_rate: dict[float, list[nn.Parameter]] = {}
    for layer, parameter in zip(shown, tuning.parameters(), strict=True):
        by_rate.setdefault(rate(layer.path, settings), []).append(parameter)
    return [{"params": parameters, "lr": learning_rate} for learning_rate, parameters in by_rate.items()]


def rate(path: str, settings: Optimizer) -> float:
    """Returns the learning rate of the layer at that path."""
    for pattern, learning_rate in settings.learning_rate_pattern.items():
        if re.search(pattern, path):
            return learning_rate
    if settings.text_encoder_lr and re.match(r"te\d\.", path):
        return settings.text_encoder_lr
    return settings.learning_rate


def paths(components: Mapping[str, nn.Module], adapter: waveft_core.Adapter) -> dict[str, str]:
    """Returns layer name -> path, as patterns see it, for every layer of an adapter."""
    return {target.name: unwrapped(target.path).removeprefix(UNET) for target in resolve(components, adapter)}
