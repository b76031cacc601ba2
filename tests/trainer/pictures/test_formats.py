"""Pictures of any maker: upright whatever the format, read whatever their metadata hold, and by the formats alone."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.pictures import decode, formats, picturefile, sidechunks
from trainer.system.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)
SAVED = {"png": {}, "jpg": {"quality": 95}, "webp": {"lossless": True}, "tif": {}, "bmp": {}, "gif": {}}
TURNED = [ending for ending in SAVED if ending not in ("bmp", "gif")]
if ".avif" in formats.ENDINGS:
    TURNED.append("avif")


def write(path: Path, orientation: int = 1, **keys: object) -> Path:
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[formats.ORIENTATION] = orientation
    image.save(path, exif=exif, **SAVED.get(path.suffix[1:], {}), **keys)
    return path


def chunk(kind: bytes, content: bytes, wrong: bool = False) -> bytes:
    sum_ = zlib.crc32(kind + content) ^ wrong
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", sum_)


def with_chunks(*chunks: bytes) -> bytes:
    """A PNG with chunks behind its head."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    content = buffer.getvalue()
    return content[:33] + b"".join(chunks) + content[33:]


@pytest.mark.parametrize("ending", TURNED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_measured_is_what_is_opened(tmp_path, ending, orientation):
    path = write(tmp_path / f"a.{ending}", orientation)
    known = picturefile.measure(path)
    assert known.size == decode.open_rgb(path).size
    assert known.size == ((24, 40) if orientation >= 5 else (40, 24))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_stands_upright(tmp_path, orientation):
    turn = formats.TURNS.get(orientation)
    upright = Image.fromarray(PIXELS) if turn is None else Image.fromarray(PIXELS).transpose(turn)
    assert np.array_equal(decode.open_rgb(write(tmp_path / "a.tif", orientation)), upright)
    assert np.array_equal(decode.open_rgb(write(tmp_path / "a.png", orientation)), upright)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nnewpath 0 0 moveto 64 64 lineto stroke\nshowpage\n"


def of_other_formats() -> dict[str, bytes]:
    found = {"eps": EPS}
    for kind, ending in (
        ("PCX", "pcx"),
        ("TGA", "tga"),
        ("PPM", "ppm"),
        ("ICO", "ico"),
        ("SGI", "sgi"),
        ("DDS", "dds"),
    ):
        buffer = io.BytesIO()
        Image.fromarray(PIXELS).save(buffer, kind)
        found[ending] = buffer.getvalue()
    return found


@pytest.mark.parametrize("kind", of_other_formats())
def test_a_picture_of_another_format_is_refused_whatever_its_name(tmp_path, kind):
    path = tmp_path / "dog.jpg"
    path.write_bytes(of_other_formats()[kind])
    assert "none" in picturefile.measure(path) or "no image" in picturefile.measure(path)
    with pytest.raises(UserError, match=r"dog\.jpg.*is not read here"):
        decode.open_rgb(path)


def test_no_program_runs_for_a_picture(tmp_path, monkeypatch):
    """Ghostscript's name on the PATH leaves a mark."""
    mark, tools = tmp_path / "it-ran", tmp_path / "tools"
    tools.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    (tmp_path / "dog.jpg").write_bytes(EPS)
    picturefile.measure(tmp_path / "dog.jpg")
    with pytest.raises(UserError):
        decode.open_rgb(tmp_path / "dog.jpg")
    assert not mark.exists()


LARGE = b"workflow\0\0" + zlib.compress(bytes(3 * 2**20))
BOMB = zlib.compress(bytes(64 * sidechunks.MOST))
SIDE = {
    "a large text": chunk(b"zTXt", LARGE),
    "a bomb in a text": chunk(b"zTXt", b"workflow\0\0" + BOMB),
    "a bomb in an international text": chunk(b"iTXt", b"workflow\0\1\0\0\0" + BOMB),
    "a bomb where the orientation may be": chunk(b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "a bomb in a profile": chunk(b"iCCP", b"name\0\0" + BOMB),
    "a text with a wrong check sum": chunk(b"tEXt", b"a\0b", wrong=True),
    "a text that is packed by nobody's rule": chunk(b"zTXt", b"a\0\7b"),
    "a profile that is packed by nobody's rule": chunk(b"iCCP", b"a\0\7b"),
    "a profile that is cut short": chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x" * 400)[:9]),
    "EXIF data that are none": chunk(b"eXIf", b"nothing"),
    "EXIF data with a wrong check sum": chunk(b"eXIf", b"MM", wrong=True),
    "a size in print that is cut short": chunk(b"pHYs", b"\0"),
    "a gamma that is cut short": chunk(b"gAMA", b"\0"),
    "colours that are cut short": chunk(b"cHRM", b"\0"),
    "an intent that is cut short": chunk(b"sRGB", b""),
    "an animation that is cut short": chunk(b"acTL", b"\0"),
    "a frame that is cut short": chunk(b"fcTL", b"\0"),
    "a chunk that nobody knows": chunk(b"caBX", b"\0" * 100),
}


@pytest.mark.parametrize("name", SIDE)
def test_what_lies_beside_the_pixels_of_a_png_decides_nothing(tmp_path, name):
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(SIDE[name]))
    assert picturefile.measure(path).size == (40, 24)
    assert np.array_equal(decode.open_rgb(path), PIXELS)


def test_a_bomb_is_not_unpacked(monkeypatch):
    made = zlib.decompressobj
    most = []

    class Watched:
        def __init__(self):
            self.stream = made()

        def decompress(self, packed, limit):
            found = self.stream.decompress(packed, limit)
            most.append(len(found))
            return found

        @property
        def eof(self):
            return self.stream.eof

    monkeypatch.setattr(sidechunks.zlib, "decompressobj", Watched)
    sidechunks.pixels_alone(with_chunks(*(SIDE[name] for name in SIDE if "bomb" in name)))
    assert most and max(most) <= sidechunks.MOST


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize(
    ("marker", "content"),
    [
        (0xE0, b"JFIF\0"), (0xEE, b"Adobe"),
        (0xED, b"Photoshop 3.0\0008BIM\4\4\0\0"), (0xE1, b"Exif\0\0nothing at all"),
        (0xE2, b"ICC_PROFILE\0\1\2no profile"), (0xE2, b"MPF\0II*\0"), (0xE1, b"http://ns.adobe.com/xap/1.0/\0<x"),
        (0xFE, b"a comment"), (0xE7, b""),
    ],
)  # fmt: skip
def test_what_lies_beside_the_pixels_of_a_jpeg_decides_nothing(tmp_path, marker, content):
    whole = write(tmp_path / "whole.jpg").read_bytes()
    path = tmp_path / "a.jpg"
    path.write_bytes(whole[:2] + segment(marker, content) + whole[2:])
    assert picturefile.measure(path).size == (40, 24)
    assert np.array_equal(decode.open_rgb(path), decode.open_rgb(tmp_path / "whole.jpg"))


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_random_damage_of_metadata_leaves_the_pixels(tmp_path, ending):
    rng = np.random.default_rng(1)
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[0x010F] = "maker"
    whole = bytearray(exif.tobytes())
    image.save(tmp_path / f"good.{ending}", **SAVED[ending])
    expected = np.asarray(decode.open_rgb(tmp_path / f"good.{ending}"))
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(6, len(broken), 4):
            broken[place] = rng.integers(256)
        image.save(tmp_path / f"a.{ending}", exif=bytes(broken), **SAVED[ending])
        found = decode.open_rgb(tmp_path / f"a.{ending}")
        path = tmp_path / f"a.{ending}"
        assert picturefile.measure_all([path])[path].size == found.size
        if found.size == (40, 24):  # else the damage says that it lies on its side
            assert sorted(np.asarray(found).ravel()) == sorted(expected.ravel())


def test_a_picture_that_was_replaced_is_noticed(tmp_path):
    path = write(tmp_path / "a.png")
    digest = picturefile.measure(path).digest
    assert decode.open_rgb(path, digest=digest)
    Image.fromarray(PIXELS[::-1]).save(path)
    with pytest.raises(UserError, match="expected the file as it was at the start, got another content"):
        decode.open_rgb(path, digest=digest)


def test_a_sparse_file_is_refused_at_once(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(2**40)
    assert "more than" in picturefile.measure(tmp_path / "a.png")


def test_the_documents_name_the_formats():
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    for name in formats.FORMATS:
        assert name in page or name.title() in page or (name == "WEBP" and "WebP" in page), name
    for _, package, _ in formats.PLUGINS.values():
        assert package in page
