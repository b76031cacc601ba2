"""Between ComfyUI's IMAGE and Pillow, and text that fits its place."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw

from . import fonts

INK, PALE, LINE, PAPER = "#1c2430", "#5d6878", "#dfe3e8", "#ffffff"


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """Returns a picture as ComfyUI's IMAGE: [1, height, width, 3] float32 in 0..1."""
    rgb = picture.convert("RGB")
    flat = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8)
    return flat.reshape(1, rgb.height, rgb.width, 3).float() / 255


def to_pictures(images: torch.Tensor) -> list[Image.Image]:
    """Returns the pictures of an IMAGE.

    Args:
        images: [batch, height, width, channels] float in 0..1; of more than three channels the first three are taken.
    """
    held = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    rgb = held[..., :3].expand(-1, -1, -1, 3).contiguous()
    size = (rgb.shape[2], rgb.shape[1])
    return [Image.frombytes("RGB", size, one.numpy().tobytes()) for one in rgb]


def stacked(pictures: list[torch.Tensor]) -> torch.Tensor:
    """Returns pictures of one width as one batch, the shorter ones extended below with paper."""
    height = max(picture.shape[1] for picture in pictures)
    made = torch.ones((len(pictures), height, *pictures[0].shape[2:]))
    for place, picture in zip(made, pictures, strict=True):
        place[: picture.shape[1]] = picture[0]
    return made


def width(text: str, size: int) -> float:
    """Returns how many pixels a line of text takes."""
    readable, name = fonts.lettered(text)
    return fonts.named(name, size).getlength(readable)


def write(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: str, size: int, anchor: str = "la"
) -> None:
    """Writes a line of text, in a font that has its letters."""
    readable, name = fonts.lettered(text)
    pen.text(at, readable, fill=colour, font=fonts.named(name, size), anchor=anchor)


def fitted(text: str, size: int, room: float) -> str:
    """Returns the text, its middle left out where it is wider than `room` pixels."""
    if width(text, size) <= room:
        return text
    for kept in range(len(text) - 1, 1, -1):
        shorter = f"{text[: kept // 2]}…{text[-(kept - kept // 2) :]}"
        if width(shorter, size) <= room:
            return shorter
    return text[:1]


def wrapped(text: str, size: int, room: float) -> list[str]:
    """Returns the text in lines of at most `room` pixels; a word that is wider is cut in its middle."""
    lines: list[str] = []
    for given in text.splitlines() or [""]:
        line = ""
        for word in given.split():
            longer = f"{line} {word}".strip()
            if line and width(longer, size) > room:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return [fitted(line, size, room) for line in lines]


def new(size: tuple[int, int]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Returns an empty picture and what draws on it."""
    made = Image.new("RGB", size, PAPER)
    return made, ImageDraw.Draw(made)


def mixed(colour: str, share: float) -> tuple[int, int, int]:
    """Returns a colour on paper: 0 is paper, 1 the colour itself."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return (
        round(255 + (red - 255) * share),
        round(255 + (green - 255) * share),
        round(255 + (blue - 255) * share),
    )
