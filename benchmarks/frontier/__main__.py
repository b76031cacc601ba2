"""Fidelity against drift on the nano base: positions drawn uniformly beside positions chosen by the gradient.

    python -m benchmarks.frontier --json benchmarks/results/frontier.jsonl [--photos DIR] [--minutes 60]
    python -m benchmarks.frontier --json benchmarks/results/frontier.jsonl --plot docs/locations.png

A run learns one subject from a few pictures with p = c * (m + n) coefficients in each attention weight.  Fidelity is
the loss on unseen pictures of the subject, drift is what was added to the loss on ordinary pictures, both at timesteps
and noise that are the same for every run.  Each finished run is a line of the file, and none is done twice.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from . import subjects, summary
from .bench import Bench
from .pictures import compare, plain_pictures, show
from .runs import Run, grid
from .training import check, train

TOGETHER = 12  # runs that train in lockstep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="results, one run a line; finished runs are kept")
    parser.add_argument("--photos", type=Path, help="folder of folders of photographs, a subject each")
    parser.add_argument("--base", default="models/nano-sdxl")
    parser.add_argument("--minutes", type=float, default=600, help="begin no further runs after this long")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pictures", type=Path, help="folder for painted pictures")
    parser.add_argument("--check", action="store_true", help="only compare the lockstep with attach")
    parser.add_argument(
        "--write-subjects",
        type=Path,
        help="train nothing: write the drawn subjects here, for `trainer compare`",
    )
    parser.add_argument("--plot", type=Path, help="train nothing: draw the frontiers here, and print the tables")
    arguments = parser.parse_args()
    if arguments.write_subjects:
        subjects.write(arguments.write_subjects)
        return
    if not arguments.json:
        parser.error("--json: expected a file, got none")
    if arguments.plot:
        summary.plot(arguments.json, arguments.plot)
        print(summary.report(arguments.json))
        return
    torch.set_num_threads(arguments.threads)
    began = time.perf_counter()
    folders = sorted(arguments.photos.iterdir()) if arguments.photos else []
    bench = Bench(arguments.base, [folder for folder in folders if folder.is_dir()])
    if arguments.check:
        print(f"coefficients after 10 steps differ by {check(bench):.1e} of their norm")
        return
    measure_all(bench, arguments.json, arguments.pictures, began + 60 * arguments.minutes)


def measure_all(bench: Bench, path: Path, pictures: Path | None, until: float) -> None:
    """Does what the file lacks, some runs at a time, until the clock says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    finished = {Run(**{name: row[name] for name in Run.__dataclass_fields__}) for row in done if "base" not in row}
    known = {row.get("base") for row in done}
    append(path, [base_row(bench, subject, pictures) for subject in bench.tasks if subject not in known])
    waiting = [
        run for run in grid([name for name in bench.tasks if name not in ("robot", "totem")]) if run not in finished
    ]
    for start in range(0, len(waiting), TOGETHER):
        if time.perf_counter() > until:
            break
        began, runs = time.perf_counter(), waiting[start : start + TOGETHER]
        append(path, train(bench, runs, pictures))
        spent = (time.perf_counter() - began) / len(runs)
        print(f"{start + len(runs)} of {len(waiting)} runs, {spent:.1f} s each", flush=True)


def base_row(bench: Bench, subject: str, pictures: Path | None) -> dict:
    """Returns the base's own figures."""
    exam = bench.tasks[subject].unseen
    with torch.no_grad():
        fidelity = float(bench.errors(exam.samples, exam.noise, exam.timesteps).mean())
    common = float((bench.before - bench.ordinary.noise).square().mean())
    painted = plain_pictures(bench, subject)
    if pictures:
        show(bench, torch.cat(painted), pictures / f"{subject}-base.png")
        show(bench, bench.tasks[subject].train.latents, pictures / f"{subject}-train.png")
        show(bench, exam.samples.latents[:8], pictures / f"{subject}-unseen.png")
    return {"base": subject, "fidelity": round(fidelity, 6), "ordinary": round(common, 6)} | compare(
        bench, subject, *painted
    )


def append(path: Path, rows: list[dict]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
