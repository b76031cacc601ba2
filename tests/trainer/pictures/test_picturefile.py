import hashlib
import warnings

import numpy as np
import pytest
from PIL import Image

from trainer.pictures import formats
from trainer.pictures.picturefile import Measured, measure, measure_all


def test_what_is_measured(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (30, 10)).save(path)
    assert measure(path) == Measured((30, 10), hashlib.sha256(path.read_bytes()).hexdigest(), alpha=False, frames=1)


@pytest.mark.parametrize(("orientation", "size"), [(1, (30, 10)), (3, (30, 10)), (6, (10, 30)), (8, (10, 30))])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_exif_turns_the_size(tmp_path, orientation, size, ending):
    image = Image.new("RGB", (30, 10))
    exif = image.getexif()
    exif[formats.ORIENTATION] = orientation
    image.save(tmp_path / f"a.{ending}", exif=exif)
    assert measure(tmp_path / f"a.{ending}").size == size


def test_a_large_jpeg_keeps_its_size_though_it_is_decoded_small(tmp_path):
    Image.new("RGB", (800, 600)).save(tmp_path / "a.jpg")
    assert measure(tmp_path / "a.jpg").size == (800, 600)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "LA", "RGBA", "I;16"])
def test_every_mode(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((9, 9), 40000, dtype=np.uint16)).save(path)
    else:
        Image.new("RGB", (9, 9), "white").convert(mode).save(path)
    assert measure(path).size == (9, 9)
    assert measure(path).alpha is (mode in ("LA", "RGBA"))


def test_a_transparent_colour_of_a_palette_is_transparency(tmp_path):
    Image.new("P", (4, 4)).save(tmp_path / "a.png", transparency=0)
    assert measure(tmp_path / "a.png").alpha


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_an_animation_counts_its_frames(tmp_path, ending):
    frames = [Image.new("RGB", (6, 4), (shade, 0, 0)) for shade in (0, 120, 240)]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    assert measure(tmp_path / f"a.{ending}").frames == 3
    assert measure(tmp_path / f"a.{ending}").size == (6, 4)


def test_a_wrong_ending_does_not_matter(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "b.jpg")
    assert measure(tmp_path / "b.jpg").size == (6, 4)


def test_what_cannot_be_read_says_why(tmp_path):
    Image.effect_noise((400, 400), 90).convert("RGB").save(tmp_path / "cut.jpg")
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    assert "truncated" in measure(tmp_path / "cut.jpg")
    Image.effect_noise((400, 400), 90).save(tmp_path / "cut.png")
    content = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    assert "truncated" in measure(tmp_path / "cut.png")
    (tmp_path / "empty.png").touch()
    assert measure(tmp_path / "empty.png") == "it is empty, 0 bytes"
    (tmp_path / "text.png").write_text("<html>")
    assert "its content is no image" in measure(tmp_path / "text.png")
    (tmp_path / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in measure(tmp_path / "lfs.png")
    assert isinstance(measure(tmp_path / "none.png"), str)


def test_all_are_measured_in_order_and_progress_is_told(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        Image.new("RGB", (number + 1, 7)).save(path)
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure_all(paths, lambda done, total: told.append((done, total)))
    assert list(found) == paths
    assert [one.size[0] for one in found.values()] == [1, 2, 3, 4, 5]
    assert told == [(number, 5) for number in range(1, 6)]
    assert measure_all([]) == {}
