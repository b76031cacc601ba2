"""Table 8: allocation of the budget, a Gaussian start, and permuted features."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from trainer.base import models, precision
from trainer.job.schema import Job
from trainer.methods import registry, targets
from trainer.methods.tuning import Host
from trainer.preflight import preflight
from trainer.system import rng

from . import compared, jobs, permuted, variants
from .compared import Compared
from .variants import Variant

DEVIATION = 0.01  # of the Gaussian start: the authors' code's, and PEFT's


class Ablations(Compared):
    """The paper's choices, each undone."""

    NAME = "ablations"
    PAPER = "Table 8"
    ABOUT = "Allocation, a random start, and features in another order; SHiRA beside them."
    SMALL = "the nano base and its robot, 6 trainings: quarter of an hour"
    SEE = "Choices of the method, each undone: what becomes worse?"
    HINT = "fixed: as many numbers a layer; proportional: more in larger ones; permuted: neighbours are strangers"

    def variants(self, options: argparse.Namespace, job: Job) -> list[Variant]:
        """Returns a variant a choice; what a variant starts from is made here, where it is not there yet."""
        p, rate = variants.sizes(jobs.is_small(options))
        fixed = {"coefficients": p, "allocation": "fixed"}
        rates, out = (rate,), options.out.expanduser().resolve() / "bases"
        own = {"waveft fixed": fixed, "waveft proportional": {"coefficients": p, "allocation": "proportional"}}
        found = [Variant(label, "waveft", keys, rates) for label, keys in own.items()]
        found.append(Variant("shira fixed", "shira", fixed, rates))
        start, other = out / "gaussian.safetensors", out / "permuted"
        if not options.dry_run and not options.page_only:
            if not start.is_file():
                gaussian(compared.cell(jobs.DRAWN, job, found[0], rate, 0, out).job, start)
            other = permuted.make(Path(job.model.pretrained_model_name_or_path), other)
        found.append(Variant("waveft gaussian start", "waveft", {}, rates, weights=str(start)))
        found += [
            Variant(f"{method} permuted features", method, fixed, rates, base=str(other))
            for method in ("waveft", "shira")
        ]
        return found


def gaussian(job: Job, path: Path) -> None:
    """Writes an adapter of a job's method whose coefficients are drawn, N(0, 0.01^2), in the place of zeros."""
    ready, place = preflight.check(job), precision.choose(job.train)
    base = models.load(job.model, place, ready.facts)
    host = Host(targets.components(base, job.network), base.beside, job.train.seed, ready.steps)
    tuning = registry.of(job.network).attach(host)
    drawn = {
        name: torch.randn(values.shape, generator=rng.generator(job.train.seed, "gaussian start", number)) * DEVIATION
        for number, (name, values) in enumerate(tuning.state_dict().items())
    }
    tuning.load_state_dict(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    tuning.product().save(path, torch.float32)
    tuning.detach()
