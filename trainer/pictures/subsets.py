"""From a job's subsets to folders of image files, with their masks and kohya's metadata. No image is opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..job import kohya
from ..job.schema import Job, Subset
from ..system.errors import UserError
from . import folders
from .folders import image_files


@dataclass
class Remarks:
    """What a scan has to say: faults, and what is none but may surprise."""

    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Folder:
    """One folder of images.

    Attributes:
        subset: its keys, every one that can be left open filled in.
        dataset: number of its [[datasets]], counted from 0.
        path: the folder.
        files: its images, in their order.
        masks: image -> mask, of those that have one.
        metadata: kohya's captions, or None.
    """

    subset: Subset
    dataset: int
    path: Path
    files: tuple[Path, ...]
    masks: dict[Path, Path] = field(default_factory=dict)
    metadata: kohya.Metadata | None = None


def open_all(job: Job, remarks: Remarks) -> list[Folder]:
    """Returns the folders of every subset that hold images, in the job's order."""
    opened: list[Folder] = []
    seen = set()
    filled = enumerate(job.subsets(), 1)
    for dataset, table in enumerate(job.datasets):
        for written in table.subsets:
            number, subset = next(filled)
            where = f"[[datasets.subsets]] {number}"
            same = (dataset, subset.image_dir, subset.metadata_file)
            if same in seen:  # as kohya does, and as its users rely on
                name = Path(subset.image_dir).name
                remarks.notices.append(f'{where}: names the folder "{name}" again and is left out')
                continue
            seen.add(same)
            layers = (written, table, job.general)
            keys = ("num_repeats", "class_tokens")
            open_keys = {key for key in keys if all(getattr(layer, key) is None for layer in layers)}
            opened += open_one(where, subset, dataset, open_keys, remarks)
    return opened


def open_one(where: str, subset: Subset, dataset: int, open_keys: set[str], remarks: Remarks) -> Iterator[Folder]:
    """Yields a subset's folder, or the `N_concept` folders in it; `open_keys` are those that a name may fill in."""
    path = Path(subset.image_dir)
    if not path.is_dir():
        if not (subset.num_class_images and not path.exists()):  # else it is made when they are drawn
            remarks.problems.append(f'{where} image_dir "{path}": {folders.not_a_folder(path)}')
        return
    masks = Path(subset.conditioning_data_dir) if subset.conditioning_data_dir else None
    inside = [one for one in folders.concepts(path) if image_files(one.folder, subset.recursive, masks)]
    own = image_files(path)
    if not own and inside and not subset.metadata_file:
        plain = [one.name for one in folders.folders_in(path) if folders.concept(one) is None and one != masks]
        if plain:
            names = folders.listed(plain)
            remarks.notices.append(f'{where}: in "{path.name}", {names} left out, not named N_concept')
        for one in inside:
            if named := by_name(one, subset, open_keys, remarks):
                yield filled_folder(where, named, dataset, one.folder, masks, remarks)
        return
    if inside and not subset.recursive:
        names = folders.listed(one.folder.name for one in inside)
        remarks.notices.append(f'{where}: "{path.name}" holds images itself, so that {names} inside is left out')
    leaf = folders.concept(path)
    named = by_name(leaf, subset, open_keys, remarks) if leaf else subset
    if named is None:
        return
    folder = filled_folder(where, named, dataset, path, masks, remarks)
    if folder.files:
        yield folder
    elif not (subset.num_class_images or folder.metadata or subset.metadata_file):
        remarks.problems.append(f'{where} image_dir "{path}": {folders.no_images(path)}')


def by_name(one: folders.Concept, subset: Subset, open_keys: set[str], remarks: Remarks) -> Subset | None:
    """Returns the subset with what the folder's name says and the job does not; None where that is 0 repeats."""
    if "num_repeats" in open_keys and not one.repeats:
        remarks.notices.append(f'folder "{one.folder.name}": left out, its name says 0 repeats')
        return None
    said = {"num_repeats": one.repeats, "class_tokens": one.tokens}
    update = {key: value for key, value in said.items() if key in open_keys}
    if update:
        words = ", ".join(f"{key} = {value!r}" for key, value in update.items())
        remarks.notices.append(f'folder "{one.folder.name}": its name says {words}')
    return subset.model_copy(update=update)


def filled_folder(where: str, subset: Subset, dataset: int, path: Path, masks: Path | None, remarks: Remarks) -> Folder:
    """Returns a folder with its files, their masks, and their metadata."""
    files, metadata = image_files(path, subset.recursive, masks), None
    if subset.metadata_file:
        try:
            metadata = kohya.Metadata(
                Path(subset.metadata_file), subset.caption_separator or ",", bool(subset.enable_wildcard)
            )
        except UserError as error:
            remarks.problems += error.problems
            return Folder(subset, dataset, path, ())
        files = named_files(where, files, metadata, path, remarks)
    found = masks_of(where, files, path, masks, remarks) if masks else {}
    return Folder(subset, dataset, path, tuple(files), found, metadata)


def named_files(where: str, files: list[Path], metadata: kohya.Metadata, folder: Path, remarks: Remarks) -> list[Path]:
    """Returns the images that the metadata names, in the folder and elsewhere."""
    named = [path for path in files if metadata.get(path, folder) is not None]
    known = set(named)
    named += [path for path in metadata.elsewhere(folder) if metadata.get(path, folder) is not None]
    if not named:
        remarks.problems.append(
            f'{where} metadata_file "{metadata.path}": expected names of images in "{folder}", got none, e.g. '
            f"{folders.listed(map(repr, metadata.texts)) or 'an empty table'}. Name the folder that it was made for."
        )
        return []
    if unused := metadata.unused():
        remarks.notices.append(f"{metadata.path.name}: no images for {folders.listed(unused)}")
    if left := [path.name for path in files if path not in known]:
        remarks.notices.append(f"{metadata.path.name}: does not name {folders.listed(left)}, which are left out")
    return named


def masks_of(where: str, files: Iterable[Path], folder: Path, masks: Path, remarks: Remarks) -> dict[Path, Path]:
    """Returns image -> mask: the file of that name, whatever its ending, in the same place of the folder of masks."""
    if not masks.is_dir():
        remarks.problems.append(f'{where} conditioning_data_dir "{masks}": {folders.not_a_folder(masks)}')
        return {}
    places = {mask.relative_to(masks).with_suffix(""): mask for mask in reversed(image_files(masks, recursive=True))}
    found, missing = {}, []
    for path in files:
        inside = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
        mask = places.get(inside.with_suffix("")) or places.get(Path(path.stem))
        if mask:
            found[path] = mask
        else:
            missing.append(path.name)
    if missing:
        remarks.problems.append(
            f'{where} conditioning_data_dir "{masks}": expected a mask for each image, got none for '
            f"{folders.listed(missing)}. Draw it (white = trained) under the image's name."
        )
    return found
