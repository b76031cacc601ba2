import pytest
import torch
from PIL import Image

from tools import draw_quickstart, sheets
from tools.nano import likeness
from tools.sheets import CELL_PX, GAP_PX, Band


def plain(color, size=64):
    return Image.new("RGB", (size, size), color)


class TestSheets:
    def test_groups_stand_side_by_side_and_bands_below_one_another(self):
        red, green, blue = (255, 0, 0), (0, 255, 0), (0, 0, 255)
        bands = [Band("first", [[plain(red)], [plain(green)]]), Band("second", [[plain(blue)], [plain(red, 128)]])]
        made = sheets.sheet(bands, ["before", "after"], label_px=100)
        top, pitch = 2 * sheets.FONT_PX, CELL_PX + GAP_PX
        left, right = 100 + CELL_PX // 2, 100 + pitch + 3 * GAP_PX + CELL_PX // 2
        assert made.getpixel((left, top + CELL_PX // 2)) == red
        assert made.getpixel((right, top + CELL_PX // 2)) == green
        assert made.getpixel((left, top + pitch + CELL_PX // 2)) == blue
        assert made.getpixel((right, top + pitch + CELL_PX // 2)) == red
        assert made.size == (100 + 2 * pitch + 4 * GAP_PX, top + 2 * pitch + GAP_PX)

    def test_labels_and_heads_are_written(self):
        bare, said = (
            sheets.sheet([Band(label, [[plain((9, 9, 9))]])], [head]) for label, head in (("", ""), ("label", "head"))
        )
        assert bare.size == said.size
        dark = [sum(1 for shade in image.convert("L").tobytes() if shade < 128) for image in (bare, said)]
        assert dark[1] > dark[0]

    def test_long_labels_are_broken_between_words(self):
        from PIL import ImageFont

        font = ImageFont.load_default(20)
        lines = sheets.wrapped("sks mushroom in front of a brick wall", 120, font).split("\n")
        assert " ".join(lines) == "sks mushroom in front of a brick wall"
        assert len(lines) > 1
        assert all(font.getlength(line) <= 120 or " " not in line for line in lines)


class Said(torch.nn.Module):
    """A judge that gives the same answers about every picture."""

    def __init__(self, **answers):
        super().__init__()
        self.answers = answers

    def forward(self, pixels):
        return {
            name: torch.nn.functional.one_hot(torch.tensor([self.answers[name]] * len(pixels)), len(each))
            for name, each in likeness.ANSWERS.items()
        }


@pytest.mark.parametrize(("eyes", "share"), [(1, 1.0), (0, 0.0)])
def test_shares_are_counted_over_prompts(eyes, share):
    grass = likeness.GROUNDS.index("on the grass")
    judge = Said(subject=1, dots=1, stem=1, eyes=eyes, ground=grass)
    samples = {prompt: [plain((0, 0, 0))] * 2 for prompt in draw_quickstart.PROMPTS}
    found = draw_quickstart.shares(judge, samples)
    assert found["subject"] == 1
    assert found["eyes"] == share
    assert found["ground"] == pytest.approx(1 / len(draw_quickstart.PROMPTS), abs=1e-3)


def test_change_is_the_mean_difference_of_pixels():
    assert draw_quickstart.change([plain((10, 10, 10))], [plain((10, 13, 16))]) == 3


def test_prompts_ask_for_grounds_that_the_judge_knows():
    for prompt, ground in draw_quickstart.PROMPTS.items():
        assert ground in likeness.GROUNDS
        assert ground in prompt
