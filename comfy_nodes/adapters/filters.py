"""What the filter nodes carry: the core's multipliers one after another, and what they leave in an origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core import GROUPS, Emptied, Multipliers, WaveFTError, compiled
from ..sockets import Carried, present

Emptied.__module__ = WaveFTError.__module__  # for ComfyUI's dialog


@dataclass(frozen=True)
class Filter:
    """Factors by group; `previous` is applied before it.

    Attributes:
        factors: by id of `GROUPS`; one that is missing is 1.
        only, without: regular expressions, searched for in layer names; "" for none.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    only: str = ""
    without: str = ""
    previous: Filter | None = None

    def apply(self, carried: Carried) -> Carried:
        """Returns what is left of an adapter, the object itself where nothing changes.

        Raises:
            Emptied: nothing is left.
            WaveFTError: a regular expression that is none, or sub-bands of an adapter that has none.
        """
        if self.previous is not None:
            carried = self.previous.apply(carried)
        made = self._multipliers.apply(carried.adapter, carried.title)
        if made is carried.adapter:
            return carried
        title = carried.title if "filtered" in carried.origin else f"{carried.title} (filtered)"
        return Carried(made, title, {"filtered": self.said(), "of": carried.origin})

    def said(self) -> dict[str, Any]:
        """Returns what differs from leaving all as it is; JSON."""
        return self._multipliers.said()

    @property
    def _multipliers(self) -> Multipliers:
        return Multipliers(self.factors, self.only, self.without)


def from_widgets(previous: Filter | None = None, **widgets: Any) -> Filter:
    """Returns the filter that the widgets of `widgets.multipliers` say."""
    factors = {id: float(widgets[id]) for id in GROUPS}
    only, without = (widgets[input].strip() for input in ("only_layers", "except_layers"))
    compiled(without, "except_layers")
    return Filter(factors, only, without, previous)


def kept(filter: Filter | None, adapter: Carried | None) -> Carried:
    """Returns what a filter leaves of a node's `adapter`, all of it without a filter.

    Raises:
        WaveFTError: no adapter came in, or what `Filter.apply` raises.
    """
    present("adapter", adapter)
    assert adapter is not None
    return adapter if filter is None else filter.apply(adapter)


def checked(input: str, text: str | None) -> bool | str:
    """Returns True, or what is wrong with a text as a regular expression; None is linked."""
    try:
        compiled((text or "").strip(), input)
    except WaveFTError as error:
        return str(error)
    return True
