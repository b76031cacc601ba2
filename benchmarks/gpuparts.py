"""The parts of `benchmarks.gpu` that no other benchmark has: the tests for a GPU, CUDA graphs, the trainer's own loop.

python -m benchmarks.gpuparts tests | graphs | loop [--device cuda] [--small] [--json FILE]
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import Report, arguments, ratio_text, table, take_turns, time_text
from benchmarks.step import Stack, unet_case
from waveft_core import SDXL_ATTENTION, Spec, attach
from waveft_core.update.storage import lay_together
from waveft_core.update.targets import select

ROOT = Path(__file__).resolve().parents[1]
NANO = ROOT / "models" / "nano-sdxl"
PICTURES = ROOT / "jobs" / "robot"
STEPS = 20  # of the trainer's loop


def tests(options: argparse.Namespace, report: Report) -> None:
    """Runs the tests that are marked `gpu`; they skip where there is none."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/waveft_core/test_gpu.py",
    ]
    command += [] if options.device == "cpu" else ["tests/trainer/test_loop.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    said = done.stdout.strip().splitlines()
    print("\n".join(said[-30:]))
    if done.returncode not in (0, 5):  # 5: nothing was collected
        raise SystemExit(done.returncode)
    report.records.append({"summary": said[-1] if said else ""})


class Stepper:
    """A model with ours in it and an optimizer, whose step can be captured: everything stays where it is.

    Args:
        model, x, given: what is called, and with what.
        coefficients: of each layer.
    """

    def __init__(self, model: nn.Module, x: Tensor, given: dict[str, Any], coefficients: int) -> None:
        model.requires_grad_(False)
        lay_together(target.weight for target in select(model, SDXL_ATTENTION))
        self.model, self.given = model, given
        self.x = x.detach().requires_grad_(True)
        self.tuning = attach(model, Spec(coefficients=coefficients))
        cuda = x.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.tuning.parameters(), lr=1e-4, fused=True, capturable=cuda)

    def __call__(self) -> None:
        """One step; gradients are written anew into the same memory."""
        self.optimizer.zero_grad(set_to_none=True)
        output = self.model(self.x, **self.given)
        output = output[0] if isinstance(output, tuple) else output
        output.float().square().mean().backward()
        self.optimizer.step()

    def captured(self, warm_up: int) -> torch.cuda.CUDAGraph:
        """Returns the step as a graph, after `warm_up` steps."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(warm_up):
                self()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self()
        return graph


def graphs(options: argparse.Namespace, report: Report) -> None:
    """Compares a captured step with the same step launched kernel by kernel: its time, and the weights' bits."""
    device, dtype = torch.device(options.device), torch.bfloat16
    warm_up, replays = 3, 5

    def case() -> tuple[nn.Module, Tensor, dict[str, Any]]:
        torch.manual_seed(0)
        if options.small:
            x, context = torch.randn(1, 8, 64), torch.randn(1, 7, 64)
            return Stack(64, 64).to(device, dtype), x.to(device, dtype), {"context": context.to(device, dtype)}
        given = argparse.Namespace(
            device=options.device, dtype="bfloat16", size="sdxl", checkpointing=False, latent=128, batch=1
        )
        return unet_case(given)

    coefficients = 20 if options.small else 2592
    eager = Stepper(*case(), coefficients)
    if device.type != "cuda":
        for _ in range(warm_up):
            eager()
        print("A graph needs CUDA: the step alone was run.")
        report.records.append({"captured": False, "seconds": {}})
        return
    for _ in range(warm_up + replays):  # capturing runs nothing
        eager()
    again = Stepper(*case(), coefficients)
    graph = again.captured(warm_up)
    for _ in range(replays):
        graph.replay()
    torch.cuda.synchronize()
    pairs = zip(select(eager.model, SDXL_ATTENTION), select(again.model, SDXL_ATTENTION), strict=True)
    differing = sum(int((own.weight != other.weight).sum()) for own, other in pairs)
    times = take_turns({"launched": eager, "captured": graph.replay}, options.rounds, device)
    rows = [
        [name, time_text(times.median(name)), ratio_text(times.ratios(name, "launched"), 3)] for name in times.seconds
    ]
    print(table(["step", "time", "over launched"], rows))
    print(f"\nAfter {replays} steps, entries whose bits differ: {differing}.")
    report.records.append({"captured": True, "seconds": times.seconds, "differing": differing})


def random_sdxl(folder: Path, device: str) -> None:
    """Writes an SDXL of full size with random weights in bf16 and nano's vocabulary, 7 GB, as diffusers keeps one."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from trainer.base.modelfacts import ASSETS

    shutil.copytree(ASSETS, folder)
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(NANO / name, folder / name, dirs_exist_ok=True)
    generator = torch.Generator(device).manual_seed(0)
    kinds: dict[str, Any] = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    for name, kind in kinds.items():
        config = json.loads((ASSETS / name / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            model = kind(CLIPTextConfig(**config)) if name.startswith("text") else kind.from_config(config)
        model = model.to(torch.bfloat16).to_empty(device=device)
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                norm = "norm" in path and path.endswith("weight")
                parameter.fill_(1.0) if norm else parameter.normal_(std=0.02, generator=generator)
            for path, buffer in model.named_buffers():
                if path.endswith("position_ids"):
                    buffer.copy_(torch.arange(buffer.shape[-1])[None])
        model.save_pretrained(folder / name)


def loop(options: argparse.Namespace, report: Report) -> None:
    """Runs the trainer on the robot's six pictures: caches, `STEPS` steps and a sample, at 1024 px or nano's 64."""
    import toml

    steps = 2 if options.small else STEPS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = NANO if options.small else folder / "sdxl"
        if not options.small:
            random_sdxl(base, options.device)
        job: dict[str, Any] = {
            "model": {"pretrained_model_name_or_path": str(base)},
            "network": {"coefficients": 100} if options.small else {},
            "train": {"max_train_steps": steps, "gradient_accumulation_steps": 1, "device": options.device},
            "save": {"output_dir": str(folder / "out")},
            "sample": {"prompts": ["sks robot on the beach"], "sample_steps": 2 if options.small else 20},
            "general": {"resolution": 64 if options.small else 1024},
            "datasets": [{"subsets": [{"image_dir": str(PICTURES)}]}],
        }
        path = folder / "job.toml"
        path.write_text(toml.dumps(job), encoding="utf-8")
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "trainer", "--config", str(path)],
            cwd=ROOT, capture_output=True, text=True, encoding="utf-8",
        )  # fmt: skip
        took = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"the trainer ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
        metrics = next((folder / "out").glob("*metrics*.jsonl"))
        lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
        adapter = next((folder / "out").glob("*.safetensors"))
        peak = re.search(r"peak[^\n]*?([\d.]+ [GM]i?B)", done.stdout)
        rows = [
            ["whole run", time_text(took)],
            ["optimizer steps", str(sum("loss" in line for line in lines))],
            ["adapter", f"{adapter.stat().st_size / 1e6:.1f} MB"],
            ["peak memory, as the trainer says", peak[1] if peak else "-"],
        ]
        print(table(["trainer", "figure"], rows))
        report.records.append({"seconds": took, "metrics": lines, "peak": peak[1] if peak else None})


PARTS = {"tests": tests, "graphs": graphs, "loop": loop}


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=15, dtype=None)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--small", action="store_true", help="models that take no time")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    report = Report(options.part, options, "small" if options.small else "SDXL's size, random weights")
    print(f"{report.headline}\n")
    functools.partial(PARTS[options.part], options, report)()
    report.finish()


if __name__ == "__main__":
    main()
