"""A dense dW from p coefficients: `Adapter.delta` beside ptwt's dense inverse transform and PEFT's.

    python -m benchmarks.delta [--wavelets db1 db2 db3 sym4 db5 coif2] [--rounds 25] [--json delta.json]

ptwt gets four zero-filled bands, the values scattered into them, and `waverec2`; PEFT is its WaveFT layer's
`get_delta_weight`.  Both pad with zeros, so ours is timed in that mode too, where its result must be ptwt's.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Sequence
from typing import Any

import pywt
import torch
from torch import Tensor, nn

from benchmarks.measure import Report, Run, Times, arguments, ratio_text, table, take_turns, time_text
from waveft_core import Adapter, Layer, Spec
from waveft_core.basis.atoms import coeffs_shape
from waveft_core.basis.locations import draw

OURS, OURS_ZERO, PTWT, PEFT = "ours", "ours, zero mode", "ptwt", "PEFT"


def adapter_of(wavelet: str, mode: str, shape: tuple[int, int], coefficients: int) -> Adapter:
    """Returns an adapter of one layer, "layer", its values random."""
    values = torch.randn(coefficients, generator=torch.Generator().manual_seed(0))
    indices = draw("uniform:777", "layer", wavelet, mode, shape, coefficients)
    return Adapter({"layer": Layer(values, indices, shape)}, wavelet, mode, 25.0)


def by_ptwt(adapter: Adapter, device: torch.device) -> Run:
    """Returns a function that makes the dW of an adapter in zero mode from dense bands, as ptwt does."""
    import ptwt

    layer = adapter.layers["layer"]
    across, along = coeffs_shape(adapter.wavelet, adapter.mode, layer.shape)
    indices, values = layer.indices.long().to(device), layer.values.to(device)
    wavelet = pywt.Wavelet(adapter.wavelet)
    m, n = layer.shape

    def run() -> Tensor:
        coeffs = torch.zeros(across * along, device=device)
        coeffs[indices] = values
        top, bottom = coeffs.view(2, across // 2, along).unbind()  # [M/2, N] each
        (aa, ad), (da, dd) = top.split(along // 2, dim=1), bottom.split(along // 2, dim=1)
        bands: Any = (aa, (da, ad, dd))
        dense: Tensor = ptwt.waverec2(bands, wavelet)
        return dense.reshape(dense.shape[-2:])[:m, :n] * adapter.scaling

    return run


def by_peft(wavelet: str, shape: tuple[int, int], coefficients: int, device: torch.device) -> Run:
    """Returns PEFT's `get_delta_weight` of a layer with as many coefficients."""
    import peft

    m, n = shape
    config = peft.WaveFTConfig(
        n_frequency=coefficients, scaling=25.0, wavelet_family=wavelet, init_weights=False, target_modules=["0"]
    )
    model = peft.get_peft_model(nn.Sequential(nn.Linear(n, m, bias=False, device=device)), config)
    layer = model.base_model.model[0]
    return functools.partial(layer.get_delta_weight, "default")


def compare(wavelet: str, options: argparse.Namespace) -> tuple[Times, float]:
    """Returns what the four took, and how far ours in zero mode is from ptwt's, relative to dW's largest entry."""
    device, shape = torch.device(options.device), (options.size, options.size)
    own = {mode: adapter_of(wavelet, mode, shape, options.coefficients) for mode in ("periodization", "zero")}
    runs: dict[str, Run] = {
        OURS: functools.partial(own["periodization"].delta, "layer", device=device),
        OURS_ZERO: functools.partial(own["zero"].delta, "layer", device=device),
        PTWT: by_ptwt(own["zero"], device),
        PEFT: by_peft(wavelet, shape, options.coefficients, device),
    }
    with torch.no_grad():
        expected, got = runs[PTWT](), runs[OURS_ZERO]()
        assert isinstance(expected, Tensor)
        assert isinstance(got, Tensor)
        off = float((expected - got).abs().max() / expected.abs().max())
        return take_turns(runs, options.rounds, device, warm_up=2), off


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=25, dtype=None)
    parser.set_defaults(threads=1)
    parser.add_argument("--wavelets", nargs="+", default=["db1", "db2", "db3", "sym4", "db5", "coif2"])
    parser.add_argument("--size", type=int, default=1280, help="of the square weight")
    parser.add_argument("--coefficients", type=int, default=Spec().coefficients)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    note = f"dW {options.size} x {options.size}, float32, p = {options.coefficients}"
    report = Report("delta", options, note)
    print(f"{report.headline}\n")
    rows = []
    for wavelet in options.wavelets:
        times, off = compare(wavelet, options)
        taps = len(pywt.Wavelet(wavelet).rec_lo)
        medians = [
            f"failed: {times.failed[name]}" if name in times.failed else time_text(times.median(name))
            for name in times.seconds
        ]
        ratios = [
            ratio_text(times.ratios(peer, mine), 1) for peer, mine in ((PTWT, OURS), (PTWT, OURS_ZERO), (PEFT, OURS))
        ]
        rows.append([wavelet, taps, *medians, *ratios, f"{off:.0e}"])
        report.records.append({"wavelet": wavelet, "taps": taps, "seconds": times.seconds, "off": off})
    columns = ["wavelet", "k", OURS, OURS_ZERO, PTWT, PEFT, "ptwt / ours", "ptwt / ours, zero", "PEFT / ours", "off"]
    print(table(columns, rows), flush=True)
    slowest = min(statistics.median(Times(row["seconds"]).ratios(PTWT, OURS)) for row in report.records)
    print(f"\nAt the least, ptwt takes {slowest:.1f} times as long as ours.")
    report.finish()


if __name__ == "__main__":
    main()
