import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from trainer.job import schema
from trainer.pictures import dataset
from trainer.pictures.buckets import View


def job(*subsets, general=None, datasets=None, **sections):
    """A job of one dataset with these subsets, or of these datasets."""
    return schema.Job.model_validate(
        {
            "model": {"pretrained_model_name_or_path": "x"},
            "general": general or {},
            "datasets": datasets or [{"subsets": list(subsets)}],
            **sections,
        }
    )


def scan(folder, trigger="", resolution=16, multiple=8, **keys):
    made = job({"image_dir": str(folder), **keys}, metadata={"trigger_phrase": trigger})
    return dataset.scan(made, resolution, multiple)


def good(*arguments, **keys):
    found = scan(*arguments, **keys)
    assert not found.problems
    return found.train


def texts(pictures):
    return [picture.caption.plain() for picture in pictures]


def names(pictures):
    return [picture.path.name for picture in pictures]


def said(notices, *parts):
    return any(all(part in notice for part in parts) for notice in notices)


def write(folder, texts_by_name):
    for name, text in texts_by_name.items():
        (folder / name).write_text(text, encoding="utf-8")


def test_a_picture_is_what_its_subset_says(tmp_path, pictures_in):
    pictures_in(tmp_path)
    write(tmp_path, {"notes.md": "x", ".hidden.png": "x"})
    pictures = good(
        tmp_path, class_tokens="sks dog", num_repeats=2, flip_aug=True, color_aug=True, random_crop=True,
        transparent_background="#102030", resize_interpolation="cubic", caption_dropout_rate=0.5, alpha_mask=True,
    )  # fmt: skip
    assert names(pictures) == ["00.png", "01.png", "02.png"]
    first = pictures[0]
    assert first.digest == hashlib.sha256((tmp_path / "00.png").read_bytes()).hexdigest()
    assert (first.repeats, first.flip, first.color, first.random_crop) == (2, True, True, True)
    assert (first.background, first.interpolation, first.alpha_mask) == ("#102030", "cubic", True)
    assert first.caption.rules.caption_dropout_rate == 0.5
    assert first.caption.plain() == "sks dog"
    assert first.geometry.original == (24, 18)
    assert (first.dataset, first.is_reg, first.mask) == (0, False, None)


def test_what_is_not_said_is_plain(tmp_path, pictures_in):
    pictures_in(tmp_path, 1)
    [picture] = good(tmp_path, class_tokens="x")
    assert not (picture.flip or picture.color or picture.random_crop or picture.alpha_mask or picture.is_reg)
    assert (picture.repeats, picture.background, picture.interpolation) == (1, "white", "auto")


