"""A training step over the frozen model's own forward and backward, beside PEFT's LoRA, SHiRA, FourierFT and WaveFT.

    python -m benchmarks.step [--tokens 256 1024] [--rounds 15] [--threads 2] [--json step.json]
    python -m benchmarks.step --model unet --device cuda --dtype bfloat16 [--latent 128] [--checkpointing] [--compile]
    python -m benchmarks.step --loop                    the trainer's other methods beside PEFT's own loop

`--model stack`: two diffusers `BasicTransformerBlock(1280, 20, 64, cross_attention_dim=2048)`, SDXL's widest blocks, 16
attention linears.  `--model unet`: SDXL's whole UNet with random weights, batch 1; `--latent 128` is a picture of 1024
pixels.  "Frozen" is forward and backward to the input with nothing trained.  A step is forward, backward and a fused
AdamW step.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.load import SIZES, full_unet
from benchmarks.measure import MIB, Report, Times, arguments, attempt, ratio_text, table, take_turns, time_text
from trainer.job.networks import METHODS as METHODS_OF_JOBS
from trainer.job.networks import Network
from trainer.methods import registry
from trainer.methods.peftmethod import PeftMethod
from trainer.methods.tuning import Host, Tuning
from waveft_core import SDXL_ATTENTION, Spec, attach
from waveft_core.update.targets import select

FLOOR, LORA, WAVEFT, OURS = "frozen", "PEFT LoRA r=1", "PEFT WaveFT", "WaveFT (ours)"
METHODS = (FLOOR, LORA, "PEFT SHiRA", "PEFT FourierFT", WAVEFT, OURS)
COEFFICIENTS = 2592  # of the paper: LoRA rank 1's budget on SDXL
HEAD, TEXT_TOKENS = 64, 77
# The trainer's methods that are PEFT's classes, by what PEFT's own loop is called here: what the trainer does around
# each step, and how it puts the layers in, must cost nothing.
LOOP = {
    LORA: "lora", "PEFT LoHa r=1": "loha", "PEFT LoKr": "lokr", "PEFT AdaLoRA": "adalora", "PEFT VeRA": "vera",
    "PEFT FourierFT": "fourierft",
}  # fmt: skip
IN_LOOP = {f"{name.removeprefix('PEFT ')} (trainer)": method for name, method in LOOP.items()}
STEPS = 10_000  # of the run that AdaLoRA's schedule is told


class Stack(nn.Module):
    """Two of SDXL's widest transformer blocks."""

    def __init__(self, width: int = 1280, context: int = 2048) -> None:
        from diffusers.models.attention import BasicTransformerBlock

        super().__init__()
        self.blocks = nn.ModuleList(
            BasicTransformerBlock(width, width // HEAD, HEAD, cross_attention_dim=context) for _ in range(2)
        )

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Returns [1, T, width]; x: [1, T, width], context: [1, 77, context]."""
        for block in self.blocks:
            x = block(x, encoder_hidden_states=context)
        return x


def peft_config(method: str, coefficients: int) -> Any:
    """Returns PEFT's configuration of `method`: LoRA rank 1's budget, or `coefficients` a layer."""
    import peft

    targets = list(SDXL_ATTENTION)
    if method == LORA:
        return peft.LoraConfig(r=1, lora_alpha=1, target_modules=targets)
    if method == "PEFT SHiRA":
        return peft.ShiraConfig(r=1, target_modules=targets)
    if method in LOOP:
        kind, host = registry.of(network(LOOP[method], coefficients)), Host({}, False, 0, STEPS)
        assert isinstance(kind, PeftMethod)
        return getattr(peft, kind.CONFIG)(target_modules=targets, **kind.settings(host))
    return peft.WaveFTConfig(n_frequency=coefficients, scaling=25.0, target_modules=targets)


def network(method: str, coefficients: int) -> Network:
    """Returns the trainer's settings of a method: those of the paper, and `coefficients` where it has such a number."""
    own: dict[str, dict[str, Any]] = {
        "fourierft": {"n_frequency": coefficients},
        "adalora": {"target_r": 2, "orth_reg_weight": 0.0},  # PEFT's own loop neither allocates nor adds the penalty
    }
    return METHODS_OF_JOBS[method].model_validate({"targets": list(SDXL_ATTENTION), **own.get(method, {})})


def copied(base: nn.Module, method: str) -> nn.Module:
    """Returns a copy of `base`; of a whole UNet, one that shares the weights that the method does not write to."""
    if isinstance(base, Stack):
        return copy.deepcopy(base)  # weights of its own, so that nobody finds them in a cache
    own = {id(target.weight) for target in select(base, SDXL_ATTENTION)} if method == OURS else set()
    return copy.deepcopy(base, {id(held): held for held in base.parameters() if id(held) not in own})


def prepare(
    method: str, base: nn.Module, coefficients: int = COEFFICIENTS
) -> tuple[nn.Module, torch.optim.Optimizer | None, Any]:
    """Returns a copy of `base` with the method in it, its optimizer, and our tuning where it is ours."""
    model = copied(base.requires_grad_(False), method)
    tuning: Any = None
    if method == FLOOR:
        return model, None, None
    if method == OURS:
        tuning = attach(model, Spec(coefficients=coefficients))
        parameters: list[nn.Parameter] = list(tuning.parameters())
    elif method in IN_LOOP:
        tuning = registry.of(network(IN_LOOP[method], coefficients)).attach(Host({"unet": model}, False, 0, STEPS))
        parameters = tuning.parameters()
    else:
        import peft

        model = peft.get_peft_model(model, peft_config(method, coefficients))
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return model, torch.optim.AdamW(parameters, lr=1e-4, fused=True), tuning


def step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    x: Tensor,
    given: Mapping[str, Any],
    tuning: Tuning | None = None,
) -> None:
    """One forward, backward and optimizer step; with a tuning of the trainer's, what its loop does around them too."""
    x = x.detach().requires_grad_(True)  # the frozen model sends its gradient to the input, as a UNet's block does
    output = model(x, **given)
    output = output[0] if isinstance(output, tuple) else output
    output.float().square().mean().backward()
    if tuning is not None and (penalty := tuning.penalty()) is not None:
        penalty.backward()
    if optimizer is not None:
        optimizer.step()
        if tuning is not None:
            tuning.stepped(1)
        optimizer.zero_grad()


