"""From an adapter file to a merged full-size SDXL UNet, and back: ours beside PEFT's inject, load, merge and unmerge.

    python -m benchmarks.load [--rounds 9] [--peft-rounds 2] [--dtype bfloat16] [--size sdxl] [--json load.json]

Both work on one UNet of SDXL's own configuration, by turns.  The 560 attention weights are random, the others are
empty, and 8 GB of memory is enough in bfloat16 (the UNet, W0 beside it to compare with, the adapters).  PEFT's file
holds as many coefficients as ours for the same layers.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.measure import Report, arguments, collected_by_hand, now, table, time_text
from waveft_core import Adapter, Layer, Spec, attach, load, merge, save
from waveft_core.basis.locations import draw
from waveft_core.update.targets import select

SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TINY_UNET: dict[str, Any] = {
    **SDXL_UNET,
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "attention_head_dim": [2, 4],
    "cross_attention_dim": 64,
}
SIZES = {"sdxl": SDXL_UNET, "tiny": TINY_UNET}  # tiny: to try a command, or to test it


def full_unet(dtype: torch.dtype, device: str = "cpu", size: str = "sdxl", filled: bool = False) -> nn.Module:
    """Returns SDXL's UNet, frozen, with random attention weights.

    Args:
        size: "sdxl", or "tiny" for one of the same kind that takes no time.
        filled: give the other weights values too, so that it can run.
    """
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SIZES[size]).to(dtype)
    unet = unet.to_empty(device=device).requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    if filled:
        for module in unet.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 1:  # biases, and the scales of the norms
                    parameter.fill_(1.0 if name == "weight" else 0.0)
                else:  # keeps a signal's size from layer to layer
                    parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
    else:
        for target in select(unet, Spec().targets):
            target.weight.normal_(0, 0.02, generator=generator)
    return unet


def full_adapter(unet: nn.Module, spec: Spec) -> Adapter:
    """Returns an adapter for all of the spec's layers, its values random."""
    generator = torch.Generator().manual_seed(1)
    layers = {}
    for target in select(unet, spec.targets):
        shape = tuple(target.weight.shape)
        indices = draw(spec.locations, target.name, spec.wavelet, spec.mode, shape, spec.coefficients)
        layers[target.name] = Layer(torch.randn(indices.numel(), generator=generator) * 1e-3, indices, shape)
    return Adapter(layers, spec.wavelet, spec.mode, spec.scaling)


def peft_folder(unet: nn.Module, spec: Spec, folder: Path) -> Path:
    """Writes what PEFT's `save_pretrained` writes for a WaveFT adapter of these layers, and returns the folder."""
    import peft

    modules = list(spec.targets)
    config = peft.WaveFTConfig(
        n_frequency=spec.coefficients, scaling=spec.scaling, wavelet_family=spec.wavelet, target_modules=modules
    )
    config.inference_mode = True
    config.save_pretrained(str(folder))
    generator = torch.Generator().manual_seed(1)
    save_file(
        {
            f"base_model.model.{target.path}.waveft_spectrum": torch.randn(spec.coefficients, generator=generator)
            * 1e-3
            for target in select(unet, spec.targets)
        },
        folder / "adapter_model.safetensors",
    )
    return folder


