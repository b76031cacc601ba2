"""All benchmarks in one run, and the page that shows them.

    python -m benchmarks all --json DIR             about an hour on two quiet cores; refreshes docs/benchmarks.md
    python -m benchmarks all --json DIR --only step load
    python -m benchmarks all --json DIR --small --page copy.md      tiny sizes, to try the command

Each runs in a process of its own and leaves `NAME.json` (figures) and `NAME.md` (what it printed) in DIR.  A table of
the page is refreshed where a benchmark printed one whose columns hold all of its own; the prose beside it is not, and
has to be read again.  The pictures are drawn anew from the same figures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = {  # as the page was made, and tiny
    "roofline": ([], ["--size", "tiny", "--px", "64", "--coefficients", "20", "--methods", "frozen", "WaveFT (ours)"]),
    "step": (["--rounds", "11"], ["--tokens", "8", "--width", "64", "--context", "64", "--coefficients", "20"]),
    "causes": (["--threads", "1"], ["--tokens", "8", "--width", "64", "--context", "64", "--coefficients", "20"]),
    "memory": ([], ["--tokens", "8", "--width", "64", "--context", "64", "--coefficients", "20", "--size", "tiny"]),
    "load": ([], ["--size", "tiny", "--coefficients", "20", "--peft-rounds", "1"]),
    "delta": ([], ["--wavelets", "db2", "--size", "64", "--coefficients", "20"]),
    "scaling": (
        [],
        ["--tokens", "8", "--coefficients", "16", "--width", "32", "--widths", "32", "--paper", "20"],
    ),
    "gradient": ([], ["--wavelets", "db1", "--coefficients", "20", "--shapes", "64", "32", "8"]),
}
DRAWN = ("step", "scaling")


def run(name: str, folder: Path, small: bool) -> str:
    """Runs a benchmark and returns what it printed.

    Raises:
        SystemExit: it failed.
    """
    own, tiny = BENCHMARKS[name]
    command = [sys.executable, "-m", f"benchmarks.{name}", *((*tiny, "--rounds", "2") if small else own)]
    done = subprocess.run(
        [*command, "--json", str(folder / f"{name}.json")], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )
    if done.returncode:
        raise SystemExit(f"{name}: exit status {done.returncode}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}")
    (folder / f"{name}.md").write_text(done.stdout, encoding="utf-8")
    return done.stdout


def tables(text: str) -> Iterator[list[str]]:
    """Yields the lines of each markdown table."""
    found: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            found.append(line)
        else:
            if len(found) > 1:
                yield found
            found = []


def cells(line: str) -> list[str]:
    """Returns the cells of a table's row."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def refreshed(page: str, printed: str) -> tuple[str, list[str]]:
    """Returns the page with the tables that were printed in the place of its own, and their header rows.

    A printed table may have further columns than the page shows.
    """
    names = []
    for own in list(tables(page)):
        shown = cells(own[0])
        for new in tables(printed):
            columns = cells(new[0])
            if columns[0] != shown[0] or not set(shown) <= set(columns):
                continue
            places = [columns.index(cell) for cell in shown]
            rows = [cells(line) for line in new[2:]]
            lines = [*own[:2], *("| " + " | ".join(row[place] for place in places) + " |" for row in rows)]
            page = page.replace("\n".join(own), "\n".join(lines))
            names.append(own[0])
    return page, names


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["all"])
    parser.add_argument("--json", type=Path, required=True, metavar="DIR", help="where figures and tables go")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="whose tables are refreshed")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    options = parser.parse_args(argv)
    options.json.mkdir(parents=True, exist_ok=True)
    page = options.page.read_text(encoding="utf-8")
    for name in options.only:
        print(f"{name} ...", flush=True)
        page, names = refreshed(page, run(name, options.json.resolve(), options.small))
        print(*(f"  {row}" for row in names), sep="\n", flush=True)
        options.page.write_text(page, encoding="utf-8")  # what is done stays done, whatever comes
    if drawn := [str(options.json / f"{name}.json") for name in DRAWN if name in options.only]:
        from benchmarks import plot

        plot.main([*drawn, "--folder", str(options.page.parent)])


if __name__ == "__main__":
    main()
