"""What decides between the sampled and the dense gradient on a CPU: nanoseconds of their steps, and both, measured.

    python -m benchmarks.gradient [--threads 1] [--wavelets db1 db2 coif2] [--json gradient.json]

`waveft_core.update.gradient` holds the constants that the first lines print; the table says whether its choice is the
faster.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from benchmarks.measure import Report, arguments, ratio_text, table, take_turns, time_text
from waveft_core import Spec
from waveft_core.basis.atoms import axis
from waveft_core.basis.locations import draw
from waveft_core.update.gradient import Sampler, has_matrix_units

SHAPES = ((640, 640, 1024), (1280, 1280, 256), (1280, 1280, 1024), (1280, 2048, 77), (64, 64, 64))  # m, n, tokens
SAMPLED, DENSE = "sampled", "dense"


def constants(n: int, rounds: int, device: torch.device, tokens: int = 256) -> tuple[float, float]:
    """Returns nanoseconds a filter tap of one token and channel, and a multiply-add of the GEMM."""
    x = torch.randn(tokens, n, device=device)
    side = axis("db1", "periodization", n)
    runs = {"tap": lambda: side.analyze(x), "gemm": lambda: x.t() @ x}
    times = take_turns(runs, rounds, device)
    return 1e9 * times.median("tap") / (tokens * n * 2), 1e9 * times.median("gemm") / (tokens * n * n)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=9, dtype=None)
    parser.set_defaults(threads=1)
    parser.add_argument("--wavelets", nargs="+", default=["db1", "db2", "coif2"])
    parser.add_argument("--coefficients", type=int, default=Spec().coefficients)
    parser.add_argument("--shapes", type=int, nargs="+", metavar="M N TOKENS", help="one or more such triples")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    given = options.shapes
    shapes = list(zip(given[::3], given[1::3], given[2::3], strict=True)) if given else SHAPES
    report = Report("gradient", options, f"float32, p = {options.coefficients}")
    device = torch.device(options.device)
    tap, gemm = constants(shapes[0][1] if given else 1280, options.rounds, device)
    report.records.append({"tap_ns": tap, "gemm_ns": gemm})
    print(f"{report.headline}\n\n{tap:.2f} ns a tap, {gemm:.3f} ns a multiply-add of the GEMM\n")
    rows = []
    for wavelet in options.wavelets:
        for m, n, tokens in shapes:
            p = min(options.coefficients, m * n // 2)
            indices = draw("uniform:1", "layer", wavelet, "periodization", (m, n), p)
            sampler = Sampler(wavelet, "periodization", (m, n), indices, 1.0)
            x, grad = torch.randn(tokens, n, device=device), torch.randn(tokens, m, device=device)
            runs = {
                SAMPLED: functools.partial(sampler.sampled, x, grad),
                DENSE: functools.partial(sampler.dense, x, grad),
            }
            times = take_turns(runs, options.rounds, device)
            chosen = SAMPLED if sampler.sampling_pays() and not has_matrix_units(device) else DENSE
            medians = [time_text(times.median(name)) for name in runs]
            rows.append([wavelet, f"{m} x {n}", tokens, *medians, ratio_text(times.ratios(DENSE, SAMPLED)), chosen])
            report.records.append({"wavelet": wavelet, "m": m, "n": n, "tokens": tokens, "p": p, "chosen": chosen})
            report.records[-1]["seconds"] = times.seconds
    print(table(["wavelet", "m x n", "tokens", SAMPLED, DENSE, "dense / sampled", "the rule's way"], rows), flush=True)
    report.finish()


if __name__ == "__main__":
    main()
