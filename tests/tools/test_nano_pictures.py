import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import draw_mushroom, draw_robot, subject
from tools import nano_pictures as pictures

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def test_a_seed_names_a_picture_and_its_caption():
    def make(seed):
        rng = random.Random(seed)
        picture = pictures.random_picture(rng)
        return picture, pictures.draw(picture, rng).tobytes(), pictures.caption(picture, rng)

    assert make(3) == make(3)
    assert make(3) != make(4)


def test_captions_say_what_is_drawn_in_words_of_the_vocabulary():
    rng = random.Random(0)
    words = set(pictures.vocabulary())
    for _ in range(300):
        picture = pictures.random_picture(rng)
        assert picture.ground not in (picture.color, picture.second)
        assert picture.second != picture.color
        said = pictures.caption(picture, rng).replace(",", "").split()
        assert set(said) <= words
        assert picture.shape in said
        shown = {picture.color, picture.second, picture.ground}
        others = (set(pictures.SHAPES) - {picture.shape}) | (set(pictures.COLORS) - shown)
        assert not others & set(said)


@pytest.mark.parametrize("shape", pictures.SHAPES)
def test_a_figure_has_its_colour_and_stands_on_its_ground(shape):
    rng = random.Random(shape)
    pixels = np.asarray(pictures.draw(pictures.Picture(shape, "red", ground="blue"), rng), dtype=float)

    def share(color):
        return (np.abs(pixels - pictures.COLORS[color]).max(axis=2) < 40).mean()

    assert share("red") > 0.04
    assert share("blue") > 0.4
    assert np.abs(pixels[0, 0] - pictures.COLORS["blue"]).max() < 40


@pytest.mark.parametrize("shape", pictures.SHAPES)
def test_a_second_colour_covers_the_lower_half(shape):
    rng = random.Random(shape)
    picture = pictures.Picture(shape, "red", second="green", ground="blue")
    pixels = np.asarray(pictures.draw(picture, rng), dtype=float)
    above, below = pixels[:28], pixels[36:]  # the middle is within 3 px of 32

    def share(part, color):
        return (np.abs(part - pictures.COLORS[color]).max(axis=2) < 40).mean()

    if shape != "house":  # its roof is dark
        assert share(above, "red") > 0.02
    assert share(above, "green") == 0
    assert share(below, "red") == 0
    if shape not in ("tree", "mushroom"):  # a trunk and a stem have colours of their own
        assert share(below, "green") > 0.02


@pytest.mark.parametrize(("name", "drawn"), [("mushroom", draw_mushroom), ("robot", draw_robot)])
def test_the_example_subjects_are_what_their_tools_draw(name, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", [name, "--out", str(tmp_path)])
    subject.write(drawn.__doc__, name, drawn.VIEWS, drawn.draw_view)
    made = sorted(tmp_path.glob("*.png"))
    assert len(made) == 6
    for path in made:
        kept = np.asarray(Image.open(JOBS / name / path.name), dtype=int)
        assert np.abs(kept - np.asarray(Image.open(path), dtype=int)).max() <= 2  # Pillow's filters may round anew
        said = path.with_suffix(".txt").read_text(encoding="utf-8")
        assert said == (JOBS / name / path.name).with_suffix(".txt").read_text(encoding="utf-8")
        assert said.startswith(f"sks {name} ")
