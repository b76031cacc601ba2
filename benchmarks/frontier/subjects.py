"""What is learned and what should stay: drawn subjects, photographs, and pictures of the base's own kind."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw

from tools import draw_robot, nano_pictures
from trainer.pictures import images

Captioned = list[tuple[Image.Image, str]]


def robots() -> tuple[Captioned, Captioned]:
    """Returns the six of jobs/robot, and eight of other views on other grounds."""
    grounds = ("blue", "on the beach", "yellow", "in front of a brick wall", "green", "black", "on the grass", "pink")
    places = random.Random("robot")
    unseen = [
        draw_robot.View(
            ground,
            (places.uniform(0.45, 0.55), places.uniform(0.48, 0.54)),
            places.uniform(0.36, 0.42),
            places.uniform(-7, 7),
            places.choice((0.0, 1.0)),
            (places.uniform(-0.6, 0.6), places.uniform(-0.5, 0.4)),
        )
        for ground in grounds
    ]
    first, second = (
        [(draw_robot.draw_view(view, seed), f"sks robot {said(view.ground)}") for seed, view in enumerate(views)]
        for views in (draw_robot.VIEWS, unseen)
    )
    return first, second


def totems() -> tuple[Captioned, Captioned]:
    """Returns pictures of a cyan hat with a yellow rim on a chequered block on an orange wheel: five, and eight."""
    grounds = (
        ("on the grass", "white", "purple", "at night", "on the beach"),
        ("blue", "in the snow", "green", "on a wooden table", "pink", "in front of a brick wall", "gray", "brown"),
    )
    places = random.Random("totem")
    first, second = ([(draw_totem(ground, places), f"sks totem {said(ground)}") for ground in part] for part in grounds)
    return first, second


def draw_totem(ground: str, rng: random.Random) -> Image.Image:
    canvas = nano_pictures.draw_ground(ground, rng)
    layer = Image.new("RGBA", canvas.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    x, y, radius = 256 * rng.uniform(0.46, 0.54), 256 * rng.uniform(0.47, 0.53), 256 * rng.uniform(0.38, 0.44)

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:  # the totem's own coordinates, [-1, 1], y down
        return [(x + radius * px, y + radius * py) for px, py in points]

    pen.ellipse(at((-0.5, 0.2), (0.5, 1.0)), fill=(245, 125, 30))
    pen.ellipse(at((-0.22, 0.42), (0.22, 0.8)), fill=(110, 40, 160))
    for row in range(3):
        for column in range(3):
            corner = (-0.54 + 0.36 * column, -0.4 + 0.28 * row)
            tint = (240, 70, 140) if (row + column) % 2 == 0 else (25, 25, 40)
            pen.rectangle(at(corner, (corner[0] + 0.36, corner[1] + 0.28)), fill=tint)
    pen.polygon(at((0, -1), (0.6, -0.45), (-0.6, -0.45)), fill=(60, 200, 215))
    pen.rectangle(at((-0.7, -0.5), (0.7, -0.38)), fill=(250, 215, 50))
    layer = layer.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC, center=(x, y))
    canvas.paste(layer, (0, 0), layer)
    return canvas


def write(folder: Path) -> None:
    """Writes the drawn subjects, seen and unseen pictures alike, with captions: a folder each."""
    for name, (first, second) in (("robot", robots()), ("totem", totems())):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        for number, (image, caption) in enumerate([*first, *second]):
            image.save(place / f"{number:02d}.png")
            (place / f"{number:02d}.txt").write_text(f"{caption}\n", encoding="utf-8")


def photographs(folder: Path) -> tuple[Captioned, Captioned]:
    """Returns a folder's pictures: of five or more the last two are unseen, of fewer the last."""
    caption = f"sks {folder.name.replace('_', ' ')}"
    held = [(images.open_rgb(path), caption) for path in sorted(folder.iterdir())]
    kept = len(held) - (2 if len(held) >= 5 else 1)
    return held[:kept], held[kept:]


def said(ground: str) -> str:
    article = "an" if ground[0] in "aeiou" else "a"
    return f"on {article} {ground} background" if ground in nano_pictures.COLORS else ground


def ordinary(count: int) -> Captioned:
    """Returns pictures of the kind that the base was trained on."""
    made = []
    for number in range(count):
        rng = random.Random(f"ordinary {number}")
        picture = nano_pictures.random_picture(rng)
        made.append((nano_pictures.draw(picture, rng), nano_pictures.caption(picture, rng)))
    return made


def square(image: Image.Image) -> Image.Image:
    """Returns the picture's middle at 64 px."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((64, 64), Image.Resampling.LANCZOS if side > 256 else Image.Resampling.BOX, box)
