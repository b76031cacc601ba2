import pytest
import torch

from waveft_core import summarize

BLOCKS = ("input_blocks_4_1", "middle_block_1", "output_blocks_3_1")
KINDS = ("attn1_to_q", "attn2_to_k")
BAND_COLOURS = {"aa": (31, 95, 191), "ad": (224, 138, 30), "da": (61, 154, 95), "dd": (176, 58, 91)}


@pytest.fixture
def picture(comfy):
    return comfy("drawing.picture")


@pytest.fixture
def adapter(make_adapter):
    names = [f"lora_unet_{block}_transformer_blocks_0_{kind}" for block in BLOCKS for kind in KINDS]
    return make_adapter(dict.fromkeys(names, (16, 16)), p=64)


def pixels(drawn, colour):
    """How many pixels have a colour."""
    return int(((drawn[0] * 255).round() == torch.tensor(colour, dtype=torch.float32)).all(-1).sum())


def test_it_is_comfyuis_image_of_1024_pixels(picture, adapter):
    drawn = picture.draw("dog", summarize(adapter))
    assert drawn.shape[0] == 1 and drawn.shape[2:] == (1024, 3)
    assert drawn.dtype == torch.float32
    assert 0 <= float(drawn.min()) < 0.2 and float(drawn.max()) == 1.0


def test_bars_are_as_long_as_the_energy(picture, adapter):
    """In the bars' column, the pixels of each colour are in the ratio of the sub-bands' energies."""
    told = summarize(adapter)
    drawn = picture.draw("dog", told)[:, :, 222:640]
    counts = {band: pixels(drawn, colour) for band, colour in BAND_COLOURS.items()}
    whole = sum(counts.values())
    for band, energy in told["energy"]["band"].items():
        assert counts[band] / whole == pytest.approx(energy / told["energy"]["total"], abs=0.02)


def test_identity_has_bars_of_one_colour_and_no_map(picture, make_adapter):
    drawn = picture.draw("dog", summarize(make_adapter({"lora_unet_input_blocks_4_1_x": (8, 8)}, wavelet="identity")))
    assert pixels(drawn, BAND_COLOURS["aa"]) > 1000
    assert not any(pixels(drawn, BAND_COLOURS[band]) for band in ("ad", "da", "dd"))


def test_of_many_blocks_the_largest_are_drawn(picture, make_adapter):
    few, many = (
        make_adapter({f"lora_te2_text_model_encoder_layers_{i}_fc": (8, 8) for i in range(count)}) for count in (24, 60)
    )
    assert picture.draw("a", summarize(few)).shape == picture.draw("a", summarize(many)).shape


def test_an_adapter_of_zeros_can_be_drawn(picture, make_adapter):
    assert picture.draw("nothing", summarize(make_adapter({"lora_a": (8, 8)}, scaling=0.0))).shape[2] == 1024


def test_words_are_drawn_where_there_is_nothing_else(picture):
    drawn = picture.draw_words("model", "No adapter. " * 40)
    assert drawn.shape[1] > picture.draw_words("model", "No adapter.").shape[1]
    assert float(drawn.min()) < 0.5


class TestDrawing:
    @pytest.fixture
    def drawing(self, comfy):
        return comfy("drawing.drawing")

    def test_a_picture_comes_back_as_it_was(self, drawing):
        image = torch.randint(0, 256, (2, 5, 7, 3)).float() / 255
        made = torch.cat([drawing.to_tensor(one) for one in drawing.to_pictures(image)])
        torch.testing.assert_close(made, image, rtol=0, atol=1e-6)
        grey = drawing.to_pictures(torch.full((1, 4, 4, 1), 0.5))[0]
        assert grey.getpixel((0, 0)) == (128, 128, 128)
        assert drawing.to_pictures(torch.full((1, 4, 4, 4), 2.0))[0].getpixel((0, 0)) == (255, 255, 255)

    def test_pictures_of_two_heights_become_one_batch(self, drawing):
        made = drawing.stacked([torch.zeros(1, 4, 6, 3), torch.zeros(1, 2, 6, 3)])
        assert made.shape == (2, 4, 6, 3)
        assert float(made[0].sum()) == 0 and float(made[1, 2:].min()) == 1

    def test_text_is_kept_within_its_room(self, drawing):
        assert drawing.fitted("short", 15, 500) == "short"
        cut = drawing.fitted("a_very_long_name_of_a_block_that_nobody_can_read", 15, 120)
        assert cut.startswith("a_ve") and "…" in cut and cut.endswith("read")
        assert drawing.width(cut, 15) <= 120
        lines = drawing.wrapped("one two three four five six\nseven", 15, 80)
        assert " ".join(lines) == "one two three four five six seven"
        assert len(lines) > 2 and all(drawing.width(line, 15) <= 80 for line in lines)
