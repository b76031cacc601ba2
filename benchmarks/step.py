"""A full training step over the frozen model's own forward and backward, beside PEFT's LoRA, SHiRA and WaveFT.

    python -m benchmarks.step [--tokens 256 1024] [--rounds 15] [--threads 2] [--device cpu] [--dtype float32]

The model is a stack of two diffusers `BasicTransformerBlock(1280, 20, 64, cross_attention_dim=2048)`, SDXL's widest
blocks: 16 attention linears.  "Frozen" is forward and backward to the input with nothing trained.  A step is forward,
backward and an AdamW step (fused).
The methods take turns within each round, so that a slow moment of the machine falls
on all of them; the table gives the median over rounds of each round's own ratio.
"""

from __future__ import annotations

import argparse
import copy
import gc
import platform
import statistics
import time
from collections.abc import Callable

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from waveft_core import SDXL_ATTENTION, Spec, attach

COEFFICIENTS = 2592


class Stack(nn.Module):
    """Two of SDXL's widest transformer blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(BasicTransformerBlock(1280, 20, 64, cross_attention_dim=2048) for _ in range(2))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Returns [1, T, 1280]; x: [1, T, 1280], context: [1, 77, 2048]."""
        for block in self.blocks:
            x = block(x, encoder_hidden_states=context)
        return x


def peft_config(method: str) -> object:
    """Returns PEFT's configuration of `method` at LoRA rank 1's budget."""
    import peft

    targets = list(SDXL_ATTENTION)
    if method == "PEFT LoRA r=1":
        return peft.LoraConfig(r=1, lora_alpha=1, target_modules=targets)
    if method == "PEFT SHiRA":
        return peft.ShiraConfig(r=1, target_modules=targets)
    return peft.WaveFTConfig(n_frequency=COEFFICIENTS, scaling=25.0, target_modules=targets)


def prepare(method: str, base: Stack) -> tuple[nn.Module, torch.optim.Optimizer | None]:
    """Returns a copy of `base` with the method in it, and its optimizer."""
    model: nn.Module = copy.deepcopy(base).requires_grad_(False)
    if method == "frozen":
        return model, None
    if method == "WaveFT (ours)":
        parameters: list[nn.Parameter] = attach(model, Spec(coefficients=COEFFICIENTS)).parameters()
    else:
        import peft

        model = peft.get_peft_model(model, peft_config(method))
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, torch.optim.AdamW(parameters, lr=1e-4, fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer | None, x: Tensor, context: Tensor) -> None:
    """One forward, backward and optimizer step."""
    x = x.detach().requires_grad_(True)  # the frozen model sends its gradient to the input, as a UNet's block does
    output = model(x, context)
    output.float().square().mean().backward()
    if optimizer is not None:
        optimizer.step()
        optimizer.zero_grad()


def timed(run: Callable[[], None], device: torch.device) -> float:
    """Returns the seconds that `run` takes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def compare(tokens: int, rounds: int, methods: list[str], device: torch.device, dtype: torch.dtype) -> list[str]:
    """Returns a table row for every method at `tokens` tokens."""
    torch.manual_seed(0)
    base = Stack().to(device, dtype)
    x = torch.randn(1, tokens, 1280, device=device, dtype=dtype)
    context = torch.randn(1, 77, 2048, device=device, dtype=dtype)
    contestants = {method: prepare(method, base) for method in methods}
    runs = {
        method: (lambda model=model, optimizer=optimizer: step(model, optimizer, x, context))
        for method, (model, optimizer) in contestants.items()
    }
    peaks = {}
    for method, run in runs.items():
        run()
        run()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            run()
            peaks[method] = (torch.cuda.max_memory_allocated() - before) / 2**20
    gc.disable()
    times: dict[str, list[float]] = {method: [] for method in methods}
    for number in range(rounds):
        order = methods[number % len(methods) :] + methods[: number % len(methods)]  # no method always follows another
        for method in order:
            times[method].append(timed(runs[method], device))
    gc.enable()
    rows = []
    for method in methods:
        ratios = sorted(own / floor for own, floor in zip(times[method], times["frozen"], strict=True))
        spread = f"{ratios[len(ratios) // 4]:.2f} to {ratios[3 * len(ratios) // 4]:.2f}"
        milliseconds = 1e3 * statistics.median(times[method])
        peak = f" {peaks[method]:.0f} MiB |" if peaks else ""
        rows.append(
            f"| {tokens} | {method} | {statistics.median(ratios):.3f} | {spread} | {milliseconds:.1f} ms |{peak}"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    methods = ["frozen", "PEFT LoRA r=1", "PEFT SHiRA", "PEFT WaveFT", "WaveFT (ours)"]
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()}, {options.threads} threads"
    print(f"{name}, torch {torch.__version__}, {options.dtype}, p = {COEFFICIENTS}, {options.rounds} rounds\n")
    print(
        "| tokens | method | step over frozen (median) | middle half | step |"
        + (" peak |" if device.type == "cuda" else "")
    )
    print("|---|---|---|---|---|" + ("---|" if device.type == "cuda" else ""))
    for tokens in options.tokens:
        print(*compare(tokens, options.rounds, methods, device, getattr(torch, options.dtype)), sep="\n", flush=True)


if __name__ == "__main__":
    main()