def test_each_picture_goes_into_its_bucket_and_says_its_real_size(tmp_path):
    for name, size in {"square": (200, 200), "wide": (400, 200), "tall": (100, 173)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    square, tall, wide = good(tmp_path, class_tokens="x", resolution=64, multiple=8)
    assert square.geometry.bucket == (64, 64)
    assert wide.geometry.bucket == (88, 40)
    assert tall.geometry.bucket == (48, 80)
    assert wide.geometry.time_ids(View())[:2] == (200, 400)
    [_, _, other] = good(tmp_path, class_tokens="x", resolution=(96, 64), multiple=8)
    assert other.geometry.bucket[0] * other.geometry.bucket[1] <= 96 * 64


def test_datasets_have_buckets_of_their_own(tmp_path, pictures_in):
    pictures_in(tmp_path, 1)
    subset = {"image_dir": str(tmp_path), "class_tokens": "x"}
    made = job(
        general={"resolution": 32, "enable_bucket": False},
        datasets=[{"subsets": [subset]}, {"resolution": [16, 24], "subsets": [subset]}],
    )
    found = dataset.scan(made, 64, 8)
    assert [(picture.dataset, picture.geometry.bucket) for picture in found.train] == [(0, (32, 32)), (1, (16, 24))]
    assert not found.problems
    assert not said(found.notices, "twice")  # one picture in two datasets is meant


def test_sizes_that_the_base_cannot_have_are_named_with_their_table(tmp_path, pictures_in):
    pictures_in(tmp_path, 1)
    subset = {"image_dir": str(tmp_path), "class_tokens": "x"}
    made = job(general={"resolution": 30}, datasets=[{"subsets": [subset]}, {"resolution": 50, "subsets": [subset]}])
    assert dataset.scan(made, 64, 8).problems == [
        "[general] resolution: expected a multiple of 8 px, got 30. Write 32.",
        "[[datasets]] 2 resolution: expected a multiple of 8 px, got 50. Write 48.",
    ]


def test_a_caption_file_wins_over_class_tokens(tmp_path, pictures_in):
    pictures_in(tmp_path, 3)
    (tmp_path / "00.txt").write_text("a {trigger} robot", encoding="utf-8-sig")
    (tmp_path / "01.caption").write_text("täglich", encoding="utf-8")
    found = scan(tmp_path, "sks", class_tokens="[trigger] x", caption_prefix="on {trigger}", caption_suffix="now")
    assert texts(found.train) == ["on sks a sks robot now", "on sks täglich now", "on sks sks x now"]
    assert said(found.notices, "01.png", "read from .caption files")


def test_another_caption_extension(tmp_path, pictures_in):
    pictures_in(tmp_path, 2)
    write(tmp_path, {"00.txt": "txt", "00.cap": "cap", "01.txt": "txt"})
    assert texts(good(tmp_path, caption_extension=".cap")) == ["cap", "txt"]


def test_lines_are_one_text_or_drawn_from(tmp_path, pictures_in):
    pictures_in(tmp_path, 1)
    write(tmp_path, {"00.txt": "\n a dog \n\non grass\n"})
    found = scan(tmp_path)
    assert found.train[0].caption.lines == ("a dog on grass",)
    assert said(found.notices, "00.png", "several lines", "enable_wildcard")
    found = scan(tmp_path, enable_wildcard=True)
    assert found.train[0].caption.lines == ("a dog", "on grass")
    assert not said(found.notices, "lines")


def test_missing_captions(tmp_path, pictures_in):
    pictures_in(tmp_path, 4)
    write(tmp_path, {"00.txt": "x"})
    [problem] = scan(tmp_path).problems
    assert "expected a caption in 01.txt and so on, got none for 01.png, 02.png, 03.png" in problem
    assert "set class_tokens for all" in problem
    [problem] = scan(tmp_path, class_tokens="y", missing_caption="error").problems
    assert 'set missing_caption = "class_tokens"' in problem
    assert scan(tmp_path, missing_caption="class_tokens").problems
    assert texts(good(tmp_path, missing_caption="class_tokens", class_tokens="y")) == ["x", "y", "y", "y"]
    assert texts(good(tmp_path, missing_caption="empty", class_tokens="y", caption_prefix="p")) == [
        "p x",
        "p",
        "p",
        "p",
    ]


def test_a_caption_file_without_picture_is_said(tmp_path, pictures_in):
    pictures_in(tmp_path, 1)
    write(tmp_path, {"O0.txt": "x", "README.txt": "about"})
    assert said(scan(tmp_path, class_tokens="x").notices, "captions without a picture: O0.txt")
    assert not said(scan(tmp_path, class_tokens="x").notices, "captions without a picture: O0.txt, README")


def test_every_fault_of_a_folder_is_named(tmp_path, pictures_in):
    pictures_in(tmp_path, 5)
    (tmp_path / "00.png").write_bytes((tmp_path / "00.png").read_bytes()[:200])
    (tmp_path / "01.png").write_bytes(b"")
    write(tmp_path, {"00.txt": "x", "01.txt": "x", "03.txt": " \n"})
    (tmp_path / "02.txt").write_bytes(b"\xff\xfe\xe4")
    problems = scan(tmp_path).problems
    assert len(problems) == 5
    for name, part in (
        ("00.png", "cannot be read"), ("01.png", "0 bytes"), ("02.txt", "UTF-8"), ("03.txt", "empty file"),
        ("04.png", "expected a caption in 04.txt, got none"),
    ):  # fmt: skip
        assert any(name in problem and part in problem for problem in problems), (name, problems)


def test_an_empty_caption_file_may_be_meant(tmp_path, pictures_in):
    pictures_in(tmp_path, 1)
    write(tmp_path, {"00.txt": ""})
    assert texts(good(tmp_path, missing_caption="empty", class_tokens="x")) == [""]


def test_a_trigger_without_phrase(tmp_path, pictures_in):
    pictures_in(tmp_path, 1)
    write(tmp_path, {"00.txt": "a [trigger]"})
    [problem] = scan(tmp_path).problems
    assert "00.png" in problem and "trigger_phrase is empty" in problem
    assert not scan(tmp_path, "sks").problems


def test_folders_that_hold_no_images(tmp_path):
    assert "expected a folder, got nothing there" in scan(tmp_path / "none").problems[0]
    (tmp_path / "file").touch()
    assert "expected a folder, got a file" in scan(tmp_path / "file").problems[0]
    (tmp_path / "empty").mkdir()
    assert "no images in it. Put in .png" in scan(tmp_path / "empty").problems[0]


@pytest.mark.parametrize("ending", [".JPG", ".webp", ".bmp", ".gif", ".tiff"])
def test_endings(tmp_path, ending):
    Image.new("RGB", (9, 9)).save(tmp_path / f"a{ending}")
    assert len(good(tmp_path, class_tokens="x")) == 1


def test_a_folder_of_concepts(tmp_path, pictures_in):
    pictures_in(tmp_path / "10_sks dog", 2)
    pictures_in(tmp_path / "3_cat", 1)
    pictures_in(tmp_path / "0_off", 1)
    pictures_in(tmp_path / "other", 1)
    found = scan(tmp_path)
    assert not found.problems
    assert [(picture.repeats, picture.caption.plain()) for picture in found.train] == [
        (10, "sks dog"), (10, "sks dog"), (3, "cat"),
    ]  # fmt: skip
    assert said(found.notices, '"10_sks dog"', "num_repeats = 10", "class_tokens = 'sks dog'")
    assert said(found.notices, '"0_off"', "0 repeats")
    assert said(found.notices, "other", "not named N_concept")


def test_the_leaf_of_a_concept_folder(tmp_path, pictures_in):
    pictures_in(tmp_path / "10_dog", 1)
    [picture] = good(tmp_path / "10_dog")
    assert (picture.repeats, picture.caption.plain()) == (10, "dog")


def test_what_the_job_says_stands_over_a_folders_name(tmp_path, pictures_in):
    pictures_in(tmp_path / "10_dog", 1)
    [picture] = good(tmp_path, class_tokens="x")
    assert (picture.repeats, picture.caption.plain()) == (10, "x")
    found = dataset.scan(job({"image_dir": str(tmp_path)}, general={"num_repeats": 2}), 16, 8)
    assert [(picture.repeats, picture.caption.plain()) for picture in found.train] == [(2, "dog")]
    assert said(found.notices, "class_tokens = 'dog'")
    assert not said(found.notices, "num_repeats")


def test_images_beside_concept_folders(tmp_path, pictures_in):
    pictures_in(tmp_path, 1)
    pictures_in(tmp_path / "10_dog", 2)
    found = scan(tmp_path, class_tokens="x")
    assert len(found.train) == 1
    assert said(found.notices, "holds images itself", "10_dog inside is left out")
    assert len(scan(tmp_path, class_tokens="x", recursive=True).train) == 3


def test_recursive_with_captions_beside_their_pictures(tmp_path, pictures_in):
    pictures_in(tmp_path / "a" / "b", 1)
    pictures_in(tmp_path / "c", 1)
    write(tmp_path / "a" / "b", {"00.txt": "deep"})
    write(tmp_path / "c", {"00.txt": "flat"})
    assert texts(good(tmp_path, recursive=True)) == ["deep", "flat"]
    assert "recursive = true" in scan(tmp_path).problems[0]


def test_class_pictures(tmp_path, pictures_in):
    pictures_in(tmp_path / "own", 2)
    pictures_in(tmp_path / "reg" / "1_dog", 3)
    reg = {"image_dir": str(tmp_path / "reg"), "is_reg": True}
    found = dataset.scan(job({"image_dir": str(tmp_path / "own"), "class_tokens": "sks dog"}, reg), 16, 8)
    assert [(picture.is_reg, picture.caption.plain()) for picture in found.train] == [
        *[(False, "sks dog")] * 2, *[(True, "dog")] * 3,
    ]  # fmt: skip


def test_class_pictures_that_are_still_to_be_drawn(tmp_path, pictures_in):
    pictures_in(tmp_path / "own", 2)
    own = {"image_dir": str(tmp_path / "own"), "class_tokens": "sks dog"}
    reg = {"image_dir": str(tmp_path / "reg"), "is_reg": True, "class_tokens": "dog"}
    assert "expected a folder" in dataset.scan(job(own, reg), 16, 8).problems[0]
    drawn = job(own, {**reg, "num_class_images": 5})
    for _ in range(2):  # no folder, then an empty one
        assert not dataset.scan(drawn, 16, 8).problems
        (tmp_path / "reg").mkdir(exist_ok=True)
    pictures_in(tmp_path / "reg", 1)
    assert len(dataset.scan(drawn, 16, 8).train) == 7  # two of one's own, and the five that there will be


def test_a_dataset_of_class_pictures_alone(tmp_path, pictures_in):
    pictures_in(tmp_path, 1)
    assert (
        "expected pictures of your own beside those with is_reg"
        in scan(tmp_path, is_reg=True, class_tokens="x").problems[0]
    )


def test_masks_of_a_folder(tmp_path, pictures_in):
    pictures_in(tmp_path / "own", 3)
    pictures_in(tmp_path / "masks", 2)
    found = scan(tmp_path / "own", class_tokens="x", conditioning_data_dir=str(tmp_path / "masks"))
    assert "expected a mask for each image, got none for 02.png" in found.problems[0]
    Image.new("L", (48, 36)).save(tmp_path / "masks" / "02.jpg")  # of the picture's shape, twice its size
    pictures = good(tmp_path / "own", class_tokens="x", conditioning_data_dir=str(tmp_path / "masks"))
    assert [picture.mask.name for picture in pictures] == ["00.png", "01.png", "02.jpg"]
    Image.new("L", (24, 24)).save(tmp_path / "masks" / "02.jpg")
    found = scan(tmp_path / "own", class_tokens="x", conditioning_data_dir=str(tmp_path / "masks"))
    assert "expected the picture's shape, 24 x 18 px, got 24 x 24 px" in found.problems[0]
    (tmp_path / "masks" / "02.jpg").write_bytes(b"x")
    found = scan(tmp_path / "own", class_tokens="x", conditioning_data_dir=str(tmp_path / "masks"))
    assert "02.jpg" in found.problems[0] and "cannot be read" in found.problems[0]
    found = scan(tmp_path / "own", class_tokens="x", conditioning_data_dir=str(tmp_path / "mask"))
    assert 'conditioning_data_dir "' in found.problems[0] and '"masks": write that' in found.problems[0]


def test_a_folder_of_masks_inside_is_no_folder_of_pictures(tmp_path, pictures_in):
    pictures_in(tmp_path, 1)
    pictures_in(tmp_path / "in", 1)
    pictures_in(tmp_path / "masks", 1)
    pictures_in(tmp_path / "masks" / "in", 1)
    pictures = good(tmp_path, class_tokens="x", recursive=True, conditioning_data_dir=str(tmp_path / "masks"))
    assert [picture.mask.relative_to(tmp_path).as_posix() for picture in pictures] == [
        "masks/00.png",
        "masks/in/00.png",
    ]


def test_copies_and_namesakes_are_said(tmp_path, pictures_in):
    pictures_in(tmp_path, 2)
    (tmp_path / "copy.png").write_bytes((tmp_path / "00.png").read_bytes())
    Image.new("RGB", (24, 18)).save(tmp_path / "01.jpg")
    found = scan(tmp_path, class_tokens="x")
    assert len(found.train) == 4
    assert said(found.notices, "the same image twice: 00.png = copy.png")
    assert said(found.notices, "one caption for two images: 01.jpg and 01.png")


def test_a_folder_named_twice_is_taken_once_in_a_dataset(tmp_path, pictures_in):
    pictures_in(tmp_path, 2)
    subset = {"image_dir": str(tmp_path), "class_tokens": "x"}
    found = dataset.scan(job(subset, {**subset, "num_repeats": 3}), 16, 8)
    assert [picture.repeats for picture in found.train] == [1, 1]
    assert said(found.notices, "[[datasets.subsets]] 2", "again")
    assert len(dataset.scan(job(datasets=[{"subsets": [subset]}] * 2), 16, 8).train) == 4


def test_odd_pictures_are_said(tmp_path):
    for name, size in {"long": (80, 20), "small": (8, 8), "cropped": (60, 20), "fine": (16, 16)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 200)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    made = job({"image_dir": str(tmp_path), "class_tokens": "x", "alpha_mask": True}, general={"enable_bucket": False})
    notices = dataset.scan(made, 16, 8).notices
    assert said(notices, "longer than 3 to 1: long.png (80 x 20 px)")
    assert said(notices, "more than 15% is cropped away", "cropped.png (67%, to 16 x 16 px)", "long.png (75%")
    assert said(notices, "enlarged more than 1.5 times: small.png (2.0 times, to 16 x 16 px)")
    assert said(notices, "animated", "moving.gif")
    assert said(notices, "nothing is transparent", "fine.png")
    assert not said(notices, "cropped away", "fine.png")
    made = job({"image_dir": str(tmp_path), "class_tokens": "x", "random_crop": True}, general={"enable_bucket": False})
    assert not said(dataset.scan(made, 16, 8).notices, "cropped away")


def sides(found):
    return {picture.digest for picture in found.train if not picture.is_reg}, {
        picture.digest for picture in found.validation
    }


def test_validation_never_leaks(tmp_path, pictures_in):
    pictures_in(tmp_path / "a", 10)
    pictures_in(tmp_path / "b", 10)  # the same images again
    subsets = [{"image_dir": str(tmp_path / name), "class_tokens": "x"} for name in "ab"]
    for datasets in ([{"subsets": subsets}], [{"subsets": [one]} for one in subsets]):
        found = dataset.scan(job(datasets=datasets, validation={"validation_split": 0.2}), 16, 8)
        trained, held = sides(found)
        assert (len(trained), len(held)) == (8, 2)
        assert not trained & held
        assert len(found.validation) == 4
    drawn = set()
    for seed in range(5):
        other = job(datasets=[{"subsets": subsets}], validation={"validation_split": 0.2, "validation_seed": seed})
        drawn.add(frozenset(sides(dataset.scan(other, 16, 8))[1]))
    assert len(drawn) > 2


def test_a_datasets_own_validation(tmp_path, pictures_in):
    pictures_in(tmp_path / "a", 4)
    for number in range(4):
        (tmp_path / "b").mkdir(exist_ok=True)
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / "b" / f"{number}.png")
    first, second = ({"subsets": [{"image_dir": str(tmp_path / name), "class_tokens": "x"}]} for name in "ab")
    made = job(datasets=[{**first, "validation_split": 0.5}, second], validation={"validation_split": 0.0})
    found = dataset.scan(made, 16, 8)
    assert [picture.dataset for picture in found.validation] == [0, 0]
    made = job(datasets=[{**first, "validation_split": 0}, second], validation={"validation_split": 0.25})
    assert [picture.dataset for picture in dataset.scan(made, 16, 8).validation] == [1]


