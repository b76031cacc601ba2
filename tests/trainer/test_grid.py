import pytest
from PIL import Image, ImageFont

from trainer import grid
from trainer.sampling import Drawn


def samples(count, colour, size=(64, 64)):
    return [Drawn(f"prompt {number}", number, Image.new("RGB", size, colour)) for number in range(count)]


@pytest.mark.parametrize(("count", "columns", "bands"), [(1, 1, 1), (4, 4, 1), (5, 4, 2)])
def test_before_is_above_after(count, columns, bands):
    sheet = grid.draw(samples(count, "red"), samples(count, "blue"))
    assert sheet.width == grid.LABEL_WIDTH + columns * (192 + grid.GAP)
    assert sheet.height % bands == 0
    middle, band = grid.LABEL_WIDTH + 96, sheet.height // bands
    head = grid.MOST_LINES * grid.LINE + grid.GAP
    for number in range(bands):
        assert sheet.getpixel((middle, number * band + head + 96)) == (255, 0, 0)
        assert sheet.getpixel((middle, number * band + head + 192 + grid.GAP + 96)) == (0, 0, 255)


def test_large_pictures_keep_their_size():
    sheet = grid.draw(samples(1, "red", (300, 200)), samples(1, "red", (300, 200)))
    assert sheet.width == grid.LABEL_WIDTH + 300 + grid.GAP


def test_prompts_are_wrapped_and_cut():
    font = ImageFont.load_default(grid.FONT_SIZE)
    assert grid.wrap("one", 200, font) == ["one"]
    lines = grid.wrap("word " * 60, 100, font)
    assert len(lines) == grid.MOST_LINES
    assert lines[-1].endswith("...")
    assert all(font.getlength(line) <= 100 for line in lines[:-1])
    assert grid.wrap("", 100, font) == [""]
