"""The first picture in a real web UI: our adapter beside the UI's own LoRA of rank 1, on the same layers.

    WEBUI_DIR=... WEBUI_URL=... python -m benchmarks.webui [--rounds 6] [--json webui.json]

The UI runs already, with this clone and `tests/webui/probe` among its extensions; WEBUI_PYTHON and WEBUI_CKPT in place
of WEBUI_URL start one (`tests/webui/conftest.py`). Each turn of a contestant is three pictures of one sampling step:

- first: a file that the UI has never read, onto a model that carried the last contestant's;
- changed: another strength, so that the UI merges anew;
- again: another seed alone, so that nothing is merged.

Without an adapter the first picture takes the last contestant's off. Times are those of the API's answers.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.measure import Report, arguments, order, ratio_text, table, time_text
from tests.webui.server import Server
from waveft_core import Adapter, Layer, Spec, save
from waveft_core.format.hub import hub_metadata

PLAIN, LORA, OURS = "no adapter", "LoRA r=1, the UI's own", "WaveFT, ours"
CONTESTANTS = (PLAIN, LORA, OURS)
STEPS = ("first", "changed", "again")
ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Gives the UI that the environment names."""
    checkout, url = Path(os.environ["WEBUI_DIR"]), os.environ.get("WEBUI_URL")
    if url:
        yield Server(checkout, url)
        return
    with Server.started(checkout, Path(os.environ["WEBUI_PYTHON"]), Path(os.environ["WEBUI_CKPT"]), ROOT) as server:
        yield server


class Bench:
    """Files of two kinds, each under a name that the UI has not met before, gone with the next one."""

    def __init__(self, server: Server, coefficients: int) -> None:
        self.server, self.count = server, 0
        weights = server.weights()
        shapes = {name: held.shape for name, held in weights.items() if name.startswith("lora_unet")}
        self.layers = len(shapes)
        self._tensors = lora_of(shapes)
        self._adapter = adapter_of(shapes, coefficients)
        self._written: list[Path] = []

    def write(self, contestant: str) -> str:
        """Writes a file, has the UI list it, and returns its name in a prompt."""
        for path in self._written:
            path.unlink()
        path = self.server.loras / f"bench-{os.getpid()}-{self.count}.safetensors"
        if contestant == LORA:
            save_file(self._tensors, str(path), {"ss_base_model_version": "sdxl_base_v1-0"})
        else:
            save(self._adapter, path, hub_metadata(self._adapter))
        self._written = [path]
        self.server.call("/sdapi/v1/refresh-loras", {})
        return path.stem

    def turn(self, contestant: str) -> dict[str, float]:
        """Returns the times of a contestant's three pictures."""
        self.count += 1
        name = None if contestant == PLAIN else self.write(contestant)
        first, second = 0.5 + 0.001 * self.count, 1.0 + 0.001 * self.count
        strengths = dict(zip(STEPS, (first, second, second), strict=True))
        return {step: self.seconds(name, strength, place) for place, (step, strength) in enumerate(strengths.items())}

    def seconds(self, name: str | None, strength: float, place: int) -> float:
        """Draws a picture and returns the time."""
        prompt = "a dog" if name is None else f"a dog <lora:{name}:{strength:.3f}>"
        began = time.perf_counter()
        self.server.draw(prompt, seed=10 * self.count + place, cfg_scale=1)
        return time.perf_counter() - began

    def close(self) -> None:
        """Takes the last file away."""
        for path in self._written:
            path.unlink()


def lora_of(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Returns a LoRA of rank 1 on all layers."""
    draw = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (m, n) in shapes.items():
        tensors[f"{name}.lora_down.weight"] = torch.randn(1, n, generator=draw) / n**0.5
        tensors[f"{name}.lora_up.weight"] = torch.randn(m, 1, generator=draw) * 1e-2
        tensors[f"{name}.alpha"] = torch.ones(())
    return tensors


def adapter_of(shapes: Mapping[str, torch.Size], coefficients: int) -> Adapter:
    """Returns a WaveFT adapter on all layers, with as many coefficients each, or all that a small layer has."""
    draw, layers = np.random.default_rng(0), {}
    for name, (m, n) in shapes.items():
        count = min(coefficients, m * n)
        places = np.sort(draw.choice(m * n, count, replace=False)).astype(np.int32)
        values = torch.from_numpy(draw.normal(size=count) * 1e-3).float()
        layers[name] = Layer(values, torch.from_numpy(places), (m, n))
    return Adapter(layers, metadata={"ss_base_model_version": "sdxl_base_v1-0"})


def measure(bench: Bench, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Returns the times of each contestant's steps."""
    times: dict[tuple[str, str], list[float]] = {(name, step): [] for name in CONTESTANTS for step in STEPS}
    for name in CONTESTANTS:
        bench.turn(name)
    for number in range(rounds):
        for name in order(CONTESTANTS, number):
            for step, taken in bench.turn(name).items():
                times[name, step].append(taken)
    return times


def rows_of(times: Mapping[tuple[str, str], list[float]]) -> list[list[str]]:
    """Returns the table: medians, and each round's own ratio to the LoRA's."""
    rows = []
    for name in CONTESTANTS:
        cells = [time_text(statistics.median(times[name, step])) for step in STEPS]
        for step in STEPS[:2]:
            over = [own / other for own, other in zip(times[name, step], times[LORA, step], strict=True)]
            cells.append(ratio_text(over))
        rows.append([name, *cells])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=6, dtype=None)
    parser.add_argument("--coefficients", type=int, default=Spec().coefficients)
    options: Any = parser.parse_args(argv)
    with running() as server:
        bench = Bench(server, options.coefficients)
        try:
            times = measure(bench, options.rounds)
        finally:
            bench.close()
    report = Report("webui", options, f"{server.version}, {bench.layers} layers, p = {options.coefficients}")
    report.records += [{"contestant": name, "step": step, "seconds": taken} for (name, step), taken in times.items()]
    print(f"{report.headline}\n\n{table(['', *STEPS, 'first / LoRA', 'changed / LoRA'], rows_of(times))}")
    report.finish()


if __name__ == "__main__":
    main()
