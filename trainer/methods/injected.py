"""HF PEFT's layers in the models: put in, drawn, swapped, read out, and taken out again."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from waveft_core import WaveFTError

from ..system import rng
from ..system.console import counted
from ..system.errors import UserError, reason
from . import package, targets
from .tensorfile import TensorProduct, load_layers
from .tuning import Host, Tuning

ADAPTER = "default"  # PEFT's name of the one adapter that there is
COMPONENT = re.compile(r"lora_(unet|te\d)_")


@dataclass
class Site:
    """A layer that trains, with PEFT's layer before it.

    Attributes:
        name: in the file.
        path: as patterns see it.
        shape: of the weight.
        component: the model that it is in.
        place: its path there.
        layer: PEFT's, whose `base_layer` is the model's own.
        parts: the trained tensors, by PEFT's names.
    """

    name: str
    path: str
    shape: tuple[int, ...]
    component: str
    place: str
    layer: Any
    parts: dict[str, nn.Parameter] = field(default_factory=dict)


class Recipe(Protocol):
    """A method, as far as its layers are concerned; `PeftMethod` says what each of these is."""

    NAME: ClassVar[str]
    CONFIG: ClassVar[str]
    MODEL: ClassVar[str]
    PARTS: ClassVar[Mapping[str, str]]
    CONVOLUTIONS: ClassVar[bool]
    network: Any

    def settings(self, host: Host) -> dict[str, Any]: ...
    def first(self, part: str, shape: Sequence[int], draw: torch.Generator) -> torch.Tensor: ...
    def begin(self, model: Any) -> None: ...
    def tuning(self, models: Sequence[Any], sites: Sequence[Site]) -> Injected: ...
    def shipped(self, site: Site) -> dict[str, torch.Tensor]: ...
    def shared(self, model: Any) -> dict[str, torch.Tensor]: ...
    def received(self, held: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]: ...
    def of_file(self, layers: Mapping[str, Mapping[str, torch.Tensor]]) -> Recipe: ...
    def kohya(self) -> dict[str, str]: ...


def attach(method: Recipe, host: Host) -> Injected:
    """Puts PEFT's layers into the models, with first values that depend on the seed and the layers' names alone.

    Raises:
        UserError: the package lacks, or PEFT does not know one of the layers or settings.
    """
    peft = package.load(method.NAME)
    begun: dict[str, dict[str, torch.Tensor]] = {}
    if source := method.network.begins_with:
        begun = load_layers(source)
        method = method.of_file(begun)
        chosen = targets.by_name(host.components, begun, source)
    else:
        chosen = targets.choose(host.components, method.network)
    if not method.CONVOLUTIONS and (wrong := [one.path for one in chosen if len(one.shape) != 2]):
        raise UserError(
            f"[network] targets: {method.NAME} trains linear layers, got the convolution {wrong[0]!r}. Leave it out."
        )
    models: list[Any] = []
    sites: list[Site] = []
    try:
        for component, model in host.components.items():
            here = [one for one in chosen if one.component == component]
            if here:
                models.append(inject(method, peft, model, here, host))
                sites += found(method, models[-1], here)
        for site in sites:
            fill(method, site, host.seed, begun.get(site.name))
        for model in models:
            method.begin(model)
    except BaseException:
        for model in models:
            eject(model)
        raise
    return method.tuning(models, sites)


def inject(method: Recipe, peft: Any, model: nn.Module, chosen: Sequence[targets.Chosen], host: Host) -> Any:
    """Returns PEFT's model around one of ours, which has PEFT's layers in it from now on."""
    bare = getattr(model, "_orig_mod", model)  # of torch.compile, which compiles anew what it finds changed
    paths = [one.place for one in chosen]
    try:
        config = getattr(peft, method.CONFIG)(target_modules=paths, **method.settings(host))
        with torch.random.fork_rng(devices=[]):  # PEFT draws first values from the global state, and ours replace them
            made = getattr(peft, method.MODEL)(bare, config, ADAPTER)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"[network] {method.NAME}: peft refuses it ({reason(error)}). Change targets or size."
        ) from error
    if hasattr(model, "_orig_mod"):
        torch.compiler.reset()
    return made


def found(method: Recipe, model: Any, chosen: Sequence[targets.Chosen]) -> list[Site]:
    """Returns where PEFT's layers are, their parts in float32."""
    sites = []
    for one in chosen:
        layer = model.model.get_submodule(one.place)
        if not hasattr(layer, "base_layer"):
            raise UserError(f"[network] targets: expected a layer that {method.NAME} knows, got {one.path!r}.")
        site = Site(one.name, one.path, one.shape, one.component, one.place, layer)
        for part in method.PARTS:
            held = getattr(layer, part)
            if ADAPTER in held:
                parameter = getattr(held[ADAPTER], "weight", held[ADAPTER])
                parameter.data = parameter.data.float()
                site.parts[part] = parameter
        sites.append(site)
    return sites


