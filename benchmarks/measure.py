"""How every benchmark here measures: turns within a round, medians with their middle half, the machine by name.

A busy machine slows whatever runs at that moment.  So the contestants take turns within each round, in a balanced
order, and what counts is the median over rounds of each round's own ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

Run = Callable[[], object]
MIB = 2**20


def arguments(description: str | None, rounds: int, dtype: str | None = "float32") -> argparse.ArgumentParser:
    """Returns a parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help=f"turns of each contestant (default {rounds})")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of PyTorch on the CPU")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda: then CUDA events measure")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the raw figures to this file")
    if dtype:
        parser.add_argument("--dtype", default=dtype, choices=["float32", "bfloat16", "float16", "float64"])
    return parser


def machine(device: torch.device) -> str:
    """Returns the GPU's name, or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()


def now() -> float:
    """Returns the time in seconds; with one thread the process's own, which others' work on the machine is not in."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(run: Run, device: torch.device) -> float:
    """Returns how long `run` takes: by CUDA events on a GPU, by `now` on a CPU."""
    if device.type != "cuda":
        began = now()
        run()
        return now() - began
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    start.record()
    run()
    end.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(end)) / 1e3


@dataclass
class Times:
    """What the contestants took.

    Attributes:
        seconds: by contestant, one figure a round.
        failed: by contestant, what it raised; it takes no further turn.
    """

    seconds: dict[str, list[float]]
    failed: dict[str, str] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Returns the contestant's median, in seconds."""
        return statistics.median(self.seconds[name])

    def ratios(self, name: str, over: str) -> list[float]:
        """Returns each round's own ratio, for the rounds that both finished."""
        return [own / other for own, other in zip(self.seconds[name], self.seconds[over], strict=False)]


def take_turns(runs: Mapping[str, Run], rounds: int, device: torch.device, warm_up: int = 1) -> Times:
    """Runs the contestants by turns; one that fails is noted and left out, since that too is a result."""
    times = Times({name: [] for name in runs})
    for name, run in runs.items():
        for _ in range(warm_up):
            attempt(name, run, times.failed)
    names = [name for name in runs if name not in times.failed]
    with collected_by_hand():
        for number in range(rounds):
            for name in order(names, number):
                if name not in times.failed:
                    taken = attempt(name, functools.partial(seconds, runs[name], device), times.failed)
                    times.seconds[name] += [] if taken is None else [taken]
    return times


def order(names: Sequence[str], number: int) -> list[str]:
    """Returns the order of a round: over the rounds each is as often first, and as often behind each other one.

    Who runs behind whom matters: one's freed memory and full caches are the next one's start.  (Williams's design.)
    """
    count = len(names)
    zigzag = [place // 2 + 1 if place % 2 else -(place // 2) for place in range(count)]  # 0, 1, -1, 2, -2, ...
    turned = [names[(place + number) % count] for place in zigzag]
    return turned[::-1] if number // max(1, count) % 2 else turned


def attempt(name: str, run: Callable[[], Any], failed: dict[str, str]) -> Any:
    """Returns what `run` returns; None, and a note in `failed`, where it raises."""
    if name in failed:
        return None
    try:
        return run()
    except Exception as error:  # noqa: BLE001 - a contestant's failure, whatever it is, belongs in the table
        first = (str(error).strip() or "no message").splitlines()[0][:100]
        failed[name] = f"{type(error).__name__}: {first}".replace("|", "/")
        return None


@contextlib.contextmanager
def collected_by_hand() -> Iterator[None]:
    """Inside, Python's garbage collector does not run: its pauses would fall on anyone."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def middle(figures: Sequence[float]) -> tuple[float, float]:
    """Returns the bounds of the figures' middle half."""
    ranked = sorted(figures)
    return ranked[len(ranked) // 4], ranked[(3 * len(ranked)) // 4 if len(ranked) > 1 else 0]


def ratio_text(figures: Sequence[float], digits: int = 2) -> str:
    """Returns "median (low to high)", the bounds those of the middle half."""
    if not figures:
        return "-"
    low, high = middle(figures)
    return f"{statistics.median(figures):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def time_text(value: float) -> str:
    """Returns a time with a unit that suits it."""
    if value >= 1:
        return f"{value:.2f} s"
    return f"{1e3 * value:.1f} ms" if value >= 1e-3 else f"{1e6 * value:.0f} µs"


def size_text(count: float) -> str:
    """Returns a number of bytes with a unit that suits it."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"


@dataclass
class Report:
    """What a benchmark found: tables for people, raw figures for programs.

    Attributes:
        benchmark: its name.
        options: the parsed command line.
        note: what the headline says of this benchmark besides the machine.
        records: one dictionary a measurement, as `--json` writes them.
    """

    benchmark: str
    options: argparse.Namespace
    note: str
    records: list[dict[str, Any]] = field(default_factory=list)

    @property
    def headline(self) -> str:
        """The machine, its threads, torch's version, the rounds and the note."""
        device, options = torch.device(self.options.device), self.options
        rounds = f"{options.rounds} rounds" if options.rounds != 1 else "1 round"
        threads = f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() != 1 else ''}"
        return f"{machine(device)}, {threads}, torch {torch.__version__}, {rounds}; {self.note}"

    def finish(self) -> dict[str, Any]:
        """Returns the whole record, and writes it where `--json` says."""
        device = torch.device(self.options.device)
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in vars(self.options).items()}
        record = {
            "benchmark": self.benchmark,
            "machine": machine(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "settings": settings,
            "note": self.note,
            "records": self.records,
        }
        if self.options.json:
            self.options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return record


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])
