"""Files of kohya's sd-scripts: the dataset TOML, and the JSON of captions and tags for fine-tuning."""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from ..system.errors import RELATIVE, UserError, reason
from ..system.reading import decoded, parse_json, read_bytes, read_text

DATASET_TABLES = ("general", "datasets")
LARGEST_METADATA = 2**28  # bytes: captions of a million pictures
PATH_KEYS = ("image_dir", "metadata_file", "conditioning_data_dir")


def read_dataset_config(path: Path) -> dict[str, Any]:
    """Returns the tables `general` and `datasets` of a dataset file, unchecked, paths made absolute.

    Relative paths are relative to the folder of that file.

    Args:
        path: `.toml`, or `.json` with the same tables.

    Raises:
        UserError: the file cannot be read, or is no dataset file.
    """
    table = read_table(path)
    if strange := [key for key in table if key not in DATASET_TABLES]:
        raise UserError(
            f'dataset_config "{path.name}": expected [general] and [[datasets]] alone, got {", ".join(strange)}. '
            "Put everything else into the job."
        )
    if "datasets" not in table:
        raise UserError(f'dataset_config "{path.name}": expected [[datasets]], got none. Add the folders.')
    return absolute_paths(table, path.resolve().parent)


def read_table(path: Path) -> dict[str, Any]:
    """Returns the content of a TOML or JSON file."""
    where = f'dataset_config "{path}"'
    text = read_text(path, where, RELATIVE)
    try:
        table = parse_json(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        remedy = " In a path write / for \\, or put it in 'single quotes'." if "\\" in text else ""
        raise UserError(f"{where}: {error}.{remedy}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {reason(error)}.") from None
    if not isinstance(table, dict):
        raise UserError(f"{where}: expected the tables general and datasets, got a {type(table).__name__}.")
    return table


def absolute_paths(value: Any, folder: Path) -> Any:
    """Returns the tables with each path in them as seen from the folder."""
    if isinstance(value, list):
        return [absolute_paths(item, folder) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: os.path.normpath(folder / Path(item).expanduser())
        if key in PATH_KEYS and isinstance(item, str) and item
        else absolute_paths(item, folder)
        for key, item in value.items()
    }


class Metadata:
    """The captions of a subset's `metadata_file`, looked up by picture.

    Kohya's tools name a picture by its full path, by its path inside the folder, or by either without ending. Where the
    folder was moved since, its file name alone must do.

    Args:
        path: JSON of names -> {"caption": ..., "tags": ...}, or JSONL of the same with "image_path" in each line.
        separator: put between a caption and its tags.
        apart: whether a caption's lines are captions of their own, each with the tags.

    Raises:
        UserError: the file cannot be read, or is something else.
    """

    def __init__(self, path: Path, separator: str, apart: bool) -> None:
        self.path = path
        self.texts = {name: joined(path, name, entry, separator, apart) for name, entry in read_entries(path).items()}
        last = {name: name.replace("\\", "/").rpartition("/")[2] for name in self.texts}
        count = Counter(last.values())
        self._by_last_part = {part: name for name, part in last.items() if count[part] == 1}
        self._used: set[str] = set()

    def get(self, picture: Path, folder: Path) -> str | None:
        """Returns the picture's caption, one line for each to choose from, "" where empty; None = not in the file."""
        inside = picture.relative_to(folder) if picture.is_relative_to(folder) else picture
        for path in (picture, inside, Path(picture.name)):
            for name in (str(path), path.as_posix(), str(path.with_suffix("")), path.with_suffix("").as_posix()):
                if name in self.texts:
                    self._used.add(name)
                    return self.texts[name]
        found = self._by_last_part.get(picture.name) or self._by_last_part.get(picture.stem)
        if found is None:
            return None
        self._used.add(found)
        return self.texts[found]

    def elsewhere(self, folder: Path) -> list[Path]:
        """Returns the pictures that the file names by a full path outside the folder, and that are there."""
        paths = (Path(name) for name in self.texts if Path(name).is_absolute())
        return sorted(path for path in paths if not path.is_relative_to(folder) and path.is_file())

    def unused(self) -> list[str]:
        """Returns the names for which no picture was asked so far."""
        return [name for name in self.texts if name not in self._used]


def read_entries(path: Path) -> dict[str, Any]:
    """Returns name -> entry, as they stand in the file."""
    where = f'metadata_file "{path}"'
    try:
        text = decoded(read_bytes(path, LARGEST_METADATA))
        if path.suffix.lower() == ".jsonl":
            lines = [parse_json(line) for line in text.splitlines() if line.strip()]
            return {line["image_path"]: line for line in lines}
        found = parse_json(text)
    except FileNotFoundError:
        raise UserError(f"{where}: not found. {RELATIVE}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: expected kohya's JSON of captions, got: {error}. Make it again.") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: expected a table of picture names, got a {type(found).__name__}. Make it again.")
    return found


def joined(path: Path, name: str, entry: Any, separator: str, apart: bool) -> str:
    """Returns an entry's caption with its tags, one line for each to choose from; "" where it has neither."""
    caption, tags = (entry.get(key) or "" for key in ("caption", "tags")) if isinstance(entry, dict) else (None, None)
    if not isinstance(caption, str) or not isinstance(tags, str | list):
        raise UserError(
            f'metadata_file "{path}", "{name}": expected the texts "caption" and "tags", got {entry!r}. Make it again.'
        )
    tags = f"{separator} ".join(map(str, tags) if isinstance(tags, list) else tags.splitlines())
    lines = [line.strip() for line in caption.splitlines() if line.strip()]
    lines = lines if apart and lines else [" ".join(lines)]
    return "\n".join(f"{separator} ".join(part for part in (line, tags) if part) for line in lines)
