import pytest
from PIL import Image, ImageFont

from trainer.samples import grid
from trainer.samples.prompts import Shot
from trainer.samples.sampling import Drawn

COLOURS = {"before": "red", "step00000100": "lime", "after": "blue"}


def samples(count, colour, size=(64, 64)):
    shots = [Shot(f"prompt {number}", "", number, *size, 2, 6.0, "euler_a") for number in range(count)]
    return [Drawn(shot, Image.new("RGB", size, colour)) for shot in shots]


@pytest.mark.parametrize(("count", "columns", "bands"), [(1, 1, 1), (4, 4, 1), (5, 4, 2)])
def test_moments_are_below_one_another(count, columns, bands):
    sheet = grid.draw({moment: samples(count, colour) for moment, colour in COLOURS.items()})
    assert sheet.width == grid.LABEL_WIDTH + columns * (192 + grid.GAP)
    assert sheet.height % bands == 0
    middle, band = grid.LABEL_WIDTH + 96, sheet.height // bands
    head = grid.MOST_LINES * grid.LINE + grid.GAP
    for number in range(bands):
        first = number * band + head + 96
        seen = [sheet.getpixel((middle, first + row * (192 + grid.GAP))) for row in range(3)]
        assert seen == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_cells_stay_within_bounds():
    assert grid.draw({"after": samples(1, "red", (300, 200))}).width == grid.LABEL_WIDTH + 300 + grid.GAP
    sheet = grid.draw({"after": samples(1, "red", (2048, 1024))})
    assert sheet.width == grid.LABEL_WIDTH + 512 + grid.GAP


def test_pictures_of_other_shapes_begin_where_the_prompt_does():
    wide, tall = samples(1, "red", (400, 200)), samples(1, "blue", (200, 400))
    sheet = grid.draw({"after": [*wide, *tall]})  # cells of 400 x 400
    head, left = grid.MOST_LINES * grid.LINE + grid.GAP, grid.LABEL_WIDTH
    white = (255, 255, 255)
    assert [sheet.getpixel((left + 200, head + y)) for y in (50, 200, 350)] == [white, (255, 0, 0), white]
    left += 400 + grid.GAP
    assert [sheet.getpixel((left + x, head + 200)) for x in (50, 150, 250)] == [(0, 0, 255), (0, 0, 255), white]


def test_a_sample_that_failed_leaves_its_place_white():
    sheet = grid.draw({"before": samples(2, "red")[:1], "after": samples(2, "blue")})
    second = grid.LABEL_WIDTH + 192 + grid.GAP + 96
    head = grid.MOST_LINES * grid.LINE + grid.GAP
    assert sheet.getpixel((second, head + 96)) == (255, 255, 255)
    assert sheet.getpixel((second, head + 192 + grid.GAP + 96)) == (0, 0, 255)


def test_many_moments_are_thinned():
    names = [f"step{number:08d}" for number in range(11)]
    assert grid.few(names) == [names[0], names[2], names[5], names[8], names[10]]
    assert grid.few(names[:2]) == names[:2]


def test_labels():
    assert [grid.label(moment) for moment in ("before", "step00000100")] == ["before", "step 100"]


def test_prompts_are_wrapped_and_cut():
    font = ImageFont.load_default(grid.FONT_SIZE)
    assert grid.wrap("one", 200, font) == ["one"]
    lines = grid.wrap("word " * 60, 100, font)
    assert len(lines) == grid.MOST_LINES
    assert lines[-1].endswith("...")
    assert all(font.getlength(line) <= 100 for line in lines[:-1])
    assert grid.wrap("", 100, font) == [""]
