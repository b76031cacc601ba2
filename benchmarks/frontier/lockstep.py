"""Several runs at once through one frozen UNet, so that a core is kept busy by a model as small as the nano base."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from waveft_core import Adapter
from waveft_core.basis.atoms import axis, coeffs_shape
from waveft_core.update.targets import Target


class Lockstep:
    """Several runs through one frozen UNet: each attention linear multiplies a run's own samples by its own weight.

    What `attach` does to one run's weights, in a batch that keeps the core busy; `--check` compares the two.
    """

    def __init__(self, targets: list[Target], adapters: list[Adapter]) -> None:
        self._targets = targets
        self._base = torch.cat([target.weight.detach().reshape(-1) for target in targets])
        self._starts = np.cumsum([0, *(target.weight.numel() for target in targets)])
        made = [self._atoms(adapter) for adapter in adapters]
        self._places, self._taps = [places for places, _ in made], [taps for _, taps in made]
        self.values = [nn.Parameter(torch.zeros(len(taps))) for taps in self._taps]
        self._weights: dict[int, Tensor] = {}

    def _atoms(self, adapter: Adapter) -> tuple[Tensor, Tensor]:
        """Returns the entries [p, k*k] of all weights that each coefficient reaches, and its share there."""
        places, taps = [], []
        for target, start in zip(self._targets, self._starts, strict=False):
            if target.name not in adapter.layers:
                continue
            m, n = target.weight.shape
            rows, columns = axis(adapter.wavelet, adapter.mode, m), axis(adapter.wavelet, adapter.mode, n)
            at = adapter.layers[target.name].indices.numpy().astype(np.int64)
            i, j = np.divmod(at, coeffs_shape(adapter.wavelet, adapter.mode, (m, n))[1])
            entries = rows.positions[i][:, :, None] * n + columns.positions[j][:, None, :]
            places.append((start + entries).reshape(len(at), -1))
            taps.append((rows.taps[i][:, :, None] * columns.taps[j][:, None, :]).reshape(len(at), -1))
        shares = adapter.scaling * torch.from_numpy(np.concatenate(taps)).float()
        return torch.from_numpy(np.concatenate(places)), shares

    def write(self, runs: list[int]) -> None:
        """Makes the weights of `runs`; the next forward passes take their samples in that order."""
        total = len(self._base)
        places = torch.cat([self._places[run].reshape(-1) + total * number for number, run in enumerate(runs)])
        added = torch.cat([(self.values[run][:, None] * self._taps[run]).reshape(-1) for run in runs])
        weights = self._base.repeat(len(runs)).index_add(0, places, added).view(len(runs), total)
        shapes = [tuple(target.weight.shape) for target in self._targets]
        kinds = sorted(set(shapes))
        sizes = [shapes.count(kind) * kind[0] * kind[1] for kind in kinds]
        each = [
            weight
            for part, kind in zip(weights.split(sizes, 1), kinds, strict=True)
            for weight in part.view(len(runs), -1, *kind).unbind(1)
        ]
        self._weights = dict(enumerate(each))

    def _linear(self, number: int, bias: Tensor | None, x: Tensor) -> Tensor:
        weight = self._weights[number]  # [R, m, n]
        y = torch.bmm(x.reshape(len(weight), -1, x.shape[-1]), weight.transpose(1, 2)).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias

    def __enter__(self) -> Lockstep:
        for number, target in enumerate(self._targets):
            assert isinstance(target.module, nn.Linear)
            target.module.forward = partial(self._linear, number, target.module.bias)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        for target in self._targets:
            assert target.module is not None
            del target.module.forward
