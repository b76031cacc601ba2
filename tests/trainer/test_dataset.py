import pytest
from PIL import Image

from trainer import dataset, schema


def subset(folder, **keys):
    job = schema.Job.model_validate(
        {
            "model": {"pretrained_model_name_or_path": "x"},
            "datasets": [{"subsets": [{"image_dir": str(folder), **keys}]}],
        }
    )
    return job.subsets()[0]


def scan(folder, trigger="", **keys):
    return dataset.scan_subset(subset(folder, **keys), 16, trigger)


def test_pictures_come_sorted_with_class_tokens(tmp_path, pictures_in):
    pictures_in(tmp_path)
    (tmp_path / "notes.md").write_text("x")
    (tmp_path / ".hidden.png").write_text("x")
    pictures, problems = scan(tmp_path, class_tokens="sks dog", num_repeats=2)
    assert not problems
    assert [picture.path.name for picture in pictures] == ["00.png", "01.png", "02.png"]
    assert {picture.caption for picture in pictures} == {"sks dog"}
    assert pictures[0].repeats == 2
    assert pictures[0].geometry.original == (24, 18)


def test_a_caption_file_wins_over_class_tokens(tmp_path, pictures_in):
    pictures_in(tmp_path, 3)
    (tmp_path / "00.txt").write_text("a {trigger}\nrobot", encoding="utf-8-sig")
    (tmp_path / "01.caption").write_text("täglich", encoding="utf-8")
    pictures, problems = scan(tmp_path, "sks", class_tokens="x", caption_prefix="on ", caption_suffix="!")
    assert not problems
    assert [picture.caption for picture in pictures] == ["on a sks robot!", "on täglich!", "on x!"]


def test_another_caption_extension(tmp_path, pictures_in):
    pictures_in(tmp_path, 2)
    (tmp_path / "00.txt").write_text("txt")
    (tmp_path / "00.cap").write_text("cap")
    (tmp_path / "01.txt").write_text("txt")
    pictures, _ = scan(tmp_path, caption_extension=".cap")
    assert [picture.caption for picture in pictures] == ["cap", "txt"]


def test_exif_turns_the_size(tmp_path):
    image = Image.new("RGB", (30, 10))
    exif = image.getexif()
    exif[dataset.ORIENTATION] = 8
    image.save(tmp_path / "a.jpg", exif=exif)
    pictures, _ = scan(tmp_path, class_tokens="x")
    assert pictures[0].geometry.original == (10, 30)


def test_every_fault_of_a_folder_is_named(tmp_path, pictures_in):
    pictures_in(tmp_path, 5)
    (tmp_path / "00.png").write_bytes((tmp_path / "00.png").read_bytes()[:200])
    (tmp_path / "01.png").write_bytes(b"")
    for name in ("00", "01"):
        (tmp_path / f"{name}.txt").write_text("x")
    (tmp_path / "02.txt").write_bytes(b"\xff\xfe\xe4")
    (tmp_path / "03.txt").write_text(" \n")
    _, problems = scan(tmp_path)
    assert len(problems) == 5
    for name, part in (
        ("00.png", "cannot be read"), ("01.png", "cannot be read"), ("02.txt", "UTF-8"),
        ("03.txt", "empty file"), ("04.png", "expected a caption in 04.txt"),
    ):  # fmt: skip
        assert any(name in problem and part in problem for problem in problems), (name, problems)


def test_a_jpeg_cut_short_is_found(tmp_path):
    Image.effect_noise((400, 400), 90).convert("RGB").save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    _, problems = scan(tmp_path, class_tokens="x")
    assert len(problems) == 1
    assert "a.jpg" in problems[0]


def test_a_trigger_without_phrase(tmp_path, pictures_in):
    pictures_in(tmp_path, 1)
    (tmp_path / "00.txt").write_text("a [trigger]")
    assert "trigger_phrase is empty" in scan(tmp_path)[1][0]
    assert not scan(tmp_path, "sks")[1]


def test_folders_that_hold_no_images(tmp_path, pictures_in):
    assert "expected a folder, got nothing there" in scan(tmp_path / "none")[1][0]
    (tmp_path / "file").touch()
    assert "expected a folder, got a file" in scan(tmp_path / "file")[1][0]
    (tmp_path / "empty").mkdir()
    assert "no images in it. Put in .png" in scan(tmp_path / "empty")[1][0]
    pictures_in(tmp_path / "above" / "10_dog")
    assert 'in "10_dog" inside' in scan(tmp_path / "above")[1][0]


@pytest.mark.parametrize("ending", [".JPG", ".webp", ".bmp", ".gif", ".tiff"])
def test_endings(tmp_path, ending):
    Image.new("RGB", (9, 9)).save(tmp_path / f"a{ending}")
    assert len(scan(tmp_path, class_tokens="x")[0]) == 1
