import numpy as np
import pytest
import torch
from PIL import Image

from trainer import buckets, images

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


def test_crop_takes_the_middle_and_mirrors():
    image = Image.new("RGB", (8, 4), "black")
    image.putpixel((2, 1), (255, 255, 255))
    geometry = buckets.fit((8, 4), (4, 4))
    assert images.crop(image, geometry).getpixel((0, 1)) == (255, 255, 255)
    assert images.crop(image, geometry, flipped=True).getpixel((3, 1)) == (255, 255, 255)


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
