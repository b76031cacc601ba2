"""The methods that there are."""

from __future__ import annotations

from collections.abc import Iterable

from ..job.networks import Network
from .adalora import AdaloraMethod
from .bitfit import BitfitMethod
from .fourierft import FourierftMethod
from .loha import LohaMethod
from .lokr import LokrMethod
from .lora import LoraMethod
from .method import Method
from .shira import ShiraMethod
from .vera import VeraMethod
from .waveft import WaveftMethod

KINDS: tuple[type[Method], ...] = (
    WaveftMethod, ShiraMethod, LoraMethod, LohaMethod, LokrMethod, AdaloraMethod, VeraMethod, FourierftMethod,
    BitfitMethod,
)  # fmt: skip
BY_NAME = {kind.NAME: kind for kind in KINDS}


def of(network: Network) -> Method:
    """Returns the method of a job with its settings."""
    return BY_NAME[network.method](network)


def of_tensors(names: Iterable[str]) -> type[Method] | None:
    """Returns the method whose file has tensors of those names, None where it is nobody's; an AdaLoRA is a LoRA."""
    names = list(names)
    return next((kind for kind in KINDS if any(name.endswith(kind.TRAINED) for name in names)), None)
