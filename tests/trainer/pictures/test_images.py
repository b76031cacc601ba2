from dataclasses import replace
from io import BytesIO
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.job import dataschema
from trainer.pictures import buckets, images
from trainer.pictures.buckets import Geometry, View
from trainer.pictures.captions import Caption
from trainer.pictures.picture import Picture
from trainer.system.errors import UserError

ORIENTATION = 0x0112


# Where the corner at the top left of what is kept belongs, in a picture that is kept as 4 x 2 px.
TURNED = {1: (0, 0), 2: (3, 0), 3: (3, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 3), 8: (0, 3)}


@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_followed(tmp_path, orientation):
    image = Image.new("RGB", (4, 2), "black")
    image.putpixel((0, 0), (255, 0, 0))
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    upright = images.open_rgb(tmp_path / "a.png")
    assert upright.size == ((4, 2) if orientation < 5 else (2, 4))
    assert [upright.getpixel(TURNED[orientation]), np.asarray(upright).sum()] == [(255, 0, 0), 255]


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


@pytest.mark.parametrize(("levels", "expected"), [((0, 100, 200), (0, 100, 200)), ((0, 25700, 65535), (0, 100, 255))])
def test_thirty_two_bit_grey_is_of_eight_bits_or_of_sixteen(tmp_path, levels, expected):
    Image.fromarray(np.array([levels], dtype=np.int32)).save(tmp_path / "a.tif")
    opened = images.open_rgb(tmp_path / "a.tif")
    assert tuple(opened.getpixel((x, 0))[0] for x in range(3)) == expected


def picture(path, size=(8, 4), bucket=(4, 4), **settings):
    return Picture(path, "", Caption(("x",)), buckets.fit(size, bucket), 0, interpolation="nearest", **settings)


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


def test_a_view_depends_on_no_other_draw(tmp_path):
    every = picture(tmp_path / "a.png", (16, 4), flip=True, color=True, random_crop=True)
    places = [(step, index) for step in range(8) for index in range(4)]
    views = [images.draw_view(every, 1, *place) for place in places]
    before = torch.get_rng_state()
    assert [images.draw_view(every, 1, *place) for place in reversed(places)] == views[::-1]
    assert torch.equal(torch.get_rng_state(), before)
    assert len(set(views)) == 32  # steps and places do not repeat each other
    flips = np.array([[images.draw_view(every, 1, step, index).flipped for index in range(8)] for step in range(8)])
    assert (flips != flips.T).any()
    assert not set(views) & {images.draw_view(every, 2, *place) for place in places}
    for name, part in (("flip", "flipped"), ("random_crop", "offset"), ("color", "jitter")):
        alone = picture(tmp_path / "b.png", (16, 4), **{name: True})
        drawn = [images.draw_view(alone, 1, *place) for place in places]
        assert drawn == [View(**{part: getattr(view, part)}) for view in views]


def test_a_random_crop_stays_in_a_tall_picture_too(tmp_path):
    one = picture(tmp_path / "a.png", (4, 7), random_crop=True)
    assert {images.draw_view(one, 1, step, 0).offset for step in range(100)} == {(0, top) for top in range(4)}


def test_a_random_crop_goes_aside_and_down_apart(tmp_path):
    geometry = Geometry((6, 6), (6, 6), (1, 1), (4, 4))
    one = replace(picture(tmp_path / "a.png", random_crop=True), geometry=geometry)
    offsets = {images.draw_view(one, 1, step, 0).offset for step in range(200)}
    assert offsets == {(left, top) for left in range(3) for top in range(3)}


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


def test_a_crop_is_taken_first_and_mirrored_then(tmp_path):
    numbers = np.arange(32, dtype=np.uint8).reshape(4, 8)
    Image.fromarray(numbers).save(tmp_path / "a.png")
    one = picture(tmp_path / "a.png", bucket=(4, 4))

    def seen(view):
        return np.asarray(images.from_tensor(images.pixels(one, view)))[..., 0]

    assert seen(View())[0].tolist() == [2, 3, 4, 5]
    assert seen(View(offset=(1, 0)))[1].tolist() == [9, 10, 11, 12]
    assert seen(View(True, (1, 0)))[1].tolist() == [12, 11, 10, 9]
    mirrored = numbers[:, ::-1]  # of which SDXL is told the crop
    for view in (View(), View(True), View(False, (1, 0)), View(True, (1, 0)), View(True, (4, 0))):
        top, left = one.geometry.time_ids(view)[2:4]
        whole = mirrored if view.flipped else numbers
        assert np.array_equal(seen(view), whole[top : top + 4, left : left + 4])


@pytest.mark.parametrize("view", [View(), View(True), View(False, (4, 0)), View(True, (1, 0))])
@pytest.mark.parametrize("of_file", [True, False])
def test_masks_lie_on_the_pixels_of_their_view(tmp_path, view, of_file):
    levels = np.random.default_rng(0).integers(0, 256, (4, 8), dtype=np.uint8)
    grey = Image.fromarray(levels)
    Image.merge("RGB", (grey,) * 3).save(tmp_path / "a.png")
    if of_file:
        grey.save(tmp_path / "mask.png")
        masked = picture(tmp_path / "a.png", mask=tmp_path / "mask.png")
    else:
        Image.merge("RGBA", (grey,) * 4).save(tmp_path / "b.png")
        masked = picture(tmp_path / "b.png", alpha_mask=True)
    seen = (images.pixels(picture(tmp_path / "a.png"), view)[0] + 1) / 2
    assert torch.allclose(images.mask(masked, view), seen, atol=1e-6)