def stack_case(options: argparse.Namespace, tokens: int) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """Returns the stack, its input [1, T, width] and its text [1, 77, context]."""
    torch.manual_seed(0)
    kind = {"device": torch.device(options.device), "dtype": getattr(torch, options.dtype)}
    base = Stack(options.width, options.context).to(**kind)
    context = torch.randn(1, TEXT_TOKENS, options.context, **kind)
    return base, torch.randn(1, tokens, options.width, **kind), {"context": context}


def unet_case(options: argparse.Namespace) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """Returns the UNet, its latents [B, 4, L, L], and its other inputs."""
    batch = getattr(options, "batch", 1)
    kind = {"device": torch.device(options.device), "dtype": getattr(torch, options.dtype)}
    base = full_unet(kind["dtype"], options.device, options.size, filled=True)
    if options.checkpointing:
        base.enable_gradient_checkpointing()  # type: ignore[operator]
    size = SIZES[options.size]
    pooled = size["projection_class_embeddings_input_dim"] - 6 * size["addition_time_embed_dim"]
    torch.manual_seed(0)
    given = {
        "timestep": torch.full((batch,), 500, device=kind["device"]),
        "encoder_hidden_states": torch.randn(batch, TEXT_TOKENS, size["cross_attention_dim"], **kind),
        "added_cond_kwargs": {
            "text_embeds": torch.randn(batch, pooled, **kind),
            "time_ids": torch.tensor([[1024.0, 1024, 0, 0, 1024, 1024]], **kind).expand(batch, -1),
        },
        "return_dict": False,
    }
    return base, torch.randn(batch, 4, options.latent, options.latent, **kind), given


def contestants(
    options: argparse.Namespace, case: tuple[nn.Module, Tensor, dict[str, Any]], failed: dict[str, str]
) -> dict[str, functools.partial[None]]:
    """Returns each method's step; a method that cannot be prepared is noted in `failed`."""
    base, x, given = case
    runs: dict[str, functools.partial[None]] = {}
    for method in options.methods:
        made = attempt(method, functools.partial(prepare, method, base, options.coefficients), failed)
        if made is not None:
            model, optimizer, tuning = made
            ready: Any = torch.compile(model) if options.compile else model
            runs[method] = functools.partial(step, ready, optimizer, x, given, tuning if method in IN_LOOP else None)
    return runs


