"""Text that others wrote, as it may be shown and as it may be read: a terminal obeys what a file's name says."""

from __future__ import annotations

import re

# Controls, the marks that turn the reading direction or end a line, and halves of letters from undecodable names.
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
# What no written text holds: controls but for tab and line ends, and the mark that a wrong decoding leaves.
UNWRITTEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd]")
LINE_ENDS = re.compile("[\t\n\r\x85\u2028\u2029]")


def shown(text: str) -> str:
    """Returns the text on one line, every character that a terminal would act upon written as an escape."""
    return UNSHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


def shown_lines(text: str) -> str:
    """Returns a text of our own in its lines, what is in them escaped."""
    return "\n".join(map(shown, text.split("\n")))


def unwritten(text: str) -> str:
    """Returns the first character that no written text holds, as an escape, and what it comes of; "" where all is well.

    The text is then not what whoever wrote it sees.
    """
    found = UNWRITTEN.search(text)
    if found is None:
        return ""
    if found[0] == "\0":
        return "a NUL character (\\x00), as a text saved as UTF-16 has it. Save it as UTF-8"
    if found[0] == "\ufffd":
        return "the mark of letters that were lost (\\ufffd) when it was saved or converted. Write them again"
    return f"a control character ({ascii(found[0])[1:-1]}). Remove it"
