"""Where CLIP's vocabulary lies on this machine, for a single file, which has none; and the two tokenizers made of it.

Finding it imports neither torch nor transformers: a job is checked before either is.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..job.schema import Model
from ..system import commandline
from ..system.errors import UserError
from ..system.reading import read_bytes, read_json
from .modelfacts import ASSETS

COMFYUI = ("comfy/sd1_tokenizer", "sd1_tokenizer")  # from ComfyUI's own folder, or from `comfy` in it
HUB = (
    "openai/clip-vit-large-patch14",
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "stabilityai/stable-diffusion-xl-base-1.0",
)
PACKAGES = ("open_clip", "clip")  # that carry the merges
LARGEST_PACKED = 2**22  # bytes; it has 1.4 MB
PACKED = "bpe_simple_vocab_16e6.txt.gz"
MERGES, WORDS = 48894, 49408  # CLIP's: 256 bytes, the same ending a word, the merges, and two marks
KNOWN = ("a photo of a cat", [49406, 320, 1125, 539, 320, 2368, 49407])
PAD = "!"  # token 0: what SDXL's second encoder is padded with
FORMS = "vocab.json and merges.txt (or tokenizer.json)"


@dataclass(frozen=True)
class Vocabulary:
    """Where it was found. Each place is a folder with a tokenizer's files, or the packed file of a package.

    Attributes:
        first: of the first encoder's; None = to be fetched.
        second: of the second's, the same unless it has one of its own.
    """

    first: Path | None
    second: Path | None


def find(model: Model, words: int | None = None) -> Vocabulary:
    """Returns the vocabulary of a single file's encoders, the nearest first.

    Args:
        model: the job's section.
        words: how many tokens the encoders embed, where it is known: a vocabulary of another size is passed over.

    Raises:
        UserError: there is none, with every place that was looked in; or [model] tokenizer names none that fits.
    """
    if model.tokenizer:
        found = in_folder(Path(model.tokenizer))
        where = f'[model] tokenizer "{model.tokenizer}"'
        if found is None:
            raise UserError(
                f"{where}: expected a folder that holds tokenizer/ and tokenizer_2/, or one CLIP tokenizer ({FORMS}), "
                "or a ComfyUI folder, got none of these. Name one, or remove the key to have it looked for."
            )
        if fault := misfit(found, words):
            raise UserError(f"{where}: {fault}. Name the tokenizer that the base was trained with.")
        return found
    looked = []
    for where, found in places(model):
        fault = misfit(found, words) if found else ""
        if found and not fault:
            return found
        looked.append(f"{where} ({fault})" if fault else where)
    if model.allow_download:
        return Vocabulary(None, None)
    raise UserError(
        f"[model] tokenizer: expected CLIP's vocabulary ({FORMS}), which a single file lacks, got none. Looked in: "
        f"{'; '.join(looked)}. Name a folder that holds it (that of a diffusers model, of a CLIP, or ComfyUI's own "
        "folder), or set allow_download = true to fetch it once (1.4 MB), or run: "
        + commandline.install("--no-deps", "open_clip_torch")
    )


def places(model: Model) -> Iterator[tuple[str, Vocabulary | None]]:
    """Yields each place's name with the vocabulary there, from the nearest to the farthest."""
    beside = Path(model.pretrained_model_name_or_path).parent
    found = in_folder(beside) if holds(beside / "tokenizer") else None
    yield f'"{beside / "tokenizer"}"', found
    if model.config:
        yield f'"{Path(model.config) / "tokenizer"}"', in_folder(Path(model.config))
    yield f"the hub cache ({', '.join(HUB)})", in_hub_cache()
    yield f"the packages {' and '.join(PACKAGES)}", in_packages()


def in_folder(root: Path) -> Vocabulary | None:
    """Returns the vocabulary of a folder with tokenizers in it, of one that is a tokenizer, or of ComfyUI's."""
    first = next((root / inner for inner in ("tokenizer", ".", *COMFYUI) if holds(root / inner)), None)
    if first is None:
        return None
    return Vocabulary(first, root / "tokenizer_2" if holds(root / "tokenizer_2") else first)


def holds(folder: Path) -> bool:
    """Returns whether a folder has a tokenizer's files."""
    whole = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return whole or (folder / "tokenizer.json").is_file()


def in_hub_cache() -> Vocabulary | None:
    """Returns the vocabulary of a model that the hub's own cache (HF_HOME is heeded) has of old."""
    import huggingface_hub

    for name in HUB:
        for file in ("vocab.json", "tokenizer/vocab.json"):
            cached = huggingface_hub.try_to_load_from_cache(name, file)
            found = in_folder(Path(cached).parents[file.count("/")]) if isinstance(cached, str) else None
            if found:
                return found
    return None


