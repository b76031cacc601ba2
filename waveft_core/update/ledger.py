"""One ledger per weight: W0's original bits at the touched entries, and the updates that are active there.

    entry = round(W0 + sum over active updates of factor * IDWT(C))      factor = scaling * strength

in float32 (float64 on float64), rounded once to the weight's dtype.  Every attach, merge, change of strength, detach
and undo, in any order, goes through here and rewrites the touched entries from their originals; when the last update
leaves, W0 is back bit for bit.  Whoever changes a ledger holds `lock.LOCK`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..basis.places import Places, same_bits
from ..basis.plan import arithmetic_dtype
from ..errors import WaveFTError
from . import storage
from .active import Active, Update
from .lock import LOCK, locked


class Ledger:
    """The touched entries of one weight. Found by `ledger_of`; lives as long as someone holds it.

    Attributes:
        weight, layer: the tensor, and its layer's name for messages.
        originals: [E] in the weight's dtype, W0's.
    """

    def __init__(self, weight: Tensor, layer: str) -> None:
        self.weight = weight
        self.layer = layer
        self._active = Active([], [], weight.device)
        self.originals = torch.empty(0, dtype=weight.dtype, device=weight.device)
        self._written: Tensor | None = self.originals  # None where it is made anew, of what it was made of:
        self._written_of: list[tuple[Tensor, float]] = []
        self._finite: bool | None = None  # not yet known
        self._behind = False  # the weight was cast, and not yet written in its new dtype
        self._frozen_by, self._required_grad = 0, False
        self._seen: tuple[Any, ...] = ()
        self._where: tuple[Any, ...] = ()
        self.mark()

    @property
    def updates(self) -> list[Update]:
        """In the order in which they are summed."""
        return self._active.updates

    @property
    def places(self) -> Places:
        """Which entries are touched, E of them."""
        return self._active.places

    @property
    def written(self) -> Tensor:
        """What was last written there, [E] in the weight's dtype of that time.

        Where plans are sweeps it is not kept but made once more of W0's bits and the values of that time: the same
        arithmetic in the same order, so the same bits.
        """
        return self._active.content(self.originals, self._written_of) if self._written is None else self._written

    def add(self, update: Update, place: int | None = None) -> None:
        """Makes `update` active, the last of the updates or at `place` among them."""
        updates = list(self.updates)
        updates.insert(len(updates) if place is None else place, update)
        self._regroup(updates)

    def remove(self, update: Update) -> None:
        """Takes `update` out; the last one out leaves W0."""
        self._regroup([other for other in self.updates if other is not update])

    def write(self, look: bool = False) -> None:
        """Rewrites the touched entries from their originals and the active updates.

        Waits for the device only to look, or where the weight was cast, moved or written to since.

        Args:
            look: whether what was last written stands there, also where nothing seems to have changed.

        Raises:
            WaveFTError: as `follow`; nothing is written then.
        """
        if storage.fingerprint(self.weight) != self._seen:
            self.follow()
        if self.updates:
            self.put(self.planned(), look)

    def planned(self) -> Tensor:
        """Returns what `write` would put at the touched entries, [E] in the weight's dtype."""
        return self._active.content(self.originals, [(update.values, update.factor) for update in self.updates])

    def finite(self) -> bool:
        """Returns whether every entry that was last written is; waits for the device."""
        if self._finite is None:
            self._finite = _finite(self.written)
        return self._finite

    def changed(self) -> bool:
        """Returns whether the weight was cast, moved or written by someone else since it was last written here."""
        return self._behind or storage.fingerprint(self.weight) != self._seen

    def follow(self) -> None:
        """Moves with a weight that was cast or sent to another device; refuses one whose content someone else wrote.

        Compares the touched entries whatever the version counter says, since writes through `.data` leave it alone:
        this waits for the device.

        Raises:
            WaveFTError: the touched entries are not those that were last written.
        """
        cast = storage.fingerprint(self.weight) != self._seen
        device, dtype = self.weight.device, self.weight.dtype
        storage.check_weight(self.weight, self.layer)
        expected = self.written.to(device, dtype)
        if cast:
            self._active = self._active.to(device, dtype)
        if self.updates and not same_bits(self.places.read(self.weight), expected):
            raise self._foreign()
        if cast:
            self._behind |= dtype != self.originals.dtype  # the same bits elsewhere need no rewriting
            self.originals, self._written = self.originals.to(device, dtype), expected
            self.mark()

    def behind(self) -> bool:
        """Returns whether the weight was cast since it was last written; follows one that somebody else moved.

        Raises:
            WaveFTError: as `follow`.
        """
        if storage.fingerprint(self.weight) != self._seen:
            self.follow()
        return self._behind

    def take(self, weight: Tensor) -> None:
        """Goes over to `weight`, which has come in the place of its own, where it holds what was last written.

        Raises:
            WaveFTError: as `follow`.
        """
        if weight is self.weight:
            return
        if weight.shape != self.weight.shape:
            raise WaveFTError(
                f'layer "{self.layer}": expected a weight of {list(self.weight.shape)}, got one of '
                f"{list(weight.shape)} in its place. Put the attached weight back, then detach."
            )
        own, self.weight = self.weight, weight
        try:
            self.follow()
        except BaseException:
            self.weight = own
            raise
        _BY_TENSOR.pop(id(own), None)  # nobody holds it any more: its id may be used again
        _BY_TENSOR[id(weight)] = self
        if self._frozen_by:
            weight.requires_grad_(False)
        self.mark()

    def recapture(self) -> None:
        """Takes what a state dict brought into the weight as a new W0 and puts the updates into it."""
        if storage.fingerprint(self.weight) == self._seen:
            return  # the load failed here, or another tuning of this weight has done it
        self._active = self._active.to(self.weight.device, self.weight.dtype)
        self.originals = self._written = self.places.read(self.weight)
        self.mark()
        self.write()

    def original_weight(self) -> Tensor:
        """Returns a copy of W0."""
        self.follow()
        copy = self.weight.detach().clone()
        self.places.write(copy, self.originals)
        return copy

    def freeze(self) -> None:
        """Keeps the weight from requiring a gradient until as many calls of `thaw` have been made."""
        if not self._frozen_by:
            self._required_grad = self.weight.requires_grad
        self._frozen_by += 1
        self.weight.requires_grad_(False)

    def thaw(self) -> None:
        """Takes one `freeze` back; the last one restores the flag."""
        self._frozen_by -= 1
        if not self._frozen_by:
            self.weight.requires_grad_(self._required_grad)

    def _foreign(self) -> WaveFTError:
        return WaveFTError(
            f'layer "{self.layer}": expected the weight as it was last written, got another content: something else '
            "wrote to it while an adapter was in it. Detach or undo the adapter before you change its base weights."
        )

    def _regroup(self, updates: list[Update]) -> None:
        storage.check_weight(self.weight, self.layer)
        if storage.fingerprint(self.weight) != self._seen:
            self.follow()
        device, wide = self.weight.device, arithmetic_dtype(self.weight.dtype)
        active = Active(updates, [update.plan.to(device, wide) for update in updates], device)
        places = active.places
        if self.updates:  # from here on nothing but a few copies can fail
            self.put(self.originals, look=True)
        active.settle()
        self._active = active
        self.originals = self._written = places.read(self.weight) if updates else self.originals[:0].clone()
        self.write()

    def put(self, content: Tensor, look: bool = False) -> None:
        """Writes `content`, [E] in the weight's dtype, to the touched entries; `look`: as `write`."""
        with torch.no_grad():  # not through .data: autograd must see a rewrite between a forward and its backward
            if not look:
                self.places.write(self.weight, content)
            elif not self.places.exchange(self.weight, self.written, content):
                raise self._foreign()
        self.wrote(content)

    def wrote(self, content: Tensor) -> None:
        """Takes note that `content`, [E] in the weight's dtype, stands at the touched entries now."""
        self._written, self._finite, self._behind = content, None, False
        if self._active.sweeps and content is not self.originals:
            self._finite, self._written = _finite(content), None
            self._written_of = [(update.values.detach().clone(), update.factor) for update in self.updates]
        self.mark()

    def lie_in(self, originals: Tensor, starts: Tensor) -> None:
        """Goes over to slices, each with its own content, of tensors that many ledgers share: nothing is there twice.

        Args:
            originals: [E] in the weight's dtype.
            starts: [B] int32, of `places`.
        """
        self._active.lie_in(starts)
        if self._written is self.originals:
            self._written = originals
        self.originals = originals

    def mark(self) -> None:
        """Takes the weight as it is for seen."""
        before, self._seen = self._seen, storage.fingerprint(self.weight)
        if before and before[:1] + before[2:] == self._seen[:1] + self._seen[2:]:
            return  # all but the version
        with LOCK:
            _BY_TENSOR[id(self.weight)] = self
            if _BY_MEMORY.get(self._where) is self:
                del _BY_MEMORY[self._where]  # a weight that is moved for every forward leaves no trail of addresses
            self._where = storage.where(self.weight)
            _BY_MEMORY[self._where] = self


