"""Table 7 and figure 4: three methods over the number of trained numbers, below LoRA's rank 1 and above it.

The paper trains all three at one rate, at which LoRA moves the weights far less: it is trained beside that at the rate
that moves them as far, and at a third of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.job.schema import Job

from . import jobs, panels, plots, variants
from .compared import Compared
from .variants import Variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPARSE, WHOLE = (0.8, 0.9, 1, 1.5, 2, 3, 4), (1, 2, 3)
ONE_RATE, AS_FAR = "LoRA, at the others' rate", "LoRA, at the rate that moves weights as far as theirs"
BETWEEN = "LoRA, at a rate between the two"
RATES = (variants.SMALL_RATE, variants.FULL_RATE)


class Budget(Compared):
    """Ranks 0.8 to 4 of WaveFT and SHiRA, 1 to 3 of LoRA at three rates."""

    NAME = "budget"
    PAPER = "Table 7, figure 4"
    ABOUT = "How each method's pictures change with its budget, at the published rate, LoRA at two of its own too."
    SMALL = "the nano base and its robot, 23 trainings: half an hour"
    SEE = "Do more trained numbers help, and which method's? One line a method"

    def variants(self, options: argparse.Namespace, job: Job) -> list[Variant]:
        """Returns a variant a method and rank."""
        p, rate = variants.sizes(jobs.is_small(options))
        sparse = [
            Variant(f"{method} {rank:g}", method, {"coefficients": round(p * rank)}, (rate,))
            for rank in SPARSE
            for method in ("waveft", "shira")
        ]
        lora = []
        for rank in WHOLE:
            keys = {"network_dim": rank}
            third, far, _ = variants.default_rates("lora", keys, job)
            lora.append(Variant(f"lora {rank}", "lora", keys, (rate, third, far)))
        return [*sparse, *lora]

    def draw(self, rows: Mapping[str, Any], canvas: Figure) -> None:
        """Draws measures over rank, as figure 4 does."""
        own = plots.COLOURS["LoRA"]
        title = "budget: how often it holds the numbers of LoRA rank 1"
        far = max((row["rate"] for row in rows["rows"] if row["label"].startswith("lora ")), default=0.0)
        panels.curves(
            rows,
            canvas,
            lambda row: place(row, far),
            title,
            {ONE_RATE: (own, ":"), BETWEEN: (own, "--"), AS_FAR: (own, "-")},
        )


def place(row: Mapping[str, Any], far: float) -> tuple[str, float]:
    """Returns a row's line and budget; LoRA's are three: everybody's rate, the highest, `far`, and one between."""
    method, _, rank = row["label"].partition(" ")
    line = plots.NAMES[method]
    if method == "lora":
        line = ONE_RATE if row["rate"] in RATES else AS_FAR if row["rate"] == far else BETWEEN
    return line, float(rank)
