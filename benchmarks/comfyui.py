"""The first sample in a real ComfyUI: our adapter beside the stock loader's LoRA of rank 1, on the same layers.

    COMFYUI_DIR=... [COMFYUI_PYTHON=...] python -m benchmarks.comfyui [--arch sdxl] [--rounds 6] [--json comfyui.json]

`sdxl` writes 5.3 GB to the temporary directory and needs 16 GB of memory; `narrow` has its 560 layers, all 320 wide.
Each turn of a contestant is three prompts, all of one sampling step:

- switched: its adapter comes onto a model that carried the last contestant's;
- changed: another strength, so ComfyUI merges anew;
- again: another seed alone, so nothing is merged.

The plain model takes the same three, the first of which takes the last contestant's adapter off. Besides: the very
first prompt of a fresh server, from the checkpoint on the disk; and what importing the pack adds to ComfyUI's start.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Report, arguments, order, ratio_text, table, time_text
from tests.comfyui.graphs import Graph
from tests.comfyui.server import REPOSITORY, Server
from tests.comfyui.settings import Settings, Unavailable, settings
from tests.comfyui.weights import attention_shapes, write_adapter, write_lora
from waveft_core import Spec

PLAIN, LORA, OURS = "no adapter", "LoRA r=1, stock loader", "WaveFT, ours"
CONTESTANTS = (PLAIN, LORA, OURS)
STEPS = ("switched", "changed", "again")


def graph(contestant: str, strength: float, seed: int, size_px: int) -> dict[str, Any]:
    """Returns a prompt of one sampling step."""
    made = Graph()
    model = made.checkpoint("model.safetensors")[0]
    if contestant == LORA:
        model = made.lora(model, "lora.safetensors", strength)
    elif contestant == OURS:
        model = [made.add("WaveFTLoader", model=model, adapter_name="ours.safetensors", strength_model=strength), 0]
    made.sample(model, size_px=size_px, seed=seed, cfg=1.0)
    return made.nodes


class Bench:
    """The files, and prompts of which none equals an earlier one, so that ComfyUI keeps nothing of them."""

    def __init__(self, found: Settings, folder: Path, options: Any) -> None:
        self.found, self.options = found, options
        self.count = 0
        files = {name: folder / f"{name}.safetensors" for name in ("model", "lora", "ours")}
        found.script("checkpoints.py", options.arch, files["model"], "--no-clip", "--no-vae")
        shapes = attention_shapes(files["model"])
        self.layers = len(shapes)
        write_lora(files["lora"], shapes)
        write_adapter(files["ours"], shapes, p=options.coefficients, wavelet=options.wavelet)
        kinds = {"checkpoints": "model", "loras": "lora", "waveft": "ours"}
        self.models = {kind: {files[name].name: files[name]} for kind, name in kinds.items()}

    def server(self) -> Server:
        """Returns a server that is yet to start."""
        threads = {"OMP_NUM_THREADS": str(self.options.threads)}
        return Server(self.found, self.models, flags=self.options.flags.split(), environment=threads)

    def seconds(self, server: Server, contestant: str, strength: float) -> float:
        """Runs a prompt with a new seed and returns its time, by ComfyUI's own clock."""
        self.count += 1
        return server.run(graph(contestant, strength, self.count, self.options.size_px), timeout_s=1800).seconds

    def turn(self, server: Server, contestant: str) -> dict[str, float]:
        """Returns the times of a contestant's three prompts."""
        first, second = 0.5 + 0.001 * self.count, 1.0 + 0.001 * self.count
        strengths = dict(zip(STEPS, (first, second, second), strict=True))
        return {step: self.seconds(server, contestant, strength) for step, strength in strengths.items()}


def measure(bench: Bench) -> tuple[dict[tuple[str, str], list[float]], dict[str, list[float]]]:
    """Returns the times of each contestant's steps, and of its first prompt in a fresh server."""
    times: dict[tuple[str, str], list[float]] = {(name, step): [] for name in CONTESTANTS for step in STEPS}
    with bench.server() as server:
        for name in CONTESTANTS:  # the first turn reads the files
            bench.turn(server, name)
        for number in range(bench.options.rounds):
            for name in order(CONTESTANTS, number):
                for step, taken in bench.turn(server, name).items():
                    times[name, step].append(taken)
    fresh: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(bench.options.fresh):
        for name in order(CONTESTANTS, number):
            with bench.server() as server:
                fresh[name].append(bench.seconds(server, name, 1.0))
    return times, fresh


def import_seconds(found: Settings, rounds: int) -> list[float]:
    """Returns what loading the pack takes beyond what ComfyUI has loaded by then, in fresh processes."""
    return [float(found.script("in_process/pack_time.py", REPOSITORY).split()[-1]) for _ in range(rounds)]


def rows_of(times: dict[tuple[str, str], list[float]]) -> list[list[str]]:
    """Returns the table: medians, and each round's own first sample over the plain model's."""
    plain = times[PLAIN, "again"]
    rows = []
    for name in CONTESTANTS:
        cells = [time_text(statistics.median(times[name, step])) for step in STEPS]
        for step in ("switched", "changed"):
            over = [own / floor for own, floor in zip(times[name, step], plain, strict=True)]
            cells.append(ratio_text(over))
        added = [own - floor for own, floor in zip(times[name, "changed"], plain, strict=True)]
        rows.append([name, *cells, time_text(max(0.0, statistics.median(added)))])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=6, dtype=None)
    parser.add_argument("--arch", choices=["sdxl", "narrow", "micro"], default="sdxl")
    parser.add_argument("--fresh", type=int, default=1, help="fresh servers of each contestant (default 1)")
    parser.add_argument("--coefficients", type=int, default=Spec().coefficients)
    parser.add_argument("--wavelet", default=Spec().wavelet)
    parser.add_argument("--size-px", type=int, default=64)
    parser.add_argument("--flags", default="", help="for ComfyUI, e.g. '--bf16-unet'")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        found = settings()
    except Unavailable as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory(prefix="waveft-comfyui-") as folder:
        bench = Bench(found, Path(folder), options)
        times, fresh = measure(bench)
    imports = import_seconds(found, options.rounds)
    version = found.script("in_process/version.py").strip()
    note = f"{version}, {options.arch}, {bench.layers} layers, {options.wavelet}, p = {options.coefficients}"
    report = Report("comfyui", options, f"{note}, one step at {options.size_px} px")
    report.records += [{"contestant": name, "step": step, "seconds": taken} for (name, step), taken in times.items()]
    report.records += [{"contestant": name, "step": "fresh", "seconds": taken} for name, taken in fresh.items()]
    report.records.append({"contestant": OURS, "step": "import", "seconds": imports})
    columns = ["model", *STEPS, "switched / plain", "changed / plain", "added by the change"]
    print(f"{report.headline}\n\n{table(columns, rows_of(times))}")
    if options.fresh:
        rows = [[name, time_text(statistics.median(taken))] for name, taken in fresh.items()]
        print(f"\n{table(['first prompt of a fresh server', 'time'], rows)}")
    for step in ("switched", "changed"):
        over = [own / other for own, other in zip(times[OURS, step], times[LORA, step], strict=True)]
        print(f"\nFirst sample, {step}, ours over the stock loader's LoRA: {ratio_text(over)}")
    print(f"\nImporting the pack: {time_text(statistics.median(imports))} (largest {time_text(max(imports))})")
    report.finish()


if __name__ == "__main__":
    main()
