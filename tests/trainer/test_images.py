from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from trainer import buckets, dataschema, images
from trainer.buckets import View
from trainer.captions import Caption
from trainer.errors import UserError
from trainer.picture import Picture

ORIENTATION = 0x0112


def test_exif_orientation_is_followed(tmp_path):
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 0, 0))
    exif = image.getexif()
    exif[ORIENTATION] = 6  # to be turned a quarter clockwise
    image.save(tmp_path / "a.png", exif=exif)
    upright = images.open_rgb(tmp_path / "a.png")
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_becomes_white(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (10, 10, 10, 0))
    image.putpixel((1, 0), (10, 10, 10, 255))
    path = tmp_path / ("a.tif" if mode == "PA" else "a.png")
    if mode == "PA":
        path = tmp_path / "a.gif"
        image.save(path)
    else:
        image.convert(mode).save(path)
    opened = images.open_rgb(path)
    assert opened.getpixel((0, 0)) == (255, 255, 255)
    assert max(opened.getpixel((1, 0))) < 20


def test_half_transparent_is_mixed_with_white(tmp_path):
    Image.new("RGBA", (1, 1), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert images.open_rgb(tmp_path / "a.png").getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (3, 3), "white").convert(mode).save(path)
    opened = images.open_rgb(path)
    assert opened.mode == "RGB"
    assert min(opened.getpixel((1, 1))) > 250


def test_sixteen_bit_grey_keeps_its_brightness(tmp_path):
    grey = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    opened = images.open_rgb(tmp_path / "a.png")
    assert [opened.getpixel((x, 0))[0] for x in range(3)] == [0, 100, 255]


def picture(path, size=(8, 4), bucket=(4, 4), **settings):
    return Picture(path, "0", Caption(("x",)), buckets.fit(size, bucket), 0, interpolation="nearest", **settings)


def test_crop_takes_the_middle_and_mirrors(tmp_path):
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((2, 1), (255, 255, 255))
    image.putpixel((7, 0), (255, 0, 0))
    image.save(tmp_path / "a.png")
    one = picture(tmp_path / "a.png")
    assert images.pixels(one, View())[:, 1, 0].tolist() == [1, 1, 1]
    assert images.pixels(one, View(flipped=True))[:, 1, 3].tolist() == [1, 1, 1]
    assert images.pixels(one, View(offset=(4, 0)))[:, 0, 3].tolist() == [1, -1, -1]


def test_a_mask_goes_the_way_of_its_pixels(tmp_path):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.png")
    grey = Image.new("L", (8, 4), 0)
    grey.putpixel((2, 1), 255)
    grey.save(tmp_path / "mask.png")
    one = picture(tmp_path / "a.png", mask=tmp_path / "mask.png")
    assert images.mask(one, View()).nonzero().tolist() == [[1, 0]]
    assert images.mask(one, View(flipped=True)).nonzero().tolist() == [[1, 3]]
    assert images.mask(picture(tmp_path / "a.png"), View()).tolist() == [[1.0] * 4] * 4


def test_a_mask_may_be_of_another_size(tmp_path):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.png")
    half = Image.new("L", (4, 2), 0)
    half.paste(255, (0, 0, 2, 2))
    half.save(tmp_path / "mask.png")
    found = images.mask(picture(tmp_path / "a.png", mask=tmp_path / "mask.png"), View())
    assert (found[:, 0] > 0.5).all() and (found[:, 3] < 0.5).all()


def test_transparency_is_a_mask_where_asked(tmp_path):
    image = Image.new("RGBA", (8, 4), (255, 0, 0, 0))
    image.putpixel((3, 2), (0, 255, 0, 255))
    image.save(tmp_path / "a.png")
    assert images.mask(picture(tmp_path / "a.png", alpha_mask=True), View()).nonzero().tolist() == [[2, 1]]
    seen = images.pixels(picture(tmp_path / "a.png", background="blue"), View())
    assert seen[:, 0, 0].tolist() == [-1, -1, 1]
    assert seen[:, 2, 1].tolist() == [-1, 1, -1]


def test_an_image_that_changed_size_is_named(tmp_path):
    Image.new("RGB", (9, 4), "red").save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png.*expected 8 x 4 px.*got 9 x 4"):
        images.pixels(picture(tmp_path / "a.png"), View())