def test_a_mask_file_goes_before_transparency(tmp_path):
    Image.new("RGBA", (8, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("L", (8, 4), 51).save(tmp_path / "mask.png")
    both = images.mask(picture(tmp_path / "a.png", mask=tmp_path / "mask.png", alpha_mask=True), View())
    assert both.unique().tolist() == pytest.approx([0.2])


def test_without_transparency_all_is_trained(tmp_path):
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.png")
    assert images.mask(picture(tmp_path / "a.png", (8, 4), (4, 2), alpha_mask=True), View()).tolist() == [[1.0] * 4] * 2


def test_a_mask_is_turned_as_its_picture_is(tmp_path):
    kept = Image.new("RGBA", (4, 8), (255, 0, 0, 0))
    kept.putpixel((1, 4), (255, 0, 0, 255))  # upright, a quarter clockwise: (8 - 1 - 4, 1)
    exif = kept.getexif()
    exif[ORIENTATION] = 6
    kept.save(tmp_path / "a.png", exif=exif)
    kept.getchannel("A").save(tmp_path / "mask.png", exif=exif)
    for settings in ({"alpha_mask": True}, {"mask": tmp_path / "mask.png"}):
        assert images.mask(picture(tmp_path / "a.png", **settings), View()).nonzero().tolist() == [[1, 1]]
    seen = images.pixels(picture(tmp_path / "a.png", background="black"), View())
    assert (seen[0] == 1).nonzero().tolist() == [[1, 1]]


def test_a_mask_of_a_picture_that_changed_size_is_named(tmp_path):
    Image.new("RGBA", (9, 4), "red").save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png.*expected 8 x 4 px.*got 9 x 4"):
        images.mask(picture(tmp_path / "a.png", alpha_mask=True), View())


def test_a_palette_shows_its_colours_and_its_transparent_entry(tmp_path):
    image = Image.new("P", (8, 4), 0)
    image.putpalette([10, 20, 30, 255, 0, 0, 0, 255, 0])
    image.paste(1, (4, 0, 8, 4))
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "see-through.png", transparency=0)
    opaque, through = (
        picture(tmp_path / name, alpha_mask=True, background="blue") for name in ("opaque.png", "see-through.png")
    )
    rows = [np.asarray(images.from_tensor(images.pixels(one, View())))[0].tolist() for one in (opaque, through)]
    assert rows[0] == [[10, 20, 30]] * 2 + [[255, 0, 0]] * 2
    assert rows[1] == [[0, 0, 255]] * 2 + [[255, 0, 0]] * 2
    assert images.mask(opaque, View())[0].tolist() == [1, 1, 1, 1]
    assert images.mask(through, View())[0].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_an_animation_is_trained_by_its_first_picture(tmp_path, name):
    first, second = (Image.new("RGB", (8, 4), colour) for colour in ("white", "black"))
    first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
    with Image.open(tmp_path / name) as file:
        assert file.n_frames == 2
    assert images.pixels(picture(tmp_path / name), View()).unique().tolist() == [1.0]


def test_sixteen_bit_and_cmyk_pictures_are_trained_at_their_levels(tmp_path):
    grey = np.tile(np.array([0, 257 * 51] * 4, dtype=np.uint16), (4, 1))
    Image.fromarray(grey).save(tmp_path / "a.png")
    row = images.pixels(picture(tmp_path / "a.png"), View())[1, 0].tolist()
    assert row == pytest.approx([-1, -0.6, -1, -0.6])  # 51 / 127.5 - 1
    Image.new("CMYK", (8, 4), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    assert images.pixels(picture(tmp_path / "a.tif"), View())[:, 0, 0].tolist() == [1, -1, -1]


def test_contrast_goes_about_the_mean_and_saturation_about_the_grey():
    halves = Image.new("RGB", (2, 1), (100, 100, 100))
    halves.putpixel((1, 0), (200, 200, 200))
    contrasted = images.jittered(halves, (1.0, 1.1, 1.0, 0.0))
    assert [contrasted.getpixel((x, 0))[0] for x in range(2)] == [95, 205]  # 150 -+ 50 * 1.1
    coloured = Image.new("RGB", (1, 1), (200, 100, 100))  # grey: (299 * 200 + 701 * 100) / 1000 = 130
    assert images.jittered(coloured, (1.0, 1.0, 0.9, 0.0)).getpixel((0, 0)) == (193, 103, 103)
    assert images.jittered(halves, (1.0, 1.0, 0.9, 0.0)).tobytes() == halves.tobytes()  # a grey has no colour to lose


def test_jitter_leaves_the_mask_alone(tmp_path):
    Image.new("RGBA", (8, 4), (200, 0, 0, 102)).save(tmp_path / "a.png")
    one = picture(tmp_path / "a.png", alpha_mask=True)
    assert torch.equal(images.mask(one, View(jitter=(1.1, 1.1, 1.15, 0.015))), images.mask(one, View()))


def test_files_of_a_picture_are_what_they_are_called():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    with Image.open(BytesIO(images.png_bytes(image))) as png, Image.open(BytesIO(images.jpeg_bytes(image))) as jpeg:
        assert [png.format, jpeg.format, jpeg.size] == ["PNG", "JPEG", (7, 5)]
        assert png.tobytes() == image.tobytes()
