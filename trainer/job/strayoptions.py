"""What is told of a word of the command line that is no option: kohya's scripts take every key as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from ..system import commandline
from ..system.plaintext import shown
from .faults import listed
from .networks import FIRST, owners
from .other_trainers import FOREIGN
from .tables import homes, tables

JOB_ENDINGS = (".toml", ".yaml", ".yml", ".json")


def told(unknown: Sequence[str]) -> list[str]:
    """Returns why each is refused, with what to write instead where that is known.

    Args:
        unknown: words of the command line, in their order.
    """
    return [unknown_option(option, value) for option, value in with_values(unknown)]


def with_values(unknown: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields each word with its value, "" where it has none: that of kohya's options may stand behind."""
    words = list(map(shown, unknown))
    while words:
        option, equals, value = words.pop(0).partition("=")
        if option.startswith("-") and not equals and words and not words[0].startswith("-"):
            value = words.pop(0)
        yield option, value


def unknown_option(option: str, value: str) -> str:
    """Returns why a word of the command line is refused, with what to write instead where that is known."""
    key = option.lstrip("-").replace("-", "_")
    if not option.startswith("-"):
        job = f": write --config {option}" if option.endswith(JOB_ENDINGS) else ""
        return f"unrecognized argument {option}{job}"
    if key in ("config_file", "job", "toml"):
        kohyas = f"; a config file of kohya's becomes a job by `{commandline.program()} init --from-kohya FILE`"
        return f"{option}: write --config {value or 'JOB.TOML'}{kohyas if key == 'config_file' else ''}"
    if key in FOREIGN:
        return f"{option}: {FOREIGN[key]}"
    if places := homes(key):
        return f"{option}: a key of the job. {wanted(key, value, places[0])}"
    return f"unrecognized argument {option}"


def wanted(key: str, value: str, place: str) -> str:
    """Returns where a key of the job is written, and how it is set without writing it."""
    section = place.strip("[]")
    if place.startswith("[["):
        return f"Write it in {place}"
    line = f"--set {section}.{key}={value or ('true' if is_switch(section, key) else '...')}"
    methods = owners(key)
    if not methods or FIRST in methods:
        return f"Write {key} in {place}, or {line}"
    return (
        f'It is of method {listed(methods)}: write it in {place} with method = "{methods[0]}", or --set '
        f"network.method={methods[0]} {line}. The size of {FIRST} is [network] coefficients"
    )


def is_switch(section: str, key: str) -> bool:
    """Returns whether a key can be on or off."""
    parts: list[Any] = [tables()[f"[{section}]"].model_fields[key].annotation]
    for part in parts:
        parts += get_args(part)
    return any(part is bool or part is True for part in parts)