def test_jitter_varies_colours_and_no_place(tmp_path):
    Image.new("RGB", (8, 4), (100, 100, 100)).save(tmp_path / "a.png")
    one = picture(tmp_path / "a.png")
    brighter = images.pixels(one, View(jitter=(1.1, 1.0, 1.0, 0.0)))
    assert ((brighter + 1) * 127.5).round().unique().tolist() == [110]
    assert torch.equal(images.pixels(one, View(jitter=(1.0, 1.0, 1.0, 0.0))), images.pixels(one, View()))


def test_views_are_functions_of_the_step_and_place(tmp_path):
    one = picture(tmp_path / "a.png", (16, 4), flip=True, color=True, random_crop=True)
    views = [images.draw_view(one, 1, step, index) for step in range(20) for index in range(5)]
    assert views == [images.draw_view(one, 1, step, index) for step in range(20) for index in range(5)]
    assert 30 < sum(view.flipped for view in views) < 70
    assert {view.offset[0] for view in views} == set(range(13))
    assert {view.offset[1] for view in views} == {0}
    assert all(0.9 <= view.jitter[0] <= 1.1 and abs(view.jitter[3]) <= images.HUE for view in views)
    assert images.draw_view(picture(tmp_path / "a.png"), 1, 0, 0) == View()


def test_a_hue_is_turned(tmp_path):
    Image.new("RGB", (8, 4), (200, 0, 0)).save(tmp_path / "a.png")
    third = images.from_tensor(images.pixels(picture(tmp_path / "a.png"), View(jitter=(1.0, 1.0, 1.0, 1 / 3))))
    assert third.getpixel((0, 0)) == (0, 200, 0)  # a third of the circle from red
    back = images.from_tensor(images.pixels(picture(tmp_path / "a.png"), View(jitter=(1.0, 1.0, 1.0, -1 / 3))))
    assert back.getpixel((0, 0)) == (0, 0, 200)


def test_smaller_is_the_mean_of_an_area_and_larger_is_smooth():
    stripes = Image.fromarray(np.tile(np.array([0, 100, 200, 40], dtype=np.uint8), (4, 1)))
    half = np.asarray(images.resize(stripes, (2, 2), "auto"))
    assert half.tolist() == [[50, 120], [50, 120]]
    assert np.array_equal(half, np.asarray(images.resize(stripes, (2, 2), "area")))
    doubled = np.asarray(images.resize(stripes, (8, 8), "auto"))
    assert np.array_equal(doubled, np.asarray(stripes.resize((8, 8), Image.Resampling.LANCZOS)))
    assert np.asarray(images.resize(stripes, (8, 4), "nearest"))[0].tolist() == [0, 0, 100, 100, 200, 200, 40, 40]
    assert images.resize(stripes, (4, 4), "lanczos").tobytes() == stripes.tobytes()


def test_every_filter_that_a_job_may_name_is_there():
    names = get_args(get_args(dataschema.Interpolation)[0])
    assert set(names) == set(images.FILTERS)


def test_a_seethrough_mask_trains_nothing_there(tmp_path):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.png")
    painted = Image.new("RGBA", (8, 4), (255, 255, 255, 0))
    painted.putpixel((3, 2), (255, 255, 255, 255))
    painted.putpixel((4, 2), (102, 102, 102, 255))
    painted.save(tmp_path / "mask.png")
    found = images.mask(picture(tmp_path / "a.png", mask=tmp_path / "mask.png"), View())
    assert found.nonzero().tolist() == [[2, 1], [2, 2]]
    assert found[2, 1:3].tolist() == pytest.approx([1.0, 0.4])


def test_tensor_and_back():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    tensor = images.to_tensor(Image.fromarray(pixels))
    assert tensor.shape == (3, 5, 7)
    assert tensor.dtype == torch.float32
    assert tensor.min() >= -1 and tensor.max() <= 1
    assert np.array_equal(np.asarray(images.from_tensor(tensor)), pixels)


def test_values_beyond_the_range_are_clipped():
    image = images.from_tensor(torch.full((3, 1, 1), 5.0))
    assert image.getpixel((0, 0)) == (255, 255, 255)
