"""Table 11 and figure 6: the factor of the update, at the budget of rank 4.

AdamW's steps do not grow with the gradient: lambda times the learning rate is what moves the weights, so that the
paper's sweep is one of the learning rate. The same products are trained beside it, by the rate, at lambda 25.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.job.schema import Job

from . import jobs, panels, variants
from .compared import Compared
from .variants import Variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VALUES, OWN, RANK = (5, 10, 15, 20, 25), 25.0, 4
BY_LAMBDA, BY_RATE = "by lambda", "by rate"


class Lambdas(Compared):
    """Scaling 5 to 25, and the rates that come to the same."""

    NAME = "lambda"
    PAPER = "Table 11, figure 6"
    ABOUT = "Likeness against obedience as lambda grows, and whether the learning rate does the same."
    SMALL = "the nano base and its robot, 9 trainings: quarter of an hour"
    SEE = "A larger factor of the update (lambda), and a learning rate that is larger by as much: are they the same?"

    def variants(self, options: argparse.Namespace, job: Job) -> list[Variant]:
        """Returns a variant a lambda, and one for each rate that comes to the same."""
        p, rate = variants.sizes(jobs.is_small(options))
        held = {"coefficients": p * RANK}
        return [
            *(
                Variant(f"{BY_LAMBDA} {value}", "waveft", {**held, "scaling": float(value)}, (rate,))
                for value in VALUES
            ),
            *(
                Variant(f"{BY_RATE} {value}", "waveft", {**held, "scaling": OWN}, (rate * value / OWN,))
                for value in VALUES[:-1]
            ),
        ]

    def draw(self, rows: Mapping[str, Any], canvas: Figure) -> None:
        """Draws measures over lambda, and over the rate times 25."""
        title = 'lambda; "by rate": lambda 25 at a learning rate that makes lambda times rate the same'
        panels.curves(rows, canvas, place, title)


def place(row: Mapping[str, Any]) -> tuple[str, float]:
    """Returns a row's line and lambda."""
    line, _, value = row["label"].rpartition(" ")
    return line, float(value)
