"""A picture's file without the metadata beside its pixels: none of them may make it unreadable.

Generators write whole workflows into a PNG's text, phones and editors their own segments into a JPEG. Pillow unpacks
and checks all of it before the first pixel, and refuses the picture for what it finds there. What stays is what the
pixels follow from: colour, transparency, and which way is up.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
MOST = 2**20  # bytes that a kept text or profile may unpack to: more is no orientation and no profile
PNG_KEPT = (b"tRNS", b"eXIf")
PNG_TEXT = {b"tEXt", b"zTXt", b"iTXt"}
TURNED_BY = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # texts that may say how the picture is turned
SCAN = 0xDA  # from this marker on a JPEG is pixels
BARE = {0x01, *range(0xD0, 0xD8)}  # markers without a length
APP, COMMENT = range(0xE0, 0xF0), 0xFE
JPEG_KEPT = ((0xE1, b"Exif\0\0", 14), (0xE2, b"ICC_PROFILE\0", 14), (0xEE, b"Adobe", 12))  # marker, start, least size


def pixels_alone(content: bytes) -> bytes:
    """Returns the file without what nobody reads, as it is where it is of another kind or not of its own form."""
    if content.startswith(PNG):
        return PNG + b"".join(png_chunks(content))
    if content.startswith(JPEG):
        return JPEG + b"".join(jpeg_segments(content))
    return content


def png_frames(content: bytes) -> int:
    """Returns how many pictures an animated PNG says that it has, 1 for any other file; their chunks are left out."""
    for kind, at, end in png_parts(content) if content.startswith(PNG) else ():
        if kind == b"acTL" and end - at == 20 and whole(content, at, end):
            return max(1, int.from_bytes(content[at + 8 : at + 12], "big"))
    return 1


def png_chunks(content: bytes) -> Iterator[bytes]:
    """Yields the chunks to keep; from one that is cut short on, the rest as it is, for the decoder to complain of."""
    end = len(PNG)
    for kind, at, end in png_parts(content):
        needed = not kind[0] & 0x20  # a capital letter: the picture cannot be decoded without it
        if needed or (whole(content, at, end) and png_kept(kind, content[at + 8 : end - 4])):
            yield content[at:end]
        if kind == b"IEND":
            return
    yield content[end:]


def png_parts(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields each whole chunk's kind, and where it begins and ends."""
    at = len(PNG)
    while at + 12 <= len(content):
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        if end > len(content):
            return
        yield content[at + 4 : at + 8], at, end
        at = end


def whole(content: bytes, at: int, end: int) -> bool:
    """Returns whether a chunk's check sum is right."""
    return zlib.crc32(content[at + 4 : end - 4]) == int.from_bytes(content[end - 4 : end], "big")


def png_kept(kind: bytes, data: bytes) -> bool:
    """Returns whether a chunk that can be left out tells of the pixels, in a form that cannot go wrong."""
    name, _, rest = data.partition(b"\0")
    if kind == b"iCCP":
        return rest[:1] == b"\0" and unpacks(rest[1:])
    if kind not in PNG_TEXT:
        return kind in PNG_KEPT
    if name not in TURNED_BY or len(data) > MOST:
        return False
    if kind == b"iTXt":
        packed, rest = rest[:1] != b"\0", rest[2:].split(b"\0", 2)[-1]
        return not packed or unpacks(rest)
    return kind == b"tEXt" or (rest[:1] == b"\0" and unpacks(rest[1:]))


def unpacks(packed: bytes) -> bool:
    """Returns whether it is a whole stream of no more than `MOST` bytes; no more than that is unpacked to see."""
    stream = zlib.decompressobj()
    try:
        stream.decompress(packed, MOST)
    except zlib.error:
        return False
    return stream.eof


def jpeg_segments(content: bytes) -> Iterator[bytes]:
    """Yields the segments to keep and then, from the first scan or from what is no segment on, the rest as it is."""
    at = len(JPEG)
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xFF or marker in BARE:  # padding, or a marker alone
            yield content[at : at + (1 if marker == 0xFF else 2)]
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == SCAN or end < at + 4 or end > len(content):
            break
        if (marker not in APP and marker != COMMENT) or jpeg_kept(marker, content[at + 4 : end]):
            yield content[at:end]
        at = end
    yield content[at:]


def jpeg_kept(marker: int, data: bytes) -> bool:
    """Returns whether an application's segment tells of the pixels: EXIF data, a colour profile, Adobe's colours."""
    return any(marker == kind and data.startswith(name) and len(data) >= least for kind, name, least in JPEG_KEPT)