def test_a_class_picture_is_never_kept_out(tmp_path, pictures_in):
    pictures_in(tmp_path / "own", 4)
    pictures_in(tmp_path / "reg", 2)  # two of them again
    subsets = [
        {"image_dir": str(tmp_path / "own"), "class_tokens": "x"},
        {"image_dir": str(tmp_path / "reg"), "class_tokens": "y", "is_reg": True},
    ]
    found = dataset.scan(job(*subsets, validation={"validation_split": 0.9}), 16, 8)
    assert sum(picture.is_reg for picture in found.train) == 2
    assert not {picture.digest for picture in found.train} & {picture.digest for picture in found.validation}
    assert names(found.validation) and set(names(found.validation)) < {"02.png", "03.png"}


def test_a_split_that_keeps_nothing_out(tmp_path, pictures_in):
    pictures_in(tmp_path, 3)
    found = dataset.scan(
        job({"image_dir": str(tmp_path), "class_tokens": "x"}, validation={"validation_split": 0.1}), 16, 8
    )
    assert said(found.problems, "[validation] validation_split", "got none")
    assert said(found.notices, "0.1 of 3 pictures is none; 0.34 would be one")


def test_progress_counts_every_image(tmp_path, pictures_in):
    pictures_in(tmp_path, 3)
    told = []
    dataset.scan(job({"image_dir": str(tmp_path), "class_tokens": "x"}), 16, 8, lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_photos_are_decoded_small_to_be_checked(tmp_path, monkeypatch):
    """Which is what makes a thousand of them quick: 5 s on two free cores, for photos of 0.5 megapixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (600, 800, 3), dtype=np.uint8)
    for number in range(3):
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
    decoded, load = [], ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: (decoded.append(image.size), load(image))[1])
    assert len(good(tmp_path, class_tokens="x", resolution=1024)) == 3
    assert decoded == [(100, 75)] * 3


def test_no_torch():
    root = Path(__file__).parents[3]
    code = "import sys, trainer.pictures.dataset; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
