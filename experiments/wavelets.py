"""Table 6: the eight wavelets, at the borders as we treat them and as PEFT does."""

from __future__ import annotations

import argparse

from trainer.job.schema import Job

from . import jobs, variants
from .compared import Compared
from .variants import Variant

WAVELETS = ("db1", "db2", "db3", "coif1", "coif2", "sym2", "sym3", "sym4")
MODES = ("periodization", "zero")


class Wavelets(Compared):
    """Eight wavelets in both modes; for db1 both are one."""

    NAME = "wavelets"
    PAPER = "Table 6"
    ABOUT = "Whether the wavelet matters, everything else the same."
    SMALL = "the nano base and its robot, 15 trainings: half an hour"
    SEE = "Eight wavelets, in two ways of treating the borders: does it matter which?"
    HINT = "periodization, zero: what a wavelet sees beyond the borders of a weight"

    def variants(self, options: argparse.Namespace, job: Job) -> list[Variant]:
        """Returns a variant a wavelet and mode."""
        p, rate = variants.sizes(jobs.is_small(options))
        held = {"coefficients": p, "locations": "uniform:777"}  # not every basis has PEFT's positions
        return [
            Variant(f"{wavelet} {mode}", "waveft", {**held, "wavelet": wavelet, "mode": mode}, (rate,))
            for mode in MODES
            for wavelet in WAVELETS
            if (wavelet, mode) != ("db1", "zero")
        ]
