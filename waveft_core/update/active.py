"""The updates that are active in one weight: which entries they touch together, and what these come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..basis.places import Places
from ..basis.plan import Plan, arithmetic_dtype, rounded
from ..basis.sweep import Sweep
from ..basis.turns import InTurns


class Update:
    """One adapter's share in one weight.

    Attributes:
        layer: the layer's name, for messages.
        plan: where its coefficients fall.
        values: [p]; read at every write, so a trained tensor may change in place.
        factor: scaling * strength. Zero leaves the update out altogether, so that W0's bits stand.
    """

    def __init__(self, layer: str, plan: Plan, values: Tensor, factor: float) -> None:
        self.layer, self.plan, self.values, self.factor = layer, plan, values, factor

    def fits(self, weight: Tensor) -> bool:
        """Returns whether the plan is on the device and in the arithmetic of `weight`."""
        return self.plan.fits(weight.device, arithmetic_dtype(weight.dtype))

    def move(self, device: torch.device, dtype: torch.dtype) -> None:
        """Takes the plan to `device`, for a weight of `dtype`."""
        self.plan = self.plan.to(device, arithmetic_dtype(dtype))


class Active:
    """The updates of one weight, in the order in which they are summed.

    Where one of their plans is a sweep, nothing of the size of the touched entries is kept: they are found anew.

    Attributes:
        updates: on the weight's device and in its arithmetic.
        sweeps: whether a plan among theirs is a sweep.
    """

    def __init__(self, updates: Sequence[Update], plans: Sequence[Plan], device: torch.device) -> None:
        """Takes the updates and their plans for a weight on `device`; the updates keep their own until `settle`."""
        self.updates, self._plans = list(updates), list(plans)
        self.sweeps = any(isinstance(plan, Sweep) for plan in plans)
        self._held: Places | None = None
        self._spots: list[Tensor | None] = [None] * len(plans)  # of each update's entries among all
        if not plans:
            self._held = Places.of(torch.empty(0, dtype=torch.int32, device=device))
        elif not self.sweeps:
            self._held = self._together()
            if len(plans) > 1:
                self._spots = [torch.searchsorted(self._held.starts, plan.places.entries()) for plan in plans]

    def settle(self) -> None:
        """Gives the updates their plans: nothing can fail from here on."""
        for update, plan in zip(self.updates, self._plans, strict=True):
            update.plan = plan
        self._plans = []  # theirs alone, and they may move

    @property
    def places(self) -> Places:
        """Which entries those are, each once: a single update's in its plan's order, those of several ascending."""
        return self._together() if self._held is None else self._held

    def _together(self) -> Places:
        plans = self._plans or [update.plan for update in self.updates]
        if len(plans) == 1:
            return plans[0].places
        if not self.sweeps:
            return Places.of(torch.unique(torch.cat([plan.places.entries() for plan in plans])))
        marks = torch.zeros(plans[0].basis[2], dtype=torch.bool).view(-1)
        for plan in plans:
            marks.index_fill_(0, plan.places.entries().long(), True)
        return Places.of(marks.nonzero().view(-1).int())

    def content(self, originals: Tensor, given: Sequence[tuple[Tensor, float]]) -> Tensor:
        """Returns what stands at the entries, [E] in the dtype of `originals`, W0's bits there.

        Args:
            given: each update's values [p], and factor.
        """
        wide = arithmetic_dtype(originals.dtype)
        active = [number for number, (_, factor) in enumerate(given) if factor != 0.0]
        if not active:
            return originals
        parts = ((number, self._contribution(number, *given[number], originals)) for number in active)
        if len(given) == 1:
            total = next(parts)[1]
        elif self.sweeps:
            whole = torch.zeros(self.updates[0].plan.basis[2], dtype=wide).view(-1)
            for number, part in parts:
                whole.index_add_(0, self.updates[number].plan.places.entries(), part)
            total = whole.index_select(0, self.places.starts)
        else:
            total = torch.zeros(len(originals), dtype=wide, device=originals.device)
            for number, part in parts:  # they are unique within an update: no two adds meet
                spots = self._spots[number]
                assert spots is not None
                total.index_add_(0, spots, part)
        return rounded(total.add_(originals.to(wide)), originals.dtype)

    def _contribution(self, number: int, values: Tensor, factor: float, originals: Tensor) -> Tensor:
        """Returns factor * IDWT(C) at an update's own entries, [E] in the arithmetic and on the device of W0's."""
        update = self.updates[number]
        update.move(originals.device, originals.dtype)
        return update.plan.sums(values.detach().to(originals.device)).mul_(factor)

    def to(self, device: torch.device, dtype: torch.dtype) -> Active:
        """Returns what serves a weight that was sent to `device` or cast to `dtype`; a GPU has no sweeps."""
        if self.sweeps and device.type != "cpu":
            moved = Active(self.updates, [u.plan.to(device, arithmetic_dtype(dtype)) for u in self.updates], device)
            moved.settle()
            return moved
        if self._held is not None:
            self._held = self._held.to(device)
        self._spots = [None if spots is None else spots.to(device) for spots in self._spots]
        return self

    def lie_in(self, starts: Tensor) -> None:
        """Goes over to a slice, with its own content, of the places that many weights share: [B] int32."""
        assert self._held is not None
        self._held = replace(self._held, starts=starts)
        for update in self.updates:
            assert isinstance(update.plan, InTurns)
            update.plan = replace(update.plan, places=self._held)
