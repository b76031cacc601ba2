"""At which rate each layer learns."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..job.optim import rate_of
from ..job.schema import Optimizer
from ..methods.targets import check_patterns
from ..methods.tuning import Tuning


def groups(tuning: Tuning, settings: Optimizer) -> list[dict[str, Any]]:
    """Returns the optimizer's parameter groups, one for each learning rate that the job gives.

    Args:
        tuning: what trains.
        settings: the job's.

    Raises:
        UserError: a pattern that finds no layer.
    """
    patterns = settings.learning_rate_pattern
    check_patterns("[optimizer] learning_rate_pattern", patterns, list(tuning.paths.values()))
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, parameters in tuning.layers.items():
        by_rate.setdefault(rate_of(tuning.paths[name], settings), []).extend(parameters)
    return [{"params": parameters, "lr": learning_rate} for learning_rate, parameters in by_rate.items()]
