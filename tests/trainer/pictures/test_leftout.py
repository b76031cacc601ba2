"""Every file of a dataset's folder is used, a system's own litter, or named."""

import os

import pytest
from PIL import Image

from trainer.job import schema
from trainer.pictures import dataset, folders


def scan(folder, **keys):
    table = {"image_dir": str(folder), "class_tokens": "x", **keys}
    job = {"model": {"pretrained_model_name_or_path": "base"}, "datasets": [{"resolution": 16, "subsets": [table]}]}
    return dataset.scan(schema.Job.model_validate(job), 16, 8)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.effect_noise((20, 20), 50 + len(name) * ord(name[0])).save(folder / name)
    return folder


def said(found):
    assert not found.problems
    return "\n".join(text for text in found.notices if "left out" in text)


OTHERS = [
    "c.heic", "c.heif", "c.jxl", "c.psd", "c.xcf", "c.cr2", "c.nef", "c.dng", "c.mp4", "c.mov", "c.svg", "c.jp2",
    "c.tga",
    "c.npz", "c.json", "c.csv", "c.zip", "README.md", "readme.txt", "noending", ".hidden.png", "c.png.part",
    "a.png.bak",
]  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for name in OTHERS if not name.endswith(folders.IMAGE_EXTENSIONS)] + [".hidden.png"]
)
def test_a_file_that_is_not_used_is_named(photos, name):
    (photos / name).write_bytes(b"x")
    assert name in said(scan(photos))


@pytest.mark.parametrize(
    "name", ["Thumbs.db", "desktop.ini", ".DS_Store", "._a.png", ".gitkeep", "Icon\r", "a.txt~", ".picasa.ini"]
)
def test_a_systems_litter_is_not(photos, name):
    (photos / name).write_bytes(b"x")
    assert not said(scan(photos))


def test_what_is_used_is_not(photos):
    (photos / "a.txt").write_text("a dog")
    (photos / "b.caption").write_text("a cat")
    assert not said(scan(photos))


def test_what_would_read_it_is_told(photos):
    (photos / "c.heic").write_bytes(b"x")
    if ".heic" in folders.IMAGE_EXTENSIONS:
        pytest.skip("pillow-heif is installed")
    assert "c.heic (convert it, or pip install pillow-heif)" in said(scan(photos))
    for name in ("a.png", "b.png"):
        (photos / name).unlink()
    (fault,) = scan(photos).problems
    assert 'no images that are read here, but "c.heic"' in fault


def test_links_and_pipes_by_a_pictures_name_are_named(photos):
    (photos / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(photos / "pipe.png")
    found = said(scan(photos))
    assert "gone.png (a link that leads nowhere)" in found
    assert "pipe.png (no plain file)" in found


def test_folders_inside_with_images_are_named(photos):
    (photos / "more").mkdir()
    Image.new("RGB", (20, 20)).save(photos / "more" / "d.png")
    assert '"more" inside' in said(scan(photos))
    (photos / "more" / "e.mp4").write_bytes(b"x")
    found = said(scan(photos, recursive=True))
    assert "e.mp4" in found and "inside" not in found


def test_masks_without_a_picture_are_named(photos, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("a.png", "b.png", "zebra.png"):
        Image.new("L", (20, 20), 255).save(masks / name)
    found = scan(photos, conditioning_data_dir=str(masks))
    assert not found.problems
    assert any("masks without a picture: zebra.png" in text for text in found.notices)


def test_a_folder_that_holds_itself_ends(photos):
    (photos / "again").symlink_to(photos, target_is_directory=True)
    assert len(scan(photos, recursive=True).train) == 2


def test_a_folder_that_cannot_be_looked_into_is_told(photos, monkeypatch):
    (photos / "locked").mkdir()
    look = type(photos).iterdir

    def iterdir(self):
        if self.name == "locked":
            raise PermissionError(13, "Permission denied")
        return look(self)

    monkeypatch.setattr(type(photos), "iterdir", iterdir)
    (fault,) = scan(photos, recursive=True).problems
    assert "cannot be looked into (Permission denied)" in fault


@pytest.mark.parametrize("caption", [", , ,,", "...", "|||", "- -", " ; "])
def test_a_caption_of_separators_is_none_and_said_once(photos, caption):
    (photos / "a.txt").write_text(caption)
    (photos / "b.txt").write_text(caption)
    found = scan(photos)
    assert {one.caption.plain() for one in found.train} == {"x"}
    assert [text for text in found.notices if "separators alone" in text] == [
        "captions of a.png, b.png: hold separators alone, taken as none"
    ]
    assert any("got none for a.png, b.png" in text for text in scan(photos, missing_caption="error").problems)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("sks ball".encode("utf-16-le"), "UTF-16"),
        ("sks ball".encode("utf-16"), "UTF-16"),
        (b"sks\x00ball", "NUL"),
        (b"sks \x1b[31mball", "control character"),
        ("sks � ball".encode(), "letters that were lost"),
        (b"x" * 200_000, "more than"),
    ],
)
def test_a_caption_that_is_not_what_it_seems_is_refused(photos, content, words):
    (photos / "a.txt").write_bytes(content)
    (fault,) = scan(photos).problems
    assert "a.txt" in fault and words in fault
