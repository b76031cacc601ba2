"""The paper's "Training Time": what a step of each method takes, in time and memory, beside the frozen model's."""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import memory, step
from benchmarks.measure import MIB, middle
from trainer.system.errors import UserError

from . import plots
from .experiment import Cell, Result
from .running import Measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = (*step.METHODS, *step.IN_LOOP)
THEIRS = {"PEFT LoRA r=1": 20, "PEFT SHiRA": 22, "PEFT WaveFT": 34}  # minutes of 500 steps at 1024 px on an A40


class Cost(Measured):
    """A step's time and memory, method by method."""

    NAME = "cost"
    PAPER = "section 5.1 and A.2.1, training time"
    ABOUT = "What a training step costs by method, over the frozen model's own forward and backward."
    SMALL = "two transformer blocks of a quarter of SDXL's width: a minute"
    SEE = "What a training step costs by method, in time and memory"

    def options(self, parser: argparse.ArgumentParser) -> None:
        """Adds what a step is taken of."""
        parser.add_argument("--model", choices=["stack", "unet"], help="two blocks of SDXL, or its UNet; random")
        parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu unless given")
        parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
        parser.add_argument("--latent", type=int, default=128, metavar="N", help="of the UNet; 128 is 1024 pixels")
        parser.add_argument("--rounds", type=int, default=9, metavar="N", help="turns of each method; 9 unless given")

    def cells(self, options: argparse.Namespace) -> list[Cell]:
        """Returns one cell: the methods take turns, so that what disturbs the machine disturbs all of them."""
        small = options.small or not options.model
        held = {
            "model": options.model or "stack", "device": options.device, "dtype": options.dtype,
            "rounds": options.rounds, "latent": options.latent, "size": "sdxl", "coefficients": 648 if small else 2592,
            "width": 320 if small else 1280, "context": 512 if small else 2048, "tokens": 256 if small else 1024,
        }  # fmt: skip
        return [Cell(f"{held['model']}-{held['width']}-{options.device.replace(':', '')}-{options.dtype}", held)]

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Returns each method's times and peak."""
        held = argparse.Namespace(**cell.settings, checkpointing=False, compile=False, methods=list(METHODS))
        case = step.unet_case(held) if held.model == "unet" else step.stack_case(held, held.tokens)
        times, _ = step.compare(held, case)
        base, x, given = case
        device, found = torch.device(held.device), {}
        for method in METHODS:
            if method in times.failed or not times.seconds.get(method):
                continue
            model, optimizer, tuning = step.prepare(method, base, held.coefficients)
            own = tuning if method in step.IN_LOOP else None
            run = functools.partial(step.step, model, optimizer, x, given, own)
            run()
            low, high = middle(times.ratios(method, step.FLOOR))
            found[method] = {
                "over_frozen": statistics.median(times.ratios(method, step.FLOOR)),
                "low": low,
                "high": high,
                "seconds": statistics.median(times.seconds[method]),
                "peak_mib": memory.peak_bytes(run, device) / MIB,
            }
        if step.FLOOR not in found:
            raise UserError(f"cost: the frozen model did not run: {times.failed.get(step.FLOOR)}.")
        return {"methods": found, "failed": dict(times.failed)}

    def summary(self, results: Mapping[str, tuple[Cell, Result]]) -> dict[str, Any]:
        """Returns each form's methods."""
        return {"cases": {name: dict(result) for name, (_, result) in results.items()}}

    def lines(self, summary: Mapping[str, Any]) -> list[str]:
        """Returns ratios, and the paper's own beside them."""
        found = []
        for name, case in summary["cases"].items():
            for method, one in case["methods"].items():
                found.append(
                    f"{name}, {method}: {one['over_frozen']:.2f} of the frozen model's, peak {one['peak_mib']:.0f} MiB"
                )
            found += [f"{name}, {method}: failed: {why}" for method, why in case["failed"].items()]
        return [*found, f"the paper, minutes a subject: {', '.join(f'{name} {held}' for name, held in THEIRS.items())}"]

    def draw(self, summary: Mapping[str, Any], figure: Figure) -> None:
        """Draws time and memory of each method."""
        (name, case), *_ = summary["cases"].items()
        panels = figure.subplots(1, 2)
        colours = {"WaveFT": plots.COLOURS["WaveFT"]}
        rows = {method: (one["over_frozen"], one["low"], one["high"]) for method, one in case["methods"].items()}
        plots.bars(panels[0], rows, colours)
        plots.tidy(
            panels[0], "time of a training step", "times the frozen model's forward and backward (line: middle half)"
        )
        plots.bars(panels[1], {method: (one["peak_mib"],) * 3 for method, one in case["methods"].items()}, colours)
        plots.tidy(panels[1], "memory that a step takes at its peak", f"MiB ({name})")
