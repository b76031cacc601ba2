"""Merging into, undoing and attaching to a full-size SDXL UNet with random weights: seconds, exactness, memory.

    python -m benchmarks.merge [--dtype bfloat16] [--wavelet db1] [--rounds 3] [--threads 2] [--device cpu]

Needs 6 GB of memory in bfloat16. The UNet is SDXL's own configuration; only the 560 attention weights get values.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from diffusers import UNet2DConditionModel

from waveft_core import Adapter, Layer, Spec, attach, merge
from waveft_core.targets import select

SDXL_UNET = {
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


def full_unet(dtype: torch.dtype, device: str = "cpu") -> UNet2DConditionModel:
    """Returns SDXL's UNet with random attention weights; the other weights are zeros."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL_UNET).to(dtype)
    unet = unet.to_empty(device=device).requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for target in select(unet, Spec().targets):
        target.weight.normal_(0, 0.02, generator=generator)
    return unet


def full_adapter(unet: UNet2DConditionModel, spec: Spec) -> Adapter:
    """Returns an adapter for all 560 layers, its values random."""
    tuning = attach(unet, spec)
    drawn = tuning.adapter()
    tuning.detach()
    generator = torch.Generator().manual_seed(1)
    layers = {
        name: Layer(torch.randn(layer.values.shape, generator=generator) * 1e-3, layer.indices, layer.shape)
        for name, layer in drawn.layers.items()
    }
    return Adapter(layers, spec.wavelet, spec.mode, spec.scaling)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--wavelet", default="db1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    unet = full_unet(getattr(torch, options.dtype), options.device)
    weights = [target.weight for target in select(unet, Spec().targets)]
    before = [weight.clone() for weight in weights[::40]]
    adapter = full_adapter(unet, Spec(wavelet=options.wavelet))
    seconds: dict[str, list[float]] = {"attach": [], "detach": [], "merge": [], "strength": [], "undo": []}
    for _ in range(options.rounds):
        marks = [time.perf_counter()]
        tuning = attach(unet, Spec(wavelet=options.wavelet))
        marks.append(time.perf_counter())
        tuning.detach()
        marks.append(time.perf_counter())
        merged = merge(unet, adapter)
        marks.append(time.perf_counter())
        merged.strength = 0.5
        marks.append(time.perf_counter())
        merged.undo()
        marks.append(time.perf_counter())
        for name, start, end in zip(seconds, marks, marks[1:], strict=False):
            seconds[name].append(end - start)
    exact = all(torch.equal(weight, saved) for weight, saved in zip(weights[::40], before, strict=True))
    print(f"full SDXL UNet, {options.dtype}, {options.wavelet}, {len(weights)} layers, {options.threads} threads")
    print(*(f"{name}: {statistics.median(times):.2f} s" for name, times in seconds.items()), sep=", ")
    print(f"bit for bit after undo: {exact}")


if __name__ == "__main__":
    main()
