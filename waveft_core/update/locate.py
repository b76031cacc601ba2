"""Positions chosen by the gradient: which p of a pool of candidates would lower the loss most, seen over a few batches.

A candidate's gradient at zero needs no more than a training step with more coefficients: the layer's input and its
output's gradient, sampled at the candidates (`gradient.py`).  The weights are not touched, and no dense [m, n] gradient
of any layer is kept.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from types import TracebackType

import numpy as np
import torch
from torch import Tensor, nn

from ..basis.atoms import coeffs_shape
from ..basis.locations import draw, parse_locations
from ..basis.plan import arithmetic_dtype
from ..errors import WaveFTError, listed
from ..format.adapter import Adapter, Layer
from ..versions import check_torch_trains
from .gradient import Sampler
from .lock import locked
from .spec import Spec
from .tap import tap
from .targets import Models, Target, parts, select

POOL = 16  # candidates for each position that is kept


class Probe:
    """The candidates' gradients of some layers, summed over the backward passes made while it is open.

    Use as a context: `with Probe(unet, spec) as probe: loss_of(batch).backward(); ...; adapter = probe.choose()`.

    Args:
        models: one model or a mapping of components, as for `attach`; nothing may be attached by it meanwhile.
        spec: what is to be trained. Its `locations` must be `gradient:SEED`; SEED draws the candidates.
        pool: candidates for each coefficient, drawn uniformly; a layer whose plane is smaller offers all of it.
        coefficients: p by layer name, for layers that are to have another than the spec's.

    Raises:
        WaveFTError: as `attach`, a spec whose locations are not chosen by the gradient, or a name of no target.
    """

    def __init__(
        self, models: Models, spec: Spec, pool: int = POOL, coefficients: Mapping[str, int] | None = None
    ) -> None:
        check_torch_trains()
        kind, seed = parse_locations(spec.locations)
        if kind != "gradient":
            raise WaveFTError(f'locations: expected "gradient:SEED", got {spec.locations!r}. Attach the spec as it is.')
        if type(pool) is not int or pool < 1:
            raise WaveFTError(f"pool: expected a whole number of at least 1, got {pool!r}.")
        self._spec = spec
        self._compiled = any(hasattr(model, "_orig_mod") for model in parts(models).values())
        self._targets = select(models, spec.targets)
        own = dict(coefficients or {})
        if strange := sorted(own.keys() - {target.name for target in self._targets}):
            raise WaveFTError(f"coefficients: expected names of target layers, got {listed(strange)}.")
        self._counts = [own.get(target.name, spec.coefficients) for target in self._targets]
        self._uniform = f"uniform:{seed}"
        self._indices = [
            self._candidates(target, self._uniform, count, pool)
            for target, count in zip(self._targets, self._counts, strict=True)
        ]
        self._sums: list[nn.Parameter] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._trained: list[Tensor] = []

    def __enter__(self) -> Probe:
        """Begins to listen. The layers' weights are frozen meanwhile: no dense gradient is made for them."""
        if self._handles:
            raise WaveFTError("probe: expected to be entered once at a time, got a second time. Leave it first.")
        self._sums = self._sums or self._zeros()
        self._forget_graphs()
        self._listen()
        return self

    @locked
    def _listen(self) -> None:
        for target, indices, values in zip(self._targets, self._indices, self._sums, strict=True):
            sampler = Sampler(self._spec.wavelet, self._spec.mode, target.shape, indices, 1.0, target.convolution)
            assert target.module is not None
            hook = tap(values, sampler)
            self._handles.append(target.module.register_forward_hook(hook, with_kwargs=True, prepend=True))
        self._trained = [target.weight for target in self._targets if target.weight.requires_grad]
        for weight in self._trained:
            weight.requires_grad_(False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops listening; the sums stay, and are added to if it is entered again."""
        self._stop()
        self._forget_graphs()

    @locked
    def _stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        for weight in self._trained:
            weight.requires_grad_(True)
        self._handles, self._trained = [], []

    def _forget_graphs(self) -> None:
        if self._compiled:
            torch.compiler.reset()  # compiled graphs notice neither that a hook has come nor that one is gone

    def gradients(self) -> Mapping[str, Tensor]:
        """Returns each layer's summed gradient at its candidates, float32 (float64 on a float64 base)."""
        return {
            target.name: torch.zeros_like(values) if values.grad is None else values.grad
            for target, values in zip(self._targets, self._sums or self._zeros(), strict=True)
        }

    def choose(self, across_layers: bool = False, reduce: Callable[[Tensor], object] | None = None) -> Adapter:
        """Returns an adapter of zeros at the chosen positions, to be handed to `attach`.

        Equal magnitudes are settled by the lower place, so that the choice is a function of the sums alone.

        Args:
            across_layers: spend all layers' coefficients where they matter most, whatever the layer; a layer may get
                none, or as many as its pool. False keeps each layer's own p.
            reduce: sums a tensor over ranks in place, such as `torch.distributed.all_reduce`: every rank then
                chooses the same.

        Raises:
            WaveFTError: no backward pass was made, or a gradient that is not finite.
        """
        if all(values.grad is None for values in self._sums):
            raise WaveFTError("probe: expected backward passes while it was open, got none. Run some batches in it.")
        sums = {name: total.clone() for name, total in self.gradients().items()}
        if reduce is not None:
            for total in sums.values():
                reduce(total)
        broken = [name for name, total in sums.items() if not bool(torch.isfinite(total).all())]
        if broken:
            raise WaveFTError(
                f"layers {listed(broken)}: expected finite gradients, got NaN or infinity. Scale the loss."
            )
        unseen = [name for name, total in sums.items() if not bool(total.any())]
        if unseen and not across_layers:
            warnings.warn(
                f"WaveFT: {len(unseen)} layers had no gradient, and get places drawn uniformly: {listed(unseen)}",
                stacklevel=2,
            )
        sizes = [total.abs().cpu().numpy() for total in sums.values()]
        kept = _best_of_all(sizes, sum(self._counts)) if across_layers else _best_of_each(sizes, self._counts)
        layers = {}
        for target, indices, places in zip(self._targets, self._indices, kept, strict=True):
            if target.name in unseen and not across_layers:
                chosen = self._candidates(target, self._uniform, len(places), 1)
                layers[target.name] = Layer(torch.zeros(len(chosen)), chosen, target.shape)
            elif len(places):
                chosen = indices[torch.from_numpy(np.sort(places))]
                layers[target.name] = Layer(torch.zeros(len(chosen)), chosen, target.shape)
        return Adapter(layers, self._spec.wavelet, self._spec.mode, self._spec.scaling, self._spec.locations)

    def _candidates(self, target: Target, locations: str, count: int, pool: int) -> Tensor:
        """Returns a layer's candidates, [pool * count] int32 ascending; with a pool of 1, what `uniform` would draw."""
        wavelet, mode, shape = self._spec.wavelet, self._spec.mode, target.shape
        across, along = coeffs_shape(wavelet, mode, shape)
        fits = 1 <= count <= across * along  # if not, the draw refuses the count itself
        return draw(locations, target.name, wavelet, mode, shape, min(pool * count, across * along) if fits else count)

    def _zeros(self) -> list[nn.Parameter]:
        """Returns each layer's sums before any batch, [candidates] in the precision of the arithmetic."""
        sums = []
        for target, indices in zip(self._targets, self._indices, strict=True):
            weight = target.weight
            zeros = torch.zeros(len(indices), dtype=arithmetic_dtype(weight.dtype), device=weight.device)
            sums.append(nn.Parameter(zeros))
        return sums


def locate(
    models: Models,
    spec: Spec,
    backward: Callable[[], object],
    batches: int = 8,
    pool: int = POOL,
    across_layers: bool = False,
    reduce: Callable[[Tensor], object] | None = None,
    coefficients: Mapping[str, int] | None = None,
) -> Adapter:
    """Returns an adapter of zeros at the positions with the largest gradient, to be handed to `attach`.

    Args:
        backward: makes one batch's loss and calls `backward()` on it; called `batches` times.
        batches, pool, across_layers, reduce, coefficients: see `Probe` and `Probe.choose`.

    Raises:
        WaveFTError: as `Probe`.
    """
    with Probe(models, spec, pool, coefficients) as probe:
        for _ in range(batches):
            backward()
    return probe.choose(across_layers, reduce)


def _best_of_each(sizes: list[np.ndarray], counts: list[int]) -> list[np.ndarray]:
    return [np.argsort(-size, kind="stable")[:count] for size, count in zip(sizes, counts, strict=True)]


def _best_of_all(sizes: list[np.ndarray], budget: int) -> list[np.ndarray]:
    best = np.argsort(-np.concatenate(sizes), kind="stable")[:budget]
    starts = np.cumsum([0, *(len(size) for size in sizes)])
    return [best[(best >= start) & (best < end)] - start for start, end in pairwise(starts)]
