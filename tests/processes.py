"""Processes that begin with torch, diffusers and the trainer imported: for what needs a Python of its own, in no time.

Each is forked off a process that imported them once and ran nothing since. What asks how a Python begins (what a
command imports, another hash seed) starts one by `subprocess` instead.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 1800  # for what takes seconds: the machine may be busy
IMPORTED = [
    "trainer.loop", "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl", "matplotlib.figure",
    "PIL.PngImagePlugin",
]  # fmt: skip


def prepared():
    """The `multiprocessing` context whose processes begin with all that imported."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    return context


def ended(process):
    """Waits for a process, as long as it takes within reason; returns its exit status."""
    process.join(LIMIT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def run(*arguments, cwd=ROOT):
    """Runs `python ARGUMENTS` (a file, `-m MODULE` or `-c CODE`) in one: its status and what it said."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("out", "err")]
        words = [str(word) for word in arguments]
        process = prepared().Process(target=python, args=(words, str(cwd), *map(str, said)))
        process.start()
        status = ended(process)
        out, err = (path.read_text(encoding="utf-8") if path.exists() else "" for path in said)
    return subprocess.CompletedProcess(words, status, out, err)


def python(words, cwd, *said):
    """What the process does: as Python itself reads its arguments."""
    for descriptor, path in enumerate((os.devnull, *said)):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if descriptor else os.O_RDONLY
        os.dup2(os.open(path, flags, 0o600), descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process lives
    os.chdir(cwd)
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
