"""Fonts for text in any script: Pillow's own where it has the letters, else one of the system's; never a box."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

OWN = ""  # Pillow's own font: pictures of what it can write are the same on every machine
# Files of fonts that systems come with, those of many alphabets first, then Chinese, Japanese and Korean ones. Pillow
# looks for them where the system keeps its fonts, in folders below too.
_SYSTEM = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "segoeui.ttf", "arial.ttf", "Arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "SourceHanSansSC-Regular.otf", "wqy-microhei.ttc"),
    *("wqy-zenhei.ttc", "DroidSansFallbackFull.ttf", "msyh.ttc", "simsun.ttc", "PingFang.ttc", "Hiragino Sans GB.ttc"),
    *("STHeiti Light.ttc", "YuGothM.ttc", "meiryo.ttc", "malgun.ttf", "AppleSDGothicNeo.ttc", "Arial Unicode.ttf"),
)
_PROBE_PX = 16
_NOBODYS = "\U0010fffd"  # a private character that no font has: what is drawn for it stands for all that are missing
_UNKNOWN = "?"


@lru_cache(maxsize=1024)
def lettered(text: str) -> tuple[str, str]:
    """Returns a text with "?" for what no font at hand has, and the name of the font that has the most of it."""
    best, fewest = OWN, [letter for letter in dict.fromkeys(text) if not _has(OWN, letter)]
    for name in _SYSTEM if fewest else ():
        missing = [letter for letter in dict.fromkeys(text) if not _has(name, letter)]
        if len(missing) < len(fewest):
            best, fewest = name, missing
        if not fewest:
            break
    return text.translate({ord(letter): _UNKNOWN for letter in fewest}), best


@lru_cache(maxsize=128)
def named(name: str, size: int) -> Font:
    """Returns a font that there is, in a size.

    Raises:
        OSError: the system has no such file, or one that cannot be read.
    """
    return ImageFont.load_default(size) if name == OWN else ImageFont.truetype(name, size)


@lru_cache(maxsize=32)
def _probe(name: str) -> Font | None:
    try:
        return named(name, _PROBE_PX)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _has(name: str, letter: str) -> bool:
    font = _probe(name)
    if font is None or letter.isspace():
        return font is not None
    return _drawn(font, letter) != _drawn(font, _NOBODYS)


def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
