"""Table 7 and figure 4: three methods over the number of trained numbers, below LoRA's rank 1 and above it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.job.schema import Job

from . import compared, jobs, plots
from .compared import Compared, Variant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPARSE, WHOLE = (0.8, 0.9, 1, 1.5, 2, 3, 4), (1, 2, 3)


class Budget(Compared):
    """Ranks 0.8 to 4 of WaveFT and SHiRA, 1 to 3 of LoRA."""

    NAME = "budget"
    PAPER = "Table 7, figure 4"
    ABOUT = "How each method's pictures change with its budget, at the published rate."
    SMALL = "the nano base and its robot, 17 trainings: half an hour"

    def variants(self, options: argparse.Namespace, job: Job) -> list[Variant]:
        """Returns a variant a method and rank."""
        p, rate = compared.sizes(jobs.is_small(options))
        sparse = [
            Variant(f"{method} {rank:g}", method, {"coefficients": round(p * rank)}, (rate,))
            for rank in SPARSE
            for method in ("waveft", "shira")
        ]
        return [*sparse, *(Variant(f"lora {rank}", "lora", {"network_dim": rank}, (rate,)) for rank in WHOLE)]

    def draw(self, rows: Mapping[str, Any], canvas: Figure) -> None:
        """Draws measures over rank, as figure 4 does."""
        places = {
            row["label"]: (plots.NAMES[row["label"].split()[0]], float(row["label"].split()[1]))
            for row in rows["rows"]
            if row["label"] != compared.BASE
        }
        compared.curves(rows, canvas, places, "budget, in ranks of LoRA")
