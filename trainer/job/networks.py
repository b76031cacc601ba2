"""The methods that a job can name: whose keys its [network] has, and what of it another method understands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag

from .network import FIRST, Bitfit, Network, Shira, Waveft
from .peftnetworks import Adalora, Fourierft, Loha, Lokr, Lora, Vera

METHODS: dict[str, type[Network]] = {
    "waveft": Waveft, "shira": Shira, "lora": Lora, "loha": Loha, "lokr": Lokr, "adalora": Adalora, "vera": Vera,
    "fourierft": Fourierft, "bitfit": Bitfit,
}  # fmt: skip


def method_of(value: Any) -> str | None:
    """Returns which method's keys a table has, None for what is no table."""
    if isinstance(value, Network):
        return value.method
    if not isinstance(value, Mapping):
        return None
    name = value.get("method", FIRST)
    return name.lower() if isinstance(name, str) else repr(name)


AnyNetwork = Annotated[
    Annotated[Waveft, Tag("waveft")]
    | Annotated[Shira, Tag("shira")]
    | Annotated[Lora, Tag("lora")]
    | Annotated[Loha, Tag("loha")]
    | Annotated[Lokr, Tag("lokr")]
    | Annotated[Adalora, Tag("adalora")]
    | Annotated[Vera, Tag("vera")]
    | Annotated[Fourierft, Tag("fourierft")]
    | Annotated[Bitfit, Tag("bitfit")],
    Discriminator(method_of),
]


def owners(key: str) -> list[str]:
    """Returns the methods that have the key."""
    return [name for name, model in METHODS.items() if key in model.model_fields]


def with_method(table: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Returns a job's [network] for another method: what both understand alike stays, what is the old one's own goes.

    Keys of one name may mean another thing: a `scaling` of WaveFT's is none of FourierFT's. So that only what the two
    have from a common table is carried over, and no file to start from; nor are weights' targets those of biases, which
    many of these layers lack.
    """
    old, new = (METHODS.get(str(name).lower(), Network) for name in (table.get("method", FIRST), method))
    if new is old:
        return {**table, "method": method}
    common: Any = next(kind for kind in new.__mro__ if issubclass(old, kind))
    others = {"network_weights"} | ({"targets"} if Bitfit in (old, new) else set())
    kept = {key: value for key, value in table.items() if key in common.model_fields and key not in others}
    return {**kept, "method": method}
