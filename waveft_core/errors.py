"""The one exception of waveft_core, how its messages list names, and how text that a file brought is shown."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher

# Unicode's controls, formats (the directions of text among them), surrogates, and its two line ends: what a terminal
# obeys, or does not show at all.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890-\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_NO_MEMORY = re.compile(r"allocate memory|out of memory|not enough memory", re.IGNORECASE)
_LONGEST = 8000  # characters of a message


class WaveFTError(ValueError):
    """A refusal: what, which one, what was expected, what it got, and the remedy; one line, whatever a file is called.

    Names out of a file are shown escaped (`printable`), whoever made the message; a name of megabytes is cut.

    Args:
        lines: the message; more than one where it quotes what another process said.
    """

    def __init__(self, *lines: object) -> None:
        super().__init__(*(printable(_cut(str(line))) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


def _cut(line: str) -> str:
    if len(line) <= _LONGEST:
        return line
    return f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"  # the subject and the remedy are at its two ends


def printable(text: str, code: str = "") -> str:
    r"""Returns `text` with what a terminal would obey or hide written out: `\x1b`, `\u202e`, `\n`.

    Everything that comes out of a file (names, metadata, another library's words about it) is shown through this.

    Args:
        code: "json" to write as JSON does, for text that is JSON already.
    """

    def written(found: re.Match[str]) -> str:
        letter = found[0]
        if code != "json":
            return letter.encode("unicode_escape").decode("ascii")
        if ord(letter) < 2**16:
            return f"\\u{ord(letter):04x}"
        high, low = divmod(ord(letter) - 2**16, 2**10)
        return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"

    return _UNSEEN.sub(written, text)


class Refusal:
    """Makes the errors that speak of one adapter: its file, the layer, what was expected, what it got, the remedy.

    Attributes:
        prefix: the words that name the adapter.
    """

    def __init__(self, source: object = "") -> None:
        self.prefix = f'adapter "{source}", ' if str(source) else "adapter, "

    def __call__(self, layer: str | None, what: str, expected: object, got: object, remedy: str) -> WaveFTError:
        """Returns the error; `layer` is None for what concerns the whole file."""
        place = f'layer "{layer}", ' if layer is not None else ""
        return WaveFTError(f"{self.prefix}{place}{what}: expected {expected}, got {got}. {remedy}")


@contextlib.contextmanager
def within_memory(what: str) -> Iterator[None]:
    """Turns a lack of memory, inside, into a refusal.

    Args:
        what: what it was for, with the figure that set its size.

    Raises:
        WaveFTError: there was too little memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # numpy's and torch's word for it
        if isinstance(error, RuntimeError) and not _NO_MEMORY.search(str(error)):
            raise
        raise WaveFTError(
            f"memory: expected enough for {what}, got too little. Free some, or use a smaller one."
        ) from None


def plural(number: int, word: str) -> str:
    """Returns "1 layer", "2 layers"."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def listed(names: Iterable[str], limit: int = 10) -> str:
    """Returns up to `limit` names in order, quoted, and how many more there are."""
    names = list(names)
    shown = ", ".join(f'"{name}"' for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")


def nearest(wanted: str, names: Iterable[str], limit: int = 5) -> list[str]:
    """Returns the `limit` names most like `wanted`, best first; a name's own tail counts as the whole."""

    def likeness(name: str) -> float:
        tail = ".".join(name.split(".")[-(wanted.count(".") + 1) :])
        return max(SequenceMatcher(None, wanted, candidate).ratio() for candidate in (name, tail))

    return sorted(dict.fromkeys(names), key=likeness, reverse=True)[:limit]
