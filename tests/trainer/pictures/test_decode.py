import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from trainer.pictures import decode
from trainer.system.errors import UserError

RED, BLUE = (255, 0, 0), (0, 0, 255)


def corner(path, background="white"):
    return decode.open_rgb(path, background).getpixel((0, 0))


def near(colour, expected, by=2):
    return all(abs(a - b) <= by for a, b in zip(colour, expected, strict=True))


def png(bits, colour_type, samples):
    """Returns a PNG file of one pixel; Pillow writes 16 bits for greys alone."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + b"".join(struct.pack(">H" if bits == 16 else ">B", sample) for sample in samples)
    header = struct.pack(">IIBBBBB", 1, 1, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


def swapped_profile():
    """Returns an RGB profile whose first primary is sRGB's green and whose second is sRGB's red."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    for name, other in ((b"rXYZ", b"gXYZ"), (b"gXYZ", b"rXYZ")):
        profile[tags[name] : tags[name] + 4] = other
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))


@pytest.mark.parametrize(("background", "expected"), [("blue", BLUE), ("#0a0b0c", (10, 11, 12)), ("#ff000000", RED)])
def test_what_is_transparent_shows_the_background(tmp_path, background, expected):
    Image.new("RGBA", (2, 2), (9, 9, 9, 0)).save(tmp_path / "a.png")
    assert corner(tmp_path / "a.png", background) == expected


def test_a_colour_that_stands_for_transparent_is(tmp_path):
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "a.png", transparency=(1, 2, 3))
    assert corner(tmp_path / "a.png", "blue") == BLUE


@pytest.mark.parametrize(
    ("colour_type", "samples", "expected"),
    [(2, (65535, 25700, 0), (255, 100, 0)), (4, (25700, 65535), (100,) * 3), (6, (65535, 0, 0, 0), (255,) * 3)],
)
def test_sixteen_bits_a_channel_are_read_as_eight(tmp_path, colour_type, samples, expected):
    (tmp_path / "a.png").write_bytes(png(16, colour_type, samples))
    assert corner(tmp_path / "a.png") == expected


def test_a_dark_sixteen_bit_grey_stays_dark(tmp_path):
    Image.fromarray(np.array([[200]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert corner(tmp_path / "a.png") == (1, 1, 1)


@pytest.mark.parametrize(
    ("values", "expected"), [((0.0, 0.5, 1.0), (0, 128, 255)), ((0.0, 100.0, 999.0), (0, 100, 255))]
)
def test_a_picture_of_fractions_or_of_levels_is_grey(tmp_path, values, expected):
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "a.tif")
    opened = decode.open_rgb(tmp_path / "a.tif")
    assert tuple(opened.getpixel((x, 0))[0] for x in range(3)) == expected


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_is_not_inverted(tmp_path, name):
    Image.new("RGB", (8, 8), (200, 50, 50)).convert("CMYK").save(tmp_path / name)
    assert near(corner(tmp_path / name), (200, 50, 50), 4)


def test_lab_is_read_as_what_it_shows(tmp_path):
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.new("RGB", (2, 2), (200, 50, 50)), srgb, lab, outputMode="LAB")
    image.save(tmp_path / "a.tif")
    assert near(corner(tmp_path / "a.tif"), (200, 50, 50))


def test_a_colour_profile_is_followed(tmp_path):
    Image.new("RGB", (2, 2), RED).save(tmp_path / "a.png", icc_profile=swapped_profile())
    assert near(corner(tmp_path / "a.png"), (0, 255, 0))
    half = Image.new("RGBA", (2, 2), (255, 0, 0, 0))  # the background is no part of the picture
    half.putpixel((1, 0), (255, 0, 0, 255))
    half.save(tmp_path / "b.png", icc_profile=swapped_profile())
    assert corner(tmp_path / "b.png", "red") == RED
    assert near(decode.open_rgb(tmp_path / "b.png", "red").getpixel((1, 0)), (0, 255, 0))


@pytest.mark.parametrize("kind", ["sRGB", "broken", "of another mode"])
def test_a_colour_profile_that_says_nothing_changes_nothing(tmp_path, kind):
    usual = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    profile = {"sRGB": usual, "broken": b"no profile" * 30, "of another mode": other}[kind]
    Image.new("RGB", (2, 2), (200, 51, 7)).save(tmp_path / "a.png", icc_profile=profile)
    assert corner(tmp_path / "a.png") == (200, 51, 7)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.mpo"])
def test_the_first_picture_of_several_is_taken(tmp_path, name):
    Image.new("RGB", (8, 8), RED).save(tmp_path / name, save_all=True, append_images=[Image.new("RGB", (8, 8), BLUE)])
    assert near(corner(tmp_path / name), RED, 8)


@pytest.mark.parametrize("content", [b"", b"text, not a picture", None])
def test_what_is_no_picture_is_named(tmp_path, content):
    path = tmp_path / "broken.png"
    if content is None:
        Image.effect_noise((64, 64), 50).save(path)
        content = path.read_bytes()[:900]
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.png.*cannot be read.*Replace"):
        decode.open_rgb(path)
    with pytest.raises(UserError, match=r"gone\.png.*cannot be read"):
        decode.open_rgb(tmp_path / "gone.png")
