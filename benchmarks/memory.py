"""Memory of a training step beside PEFT's, and what our adapter itself keeps, by kind.

    python -m benchmarks.memory [--tokens 256 1024] [--json memory.json]
    python -m benchmarks.memory --model unet --device cuda --dtype bfloat16 [--latent 128] [--checkpointing]

Peak: the most that is allocated at once during a step (forward, backward, optimizer) over what is held before it; on a
CPU counted from the allocator's own record (torch.profiler), on a GPU `max_memory_allocated`.  Saved: bytes of the
storages that autograd keeps for the backward pass, parameters apart, less the frozen model's.  The last table walks the
objects of a tuning on SDXL's 560 attention layers (2 GB of bare weights in bfloat16) after a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.load import SIZES
from benchmarks.measure import Report, Run, arguments, attempt, size_text, table
from benchmarks.step import COEFFICIENTS, FLOOR, METHODS, prepare, stack_case, step, unet_case
from waveft_core import Spec, attach
from waveft_core.update.tuning import Tuning

SDXL_LAYERS = (((640, 640), 60), ((640, 2048), 20), ((1280, 1280), 360), ((1280, 2048), 120))  # (m, n), how many
KINDS = {
    "values": ("values", "written_of"),  # and those that were last written, where what they made is not kept
    "originals": ("originals", "written"),  # W0's bits at the touched entries, and what stands there now
}  # all else that is kept says where the coefficients are


def saved_bytes(run: Run, apart: Sequence[Tensor]) -> int:
    """Returns the bytes of the storages that autograd saves in `run`, those of `apart` not counted."""
    known = {held.untyped_storage().data_ptr() for held in apart}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        parts = [tensor] if tensor.layout is torch.strided else []
        if tensor.layout is torch.sparse_coo:
            parts = [tensor._indices(), tensor._values()]
        elif tensor.layout is torch.sparse_csr:
            parts = [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
        for part in parts:
            storage = part.untyped_storage()
            if storage.data_ptr() not in known:
                storages[storage.data_ptr()] = storage.nbytes()  # alive until the backward pass: no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storages.values())


def peak_bytes(run: Run, device: torch.device) -> int:
    """Returns the most that `run` holds at once over what was held before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    held = most = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def footprint(
    method: str, options: argparse.Namespace, case: tuple[nn.Module, Tensor, Mapping[str, Any]]
) -> tuple[int, int]:
    """Returns a method's peak in a step and the bytes that it saves for backward, after two steps."""
    base, x, given = case
    model, optimizer, _ = prepare(method, base, options.coefficients)
    run = functools.partial(step, model, optimizer, x, given)
    run()
    run()
    peak = peak_bytes(run, torch.device(options.device))
    apart = [*model.parameters(), *model.buffers()]
    return peak, saved_bytes(run, apart)


def kept(tuning: Tuning) -> Counter[str]:
    """Returns the bytes that a tuning keeps between steps, by "Class.attribute"; each storage is counted once.

    Generic on purpose: it walks whatever the layers hold, down to the tensors, and leaves out the model's own weights
    and modules.
    """
    modules = [target.module for target in tuning._targets]
    theirs = {id(held) for module in modules if module is not None for held in module.parameters(recurse=False)}
    storages: set[int] = set()
    sizes: Counter[str] = Counter()
    seen: set[int] = {id(module) for module in modules} | {id(tuning)}
    waiting: list[tuple[str, object]] = [
        ("", held) for name, held in reversed(vars(tuning).items()) if name not in ("_targets", "_basis")
    ]
    while waiting:
        name, held = waiting.pop()
        if id(held) in seen or id(held) in theirs:
            continue
        seen.add(id(held))
        if isinstance(held, Tensor):
            for part in _parts(held):
                storage = part.untyped_storage()
                if storage.data_ptr() not in storages:
                    storages.add(storage.data_ptr())
                    sizes[name] += storage.nbytes()
        elif isinstance(held, np.ndarray):
            sizes[name] += held.nbytes
        else:
            waiting += [(of or name, child) for of, child in reversed([*_children(held)])]  # in order: layers first
    return sizes


def _parts(tensor: Tensor) -> list[Tensor]:
    if tensor.layout is torch.sparse_csr:
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor] if tensor.layout is torch.strided else []


def _children(held: object) -> Iterator[tuple[str, object]]:
    """Yields what an object of ours, or a container, holds: its name (a container's items have none), and itself."""
    if isinstance(held, Mapping):
        yield from (("", child) for child in held.values())
    elif isinstance(held, (list, tuple, set, frozenset)):
        yield from (("", child) for child in held)
    elif type(held).__module__.startswith("waveft_core"):
        named = dict(getattr(held, "__dict__", {}))
        named.update({name: getattr(held, name, None) for name in getattr(type(held), "__slots__", ())})
        if dataclasses.is_dataclass(held):
            named.update({field.name: getattr(held, field.name) for field in dataclasses.fields(held)})
        named.update(named.pop("_parameters", {}))
        kind = type(held).__name__
        yield from ((f"{kind}.{name}", child) for name, child in named.items() if not isinstance(child, nn.Module))
        yield from (("", child) for child in named.values() if type(child).__module__.startswith("waveft_core"))


