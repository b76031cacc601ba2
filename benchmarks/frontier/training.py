"""Trains runs and measures them on the way."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from waveft_core import attach

from .bench import BATCH, ORDINARY, UNSEEN, Bench, Samples
from .lockstep import Lockstep
from .pictures import compare, is_painted, paint, show
from .runs import Run

STEPS, MEASURED_AT = 200, (50, 100, 200)


def train(bench: Bench, runs: list[Run], pictures: Path | None) -> list[dict]:
    """Returns a row for every run."""
    adapters = [bench.adapter(run.subject, run.c, run.arm, run.seed, run.wavelet) for run in runs]
    rows = [
        asdict(run) | {"coefficients": sum(len(held.indices) for held in adapter.layers.values())}
        for run, adapter in zip(runs, adapters, strict=True)
    ]
    everyone = list(range(len(runs)))
    with Lockstep(bench.targets, adapters) as lockstep:
        optimizer = torch.optim.AdamW(
            [{"params": [values], "lr": run.rate} for run, values in zip(runs, lockstep.values, strict=True)],
            weight_decay=1e-4,
            fused=True,
        )
        for step in range(1, STEPS + 1):
            lockstep.write(everyone)
            batches = [bench.batch(run.subject, run.seed, "training", step - 1) for run in runs]
            samples, noise, timesteps = zip(*batches, strict=True)
            errors = bench.errors(Samples.joined(list(samples)), torch.cat(noise), torch.cat(timesteps))
            errors.view(len(runs), BATCH).mean(dim=1).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            if step in MEASURED_AT:
                measure(bench, lockstep, runs, rows)
        shown = [number for number, run in enumerate(runs) if is_painted(run)]
        if shown:
            drawn = paint(bench, [runs[number].subject for number in shown], lockstep, shown)
            for number, (subject, other) in zip(shown, drawn, strict=True):
                rows[number] |= compare(bench, runs[number].subject, subject, other)
                if pictures:
                    show(bench, torch.cat([subject, other]), pictures / f"{runs[number].name}.png")
    return rows


@torch.no_grad()
def measure(bench: Bench, lockstep: Lockstep, runs: list[Run], rows: list[dict]) -> None:
    """Adds fidelity, the loss on ordinary pictures, and the change of the predictions on them to the rows."""
    everyone = list(range(len(runs)))
    lockstep.write(everyone)
    unseen, others, changes = [], [], []
    for part in torch.arange(UNSEEN).split(8):
        at = part.tolist()
        exams = [bench.tasks[run.subject].unseen for run in runs]
        samples = Samples.joined([exam.samples.rows(at) for exam in exams])
        errors = bench.errors(
            samples, torch.cat([e.noise[at] for e in exams]), torch.cat([e.timesteps[at] for e in exams])
        )
        unseen.append(errors.view(len(runs), -1))
    for part in torch.arange(ORDINARY).split(8):
        at, exam = part.tolist(), bench.ordinary
        held = exam.samples.rows(at)
        noisy = bench.noising.mix(held.latents, exam.noise[at], exam.timesteps[at]).repeat(len(runs), 1, 1, 1)
        predicted = bench.predict(noisy, exam.timesteps[at].repeat(len(runs)), Samples.joined([held] * len(runs)))
        predicted = predicted.view(len(runs), len(at), 4, 16, 16)
        others.append((predicted - exam.noise[at]).square().mean(dim=(2, 3, 4)))
        changes.append((predicted - bench.before[at]).square().mean(dim=(2, 3, 4)))
    for name, parts in (("fidelity", unseen), ("ordinary", others), ("change", changes)):
        for row, value in zip(rows, torch.cat(parts, 1).mean(1).tolist(), strict=True):
            row.setdefault(name, []).append(round(value, 6))


def check(bench: Bench) -> float:
    """Returns the largest difference between coefficients trained in lockstep and through `attach`, over their size."""
    runs = [Run("robot", 0.1, arm, 3e-3, 0) for arm in ("uniform", "gradient 16")]
    adapters = [bench.adapter(run.subject, run.c, run.arm, run.seed, run.wavelet) for run in runs]
    steps = 10
    with Lockstep(bench.targets, adapters) as lockstep:
        optimizer = torch.optim.AdamW(lockstep.values, lr=3e-3, weight_decay=1e-4, fused=True)
        for step in range(steps):
            lockstep.write([0, 1])
            one, two = (bench.batch("robot", 0, "training", step) for _ in runs)
            joined = (Samples.joined([one[0], two[0]]), torch.cat([one[1], two[1]]), torch.cat([one[2], two[2]]))
            (bench.errors(*joined).view(2, BATCH).mean(dim=1).sum()).backward()
            optimizer.step()
            optimizer.zero_grad()
    worst = 0.0
    for adapter, values in zip(adapters, lockstep.values, strict=True):
        tuning = attach(bench.unet, adapter)
        optimizer = torch.optim.AdamW(tuning.parameters(), lr=3e-3, weight_decay=1e-4, fused=True)
        for step in range(steps):
            bench.errors(*bench.batch("robot", 0, "training", step)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        held = tuning.state_dict()
        attached = torch.cat([held[target.name] for target in bench.targets])
        worst = max(worst, float((attached - values.detach()).norm() / attached.norm()))
        tuning.detach()
    return worst