_BY_TENSOR: WeakValueDictionary[int, Ledger] = WeakValueDictionary()  # a ledger holds its weight: no id is used twice
_BY_MEMORY: WeakValueDictionary[tuple[Any, ...], Ledger] = WeakValueDictionary()


@locked
def ledger_of(weight: Tensor, layer: str) -> Ledger:
    """Returns the ledger of `weight`, the one that is alive or a new one.

    Raises:
        WaveFTError: `weight` cannot hold an update.
    """
    storage.check_weight(weight, layer)
    found = _BY_TENSOR.get(id(weight))
    if found is None:  # another tensor over the same memory, as a state dict holds
        found = _BY_MEMORY.get(storage.where(weight))
        if found is not None and storage.where(found.weight) != storage.where(weight):
            found = None  # it was moved since
    if found is not None:
        if isinstance(weight, torch.nn.Parameter) and not isinstance(found.weight, torch.nn.Parameter):
            found.take(weight)  # found by a state dict's alias of it: the module's own is the one that moves
        found.follow()
        return found
    return Ledger(weight, layer)


def refuse_overflow(ledgers: Iterable[Ledger]) -> None:
    """Refuses weights in which a written entry is not finite and its original was; waits for the device.

    Raises:
        WaveFTError: naming the first such layer.
    """
    for ledger in ledgers:
        if not ledger.updates or ledger.finite():
            continue
        wide = arithmetic_dtype(ledger.originals.dtype)
        broken = ~torch.isfinite(ledger.written.to(wide)) & torch.isfinite(ledger.originals.to(wide))
        if bool(broken.any()):
            raise WaveFTError(
                f'layer "{ledger.layer}": expected a finite merged weight, got {int(broken.sum())} entries beyond '
                f"{str(ledger.weight.dtype).removeprefix('torch.')}. Use a smaller strength, or a wider dtype."
            )


def _finite(content: Tensor) -> bool:
    """Returns whether every entry is: a look at each number takes several times as long."""
    return math.isfinite(content.to(arithmetic_dtype(content.dtype)).abs().max())
