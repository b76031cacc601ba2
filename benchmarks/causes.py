"""Where our training step is longer than the frozen model's forward and backward: by cause, in one run, by turns.

    python -m benchmarks.causes [--tokens 1024] [--rounds 9] [--threads 1] [--json causes.json]

The frozen model, the model with PEFT's LoRA of rank 1 and the one with ours in it take turns (`step.py`'s stack).  In
ours each part is timed where it runs: the gradient's own arithmetic, the optimizer, the write of the weights after it,
and what the hooks around each layer's forward do.  What is left of the difference is nobody's code: the layers' inputs
that are kept for the backward pass, the caches that all of this leaves cold, and the machine's noise.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch

from benchmarks.measure import Report, arguments, middle, now, ratio_text, table, take_turns
from benchmarks.step import COEFFICIENTS, FLOOR, LORA, OURS, prepare, stack_case, step
from waveft_core.update import coefficients, gradient, tuning

PARTS = {  # of ours, by what they are called here: the innermost one that runs is the one that is charged
    "gradient": (gradient.Sampler, "__call__"),
    "optimizer": (torch.optim.AdamW, "step"),
    "write": (tuning.Tuning, "_write"),
    "hooks before a layer": (coefficients.InWeight, "_before_forward"),
    "hooks after a layer": (coefficients.InWeight, "_after_forward"),
}

LEFT, ALL = "what is left", "all of ours"


@contextlib.contextmanager
def charged(spent: defaultdict[str, float]) -> Iterator[None]:
    """Inside, what each of `PARTS` takes is added to `spent`, in seconds, less what the parts within it take."""
    within: list[float] = []

    def timed(name: str, part: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(part)
        def run(*args: Any, **kwargs: Any) -> Any:
            within.append(0.0)
            began = now()
            try:
                return part(*args, **kwargs)
            finally:
                taken = now() - began
                spent[name] += taken - within.pop()
                if within:
                    within[-1] += taken

        return run

    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in PARTS.items():
            stack.enter_context(mock.patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        yield


def measure(options: argparse.Namespace) -> tuple[dict[str, list[float]], list[float], list[float]]:
    """Returns each part's share of the frozen step, ours over it, and LoRA's over it, one figure a round."""
    base, x, given = stack_case(options, options.tokens)
    spent: defaultdict[str, float] = defaultdict(float)
    rounds: list[dict[str, float]] = []
    with charged(spent):  # before the hooks are registered: they are bound then
        made = {method: prepare(method, base, options.coefficients) for method in (FLOOR, LORA, OURS)}
        runs = {method: functools.partial(step, made[method][0], made[method][1], x, given) for method in made}

        def ours() -> None:
            spent.clear()
            runs[OURS]()
            rounds.append(spent.copy())

        times = take_turns({**runs, OURS: ours}, options.rounds, torch.device(options.device), warm_up=2)
    frozen = times.seconds[FLOOR]
    shares = {
        name: [held[name] / floor for held, floor in zip(rounds[2:], frozen, strict=True)]  # two to warm up
        for name in PARTS
    }
    return shares, times.ratios(OURS, FLOOR), times.ratios(LORA, FLOOR)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=9)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--context", type=int, default=2048, help="width of the text")
    parser.add_argument("--coefficients", type=int, default=COEFFICIENTS)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    shares, ours, lora = measure(options)
    report = Report("causes", options, f"stack, {options.tokens} tokens, {options.dtype}, p = {options.coefficients}")
    parts = [sum(round_) for round_ in zip(*shares.values(), strict=True)]
    figures = {
        **shares,
        LEFT: [total - 1 - part for total, part in zip(ours, parts, strict=True)],
        ALL: [total - 1 for total in ours],
        f"{LORA}, all": [total - 1 for total in lora],
    }
    rows = []
    for name, found in figures.items():
        low, high = middle(found)
        share = f"{100 * statistics.median(found):.2f} % ({100 * low:.2f} to {100 * high:.2f})"
        rows.append([f"**{name}**" if name == ALL else name, share])
        report.records.append({"cause": name, "share_of_frozen": found})
    print(f"{report.headline}\n")
    print(table(["cause", "of the frozen step (middle half)"], rows), flush=True)
    print(f"\nOurs over frozen: {ratio_text(ours, 3)}.")
    report.finish()


if __name__ == "__main__":
    main()