def compare(
    options: argparse.Namespace, case: tuple[nn.Module, Tensor, dict[str, Any]]
) -> tuple[Times, dict[str, tuple[float, float]]]:
    """Returns what the methods took, and on a GPU each one's peak over what is held between steps, and weights, MiB."""
    device = torch.device(options.device)
    early: dict[str, str] = {}
    runs = contestants(options, case, early)
    peaks: dict[str, tuple[float, float]] = {}
    for method, run in runs.items():
        for _ in range(2):
            attempt(method, run, early)
        if device.type == "cuda" and method not in early:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            attempt(method, run, early)
            weights = sum(held.nbytes for held in run.args[0].parameters())
            peaks[method] = (torch.cuda.max_memory_allocated() - before) / MIB, weights / MIB
    times = take_turns(
        {name: run for name, run in runs.items() if name not in early}, options.rounds, device, warm_up=0
    )
    times.failed.update(early)
    return times, peaks


def rows_of(
    case: str,
    times: Times,
    peaks: Mapping[str, tuple[float, float]],
    report: Report,
    methods: Sequence[str],
) -> list[list[str]]:
    """Returns the table's rows, and notes the raw figures in the report."""
    rows = []
    for method in methods:
        taken = times.seconds.get(method, [])
        report.records.append(
            {
                "case": case,
                "method": method,
                "seconds": taken,
                "failed": times.failed.get(method),
                "peak_mib": peaks[method][0] if method in peaks else None,
                "weights_mib": peaks[method][1] if method in peaks else None,
            }
        )
        if method in times.failed or not taken:
            rows.append([case, method, f"failed: {times.failed.get(method, 'no turn')}", "-", "-", "-"])
            continue
        over = [
            ratio_text(times.ratios(method, other), 3) if times.seconds.get(other) else "-" for other in (FLOOR, LORA)
        ]
        peak = f"{peaks[method][0]:.0f} MiB" if method in peaks else "-"
        rows.append([case, method, *over, time_text(statistics.median(taken)), peak])
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=15)
    parser.add_argument("--model", choices=["stack", "unet"], default="stack")
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024], help="of the stack")
    parser.add_argument("--width", type=int, default=1280, help="of the stack")
    parser.add_argument("--context", type=int, default=2048, help="width of the stack's text")
    parser.add_argument("--latent", type=int, default=128, help="side of the UNet's latents; 128 is 1024 pixels")
    parser.add_argument("--batch", type=int, default=1, help="pictures at a time, of the UNet")
    parser.add_argument("--size", choices=SIZES, default="sdxl", help="of the UNet; tiny to try the command")
    parser.add_argument("--checkpointing", action="store_true", help="of the UNet's gradients")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--coefficients", type=int, default=COEFFICIENTS)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *LOOP, *IN_LOOP], default=list(METHODS))
    parser.add_argument("--loop", action="store_true", help="the trainer's methods that are PEFT's, beside PEFT's own")
    options = parser.parse_args(argv)
    if options.loop:
        options.methods = [FLOOR, *(name for pair in zip(LOOP, IN_LOOP, strict=True) for name in pair)]
    torch.set_num_threads(options.threads)
    cases: dict[str, Callable[[], Any]] = {
        f"{tokens} tokens": functools.partial(stack_case, options, tokens) for tokens in options.tokens
    }
    if options.model == "unet":
        cases = {f"{8 * options.latent} px": functools.partial(unet_case, options)}
    flags = "".join(f", {flag}" for flag in ("checkpointing", "compile") if getattr(options, flag))
    batch = options.batch if options.model == "unet" else 1
    report = Report(
        "step", options, f"{options.model}, {options.dtype}, p = {options.coefficients}, batch {batch}{flags}"
    )
    print(f"{report.headline}\n")
    columns = ["case", "method", "over frozen (middle half)", f"over {LORA}", "step", "peak in a step"]
    rows, said = [], []
    for name, make in cases.items():
        times, peaks = compare(options, make())
        rows += rows_of(name, times, peaks, report, options.methods)
        if times.seconds.get(OURS) and times.seconds.get(WAVEFT):
            said.append(f"{name}: {WAVEFT} takes {ratio_text(times.ratios(WAVEFT, OURS))} times as long as ours.")
        for theirs, ours in zip(LOOP, IN_LOOP, strict=True):
            if times.seconds.get(theirs) and times.seconds.get(ours):
                ratio = ratio_text(times.ratios(ours, theirs), 3)
                said.append(f"{name}: {ours} takes {ratio} times as long as {theirs}.")
    print(table(columns, rows), *said, sep="\n\n", flush=True)
    report.finish()


if __name__ == "__main__":
    main()
