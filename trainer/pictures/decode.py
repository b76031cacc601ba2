"""From an image file to a picture: upright, 8 bits a channel, sRGB, on a background where it is transparent."""

from __future__ import annotations

import hashlib
import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageColor

from ..system.errors import UserError
from . import formats


def open_rgb(path: Path, background: str = "white", digest: str = "") -> Image.Image:
    """Returns the picture in RGB, on the background's colour where it is transparent; as `open_upright` otherwise."""
    image = open_upright(path, digest)
    opacity = alpha(image)
    image = colours(image)
    if opacity is None:
        return image
    return Image.composite(image, Image.new("RGB", image.size, ImageColor.getrgb(background)[:3]), opacity)


def open_upright(path: Path, digest: str = "") -> Image.Image:
    """Returns the first or only frame, turned as its EXIF data say, of 8 bits a channel, in whatever mode it is kept.

    Args:
        path: the file.
        digest: hexadecimal SHA-256 that its bytes must have; "" = any.

    Raises:
        UserError: the file cannot be read as a picture, or is not the one that is meant.
    """
    try:
        content = formats.read_content(path)
        same = not digest or hashlib.sha256(content).hexdigest() == digest
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and of large pictures, which are decoded all the same
            with formats.opened(content) as file:
                image = formats.upright(file)
    except Exception as error:  # decoders raise anything of a bad file: that it is one is what is told
        raise UserError(f'image "{path}": cannot be read ({formats.told(error)}). Replace or remove it.') from error
    if not same:
        raise UserError(
            f'image "{path}": expected the file as it was at the start, got another content. Start the run again.'
        )
    return eight_bit(image) if image.mode[0] in "IF" else image


def eight_bit(image: Image.Image) -> Image.Image:
    """Returns a grey picture of more than 8 bits in 8; Pillow's own conversion clips everything above 255 to white."""
    grey = np.asarray(image, dtype=np.float32)
    if image.mode == "F":
        whole = 1.0 if grey.max() <= 1 else 255.0
    else:  # "I" is 32 bits wide, of which files fill 16 or 8
        whole = 65535.0 if image.mode.startswith("I;16") or grey.max() > 255 else 255.0
    return Image.fromarray((grey * (255 / whole)).round().clip(0, 255).astype(np.uint8))


def alpha(image: Image.Image) -> Image.Image | None:
    """Returns the picture's opacity in mode "L", None where it has none."""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return with_alpha(image).getchannel("A")
    return None


def with_alpha(image: Image.Image) -> Image.Image:
    """Returns a picture with transparency in mode "RGBA"."""
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")  # Pillow knows no shorter way


def colours(image: Image.Image) -> Image.Image:
    """Returns the picture in sRGB, mode "RGB", as if it were opaque.

    A colour profile in the file is followed: phones write Display P3, printers' CMYK looks wrong without its own.
    """
    if image.mode == "LAB":
        return in_srgb(image, ImageCms.createProfile("LAB"))
    profile = image.info.get("icc_profile")
    if image.mode != "CMYK":
        image = (image if alpha(image) is None else with_alpha(image)).convert("RGB")
    if profile:
        with suppress(ImageCms.PyCMSError, OSError):  # broken, or of another mode: then without it, as elsewhere
            image = in_srgb(image, ImageCms.getOpenProfile(BytesIO(profile)))
    return image.convert("RGB")


def in_srgb(image: Image.Image, profile: ImageCms.core.CmsProfile | ImageCms.ImageCmsProfile) -> Image.Image:
    """Returns the picture with its colours taken from its profile's to sRGB's, as it is where that is the same."""
    if "srgb" in ImageCms.getProfileDescription(profile).lower():
        return image  # converting would only round
    made = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert made is not None, "only `inPlace` returns nothing"
    return made
