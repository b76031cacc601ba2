"""Coefficients that the core trains in the models' weights: where they lie, and their file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import waveft_core
from waveft_core.basis.locations import draw
from waveft_core.interop.diff import write_diff
from waveft_core.update.storage import lay_together
from waveft_core.update.targets import resolve

from ..base.layershapes import Layer
from ..job.networks import Shira, Waveft
from ..system.console import counted, say
from ..system.errors import UserError
from . import targets
from .targets import Chosen
from .tuning import Host, Product, Tuning, WarmUp

GRADIENT = "gradient"
WAVEFT = "waveft"  # what a file of the core's is called, of whichever method


def attach(
    network: Waveft | Shira,
    count: Callable[[Sequence[Layer]], list[int]],
    host: Host,
    saved: Mapping[str, Any],
    warm_up: WarmUp | None,
) -> Coefficients:
    """Puts the coefficients into the models' weights.

    Args:
        network: the job's section.
        count: gives each layer's p.
        host, saved, warm_up: as `Method.attach` takes them.
    """
    if network.network_weights:
        adapter = waveft_core.load(network.network_weights)
        if isinstance(network, Shira) and adapter.wavelet != network.wavelet:
            raise UserError(
                f'[network] network_weights "{network.network_weights}": expected entries of the weight itself '
                f'(SHiRA), got {adapter.wavelet}. Write method = "waveft".'
            )
    else:
        layers = targets.choose(host.components, network)
        patterns = network.coefficients_pattern
        targets.check_patterns("[network] coefficients_pattern", patterns, [layer.path for layer in layers])
        counts = dict(zip((one.name for one in layers), count([one.layer for one in layers]), strict=True))
        adapter = zeros(network, layers, counts)
        if "indices" in saved:
            adapter = moved(adapter, saved["indices"])
        elif network.locations.startswith(GRADIENT) and warm_up is not None:
            adapter = by_gradient(host.components, network, layers, counts, warm_up)
    found = resolve(host.components, adapter)
    if not host.beside:  # where starting a kernel for each weight would cost more than the writing
        lay_together(target.weight for target in found if target.weight.is_cuda)
    return Coefficients(
        waveft_core.attach(host.components, adapter, beside=host.beside),
        {target.name: targets.shown(target.path) for target in found},
        network.locations.startswith(GRADIENT),
    )


def zeros(network: Waveft | Shira, layers: Sequence[Chosen], counts: Mapping[str, int]) -> waveft_core.Adapter:
    """Returns an adapter of zeros at the positions that the job's seed draws; every p is checked."""
    kind, _, seed = network.locations.partition(":")
    locations = f"uniform:{seed}" if kind == GRADIENT else network.locations  # the candidates' own
    made = {}
    for layer in layers:
        count = counts[layer.name]
        indices = draw(locations, layer.name, network.wavelet, network.mode, layer.shape, count)
        made[layer.name] = waveft_core.Layer(torch.zeros(count), indices, layer.shape)
    return waveft_core.Adapter(made, network.wavelet, network.mode, network.scaling, network.locations)


def moved(adapter: waveft_core.Adapter, indices: Mapping[str, torch.Tensor]) -> waveft_core.Adapter:
    """Returns zeros like the adapter's at other positions: those that a saved run chose."""
    layers = {
        name: waveft_core.Layer(torch.zeros(len(held)), held, adapter.layers[name].shape)
        for name, held in indices.items()
    }
    return waveft_core.Adapter(layers, adapter.wavelet, adapter.mode, adapter.scaling, adapter.locations)


def by_gradient(
    components: Mapping[str, nn.Module],
    network: Waveft | Shira,
    layers: Sequence[Chosen],
    counts: Mapping[str, int],
    warm_up: WarmUp,
) -> waveft_core.Adapter:
    """Returns an adapter of zeros where the gradient of the warm-up's batches is largest."""
    say(f"placing the coefficients by the gradient of {counted(network.location_batches, 'batch')}")
    with waveft_core.Probe(components, spec(network, layers), coefficients=counts) as probe:
        warm_up.backward(network.location_batches)
    found = probe.choose(reduce=warm_up.sum_)
    held = {name: found.layers[name] for name in counts}  # both text encoders have layers of the same paths
    return waveft_core.Adapter(held, found.wavelet, found.mode, found.scaling, found.locations)


