"""Everything that is to be measured on a GPU, in one command that goes on where it stopped.

    python -m benchmarks.gpu --out DIR                  as many pieces as fit into --minutes; call it again for the rest
    python -m benchmarks.gpu --out DIR --list           what is done, and what is not
    python -m benchmarks.gpu --out DIR --device cpu --small     a dry run, on models that take no time

Each piece runs in a process of its own, at most `LIMIT` seconds long, and leaves `NAME.json` (figures) and `NAME.md`
(tables) in DIR; one that failed says why in `NAME.failed` and is tried again by the next call.  `tables.md` holds all
that is done, for docs/benchmarks.md, with the targets and whether they were met.  Nothing is fetched: random weights
are enough, for the trainer's own loop too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 530  # seconds a piece may take: lent machines stop a command after ten minutes
PEERS = ("frozen", "PEFT LoRA r=1", "PEFT SHiRA", "PEFT WaveFT", "WaveFT (ours)")
CLOSE = ("frozen", "PEFT LoRA r=1", "WaveFT (ours)")
OVER_FROZEN, OVER_LORA, UNDER_WAVEFT, PEAK_GB = 1.05, 1.0, 2.0, 8.0  # the targets


@dataclass(frozen=True)
class Piece:
    """One thing to measure.

    Attributes:
        title: its heading among the tables.
        module: whose `main` does it.
        options: given to that on a GPU.
        small: given instead in a dry run.
    """

    title: str
    module: str
    options: tuple[str, ...]
    small: tuple[str, ...]


def _step(px: int, batch: int, *flags: str, methods: Sequence[str] = PEERS) -> Piece:
    words = "".join(f", {flag.strip('-')}" for flag in flags)
    common = ("--model", "unet", "--dtype", "bfloat16", "--rounds", "7", *flags, "--methods", *methods)
    large = ("--latent", str(px // 8), "--batch", str(batch), *common)
    tiny = ("--latent", "8", "--size", "tiny", "--coefficients", "20", "--rounds", "1")
    small = [*common[:4], *tiny, *(flag for flag in flags if flag != "--compile"), "--methods", *methods]
    return Piece(f"A step at {px} px, batch {batch}{words}", "benchmarks.step", large, tuple(small))


PIECES = {
    "tests": Piece("The tests for a GPU", "benchmarks.gpuparts", ("tests",), ("tests",)),
    "step-1024-again": _step(1024, 1, "--checkpointing"),
    "step-1024": _step(1024, 1),
    "step-1024-batch4-again": _step(1024, 4, "--checkpointing", methods=CLOSE),
    "step-768-again": _step(768, 1, "--checkpointing", methods=CLOSE),
    "step-768": _step(768, 1, methods=CLOSE),
    "step-512-again": _step(512, 1, "--checkpointing", methods=CLOSE),
    "step-512": _step(512, 1, methods=CLOSE),
    "step-512-batch4": _step(512, 4, methods=CLOSE),
    "step-1024-compile": _step(1024, 1, "--compile", methods=("frozen", "WaveFT (ours)")),
    "graphs": Piece("CUDA graphs", "benchmarks.gpuparts", ("graphs",), ("graphs", "--small")),
    "gradient": Piece(
        "The gradient's two ways", "benchmarks.gradient", (),
        ("--rounds", "1", "--wavelets", "db1", "--coefficients", "20", "--shapes", "64", "32", "8"),
    ),
    "load": Piece(
        "Loading", "benchmarks.load", ("--rounds", "5"),
        ("--rounds", "1", "--size", "tiny", "--coefficients", "20", "--peft-rounds", "1"),
    ),
    "memory": Piece(
        "Memory", "benchmarks.memory",
        ("--model", "unet", "--dtype", "bfloat16", "--latent", "128", "--checkpointing", "--methods", *PEERS),
        ("--model", "unet", "--size", "tiny", "--latent", "8", "--coefficients", "20", "--methods", *CLOSE),
    ),
    "loop": Piece("The trainer's own loop", "benchmarks.gpuparts", ("loop",), ("loop", "--small")),
}  # fmt: skip


def command(name: str, options: argparse.Namespace) -> list[str]:
    """Returns the command line of a piece, which writes its figures to DIR/NAME.part."""
    piece = PIECES[name]
    own = piece.small if options.small else piece.options
    made = [sys.executable, "-m", piece.module, *own, "--device", options.device]
    return [*made, "--json", str(options.out / f"{name}.part")]


def run_piece(name: str, options: argparse.Namespace, limit: float) -> str:
    """Runs a piece and returns why it failed, "" where it did not; its tables are what it printed."""
    try:
        done = subprocess.run(
            command(name, options), cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=limit
        )
        failed = (
            f"exit status {done.returncode}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}" if done.returncode else ""
        )
        said = done.stdout
    except subprocess.TimeoutExpired:
        failed, said = f"not done within {limit:.0f} seconds", ""
    part, note = options.out / f"{name}.part", options.out / f"{name}.failed"
    if failed or not part.is_file():
        note.write_text(failed or "no figures were written", encoding="utf-8")
        return failed or "no figures"
    note.unlink(missing_ok=True)
    (options.out / f"{name}.md").write_text(said, encoding="utf-8")
    part.replace(options.out / f"{name}.json")  # last: a piece with this file is done
    return ""


def records(out: Path, name: str) -> list[dict[str, Any]]:
    """Returns a done piece's records, none of one that is not done."""
    with contextlib.suppress(OSError):
        found: list[dict[str, Any]] = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))["records"]
        return found
    return []


