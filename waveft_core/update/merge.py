"""Merges an adapter into a model's weights or a state dict, in place, and takes it out again bit for bit."""

from __future__ import annotations

from collections.abc import Collection

from ..basis.plan import arithmetic_dtype
from ..basis.planning import make_plan
from ..format.adapter import Adapter, check_adapter
from .active import Update
from .ledger import Ledger, ledger_of, refuse_overflow
from .lock import LOCK, locked
from .spec import check_strength
from .storage import check_weight
from .targets import Models, StateDict, Target, resolve


class Merged:
    """An adapter that is in some weights. Drop it to keep the merge for good; `undo` takes it out.

    Attributes:
        layers: names of the merged layers.
    """

    def __init__(self, placed: list[tuple[Ledger, Update]], strength: float, scaling: float) -> None:
        self._placed = placed
        self._strength, self._scaling = strength, scaling
        self.layers = tuple(update.layer for _, update in placed)

    def __repr__(self) -> str:
        state = f"{len(self._placed)} layers, strength {self._strength:g}" if self._placed else "undone"
        return f"<Merged {state}>"

    @property
    def strength(self) -> float:
        """The dial: dW is multiplied by it. Setting it rewrites the touched entries; 0 gives W0's own bits."""
        return self._strength

    @strength.setter
    def strength(self, strength: float) -> None:
        check_strength(strength)
        with LOCK:
            before, self._strength = self._strength, strength
            written: list[Ledger] = []
            try:
                for ledger, update in self._placed:
                    update.factor = self._scaling * strength
                    ledger.write(look=True)
                    written.append(ledger)
                refuse_overflow(written)
            except BaseException:
                self._strength = before
                for _, update in self._placed:
                    update.factor = self._scaling * before
                for ledger in written:
                    ledger.write()
                raise

    @locked
    def undo(self) -> None:
        """Takes the adapter out; the last one out leaves W0 bit for bit. A second call does nothing.

        Raises:
            WaveFTError: something else wrote to one of the weights meanwhile; nothing is changed then.
        """
        undone: list[tuple[Ledger, Update, int]] = []
        try:
            for ledger, update in self._placed:
                place = ledger.updates.index(update)
                ledger.remove(update)  # looks at the weight first: one pass over memory that is far away
                undone.append((ledger, update, place))
        except BaseException:
            for ledger, update, place in undone:
                ledger.add(update, place)  # where it was: three updates summed in another order round otherwise
            raise
        self._placed = []


@locked
def merge(
    target: Models | StateDict, adapter: Adapter, strength: float = 1.0, leave_out: Collection[str] = ()
) -> Merged:
    """Writes W0 + strength * dW into the target's weights, whole or not at all.

    Threads may merge, dial and undo on one model at the same time: each call is whole before the next begins
    (`lock.py`). A forward that another thread runs meanwhile sees some layers before a change and some after it.

    Args:
        target: a model, a mapping of components (`{"unet": ..., "te1": ...}`), or a state dict whose weights are
            `<module path>.weight`.
        strength: the user's dial.
        leave_out: components of the adapter that are not applied, by name.

    Raises:
        WaveFTError: a strength that is no finite number, a layer that the target lacks or of another shape, a weight
            that cannot hold the update, or a merged weight that is not finite.
    """
    check_adapter(adapter)
    check_strength(strength)
    places = resolve(target, adapter, leave_out)
    for place in places:
        check_weight(place.weight, place.path)
    updates = [_update(place, adapter, strength) for place in places]  # all first: what they need stays in the cache
    placed: list[tuple[Ledger, Update]] = []
    try:
        for place, update in zip(places, updates, strict=True):
            ledger = ledger_of(place.weight, place.path)
            ledger.add(update)
            placed.append((ledger, update))
        refuse_overflow([ledger for ledger, _ in placed])
    except BaseException:
        for ledger, update in placed:
            ledger.remove(update)
        raise
    return Merged(placed, strength, adapter.scaling)


def _update(place: Target, adapter: Adapter, strength: float) -> Update:
    layer = adapter.layers[place.name]
    wide = arithmetic_dtype(place.weight.dtype)
    plan = make_plan(adapter.wavelet, adapter.mode, layer.shape, layer.indices, wide)
    return Update(place.name, plan, layer.values.to(place.weight.device), adapter.scaling * strength)
