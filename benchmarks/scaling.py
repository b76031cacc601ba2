"""How one layer's time and memory grow with p, the width and the tokens, and where the dense gradient takes over.

    python -m benchmarks.scaling [--tokens 256 1024] [--rounds 7] [--json scaling.json]

p runs from 64 to 65536 on a 1280 x 1280 weight, and the width from 320 to 4096 at p = 2592.  Beside both ways to the
gradient stands the layer's own frozen forward and backward: what the model pays anyway.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Report, Run, Times, arguments, size_text, table, take_turns, time_text
from benchmarks.memory import kept
from waveft_core import Spec, attach
from waveft_core.basis.locations import draw
from waveft_core.update.gradient import Sampler
from waveft_core.update.tuning import Tuning

FROZEN, SAMPLED, DENSE, WRITE, DELTA = "frozen forward + backward", "sampled", "dense", "write", "dense dW"
COEFFICIENTS = (64, 256, 1024, 4096, 16384, 65536)
WIDTHS = (320, 640, 1280, 2048, 4096)


def frozen(weight: Tensor, x: Tensor, grad: Tensor) -> None:
    """The forward of a frozen layer and the backward to its input; weight: [m, n], x: [T, n], grad: [T, m]."""
    x = x.detach().requires_grad_(True)
    nn.functional.linear(x, weight).backward(grad)


def gradients(width: int, coefficients: int, tokens: int, options: argparse.Namespace) -> tuple[Times, bool]:
    """Returns what the ways to the gradient took, and whether the layer samples on a CPU of this kind."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    shape = (width, width)
    indices = draw("uniform:777", "layer", options.wavelet, "periodization", shape, coefficients).to(device)
    sampler = Sampler(options.wavelet, "periodization", shape, indices, 1.0)
    generator = torch.Generator(device).manual_seed(0)
    weight, x, grad = (
        torch.randn(rows, width, generator=generator, device=device).to(dtype) for rows in (width, tokens, tokens)
    )
    runs: dict[str, Run] = {
        FROZEN: functools.partial(frozen, weight, x, grad),
        SAMPLED: functools.partial(sampler.sampled, x, grad),
        DENSE: functools.partial(sampler.dense, x, grad),
    }
    return take_turns(runs, options.rounds, device), chosen(sampler, x, grad) == SAMPLED


def chosen(sampler: Sampler, x: Tensor, grad: Tensor) -> str:
    """Returns the way that the sampler itself takes, seen by watching it."""
    taken: list[str] = []

    class Watched(Sampler):
        def sampled(self, *given: Any) -> Tensor:
            taken.append(SAMPLED)
            return super().sampled(*given)

        def dense(self, *given: Any) -> Tensor:
            taken.append(DENSE)
            return super().dense(*given)

    Watched(sampler.wavelet, sampler.mode, sampler.shape, sampler.indices, 1.0)(x, grad)
    return taken[0]


def changed_and_written(tuning: Tuning) -> None:
    """What follows an optimizer's step: the values are others, and the weight is written."""
    with torch.no_grad():
        for values in tuning.parameters():
            values.add_(1e-3)
    tuning.refresh()


def upkeep(width: int, coefficients: int, options: argparse.Namespace) -> tuple[Times, int]:
    """Returns what a write and a dense dW take, and the bytes that the layer keeps after a step."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    model = nn.Sequential(nn.Linear(width, width, bias=False, device=device, dtype=dtype)).requires_grad_(False)
    tuning = attach(model, Spec(coefficients=coefficients, wavelet=options.wavelet, targets=("0",)))
    x = torch.ones(8, width, device=device, dtype=dtype, requires_grad=True)
    model(x).float().mean().backward()
    adapter = tuning.adapter()
    name = next(iter(adapter.layers))
    runs: dict[str, Run] = {
        WRITE: functools.partial(changed_and_written, tuning),
        DELTA: functools.partial(adapter.delta, name, device=device),
    }
    times = take_turns(runs, options.rounds, device)
    for values in tuning.parameters():
        values.grad = None
    return times, sum(kept(tuning).values())


def points(options: argparse.Namespace) -> list[tuple[int, int]]:
    """Returns (width, p): each p on the middle width, then each width at the paper's p."""
    own = [(options.width, p) for p in options.coefficients]
    return list(dict.fromkeys(own + [(width, options.paper) for width in options.widths]))


def gradient_rows(options: argparse.Namespace, report: Report) -> tuple[list[list[str]], list[str]]:
    """Returns the table of the gradient, and what it says of the switch to the dense way."""
    rows, said = [], []
    for tokens in options.tokens:
        slower: list[int] = []
        for width, p in points(options):
            times, samples = gradients(width, p, tokens, options)
            record = {"kind": "gradient", "width": width, "p": p, "tokens": tokens, "samples": samples}
            report.records.append({**record, "seconds": times.seconds, "failed": times.failed})
            took = {name: times.median(name) for name in times.seconds if name not in times.failed}
            cells = [time_text(took[name]) if name in took else "failed" for name in (FROZEN, SAMPLED, DENSE)]
            way = SAMPLED if samples else DENSE
            share = f"{100 * took[way] / took[FROZEN]:.0f} %" if way in took else "-"
            faster = min((SAMPLED, DENSE), key=lambda name: took.get(name, float("inf")))
            right = "" if faster == way else f" ({faster} was faster)"
            rows.append([f"{width} x {width}", str(p), str(tokens), *cells, way + right, share])
            if width == options.width and p in options.coefficients:
                slower = [*slower, p] if faster == DENSE else []  # one slow moment below is no switch
        where = f"from p = {min(slower)} on" if slower else "nowhere in this range"
        said.append(f"{options.width} x {options.width}, {tokens} tokens: the dense way is the faster one {where}.")
    return rows, said


def upkeep_rows(options: argparse.Namespace, report: Report) -> list[list[str]]:
    """Returns the table of what does not depend on the tokens."""
    rows = []
    for width, p in points(options):
        times, size = upkeep(width, p, options)
        report.records.append({"kind": "upkeep", "width": width, "p": p, "seconds": times.seconds, "kept_bytes": size})
        cells = [time_text(times.median(name)) for name in (WRITE, DELTA)]
        rows.append([f"{width} x {width}", str(p), *cells, size_text(size), f"{size / p:.0f} B"])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--coefficients", type=int, nargs="+", default=list(COEFFICIENTS))
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--width", type=int, default=1280, help="at which p varies")
    parser.add_argument("--paper", type=int, default=Spec().coefficients, help="p at which the width varies")
    parser.add_argument("--wavelet", default="db1")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report = Report("scaling", options, f"one layer, {options.dtype}, {options.wavelet}")
    print(f"{report.headline}\n")
    rows, said = gradient_rows(options, report)
    print(table(["m x n", "p", "tokens", FROZEN, SAMPLED, DENSE, "the rule's way", "of frozen"], rows))
    print("", *said, "", sep="\n", flush=True)
    columns = ["m x n", "p", "write after a step", DELTA, "kept between steps", "a coefficient"]
    print(table(columns, upkeep_rows(options, report)), flush=True)
    report.finish()


if __name__ == "__main__":
    main()
