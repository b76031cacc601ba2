"""The header tensor of an adapter file: strict JSON in, strict JSON out."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, SupportsFloat

from ..basis.atoms import check_wavelet
from ..errors import Refusal, WaveFTError

HEADER = "waveft.header"
VERSION = 1
MAX_BYTES = 4096
MAX_DEPTH = 4
NEWER = "The file is damaged, or of a later version: update WaveFT."


@dataclass(frozen=True)
class Header:
    """The keys of version 1, less `version` and `level`, which have one value each."""

    wavelet: str
    mode: str
    scaling: float
    locations: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object, keys in sorted order."""
        made: dict[str, Any] = {"level": 1, "mode": self.mode, "scaling": float(self.scaling)}
        if self.locations is not None:
            made["locations"] = self.locations
        return dict(sorted({**made, "version": VERSION, "wavelet": self.wavelet}.items()))

    def to_json(self) -> str:
        """Returns the header's text: one line, keys sorted, no spaces."""
        return json.dumps(self.to_dict(), separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)


def parse_header(content: bytes, metadata: Mapping[str, str] | None, fail: Refusal) -> Header:
    """Returns the header that the tensor's bytes hold.

    Args:
        metadata: the file's `__metadata__`; its copy of the header, where there is one, must say the same.

    Raises:
        WaveFTError: made by `fail`, for whatever the format says a reader must refuse.
    """
    remedy = NEWER
    if len(content) > MAX_BYTES:
        raise fail(None, HEADER, f"at most {MAX_BYTES} bytes", len(content), remedy)
    try:
        found = _strict_json(content.decode("utf-8"))
    except ValueError as error:
        raise fail(None, HEADER, "a strict UTF-8 JSON object", str(error), remedy) from None
    if not isinstance(found, dict):
        raise fail(None, HEADER, "a JSON object", type(found).__name__, remedy)
    _check_copy(found, (metadata or {}).get("waveft"), fail)
    return _checked(found, remedy, fail)


def check_header(header: Header, fail: Refusal) -> None:
    """Refuses a header that no reader would take, so that none is written.

    Raises:
        WaveFTError: made by `fail`.
    """
    made = {"level": 1, "version": VERSION, "wavelet": header.wavelet, "mode": header.mode, "scaling": header.scaling}
    _checked({**made, "locations": header.locations}, "Make the adapter with other settings.", fail)
    length = len(header.to_json().encode())
    if length > MAX_BYTES:
        raise fail(None, HEADER, f"at most {MAX_BYTES} bytes", length, "Give a shorter `locations`.")


def _checked(found: dict[str, Any], remedy: str, fail: Refusal) -> Header:
    for key in ("version", "wavelet", "mode", "level", "scaling"):
        if key not in found:
            raise fail(None, HEADER, f'a key "{key}"', "none", remedy)
    for key, value in (("version", VERSION), ("level", 1)):
        if type(found[key]) is not int or found[key] != value:
            raise fail(None, f'{HEADER} "{key}"', value, repr(found[key]), "It needs a newer WaveFT: update.")
    try:
        check_wavelet(found["wavelet"], found["mode"])
    except WaveFTError as error:
        raise WaveFTError(f"{fail.prefix}{HEADER} {error} {remedy}") from None
    scaling = found["scaling"]
    if type(scaling) not in (int, float) or not is_finite(scaling):
        raise fail(None, f'{HEADER} "scaling"', "a finite number", repr(scaling), remedy)
    locations = found.get("locations")
    if locations is not None and not _is_text(locations):
        raise fail(None, f'{HEADER} "locations"', "a string", repr(locations), remedy)
    return Header(found["wavelet"], found["mode"], float(scaling), locations)


def _check_copy(found: dict[str, Any], text: str | None, fail: Refusal) -> None:
    """Refuses metadata whose copy of the header differs from the tensor's, compared as parsed objects."""
    if text is None:
        return
    if len(text) > MAX_BYTES:
        remedy = "Somebody edited it: get the original file."
        raise fail(None, "metadata waveft", f"at most {MAX_BYTES} characters", len(text), remedy)
    try:
        copy = _strict_json(text)
    except ValueError as error:
        copy = str(error)
    if _typed(copy) != _typed(found):
        remedy = "One of the two was edited: get the original file."
        raise fail(None, "metadata waveft", f"the header tensor's own JSON {json.dumps(found)}", text, remedy)


def _typed(value: object) -> object:
    """Returns a parsed JSON value in which true is not equal to 1, as it is to Python."""
    if isinstance(value, dict):
        return {key: _typed(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_typed(held) for held in value]
    return ("boolean", value) if isinstance(value, bool) else value


def _strict_json(text: str) -> object:
    """Returns the parsed text; a key given twice, NaN, infinity or deep nesting is a ValueError."""
    depth = deepest = 0
    quoted = escaped = False
    for letter in text:  # before parsing, so that deep nesting costs no recursion
        if quoted:
            escaped, quoted = letter == "\\" and not escaped, letter != '"' or escaped
        elif letter == '"':
            quoted = True
        elif letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "]}":
            depth -= 1
    if deepest > MAX_DEPTH:
        raise ValueError(f"nesting {deepest} deep, at most {MAX_DEPTH}")

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        twice = sorted(key for key, count in Counter(keys).items() if count > 1)
        if twice:
            raise ValueError(f"key {twice[0]!r} given twice")
        return dict(pairs)

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is no JSON number")

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"{number} is beyond a float")
        return value

    return json.loads(text, object_pairs_hook=once, parse_constant=refuse, parse_float=finite)


def _is_text(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate: JSON can spell it, UTF-8 cannot
        return False


def is_finite(number: object) -> bool:
    """Returns whether that is a number at all, neither NaN nor infinite, nor a whole number beyond a float."""
    if isinstance(number, str | bytes) or not isinstance(number, SupportsFloat):
        return False
    try:
        return math.isfinite(float(number))
    except (OverflowError, TypeError, ValueError):  # an array has the method too
        return False
