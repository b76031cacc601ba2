"""The coefficients and what moves them, as the last whole step left them: what a failure in the middle goes back to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..methods.tuning import Tuning


class WholeStep:
    """Takes an optimizer's step whole or not at all.

    An optimizer or schedule may come from anywhere, and may raise with half of the coefficients moved: what is saved
    then must be a step that was. Keeping the last one costs a copy of the coefficients and of the optimizer's state a
    step: three times the coefficients' bytes with AdamW.

    Args:
        coefficients: the numbers that train.
        movers: what moves them: the optimizer first, then its schedule, the loss scaler, the running mean and what the
            method remembers. Each has `state_dict` and `load_state_dict`.
    """

    def __init__(self, coefficients: Sequence[torch.nn.Parameter], movers: Sequence[Any]) -> None:
        self._coefficients, self._movers = list(coefficients), list(movers)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Gives the context in which the step is taken; whatever is raised in it, the step was not taken."""
        values, *states = copied(
            [[one.detach() for one in self._coefficients], *(one.state_dict() for one in self._movers)]
        )
        try:
            yield
        except BaseException:
            with torch.no_grad():
                for one, value in zip(self._coefficients, values, strict=True):
                    one.copy_(value)
            for mover, state in zip(self._movers, states, strict=True):
                mover.load_state_dict(state)
            raise


@torch.no_grad()
def copied(value: Any) -> Any:
    """Returns the value with every tensor in it copied where it lies; thousands of small ones in a few kernels."""
    pairs: dict[tuple[torch.device, torch.dtype], list[tuple[torch.Tensor, torch.Tensor]]] = {}

    def twin(held: Any) -> Any:
        if isinstance(held, torch.Tensor):
            made = torch.empty_like(held)
            pairs.setdefault((held.device, held.dtype), []).append((made, held))
            return made
        if isinstance(held, dict):
            return {key: twin(item) for key, item in held.items()}
        if isinstance(held, list | tuple):
            return type(held)(map(twin, held))
        return held

    found = twin(value)
    for group in pairs.values():
        torch._foreach_copy_([made for made, _ in group], [held for _, held in group])
    return found


class Remembered:
    """What a method keeps beside its numbers, as one of the movers: ranks that it took away, say.

    Args:
        tuning: of the method.
    """

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning

    def state_dict(self) -> dict[str, Any]:
        """Returns it."""
        return self._tuning.memory()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        if state:
            self._tuning.remember(state)
