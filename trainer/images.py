"""From an image file to the pixels that are trained: upright, on white, RGB, resized and cropped."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .buckets import Geometry

DEEP_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # 16-bit greys, which Pillow's own conversion clips to white


def open_rgb(path: Path) -> Image.Image:
    """Returns the picture upright, in RGB, transparent parts white."""
    with warnings.catch_warnings(), Image.open(path) as file:
        warnings.simplefilter("ignore")  # of odd metadata and of large pictures, which are decoded all the same
        image = ImageOps.exif_transpose(file)
    if image.mode in DEEP_MODES:
        grey = np.asarray(image, dtype=np.float32)
        image = Image.fromarray((grey / 257 if grey.max() > 255 else grey).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def crop(image: Image.Image, geometry: Geometry, flipped: bool = False) -> Image.Image:
    """Returns the part of the resized picture that is trained, mirrored where asked."""
    left, top = geometry.offset
    box = (left, top, left + geometry.bucket[0], top + geometry.bucket[1])
    image = image.resize(geometry.resized, Image.Resampling.LANCZOS).crop(box)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else image


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Returns [3, H, W] float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32))
    return pixels.permute(2, 0, 1).contiguous() / 127.5 - 1  # [3, H, W]


def from_tensor(pixels: torch.Tensor) -> Image.Image:
    """Returns the picture of [3, H, W] in [-1, 1], values beyond clipped."""
    array = ((pixels.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(array.permute(1, 2, 0).contiguous().numpy())  # [H, W, 3]


def png_bytes(image: Image.Image) -> bytes:
    """Returns the picture as a PNG file."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg_bytes(image: Image.Image) -> bytes:
    """Returns the picture as a JPEG file of high quality."""
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