def by_kind(sizes: Mapping[str, int]) -> dict[str, int]:
    """Returns the bytes of the values, of the originals (with what was written), and of the positions."""
    kinds = dict.fromkeys([*KINDS, "positions"], 0)
    for name, size in sizes.items():
        attribute = name.split(".")[-1].strip("_")
        kinds[next((kind for kind, names in KINDS.items() if attribute in names), "positions")] += size
    return kinds


def bare_layers(
    dtype: torch.dtype, device: torch.device, counts: Sequence[tuple[tuple[int, int], int]]
) -> nn.ModuleList:
    """Returns linear layers of the given shapes and nothing else."""
    layers = nn.ModuleList()
    for (m, n), count in counts:
        for _ in range(count):
            block = nn.Module()
            block.to_q = nn.Linear(n, m, bias=False, device="meta", dtype=dtype).to_empty(device=device)
            nn.init.zeros_(block.to_q.weight)
            layers.append(block)
    layers.requires_grad_(False)
    return layers


def kept_by_layers(
    options: argparse.Namespace, counts: Sequence[tuple[tuple[int, int], int]] = SDXL_LAYERS
) -> tuple[Counter[str], int]:
    """Returns what a tuning of all these layers keeps after a step, and the number of layers."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    model = bare_layers(dtype, device, counts)
    tuning = attach(model, Spec(coefficients=options.coefficients, wavelet=options.wavelet))
    optimizer = torch.optim.SGD(tuning.parameters(), lr=1e-3)  # has no state: that is the optimizer's, not ours
    for layer in [module for module in model.modules() if isinstance(module, nn.Linear)]:
        x = torch.ones(options.tokens[0], layer.in_features, device=device, dtype=dtype)
        layer(x.requires_grad_(True)).float().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return kept(tuning), len(tuning)


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--model", choices=["stack", "unet"], default="stack")
    parser.add_argument("--tokens", type=int, nargs="+", default=[256, 1024], help="of the stack")
    parser.add_argument("--width", type=int, default=1280, help="of the stack")
    parser.add_argument("--context", type=int, default=2048, help="width of the stack's text")
    parser.add_argument("--latent", type=int, default=128, help="side of the UNet's latents; 128 is 1024 pixels")
    parser.add_argument("--size", choices=SIZES, default="sdxl", help="of the UNet, and of what is kept; tiny to try")
    parser.add_argument("--checkpointing", action="store_true", help="of the UNet's gradients")
    parser.add_argument("--coefficients", type=int, default=COEFFICIENTS)
    parser.add_argument("--wavelet", default="db1", help="of the tables of what is kept")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    flags = ", checkpointing" if options.checkpointing else ""
    report = Report("memory", options, f"{options.model}, {options.dtype}, p = {options.coefficients}, batch 1{flags}")
    print(f"{report.headline}\n")
    cases = {f"{tokens} tokens": functools.partial(stack_case, options, tokens) for tokens in options.tokens}
    if options.model == "unet":
        cases = {f"{8 * options.latent} px": functools.partial(unet_case, options)}
    columns = ["case", "method", "peak in a step", "over frozen", "saved for backward", "by the adapter"]
    rows = [row for name, make in cases.items() for row in peak_rows(name, make(), options, report)]
    print(table(columns, rows), flush=True)
    counts = SDXL_LAYERS if options.size == "sdxl" else (((64, 64), 3), ((64, 128), 2))
    sizes, layers = kept_by_layers(argparse.Namespace(**{**vars(options), "dtype": "bfloat16"}), counts)
    print(f"\nKept between steps: {layers} layers, bfloat16, {options.wavelet}; layer inputs, optimizer state apart\n")
    print(table(["kept", "in all", "a layer"], kept_rows(sizes, layers)), flush=True)
    report.records.append({"kept": dict(sizes), "kinds": by_kind(sizes), "layers": layers})
    report.finish()


def peak_rows(
    name: str, case: tuple[nn.Module, Tensor, Mapping[str, Any]], options: argparse.Namespace, report: Report
) -> list[list[str]]:
    """Returns a table row a method, and notes the raw figures in the report."""
    failed: dict[str, str] = {}
    rows, floor = [], (0, 0)
    for method in options.methods:
        found = attempt(method, functools.partial(footprint, method, options, case), failed)
        report.records.append({"case": name, "method": method, "failed": failed.get(method), "peak_saved_bytes": found})
        if found is None:
            rows.append([name, method, f"failed: {failed[method]}", "-", "-", "-"])
            continue
        floor = found if method == FLOOR else floor
        more = [size_text(own - base) for own, base in zip(found, floor, strict=True)]
        rows.append([name, method, size_text(found[0]), more[0], size_text(found[1]), more[1]])
    return rows


def kept_rows(sizes: Mapping[str, int], layers: int) -> list[list[str]]:
    """Returns the rows of what is kept: the kinds, their sum, and every attribute by its size."""
    ranked = sorted(sizes.items(), key=lambda item: -item[1])
    kinds = by_kind(sizes)
    lines = [*kinds.items(), ("**all**", sum(kinds.values())), *((f"`{name}`", size) for name, size in ranked)]
    return [[name, size_text(size), size_text(size / layers)] for name, size in lines]


if __name__ == "__main__":
    main()