class Marks:
    """A stopwatch over a sequence of steps; waits for the GPU where there is one."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, list[float]]()

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        """Returns what `step` returns, and notes what it took under `name`."""
        self._wait()
        began = now()
        made = step()
        self._wait()
        self.seconds.setdefault(name, []).append(now() - began)
        return made

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def ours(unet: nn.Module, file: Path, spec: Spec, mark: Marks, differing: Callable[[], int]) -> int:
    """One turn of ours: load and merge, another strength, undo; attach and detach. Returns the entries not undone."""
    loaded = mark("read the file", lambda: load(file))
    merged = mark("merge", lambda: merge(unet, loaded))
    mark.seconds.setdefault("file to merged", []).append(
        mark.seconds["read the file"][-1] + mark.seconds["merge"][-1],
    )
    mark("change the strength", lambda: setattr(merged, "strength", 0.5))
    mark("undo", merged.undo)
    left = differing()
    tuning = mark("attach", lambda: attach(unet, spec))
    mark("detach", tuning.detach)
    return left + differing()


def peers(unet: nn.Module, folder: Path, mark: Marks, differing: Callable[[], int], restore: Callable[[], None]) -> int:
    """One turn of PEFT: inject and load, merge, unmerge. Returns the entries that unmerging did not bring back."""
    import peft

    injected = mark("inject and load", lambda: peft.PeftModel.from_pretrained(unet, str(folder)))
    mark("merge", injected.base_model.merge_adapter)
    mark.seconds.setdefault("file to merged", []).append(
        mark.seconds["inject and load"][-1] + mark.seconds["merge"][-1],
    )
    mark("undo", injected.base_model.unmerge_adapter)
    injected.base_model.unload()
    left = differing()
    restore()
    return left


def measure(options: argparse.Namespace) -> tuple[Marks, Marks, dict[str, int], int, int]:
    """Returns both stopwatches, the entries that each failed to undo, how many entries there are, and the layers."""
    device = torch.device(options.device)
    unet = full_unet(getattr(torch, options.dtype), options.device, options.size)
    spec = Spec(wavelet=options.wavelet, coefficients=options.coefficients)
    targets = {target.path: target.weight for target in select(unet, spec.targets)}
    saved: dict[str, Tensor] = {path: weight.clone() for path, weight in targets.items()}

    def differing() -> int:  # random weights hold neither NaN nor -0.0: equal numbers are equal bits
        return sum(int((targets[path] != weight).sum()) for path, weight in saved.items())

    def restore() -> None:
        for path, weight in saved.items():
            targets[path].data.copy_(weight)

    own, peer = Marks(device), Marks(device)
    left = {"ours": 0, "PEFT": 0}
    with tempfile.TemporaryDirectory() as name:
        file, folder = Path(name, "adapter.safetensors"), peft_folder(unet, spec, Path(name))
        save(full_adapter(unet, spec), file)
        ours(unet, file, spec, Marks(device), differing)  # the first turn pays for imports and caches
        with collected_by_hand():
            for number in range(options.rounds):
                gc.collect()
                if number < options.peft_rounds and number % 2:
                    left["PEFT"] = peers(unet, folder, peer, differing, restore)
                left["ours"] += ours(unet, file, spec, own, differing)
                if number < options.peft_rounds and not number % 2:
                    left["PEFT"] = peers(unet, folder, peer, differing, restore)
    return own, peer, left, sum(weight.numel() for weight in saved.values()), len(saved)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=9, dtype="bfloat16")
    parser.add_argument("--peft-rounds", type=int, default=2, help="PEFT's turns: one takes about 20 s")
    parser.add_argument("--wavelet", default="db1")
    parser.add_argument("--coefficients", type=int, default=Spec().coefficients)
    parser.add_argument("--size", choices=SIZES, default="sdxl")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    own, peer, left, entries, layers = measure(options)
    note = (
        f"{options.size} UNet, {options.dtype}, {layers} layers, {options.wavelet}, p = {options.coefficients}, "
        f"PEFT {options.peft_rounds} turns"
    )
    report = Report("load", options, note)
    steps = [
        "read the file",
        "inject and load",
        "merge",
        "file to merged",
        "change the strength",
        "undo",
        "attach",
        "detach",
    ]
    rows = []
    for step in steps:
        mine, theirs = own.seconds.get(step, []), peer.seconds.get(step, [])
        gain = f"{statistics.median(theirs) / statistics.median(mine):.0f} x" if mine and theirs else "-"
        rows.append([step, spread(mine), spread(theirs), gain])
        report.records.append({"step": step, "ours_s": mine, "peft_s": theirs})
    report.records.append({"step": "not undone", "ours": left["ours"], "peft": left["PEFT"], "entries": entries})
    print(f"{report.headline}\n")
    print(table(["step", "ours", "PEFT", "PEFT / ours"], rows), flush=True)
    print(f"\nAfter undo, entries that are not W0's bits: ours {left['ours']}, PEFT {left['PEFT']}, of {entries}.")
    report.finish()


def spread(times: Sequence[float]) -> str:
    """Returns the median and the middle half of some times."""
    if not times:
        return "-"
    ranked = sorted(times)
    low, high = ranked[len(ranked) // 4], ranked[3 * len(ranked) // 4]
    return f"{time_text(statistics.median(times))} ({time_text(low)} to {time_text(high)})"


if __name__ == "__main__":
    main()