def spec(network: Waveft | Shira, layers: Sequence[Chosen]) -> waveft_core.Spec:
    """Returns the core's description of exactly these layers."""
    paths = (re.sub(r"^te\d\.", "", layer.path) for layer in layers)
    return waveft_core.Spec(
        scaling=network.scaling,
        wavelet=network.wavelet,
        mode=network.mode,
        locations=network.locations,
        targets="|".join(dict.fromkeys(map(re.escape, paths))),
    )


class Coefficients(Tuning):
    """The core's tuning, as the trainer knows one.

    Args:
        held: what the core attached.
        paths: layer name -> path as patterns see it.
        placed: whether the positions follow from the base's gradient, so that a seed does not give them again.
    """

    def __init__(self, held: waveft_core.Tuning, paths: dict[str, str], placed: bool) -> None:
        self.held, self.paths, self._placed = held, paths, placed
        self.layers = {name: [one] for name, one in zip(held.names, held.parameters(), strict=True)}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns the coefficients by layer."""
        return self.held.state_dict()

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes the coefficients and writes the weights."""
        self.held.load_state_dict(state)

    def memory(self) -> dict[str, Any]:
        """Returns the positions, where no seed gives them again."""
        if not self._placed:
            return {}
        return {"indices": {name: layer.indices for name, layer in self.held.adapter().layers.items()}}

    def _fill(self, values: Sequence[torch.Tensor]) -> None:
        """Takes other coefficients and writes the weights."""
        self.held.load_state_dict(dict(zip(self.layers, values, strict=True)))

    def disabled(self) -> AbstractContextManager[None]:
        """Returns a context in which the weights are the base's own."""
        return self.held.disabled()

    def detach(self) -> None:
        """Takes the update out of the weights."""
        self.held.detach()

    def product(self) -> AdapterProduct:
        """Returns the adapter as it is now."""
        return AdapterProduct(self.held.adapter())


class AdapterProduct(Product):
    """An adapter of the core's, in the file that docs/format.md describes."""

    def __init__(self, adapter: waveft_core.Adapter) -> None:
        self.adapter, self.layers = adapter, len(adapter.layers)
        self.kohya = {"network_module": WAVEFT}
        counts = [layer.values.numel() for layer in adapter.layers.values()]
        told = {
            "wavelet": adapter.wavelet,
            "mode": adapter.mode,
            "scaling": f"{adapter.scaling:g}",
            "locations": adapter.locations or "",
            "layers": len(counts),
            "coefficients": counts[0] if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}",
            "coefficients_in_all": sum(counts),
        }
        self.told = {key: str(value) for key, value in told.items()}

    def save(self, path: Path, dtype: torch.dtype, metadata: Mapping[str, str] | None = None) -> None:
        """Writes the adapter."""
        waveft_core.save(self.adapter, path, metadata=metadata, dtype=dtype)

    def is_in(self, path: Path, dtype: torch.dtype) -> bool:
        """Returns whether the file holds the same header, and the same values, positions and shapes."""
        adapter, found = self.adapter, waveft_core.load(path)
        return (
            found.header == adapter.header
            and found.layers.keys() == adapter.layers.keys()
            and all(
                torch.equal(found.layers[name].values, layer.values.to(dtype).cpu())
                and torch.equal(found.layers[name].indices, layer.indices.cpu())
                and tuple(found.layers[name].shape) == tuple(layer.shape)
                for name, layer in adapter.layers.items()
            )
        )

    def save_diff(self, path: Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
        """Writes dense differences."""
        write_diff(self.adapter, path, dtype, metadata=metadata)
