"""What the command line says: lines on stdout, a progress bar on stderr, sizes as people read them.

Nothing else of the package prints, and both functions that do write out what a terminal would obey (`printable`): a
name or a title that a file brought is shown, never executed.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator

from ..errors import printable


def say(text: str) -> None:
    """Prints one line of the report."""
    print(printable(text), flush=True)  # noqa: T201 - the command line prints, nothing else of the core does


def complain(text: str) -> None:
    """Prints one line on stderr."""
    print(printable(text), file=sys.stderr)  # noqa: T201


def say_anything() -> None:
    """Lets both streams take letters that their encoding lacks: they are written out, instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def progress_bar(doing: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Gives what is told of progress: what was done since, and how much there is (0: not known).

    It draws nothing where stderr is no terminal, or tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda done, total: None
        return
    with tqdm(desc=doing, unit=unit, unit_scale=unit == "B", leave=False, disable=not sys.stderr.isatty()) as bar:

        def tell(done: int, total: int) -> None:
            if total and bar.total != total:
                bar.total = total
            bar.update(done)

        yield tell


def size_text(size: float) -> str:
    """Returns bytes as people read them."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.2f} GB"
