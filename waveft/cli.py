"""What `waveft WORD ...` runs: each word's own command line, imported when the word was said and not before.

`--help` and `--version` import neither torch nor the packages they speak of.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.system import commandline

TRAINER, TOOLBOX = "trainer.cli", "waveft_core.cli.parser"
WORDS = {
    "init": (TRAINER, "write a job file for your pictures, or from a kohya config"),
    "train": (TRAINER, "train an adapter as a job file says"),
    "sample": (TRAINER, "draw a grid of a finished adapter: prompts, strengths, seeds"),
    "evaluate": (TRAINER, "measure which step and strength of a run is the best"),
    "compare": (TRAINER, "train other methods on the same job and set them side by side"),
    "publish": (TRAINER, "upload a finished run to the Hugging Face hub"),
    "inspect": (TOOLBOX, "say what an adapter is"),
    "merge": (TOOLBOX, "write a base model with adapters in it"),
    "combine": (TOOLBOX, "add adapters up into one"),
    "prune": (TOOLBOX, "keep an adapter's largest coefficients"),
    "extract": (TOOLBOX, "make an adapter of the difference of two models"),
    "convert": (TOOLBOX, "from and to HF PEFT, and to full differences for every UI"),
}
OURS = ("trainer", "waveft_core", "waveft")
TRAINERS_PYTHON = (3, 11)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line; returns its exit status, 2 where the line is refused."""
    try:
        return run_line(arguments)
    except BrokenPipeError:  # `... | head`: whoever read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run_line(arguments: Sequence[str] | None) -> int:
    """Runs one command line as its word does; raises BrokenPipeError where nobody reads on."""
    word, *rest = (sys.argv[1:] if arguments is None else arguments) or ("--help",)
    os.environ.setdefault(commandline.PROGRAM, "waveft" if Path(sys.argv[0]).stem == "waveft" else "python -m waveft")
    if word in ("-h", "--help"):
        print(help_text(), flush=True)
        return 0
    if word in ("-V", "--version"):
        print(f"waveft {version()}", flush=True)
        return 0
    if word not in WORDS:
        return refuse(unknown(word))
    package = WORDS[word][0]
    if package == TRAINER and sys.version_info < TRAINERS_PYTHON:
        oldest, got = (".".join(map(str, numbers[:3])) for numbers in (TRAINERS_PYTHON, sys.version_info))
        return refuse(f'"{word}", Python: expected {oldest} or newer, got {got} ({sys.executable}). Use a newer one.')
    try:
        return int(importlib.import_module(package).main([word, *rest]))  # the toolbox imports torch when it works
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] in OURS:
            raise  # a fault of ours
        return refuse(not_installed(word, error.name, package))


def help_text() -> str:
    """Returns what `--help` says."""
    program = commandline.program()
    lines = [f"usage: {program} WORD ...", "", "Trains WaveFT adapters for SDXL, and works on their files.", ""]
    for title, package in (("training", TRAINER), ("files", TOOLBOX)):
        lines += [title, *(f"  {word:<10}{says}" for word, (home, says) in WORDS.items() if home == package), ""]
    lines.append(f"`{program} WORD --help` tells of one of them, `{program} --version` which version it is.")
    return "\n".join(lines)


def unknown(word: str) -> str:
    """Returns what is said to a word that there is none of."""
    near = difflib.get_close_matches(word, WORDS, 1)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    return f'word "{word}": expected one of {", ".join(WORDS)}.{hint}'


def not_installed(word: str, missing: str, package: str) -> str:
    """Returns which line installs what a word needs, for the Python that runs."""
    extra = "train" if package == TRAINER else ""
    line = commandline.install(*(requirements(extra) or [missing]))
    return f'"{word}": expected the Python package {missing}, got none installed. Run: {line}'


def requirements(extra: str) -> list[str]:
    """Returns what the installed distribution asks for, or one extra of it; nothing where it is not installed."""
    try:
        asked = importlib.metadata.requires("waveft") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    marked = [line.partition(";") for line in asked]
    wanted = re.compile(rf"""extra\s*==\s*["']{extra}["']""") if extra else None
    return [name.strip() for name, _, mark in marked if (wanted.search(mark) if wanted else "extra" not in mark)]


def version() -> str:
    """Returns `waveft_core.__version__` without importing the package, which would import torch."""
    found = importlib.util.find_spec("waveft_core")
    assert found is not None and found.origin is not None, "waveft_core lies beside this package"
    for node in ast.parse(Path(found.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise AssertionError("waveft_core has no __version__")


def refuse(message: str) -> int:
    """Prints why a line is not run; returns the exit status for it."""
    print(f"waveft: {message}", file=sys.stderr)
    return 2
