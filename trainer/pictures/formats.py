"""The image formats that are read, and the one place that opens an image.

A file's content says what it is, not its name. Pillow would choose among forty decoders and start Ghostscript for some:
of a stranger's picture only the formats below are ever tried.
"""

from __future__ import annotations

import importlib
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError, features

from ..system.reading import read_bytes
from .sidechunks import pixels_alone

FORMATS: dict[str, tuple[str, ...]] = {  # Pillow's name -> endings
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    **({"AVIF": (".avif",)} if features.check("avif") else {}),
}
# What an installed plugin adds: its format, its module and the name that pip has for it, and the endings.
PLUGINS = {
    "HEIF": ("pillow_heif", "pillow-heif", (".heic", ".heif", ".hif")),
    "JXL": ("pillow_jxl", "pillow-jxl-plugin", (".jxl",)),
}
LARGEST_FILE = 2**30  # bytes: a picture of the most pixels that Pillow decodes fits twice, a sparse file does not
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def with_plugins() -> dict[str, tuple[str, ...]]:
    """Returns the formats that are read here with their endings, those of installed plugins among them."""
    found = dict(FORMATS)
    for name, (module, _, endings) in PLUGINS.items():
        try:
            plugin = importlib.import_module(module)
        except (ImportError, OSError):  # not installed, or its library does not load here
            continue
        if hasattr(plugin, "register_heif_opener"):  # the other one registers itself
            plugin.register_heif_opener()
        found[name] = endings
    return found


READ = with_plugins()
ENDINGS = tuple(ending for endings in READ.values() for ending in endings)


def read_content(path: Path) -> bytes:
    """Returns the image file's bytes; OSError where it is no plain file, too large, or cannot be read."""
    return read_bytes(path, LARGEST_FILE)


def opened(content: bytes) -> Image.Image:
    """Returns the image of a file's bytes, not decoded yet; what its metadata hold decides over nothing.

    Raises:
        UnidentifiedImageError: it is of no format that is read here.
        Exception: any other that a decoder raises of a broken file.
    """
    return Image.open(BytesIO(pixels_alone(content)), formats=tuple(READ))


def orientation(image: Image.Image) -> int:
    """Returns how a decoded picture is turned, as its EXIF data say: 1 to 8, 1 where they say nothing that holds.

    To be asked when the pixels are decoded: some decoders turn the picture themselves and then take the tag away.
    """
    try:
        said = image.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - of broken metadata Pillow raises anything, and the pixels are fine
        return 1
    return said if type(said) is int and said in TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    """Returns the picture decoded and turned as its EXIF data say."""
    image.load()
    turn = TURNS.get(orientation(image))
    return image.copy() if turn is None else image.transpose(turn)


def upright_size(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the (width, height) that `upright` gives the picture.

    Args:
        image: decoded; a JPEG perhaps at a part of its size.
        size: of a JPEG, as its file says it.
    """
    width, height = size if image.format in ("JPEG", "MPO") else image.size  # a TIFF has turned itself by now
    return (height, width) if orientation(image) >= 5 else (width, height)


def told(error: Exception) -> str:
    """Returns in words why a file could not be read as a picture."""
    if isinstance(error, UnidentifiedImageError):
        return f"its content is no image, or of a kind that is not read here ({', '.join(READ)} are)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), "") or type(error).__name__