def targets(out: Path) -> list[list[str]]:
    """Returns a row a target: the figure, what it should be, and whether it is."""
    rows = []
    for name in PIECES:
        steps = {row["method"]: row for row in records(out, name) if name.startswith("step") and row.get("seconds")}
        ours = steps.get("WaveFT (ours)")
        if ours is None or not ours.get("weights_mib"):  # not of a GPU
            continue
        for peer, least in (("frozen", OVER_FROZEN), ("PEFT LoRA r=1", OVER_LORA), ("PEFT WaveFT", 1 / UNDER_WAVEFT)):
            if peer in steps:
                pairs = zip(ours["seconds"], steps[peer]["seconds"], strict=False)
                ratio = statistics.median(own / other for own, other in pairs)
                rows.append([name, f"over {peer}", f"{ratio:.3f}", f"<= {least:g}", _met(ratio <= least)])
        if name == "step-1024-again":
            size = (ours["weights_mib"] + ours["peak_mib"]) * 2**20 / 1e9
            rows.append([name, "GB of weights and step", f"{size:.2f}", f"<= {PEAK_GB:g}", _met(size <= PEAK_GB)])
    return rows


def _met(is_met: bool) -> str:
    return "met" if is_met else "**missed**"


def write_tables(out: Path) -> Path:
    """Writes what the pieces printed into one page, the targets first; returns its path."""
    from benchmarks.measure import table

    parts = ["# Measured on a GPU\n"]
    if rows := targets(out):
        parts.append("## Targets\n\n" + table(["piece", "figure", "is", "should be", ""], rows) + "\n")
    for name, piece in PIECES.items():
        if (out / f"{name}.json").is_file():
            parts.append(f"## {piece.title}\n\n{(out / f'{name}.md').read_text(encoding='utf-8').strip()}\n")
        elif (out / f"{name}.failed").is_file():
            why = (out / f"{name}.failed").read_text(encoding="utf-8").strip()
            parts.append(f"## {piece.title}\n\nFailed:\n\n```\n{why}\n```\n")
    page = out / "tables.md"
    page.write_text("\n".join(parts), encoding="utf-8")
    return page


def run(
    options: argparse.Namespace, runs: Callable[..., str] = run_piece, clock: Callable[[], float] = time.monotonic
) -> int:
    """Runs the pieces that are not done, as long as there is time; returns how many are left."""
    until = clock() + 60 * options.minutes
    chosen = [name for name in options.only or PIECES if not (options.out / f"{name}.json").is_file()]
    left = list(chosen)
    for name in chosen:
        time_left = until - clock()
        if time_left < 60 * min(1.0, options.minutes / 2):
            break
        print(f"{name} ...", flush=True)
        failed = runs(name, options, min(LIMIT, time_left))
        print(f"{name}: {'failed: ' + failed.splitlines()[0] if failed else 'done'}", flush=True)
        left.remove(name)
    print(f"tables: {write_tables(options.out)}")
    print(
        f"{len(left)} of {len(PIECES)} pieces are left; the same command goes on." if left else "All pieces were run."
    )
    return len(left)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where figures and tables go")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="models that take no time: a dry run")
    parser.add_argument("--minutes", type=float, default=8.5, help="after which no further piece begins (default 8.5)")
    parser.add_argument("--only", nargs="+", choices=PIECES, metavar="PIECE", help=f"of {', '.join(PIECES)}")
    parser.add_argument("--list", action="store_true", help="say what is done, and run nothing")
    options = parser.parse_args(argv)
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.list:
        for name, piece in PIECES.items():
            states: Mapping[str, str] = {"json": "done", "failed": "failed"}
            state = next((word for end, word in states.items() if (options.out / f"{name}.{end}").is_file()), "to do")
            print(f"{name:24} {state:8} {piece.title}")
        return
    run(options)


if __name__ == "__main__":
    main()
