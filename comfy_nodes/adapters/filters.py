"""What the filter nodes carry: the core's multipliers one after another, and what they leave in an origin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core import GROUPS, Emptied, Multipliers, WaveFTError, compiled
from ..sockets import Carried, present

Emptied.__module__ = WaveFTError.__module__  # for ComfyUI's dialog


@dataclass(frozen=True)
class Filter(Multipliers):
    """The core's multipliers; `previous` is applied before them."""

    previous: Filter | None = None

    def left_of(self, carried: Carried) -> Carried:
        """Returns what is left of what a socket carries, the object itself where nothing changes.

        Raises:
            WaveFTError: as `apply`.
        """
        if self.previous is not None:
            carried = self.previous.left_of(carried)
        made = self.apply(carried.adapter, carried.title)
        if made is carried.adapter:
            return carried
        title = carried.title if "filtered" in carried.origin else f"{carried.title} (filtered)"
        return Carried(made, title, {"filtered": self.said(), "of": carried.origin})


def from_widgets(previous: Filter | None = None, **widgets: Any) -> Filter:
    """Returns the filter that the widgets of `widgets.multipliers` say."""
    factors = {id: float(widgets[id]) for id in GROUPS}
    only, without = (widgets[input].strip() for input in ("only_layers", "except_layers"))
    compiled(without, "except_layers")
    return Filter(factors, only, without, previous)


def kept(filter: Filter | None, adapter: Carried | None) -> Carried:
    """Returns what a filter leaves of a node's `adapter`, all of it without a filter.

    Raises:
        WaveFTError: no adapter came in, or what `Filter.left_of` raises.
    """
    present("adapter", adapter)
    assert adapter is not None
    return adapter if filter is None else filter.left_of(adapter)


def checked(input: str, text: str | None) -> bool | str:
    """Returns True, or what is wrong with a text as a regular expression; None is linked."""
    try:
        compiled((text or "").strip(), input)
    except WaveFTError as error:
        return str(error)
    return True