def in_packages() -> Vocabulary | None:
    """Returns the packed merges of an installed package, which is not imported."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            if (packed := Path(folder) / PACKED).is_file():
                return Vocabulary(packed, packed)
    return None


def misfit(found: Vocabulary, words: int | None) -> str:
    """Returns why a vocabulary is not that of the encoders, "" where it is or cannot be told."""
    for place in dict.fromkeys((found.first, found.second)):
        if place is None or place.is_file():
            count = WORDS
        else:
            try:
                count = size(place)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                return f'the vocabulary in "{place}" cannot be read: {error}'
        if words is not None and count != words:
            return f"expected {words} tokens, as the text encoders have, got {count}"
    return ""


def size(folder: Path) -> int:
    """Returns how many tokens a tokenizer's files name."""
    if (folder / "vocab.json").is_file():
        return 1 + max(read_json(folder / "vocab.json").values(), default=-1)
    table = read_json(folder / "tokenizer.json")
    added = (token["id"] for token in table.get("added_tokens", []))
    return 1 + max([*table["model"]["vocab"].values(), *added], default=-1)


def of_base(model: Model) -> tuple[Any, Any]:
    """Returns the two tokenizers that a base on this machine is used with.

    Raises:
        UserError: it is none that is known here, or its vocabulary is not.
        OSError, ValueError, KeyError: its files are not a tokenizer's.
    """
    path = Path(model.pretrained_model_name_or_path)
    if path.is_dir():
        return tokenizer(path / "tokenizer"), tokenizer(path / "tokenizer_2")
    if not path.is_file():
        raise UserError(f'base "{path}": its tokenizers are not on this machine.')
    return tokenizers(find(model))


def tokenizers(found: Vocabulary) -> tuple[Any, Any]:
    """Returns the two encoders' tokenizers.

    Raises:
        UserError: the vocabulary cannot be fetched, or is not what it should be.
    """
    first = fetched() if found.first is None else found.first
    second = first if found.second is None else found.second
    made = tokenizer(first), tokenizer(second)
    if second.name != "tokenizer_2":
        made[1].pad_token = PAD
    return made


def tokenizer(place: Path) -> Any:
    """Returns the tokenizer of a folder or of a package's packed merges."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        folder = unpack(place, Path(scratch)) if place.is_file() else place
        made = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    if len(made) == WORDS and (got := made(KNOWN[0]).input_ids) != KNOWN[1]:
        raise UserError(f'vocabulary "{place}": expected "{KNOWN[0]}" to be {KNOWN[1]}, got {got}. Name another.')
    return made


def unpack(packed: Path, folder: Path) -> Path:
    """Writes the tokenizer of a packed list of merges into the folder; returns it."""
    try:
        lines = gzip.decompress(read_bytes(packed, LARGEST_PACKED)).decode("utf-8").split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f'vocabulary "{packed}": cannot be read: {error}. Install its package again.') from None
    merges = lines[1 : 1 + MERGES]  # the first line is a version, and the list goes on to twice what CLIP took of it
    if len(merges) < MERGES:
        raise UserError(
            f'vocabulary "{packed}": expected {MERGES} merges, got {len(merges)}. Install its package again.'
        )
    letters = byte_letters()
    entries = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    table = {entry: number for number, entry in enumerate(entries)}
    (folder / "vocab.json").write_text(json.dumps(table), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    # the first encoder's, for both: that of the second makes a mark of every "!" in a text, which OpenCLIP's does not
    shutil.copy(ASSETS / "tokenizer" / "tokenizer_config.json", folder)
    return folder


def byte_letters() -> list[str]:
    """Returns the letter that stands for each byte, in the order of the vocabulary: those that print come first."""
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    return [chr(byte) for byte in printing] + [chr(256 + number) for number in range(len(others))]


def fetched() -> Path:
    """Returns the folder of the vocabulary in the hub's cache, where it is put by the first run that needs it."""
    import huggingface_hub

    try:
        files = [Path(huggingface_hub.hf_hub_download(HUB[0], name)) for name in ("vocab.json", "merges.txt")]
    except (OSError, ValueError) as error:  # HfHubHTTPError and its kin are of the first kind
        raise UserError(
            f"[model] tokenizer: CLIP's vocabulary cannot be fetched from {HUB[0]}: {error}. Connect, or name a folder "
            "that holds it."
        ) from error
    return files[0].parent
