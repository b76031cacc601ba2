"""Tables 2 and 9: eight methods on the same subjects, as the paper set them and as they train."""

from __future__ import annotations

import argparse
import tomllib
from typing import Any

from trainer.job.schema import Job

from . import jobs, variants
from .compared import Compared
from .variants import Variant

PAPER = jobs.ROOT / "jobs" / "paper"
METHODS = ("waveft", "shira", "lora", "vera", "adalora", "loha", "lokr", "fourierft")
# On the nano base: as many numbers as LoRA rank 1, as near as each method comes to it.
SMALL_KEYS: dict[str, dict[str, Any]] = {
    "waveft": {"coefficients": variants.SMALL_P},
    "shira": {"coefficients": variants.SMALL_P},
    "fourierft": {"n_frequency": variants.SMALL_P},
    "vera": {"network_dim": 90},
    "lokr": {"network_dim": 4},
}
TIMED = ("tinit", "tfinal", "deltaT")  # of AdaLoRA's schedule, in steps of 500: the defaults are shares of the run


class Dreambooth(Compared):
    """All methods, as published and tuned, the base beside them."""

    NAME = "dreambooth"
    PAPER = "Tables 2, 9, figures 1, 4"
    ABOUT = "Eight methods as the paper set them (one rate), and each at three rates that move the weights as far."
    SMALL = "the nano base and its robot, 32 trainings of 120 steps: an hour"
    SEE = "Eight methods: at the paper's one rate (published), at rates of their own (tuned, with the rate beside it)"

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Adds one of the two alone."""
        super().options(parser)
        parser.add_argument("--only", choices=("published", "tuned"), help="a quarter of the trainings, or the others")

    def variants(self, options: argparse.Namespace, job: Job) -> list[Variant]:
        """Returns each method twice, or once where one way alone is asked for."""
        small, only = jobs.is_small(options), options.only
        found = []
        for method in METHODS:
            found += [published(method, small)] if only != "tuned" else []
            found += [tuned(method, small, job)] if only != "published" else []
        return found


def published(method: str, small: bool) -> Variant:
    """Returns a method as jobs/paper has it, at its own rate."""
    keys, rate = settings(method, small)
    return Variant(f"{method} published", method, keys, (rate,))


def tuned(method: str, small: bool, job: Job) -> Variant:
    """Returns a method that trains what its name says, at three rates."""
    found = f"{method}-tuned"
    keys, _ = settings(found if (PAPER / f"{found}.toml").is_file() else method, small)
    return Variant(f"{method} tuned", method, keys, variants.default_rates(method, keys, job))


def settings(name: str, small: bool) -> tuple[dict[str, Any], float]:
    """Returns [network] and the learning rate of a job of jobs/paper, at the nano base's size where that is trained."""
    table = tomllib.loads((PAPER / f"{name}.toml").read_text(encoding="utf-8"))
    keys = {key: value for key, value in table["network"].items() if key != "method"}
    if small:
        keys = {key: value for key, value in keys.items() if key not in TIMED}
        keys |= SMALL_KEYS.get(name.removesuffix("-tuned"), {})
    return keys, float(table["optimizer"]["learning_rate"])
