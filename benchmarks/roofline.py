"""What a GPU will see of a training step, computed on paper: launches, operations, bytes, memory, bounds of time.

    python -m benchmarks.roofline [--px 1024] [--batches 1] [--bases bf16] [--json roofline.json]
    python -m benchmarks.roofline --size tiny --px 64 --coefficients 20      a small UNet, to try the command

Nothing is computed and no memory is used: SDXL's whole UNet runs on fakes (`fakes.py`), each call is counted
(`counting.py`, which says what is modelled rather than run).  The same code gives the same figures on every machine.

A card's bound is the longer of two: its device's, where every call takes its operations or its bytes, whichever is
slower, at the data sheet's rate; and its host's, one `LAUNCH` a launch.  Nobody reaches it: a bound, not a promise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import fakes
from benchmarks.counting import KINDS, PHASES, Counter, Tally
from benchmarks.load import SIZES
from benchmarks.measure import Report, arguments, size_text, table

# Seconds of the host a launch, outside CUDA graphs: CUDA's own 2 to 3 microseconds ("Getting Started with CUDA Graphs",
# NVIDIA) and as much again for PyTorch's dispatch and autograd, which is an assumption.
LAUNCH = 5e-6


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet.

    Attributes:
        memory: bytes.
        bandwidth: bytes a second.
        rate: bf16 operations a second with float32 sums, dense.
        source: of the figures.
    """

    memory: float
    bandwidth: float
    rate: float
    source: str


CARDS = {
    "RTX 3060 12 GB": Card(
        12e9, 360e9, 25.5e12, "NVIDIA's specification; GA102 whitepaper (twice the fp32 rate of 12.7 TFLOPS)"
    ),
    "RTX 4090": Card(24e9, 1008e9, 165.2e12, "NVIDIA Ada GPU Architecture whitepaper, appendix A"),
    "H100": Card(80e9, 3350e9, 989.4e12, "NVIDIA H100 data sheet, SXM5"),
    "H200": Card(141e9, 4800e9, 989.4e12, "NVIDIA H200 data sheet, SXM"),
}


def bound(tally: Tally, card: Card) -> float:
    """Returns the least seconds that the calls can take on a card."""
    device = sum(max(flops / card.rate, moved / card.bandwidth) for flops, moved in tally.work)
    return max(device, tally.launches * LAUNCH)


def record(counter: Counter) -> dict[str, Any]:
    """Returns a count as plain figures."""
    phases = {
        phase: {name: getattr(tally, name) for name in ("launches", "flops", "read", "written")}
        for phase, tally in counter.tallies.items()
    }
    bounds = {name: bound(counter.total(), card) for name, card in CARDS.items()}
    return {"phases": phases, "peak": counter.peak, "bound_s": bounds}


def cases(methods: Sequence[str], bases: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields each method on each base that it runs on."""
    for base, method in itertools.product(bases, methods):
        if base == "bf16" or method in fakes.ON_QUANTISED:
            yield method, base


def measure(
    chosen: Iterable[tuple[str, str]], settings: Sequence[tuple[int, int, bool]], size: str, coefficients: int
) -> Iterator[dict[str, Any]]:
    """Yields a record for each (method, base) and setting (px, batch, checkpointing)."""
    for method, base in chosen:
        case = fakes.make(method, base, size, coefficients)
        for px, batch, checkpointing in settings:
            found = record(fakes.count(case, px, batch, checkpointing))
            yield {
                "method": method, "base": base, "px": px, "batch": batch, "checkpointing": checkpointing, **found,
            }  # fmt: skip


def launch_rows(records: Sequence[dict[str, Any]]) -> Iterator[list[object]]:
    """Yields a row a record: launches by phase, all of them over the frozen model's, operations, bytes, bounds."""
    frozen = {_setting(one): one for one in records if one["method"] == fakes.FROZEN}
    for one in records:
        by_phase = [one["phases"][phase]["launches"] for phase in PHASES]
        base = frozen.get(_setting(one))
        floor = None if base is None else [sum(base["phases"][p][key] for p in PHASES) for key in ("launches", "flops")]
        flops = sum(one["phases"][phase]["flops"] for phase in PHASES)
        moved = sum(one["phases"][phase][key] for phase in PHASES for key in ("read", "written"))
        times = [
            f"{1e3 * seconds:.0f} ms" + (f" ({seconds / base['bound_s'][name]:.2f})" if base else "")
            for name, seconds in one["bound_s"].items()
        ]
        over = "-" if floor is None else f"{sum(by_phase) - floor[0]:,}"
        counts = [f"{count:,}" for count in by_phase]
        yield [_words(one), one["method"], *counts, over, f"{flops / 1e12:.1f}", f"{moved / 1e9:.0f}", *times]


def memory_rows(records: Sequence[dict[str, Any]]) -> Iterator[list[object]]:
    """Yields a row a record: the peak by kind, and in all."""
    for one in records:
        peak = one["peak"]
        yield [_words(one), one["method"], *(size_text(peak[kind]) for kind in KINDS), size_text(sum(peak.values()))]


def _setting(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["base"], one["px"], one["batch"], one["checkpointing"]


def _words(one: dict[str, Any]) -> str:
    again = ", checkpointing" if one["checkpointing"] else ""
    return f"{one['px']} px, batch {one['batch']}, {one['base']}{again}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=1, dtype=None)
    parser.add_argument("--methods", nargs="+", choices=fakes.METHODS, default=list(fakes.METHODS))
    parser.add_argument("--bases", nargs="+", choices=fakes.BASES, default=["bf16"])
    parser.add_argument("--px", type=int, nargs="+", default=[1024], help="side of the picture")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--checkpointing", choices=["off", "on", "both"], default="both")
    parser.add_argument("--size", choices=SIZES, default="sdxl", help="of the UNet")
    parser.add_argument("--coefficients", type=int, default=fakes.COEFFICIENTS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    again = {"off": [False], "on": [True], "both": [False, True]}[options.checkpointing]
    settings = list(itertools.product(options.px, options.batches, again))
    report = Report("roofline", options, f"computed, not measured; {options.size} UNet, p = {options.coefficients}")
    print(f"torch {torch.__version__}; {report.note}\n")
    chosen = cases(options.methods, options.bases)
    report.records += measure(chosen, settings, options.size, options.coefficients)
    columns = ["setting", "method", *PHASES, "launches over frozen", "TFLOP", "GB moved", *CARDS]
    print(table(columns, list(launch_rows(report.records))))
    print()
    print(table(["setting", "method", *KINDS, "peak"], list(memory_rows(report.records))), flush=True)
    report.finish()


if __name__ == "__main__":
    main()
