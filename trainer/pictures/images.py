"""From a picture to the pixels that are trained: resized, cropped, mirrored and varied as a view asks.

Its mask goes the same way, so that it lies on the same pixels.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageEnhance

from ..system import rng
from ..system.errors import UserError
from .buckets import View
from .decode import alpha, open_rgb, open_upright

if TYPE_CHECKING:
    from .picture import Picture

JITTER = (0.1, 0.1, 0.15)  # brightness, contrast and saturation vary by that much about 1
HUE = 0.015  # turns, either way: skin stays skin

# The filter on the way down and on the way up. OpenCV's "area", which kohya means, is no filter on the way up.
FILTERS = {
    "auto": (Image.Resampling.BOX, Image.Resampling.LANCZOS),
    "area": (Image.Resampling.BOX, Image.Resampling.BILINEAR),
    "box": (Image.Resampling.BOX,) * 2,
    "nearest": (Image.Resampling.NEAREST,) * 2,
    "bilinear": (Image.Resampling.BILINEAR,) * 2,
    "linear": (Image.Resampling.BILINEAR,) * 2,
    "bicubic": (Image.Resampling.BICUBIC,) * 2,
    "cubic": (Image.Resampling.BICUBIC,) * 2,
    "lanczos": (Image.Resampling.LANCZOS,) * 2,
}


def draw_view(picture: Picture, seed: int, step: int, index: int) -> View:
    """Returns how the picture is seen as the `index`-th of an optimizer step's global batch."""
    flipped = picture.flip and rng.uniform(seed, "flip", step, index) < 0.5
    offset: tuple[int, int] | None = None
    jitter: tuple[float, float, float, float] | None = None
    if picture.random_crop:
        draws = (rng.uniform(seed, "crop", step, index, axis) for axis in range(2))
        sizes = zip(draws, picture.geometry.resized, picture.geometry.bucket, strict=True)
        left, top = (int(draw * (resized - bucket + 1)) for draw, resized, bucket in sizes)
        offset = (left, top)
    if picture.color:
        draws = (2 * rng.uniform(seed, "color", step, index, part) - 1 for part in range(4))
        brightness, contrast, saturation, hue = (part * draw for part, draw in zip((*JITTER, HUE), draws, strict=True))
        jitter = (1 + brightness, 1 + contrast, 1 + saturation, hue)
    return View(flipped, offset, jitter)


def pixels(picture: Picture, view: View) -> torch.Tensor:
    """Returns what is seen of the picture in that view: [3, H, W] float32 in [-1, 1], of its bucket's size.

    Raises:
        UserError: the file is not what it was when the job was checked.
    """
    image = crop(checked(picture, open_rgb(picture.path, picture.background, picture.digest)), picture, view)
    return to_tensor(jittered(image, view.jitter) if view.jitter else image)


def mask(picture: Picture, view: View) -> torch.Tensor:
    """Returns how much each pixel of that view counts: [H, W] float32 in [0, 1], ones where the picture has no mask.

    Raises:
        UserError: the picture or its mask is not what it was when the job was checked.
    """
    grey = None
    if picture.mask is not None:  # white is trained; where a mask is see-through, nothing is
        grey = open_rgb(picture.mask, "black", picture.mask_digest).convert("L")
        if grey.size != picture.geometry.original:
            grey = resize(grey, picture.geometry.original, "auto")
    elif picture.alpha_mask:
        grey = alpha(checked(picture, open_upright(picture.path, picture.digest)))
    if grey is None:
        return torch.ones(picture.geometry.bucket[::-1])
    return torch.from_numpy(np.array(crop(grey, picture, view), dtype=np.float32)) / 255


def checked(picture: Picture, image: Image.Image) -> Image.Image:
    """Returns the opened picture, if it is still as large as it was when its geometry was chosen."""
    if image.size != picture.geometry.original:
        before, now = (f"{width} x {height} px" for width, height in (picture.geometry.original, image.size))
        raise UserError(f'image "{picture.path}": expected {before}, as at the start, got {now}. Start the run again.')
    return image


def resize(image: Image.Image, size: tuple[int, int], interpolation: str) -> Image.Image:
    """Returns the picture at that (width, height), by the filter for smaller ones or the one for larger ones."""
    down, up = FILTERS[interpolation]
    return image.resize(size, up if size[0] > image.width or size[1] > image.height else down)


def crop(image: Image.Image, picture: Picture, view: View) -> Image.Image:
    """Returns the part of the resized picture, or of its mask, that the view shows, mirrored where it says so."""
    left, top = picture.geometry.offset if view.offset is None else view.offset
    width, height = picture.geometry.bucket
    image = resize(image, picture.geometry.resized, picture.interpolation).crop((left, top, left + width, top + height))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flipped else image


def jittered(image: Image.Image, jitter: tuple[float, float, float, float]) -> Image.Image:
    """Returns the picture with its brightness, contrast and saturation multiplied and its hue turned."""
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for enhancer, factor in zip(enhancers, jitter[:3], strict=True):
        image = enhancer(image).enhance(factor)
    shift = round(jitter[3] * 255)  # Pillow's circle of hues has 255 steps
    if not shift:
        return image  # there and back would only round
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + shift) % 255 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Returns [3, H, W] float32 in [-1, 1]."""
    values = torch.from_numpy(np.array(image, dtype=np.float32))
    return values.permute(2, 0, 1).contiguous() / 127.5 - 1  # [3, H, W]


def from_tensor(values: torch.Tensor) -> Image.Image:
    """Returns the picture of [3, H, W] in [-1, 1], values beyond clipped."""
    array = ((values.float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
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