@torch.no_grad()
def fill(method: Recipe, site: Site, seed: int, begun: Mapping[str, torch.Tensor] | None) -> None:
    """Gives a layer's parts their first values: drawn on the CPU whatever trains, or those of a file."""
    draw = rng.generator(seed, f"first values of {site.name}")
    given = method.received(begun) if begun is not None else {}
    for part, parameter in site.parts.items():
        values = given[part].float() if part in given else method.first(part, parameter.shape, draw)
        if values.shape != parameter.shape:
            raise UserError(
                f"[network] network_weights, layer {site.name}: expected {list(parameter.shape)} numbers, got "
                f"{list(values.shape)}. The file was trained for another base, or with another key of [network]."
            )
        parameter.copy_(values)


def eject(model: Any) -> None:
    """Puts a model's own layers back in the place of PEFT's."""
    bare = model.model
    wrapped = [(path, layer) for path, layer in bare.named_modules() if hasattr(layer, "base_layer")]
    for path, layer in wrapped:
        bare.set_submodule(path, layer.base_layer)
    if hasattr(bare, "peft_config"):
        del bare.peft_config
    torch.compiler.reset()


class Injected(Tuning):
    """PEFT's layers, trained.

    Args:
        method: whose they are.
        models: PEFT's model of each component that has some.
        sites: the layers.
    """

    def __init__(self, method: Recipe, models: Sequence[Any], sites: Sequence[Site]) -> None:
        self.method, self.models, self.sites = method, list(models), list(sites)
        self.layers = {site.name: list(site.parts.values()) for site in sites}
        self.paths = {site.name: site.path for site in sites}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns the parts by layer and PEFT's name."""
        return {
            f"{site.name}.{part}": parameter.detach() for site in self.sites for part, parameter in site.parts.items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Takes the parts' values."""
        own = self.state_dict()
        shapes = {name: list(values.shape) for name, values in own.items()}
        if shapes != {name: list(values.shape) for name, values in state.items()}:
            odd = sorted(own.keys() ^ state.keys()) or [name for name in own if state[name].shape != own[name].shape]
            raise WaveFTError(
                f"state: expected the numbers of {counted(len(self), 'layer')}, got others at {', '.join(odd[:3])}."
            )
        for name, values in own.items():
            values.copy_(state[name])

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, only the models' own layers compute."""
        try:
            for site in self.sites:
                site.layer.enable_adapters(False)
            yield
        finally:
            for site in self.sites:
                site.layer.enable_adapters(True)

    def detach(self) -> None:
        """Takes PEFT's layers out."""
        for model in self.models:
            eject(model)
        self.models, self.sites, self.layers = [], [], {}

    def product(self) -> TensorProduct:
        """Returns the layers' tensors for the file."""
        held = {site.name: self.method.shipped(site) for site in self.sites}
        tensors = {f"{name}.{ending}": values for name, own in held.items() for ending, values in own.items()}
        shared = {
            f"{name}.{component}": values
            for component, model in self.components()
            for name, values in self.method.shared(model).items()
        }
        shapes = {site.name: site.shape for site in self.sites if held[site.name]}
        return TensorProduct(type(self.method), {**tensors, **shared}, shapes, self.method.kohya(), self.folders())  # type: ignore[arg-type]

    def components(self) -> Iterator[tuple[str, Any]]:
        """Yields each component that has layers, with PEFT's model around it."""
        return zip(dict.fromkeys(site.component for site in self.sites), self.models, strict=True)

    def folders(self) -> dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]:
        """Returns what HF PEFT's own folders hold, by component; none where UIs read the file."""
        return {}
