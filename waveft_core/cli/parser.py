"""The command line: `python -m waveft_core COMMAND`; what its words are, and how a refusal becomes one line.

0    done
2    refused: one line on stderr says what, which one, what was expected and the remedy
130  interrupted: nothing is left behind
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import WaveFTError
from ..format.disk import exists
from .console import complain, say_anything

# How the command was called, where another one calls this one: `waveft inspect` is `python -m waveft_core inspect`.
_PROGRAM = os.environ.get("WAVEFT_PROGRAM", "python -m waveft_core")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
FORMS = ("waveft", "peft", "diff")
# What the core advises whoever calls it from Python -> the same in options: each a remedy's own words, held by a test.
_AS_OPTIONS = {
    "or give overwrite=True.": "or give --overwrite.",
    "Bring it there with reproject,": "Bring it there with --reproject,",
    "got zeros. Use keep.": "got zeros. Use --keep.",
    'or use wavelet = "identity", which': "or use --wavelet identity, which",
    "Give a larger max_entries.": "Get the file from its maker.",
}
_MODEL = "a .safetensors file or a diffusers folder"


class _Parser(argparse.ArgumentParser):
    """argparse, whose usage errors are refusals like any other; `example` is shown at the end of the help."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        kwargs |= {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
        super().__init__(*args, **kwargs)
        self.epilog = f"example:\n  {example}" if example else None

    def error(self, message: str) -> NoReturn:
        raise WaveFTError(f"{message}. See `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    say_anything()
    try:
        arguments = vars(parser().parse_args(argv))
        run: Callable[..., None] = arguments.pop("run")
        run(**arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `... | head`: whoever read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except WaveFTError as error:
        return _refused(in_options(str(error)))
    except MemoryError:
        return _refused("memory: expected enough for these files, got too little. Free some, or give smaller ones.")
    except OSError as error:
        place = f'file "{error.filename}": ' if error.filename else ""
        return _refused(f"{place}{error.strerror or error}")
    except KeyboardInterrupt:
        complain("waveft: interrupted, nothing was written.")
        return 130
    return 0


def in_options(message: str) -> str:
    """Returns the core's message as the command line says it: options in the place of Python's arguments."""
    for argument, option in _AS_OPTIONS.items():
        message = message.replace(argument, option)
    return message


def _refused(message: str) -> int:
    complain(f"waveft: {message}")
    return 2


def weighted(text: str) -> tuple[Path, float]:
    r"""Returns the file and the number of `FILE[:NUMBER]`, 1 where there is none.

    Only a number after the last colon counts, so that `C:\a.safetensors` is a path; a file that exists under the whole
    name is that file.
    """
    file, _, number = text.rpartition(":")
    if not file or not _NUMBER.fullmatch(number) or exists(text):
        return Path(text), 1.0
    return Path(file), float(number)


def form(text: str) -> str:
    """Returns what `convert` is to make.

    Raises:
        argparse.ArgumentTypeError: something else than the three, with what comes closest to a LoRA.
    """
    if text in FORMS:
        return text
    lora = ". There is no low-rank form, the update's rank is about a full matrix's: diff is what LoRA loaders read"
    raise argparse.ArgumentTypeError(
        f"expected {', '.join(FORMS[:-1])} or {FORMS[-1]}, got {text!r}{lora if 'lo' in text.lower() else ''}"
    )


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands."""
    made = _Parser(
        prog=_PROGRAM,
        description="Adapters of wavelet coefficients: look at them, merge, combine, prune, extract, convert.",
        example=f"{_PROGRAM} inspect dog.safetensors",
    )
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _inspect(commands)
    _merge(commands)
    _combine(commands)
    _prune(commands)
    _extract(commands)
    _convert(commands)
    return made


def _command(commands: Any, name: str, says: str, example: str, run: Callable[..., None]) -> argparse.ArgumentParser:
    example = f"{_PROGRAM} {name} {example}"
    made: argparse.ArgumentParser = commands.add_parser(name, help=says, description=says, example=example)
    made.set_defaults(run=run)
    return made


def _lazily(name: str, module: str = "adapters") -> Callable[..., None]:
    """Returns a command that imports what it needs when it runs: `--help` waits for nothing."""

    def run(**arguments: Any) -> None:
        getattr(importlib.import_module(f".{module}", __package__), name)(**arguments)

    return run


def _overwrite(made: argparse.ArgumentParser) -> None:
    made.add_argument("--overwrite", action="store_true", help="replace what is there")


def _inspect(commands: Any) -> None:
    says = "Say what an adapter is and where its energy lies: by block, by kind of layer, by sub-band."
    made = _command(commands, "inspect", says, "dog.safetensors --plot dog.png", _lazily("inspect"))
    made.add_argument("file", metavar="FILE", type=Path, help="an adapter")
    made.add_argument("--json", action="store_true", help="print all of it as JSON, layer by layer")
    made.add_argument("--metadata", action="store_true", help="also list the strings that its trainer wrote into it")
    made.add_argument("--plot", metavar="PNG", type=Path, help="also draw it (needs matplotlib)")
    made.add_argument("--base", metavar="MODEL", type=Path, help="also set dW against the weights it was trained on")
    _overwrite(made)


def _merge(commands: Any) -> None:
    says = "Write a base model with adapters in it: a file for a file, a folder for a folder."
    example = "--base sdxl.safetensors --adapter dog.safetensors:0.8 --out sdxl-dog.safetensors"
    made = _command(commands, "merge", says, example, _lazily("merge"))
    made.add_argument("--base", metavar="BASE", type=Path, required=True, help=_MODEL)
    made.add_argument(
        "--adapter",
        dest="adapters",
        metavar="FILE[:STRENGTH]",
        type=weighted,
        nargs="+",
        action="extend",
        required=True,
        help="adapters and the strengths to apply them at, 1 by default",
    )
    made.add_argument("--out", metavar="NEW", type=Path, required=True, help="the new file or folder")
    _overwrite(made)


def _combine(commands: Any) -> None:
    says = "Add adapters up into one, exactly: union of positions, weighted sums of values."
    example = "dog.safetensors:0.8 style.safetensors:0.5 --out both.safetensors"
    made = _command(commands, "combine", says, example, _lazily("combine"))
    made.add_argument("files", metavar="FILE[:WEIGHT]", type=weighted, nargs="+", help="adapters and their weights")
    made.add_argument("--out", metavar="FILE", type=Path, required=True, help="the new adapter")
    made.add_argument(
        "--reproject",
        action="store_true",
        help="bring adapters of another basis into the first one's, as far as their number of coefficients goes, "
        "and say what error that made",
    )
    _overwrite(made)


def _prune(commands: Any) -> None:
    says = "Keep an adapter's largest coefficients alone."
    made = _command(commands, "prune", says, "dog.safetensors --energy 0.99 --out small.safetensors", _lazily("prune"))
    made.add_argument("file", metavar="FILE", type=Path, help="an adapter")
    budget = made.add_mutually_exclusive_group(required=True)
    budget.add_argument("--coefficients", metavar="N", type=int, help="how many each layer keeps")
    budget.add_argument("--keep", metavar="F", type=float, help="share of all coefficients to keep, 0 to 1")
    budget.add_argument("--energy", metavar="E", type=float, help="share of the energy to keep with the fewest, 0 to 1")
    made.add_argument("--out", metavar="FILE", type=Path, required=True, help="the new adapter")
    _overwrite(made)


def _extract(commands: Any) -> None:
    says = "Make an adapter of the difference of two models: in its wavelet basis, the closest there is."
    example = "--base sdxl.safetensors --tuned mine.safetensors --coefficients 2592 --out mine-waveft.safetensors"
    made = _command(commands, "extract", says, example, _lazily("extract", "transfer"))
    made.add_argument("--base", metavar="A", type=Path, required=True, help=_MODEL)
    tuned = f"{_MODEL}; or a LoRA, LoHa, LoKr, .diff or WaveFT file"
    made.add_argument("--tuned", metavar="B", type=Path, required=True, help=tuned)
    budget = made.add_mutually_exclusive_group(required=True)
    budget.add_argument("--coefficients", metavar="P", type=int, help="the best P of each layer")
    budget.add_argument("--energy", metavar="E", type=float, help="share of each layer's energy to keep, 0 to 1")
    budget.add_argument("--total", metavar="N", type=int, help="the best N of all layers together")
    made.add_argument("--wavelet", metavar="W", default="db1", help="db1 (the default), another, or identity")
    made.add_argument("--scaling", metavar="S", type=float, default=25.0, help="the adapter's lambda, 25 by default")
    made.add_argument(
        "--targets", metavar="SUFFIX", nargs="+", help="ends of module paths; of models, attention by default"
    )
    made.add_argument("--verbose", action="store_true", help="list every layer, not the three worst alone")
    made.add_argument("--out", metavar="FILE", type=Path, required=True, help="the new adapter")
    _overwrite(made)


def _convert(commands: Any) -> None:
    says = "Convert an adapter: from and to PEFT's folder, or to full differences (.diff) that every UI loads."
    example = "dog.safetensors --to diff --out dog-diff.safetensors"
    made = _command(commands, "convert", says, example, _lazily("convert", "transfer"))
    made.add_argument("source", metavar="SOURCE", type=Path, help="an adapter, or PEFT's folder of one")
    made.add_argument("--to", metavar="{waveft,peft,diff}", type=form, required=True, help="what to make")
    made.add_argument("--base", metavar="MODEL", type=Path, help="the model it was trained on: PEFT needs it")
    made.add_argument("--dtype", choices=("fp16", "bf16", "fp32"), help="of its values: fp32, and fp16 for diff")
    made.add_argument("--out", metavar="PATH", type=Path, required=True, help="the new file, or PEFT's new folder")
    _overwrite(made)
