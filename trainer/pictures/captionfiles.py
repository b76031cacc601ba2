"""What was written for each picture: in a file beside it, in kohya's metadata, or once for its whole folder."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from ..job.schema import Subset
from ..system.plaintext import unwritten
from ..system.reading import decoded, is_file, read_bytes
from . import captions
from .captions import Caption, Rules
from .folders import entries, listed
from .subsets import Folder, Remarks

LARGEST_CAPTION = 2**17  # bytes: two thousand times what the encoders see; a larger file is something else
USUAL_ENDINGS = (".txt", ".caption")
NOT_CAPTIONS = {"readme", "license", "licence", "notes"}  # texts that lie about in image folders


def read_all(folder: Folder, trigger: str, remarks: Remarks) -> dict[Path, Caption]:
    """Returns image -> caption, those left out that have a fault."""
    texts: dict[Path, str] = {}
    silent, hollow, subset = [], [], folder.subset
    separators = [subset.caption_separator, subset.keep_tokens_separator, subset.secondary_separator]
    for path in folder.files:
        try:
            text = written(path, folder)
        except ValueError as error:
            remarks.problems.append(str(error))
            continue
        if text and text.strip() and captions.says_nothing(text, *filter(None, separators)):
            hollow.append(path.name)
            text = None
        if text is None:
            silent.append(path)
        else:
            texts[path] = text
    if hollow:
        remarks.notices.append(f"captions of {listed(hollow)}: hold separators alone, taken as none")
    remark(texts, folder, trigger, remarks)
    default = stand_in(folder.subset)
    if default is not None:
        texts |= dict.fromkeys(silent, default)
    elif silent:
        remarks.problems.append(none_given(silent, folder))
    return {path: of_text(text, folder.subset, trigger) for path, text in texts.items()}


def of_text(text: str, subset: Subset, trigger: str) -> Caption:
    """Returns the caption that a text makes in a subset."""
    kept = rules(subset, trigger)
    return Caption(lines(captions.fill_trigger(text, trigger), kept), kept)


def rules(subset: Subset, trigger: str) -> Rules:
    """Returns what is done to the subset's captions, the trigger filled in."""
    values = {key.name: getattr(subset, key.name) for key in fields(Rules)}
    for key in ("caption_prefix", "caption_suffix"):
        values[key] = captions.fill_trigger(values[key], trigger)
    return Rules(**values)


def lines(text: str, kept: Rules) -> tuple[str, ...]:
    """Returns the lines that are drawn from; without wildcards a caption is one text, whatever its lines."""
    found = tuple(line.strip() for line in text.splitlines() if line.strip()) or ("",)
    return found if kept.enable_wildcard else (" ".join(found),)


def written(path: Path, folder: Folder) -> str | None:
    """Returns what was written for one picture; "" only where the job allows it, None where there is nothing.

    Raises:
        ValueError: what, which one: what was expected, what was found, and the remedy.
    """
    if folder.metadata:
        text = folder.metadata.get(path, folder.path) or ""
        if fault := unwritten(text):
            raise ValueError(f'metadata_file "{folder.metadata.path}", caption of "{path.name}": got {fault}.')
        return text or None
    file = caption_file(path, folder.subset)
    if file is None:
        return None
    try:
        text = decoded(read_bytes(file, LARGEST_CAPTION))
    except OSError as error:
        raise ValueError(f'caption "{file}": cannot be read ({error.strerror or error}). Replace it.') from None
    except ValueError as error:
        raise ValueError(f'caption "{file}": {error}') from None
    if fault := unwritten(text):
        raise ValueError(f'caption "{file}": expected a text, got {fault}.')
    if not text.strip() and folder.subset.missing_caption != "empty":
        raise ValueError(
            f'caption "{file}": expected a text, got an empty file. Write it, remove it and set class_tokens, or set '
            'missing_caption = "empty".'
        )
    return text


def caption_file(path: Path, subset: Subset) -> Path | None:
    """Returns the file with the picture's caption, or None where there is none."""
    return next((file for ending in endings(subset) if is_file(file := path.with_suffix(ending))), None)


def endings(subset: Subset) -> list[str]:
    """Returns the endings of caption files in the order in which they are tried."""
    return list(dict.fromkeys((subset.caption_extension or USUAL_ENDINGS[0], *USUAL_ENDINGS)))


def stand_in(subset: Subset) -> str | None:
    """Returns the caption of a picture for which none was written, or None where that is a fault."""
    if subset.missing_caption == "empty":
        return ""
    return None if subset.missing_caption == "error" else subset.class_tokens


def none_given(silent: list[Path], folder: Folder) -> str:
    """Returns the fault of pictures for which nothing was written."""
    names, subset = listed(path.name for path in silent), folder.subset
    if folder.metadata:
        return (
            f'metadata_file "{folder.metadata.path}": expected captions or tags for all images, got none for {names}. '
            "Write them, or set class_tokens for all."
        )
    expected = silent[0].with_suffix(endings(subset)[0]).name
    remedy = 'set missing_caption = "class_tokens"' if subset.class_tokens else "set class_tokens for all"
    return (
        f'"{folder.path}": expected a caption in {expected}{" and so on" if len(silent) > 1 else ""}, '
        f'got none for {names}. Write it, {remedy}, or set missing_caption = "empty".'
    )


def remark(texts: Mapping[Path, str], folder: Folder, trigger: str, remarks: Remarks) -> None:
    """Notes what is odd about the captions that were written."""
    subset = folder.subset
    asking = [path.name for path, text in texts.items() if captions.has_trigger(text)]
    if asking and not trigger:
        remarks.problems.append(
            f"captions of {listed(asking)}: ask for the trigger, but [metadata] trigger_phrase is empty. Set it."
        )
    several = [path.name for path, text in texts.items() if len(text.strip().splitlines()) > 1]
    if several and not subset.enable_wildcard:
        remarks.notices.append(
            f"captions of {listed(several)}: have several lines, taken as one text (enable_wildcard draws one of them)"
        )
    if folder.metadata:
        return
    others = defaultdict(list)
    for path in texts:
        file = caption_file(path, subset)
        if file and file != path.with_suffix(endings(subset)[0]):
            others[file.suffix].append(path.name)
    for ending, names in others.items():
        remarks.notices.append(f"captions of {listed(names)}: read from {ending} files")
    if lonely := without_picture(folder):
        remarks.notices.append(f'"{folder.path.name}": captions without a picture: {listed(lonely)}')


def without_picture(folder: Folder) -> list[str]:
    """Returns the caption files of the folder itself for which there is no picture: often a name is misspelt."""
    ending, stems = endings(folder.subset)[0], {path.stem for path in folder.files}
    names = (path.name for path in entries(folder.path) if not path.name.startswith("."))
    found = (name for name in names if name.endswith(ending))
    left = (name for name in found if name.removesuffix(ending) not in stems)
    return sorted(name for name in left if name.removesuffix(ending).lower() not in NOT_CAPTIONS)
