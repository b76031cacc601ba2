"""What decides between the sampled and the dense gradient on a CPU: nanoseconds of their steps, and both, measured.

    python -m benchmarks.gradient [--threads 1] [--wavelets db1 db2 coif2]

`waveft_core.gradient` holds the constants that the first lines print; the table says whether its choice is the faster.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from waveft_core.atoms import axis
from waveft_core.gradient import Sampler
from waveft_core.locations import draw

SHAPES = ((640, 640, 1024), (1280, 1280, 256), (1280, 1280, 1024), (1280, 2048, 77), (64, 64, 64))  # m, n, tokens


def seconds(run: Callable[[], object], rounds: int = 9) -> float:
    """Returns the median time of `run`."""
    run()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wavelets", nargs="+", default=["db1", "db2", "coif2"])
    parser.add_argument("--coefficients", type=int, default=2592)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    n, tokens = 1280, 256
    x = torch.randn(tokens, n)
    tap = seconds(lambda: axis("db1", "periodization", n).analyze(x)) / (tokens * n * 2)
    gemm = seconds(lambda: x.t() @ x) / (tokens * n * n)
    print(f"{1e9 * tap:.2f} ns a tap, {1e9 * gemm:.3f} ns a multiply-add of the GEMM, {options.threads} threads\n")
    print("| wavelet | m x n | tokens | sampled | dense | chosen |\n|---|---|---|---|---|---|")
    for wavelet in options.wavelets:
        for m, n, tokens in SHAPES:
            p = min(options.coefficients, m * n // 2)
            indices = draw("uniform:1", "layer", wavelet, "periodization", (m, n), p)
            sampler = Sampler.of(wavelet, "periodization", (m, n), indices, 1.0)
            x, grad = torch.randn(tokens, n), torch.randn(tokens, m)
            both = [seconds(lambda: sampler.sampled(x, grad)), seconds(lambda: sampler.dense(x, grad))]  # noqa: B023
            chosen = "sampled" if sampler.sampling_pays() else "dense"
            print(f"| {wavelet} | {m} x {n} | {tokens} | {1e3 * both[0]:.2f} ms | {1e3 * both[1]:.2f} ms | {chosen} |")


if __name__ == "__main__":
    main()
