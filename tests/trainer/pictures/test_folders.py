from pathlib import Path

import pytest
from PIL import Image

from trainer.pictures import folders


@pytest.fixture
def put(tmp_path):
    """The function that writes a small image, or an empty file of another kind, and returns its path."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in folders.IMAGE_EXTENSIONS:
            Image.new("RGB", (8, 8)).save(path)
        else:
            path.touch()
        return path

    return write


def names(found, folder):
    return [path.relative_to(folder).as_posix() for path in found]


def test_images_come_by_name_and_hidden_ones_do_not(tmp_path, put):
    for name in ("b.PNG", "a.jpg", ".c.png", "notes.md", "a.txt", "in/z.png", ".git/y.png", "__MACOSX/x.png"):
        put(name)
    assert names(folders.image_files(tmp_path), tmp_path) == ["a.jpg", "b.PNG"]


def test_folders_inside_follow_and_one_can_be_left_out(tmp_path, put):
    for name in ("b.png", "a/c.png", "a/deep/d.png", ".git/y.png", "__MACOSX/x.png", "masks/b.png"):
        put(name)
    assert names(folders.image_files(tmp_path, True), tmp_path) == ["b.png", "a/c.png", "a/deep/d.png", "masks/b.png"]
    assert "masks/b.png" not in names(folders.image_files(tmp_path, True, tmp_path / "masks"), tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [("10_sks dog", (10, "sks dog")), ("3_a_b", (3, "a_b")), ("0_x", (0, "x")), ("10", None), ("dog_10", None)],
)
def test_a_concepts_name(name, said):
    found = folders.concept(Path("data") / name)
    assert (found and (found.repeats, found.tokens)) == said


def test_a_folder_that_is_not_there(tmp_path, put):
    put("Dog/1.png")
    put("10_cat/1.png")
    said = folders.not_a_folder
    assert said(tmp_path / "dog").endswith('holds "Dog": write that, in the same case.')
    assert said(tmp_path / "10_cats").endswith('holds "10_cat": write that.')
    assert said(tmp_path / "10_cat" / "cat").endswith("itself holds 1 image: name that one.")
    assert said(tmp_path / "zzz" / "x").endswith(
        f'"{tmp_path}" holds 10_cat, Dog. Relative paths are relative to the folder of the job file.'
    )
    assert said(put("Dog/1.png")) == f'expected a folder, got a file. Name its folder "{tmp_path / "Dog"}".'
    assert said(put("notes.md")) == "expected a folder, got a file."
    assert "a path of Windows" in said(tmp_path / "C:\\data\\dog")
    (tmp_path / "bare").mkdir()
    assert '"' + str(tmp_path / "bare") + '" is empty.' in said(tmp_path / "bare" / "x")


def test_a_folder_without_images(tmp_path, put):
    assert folders.no_images(tmp_path).startswith("no images in it. Put in .png, .jpg")
    put("set.zip")
    assert folders.no_images(tmp_path) == 'no images in it, but "set.zip". Unpack it.'
    put("img/10_dog/1.png")
    assert 'but in "img/10_dog", two levels inside. Name "img".' in folders.no_images(tmp_path)
    put("plain/1.png")
    assert 'but in "plain" inside. Name that folder' in folders.no_images(tmp_path)


def test_two_levels_above_a_plain_folder(tmp_path, put):
    put("a/dog/1.png")
    assert 'Name "a/dog".' in folders.no_images(tmp_path)


def test_a_list_is_cut_short():
    assert folders.listed("abc") == "a, b, c"
    assert folders.listed("abcde") == "a, b, c and 2 more"
    assert folders.listed("abcd", 2, " = ") == "a = b and 2 more"
