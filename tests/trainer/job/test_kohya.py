"""Kohya's files: what its documentation shows, written anew, is read as it stands."""

import json
from pathlib import Path

import pytest
from PIL import Image

from trainer.job import kohya, schema
from trainer.job.dataschema import Buckets, inherited
from trainer.pictures import dataset
from trainer.pictures.buckets import View
from trainer.system.errors import UserError

DREAMBOOTH_AND_FINE_TUNING = r"""
[general]
shuffle_caption = true
caption_extension = '.txt'
keep_tokens = 1

# DreamBooth
[[datasets]]
resolution = 512
batch_size = 4
keep_tokens = 2

  [[datasets.subsets]]
  image_dir = 'C:\first'
  class_tokens = 'first girl'

  [[datasets.subsets]]
  image_dir = 'C:\second'
  class_tokens = 'second boy'
  keep_tokens = 3

  [[datasets.subsets]]
  is_reg = true
  image_dir = 'C:\reg'
  class_tokens = 'human'
  keep_tokens = 1

# fine-tuning
[[datasets]]
resolution = [768, 768]
batch_size = 2

  [[datasets.subsets]]
  image_dir = 'C:\third'
  metadata_file = 'C:\third\third_md.json'
"""

SEPARATORS = """
[general]
flip_aug = true
color_aug = false
resolution = [1024, 1024]

[[datasets]]
batch_size = 6
enable_bucket = true
bucket_no_upscale = true
caption_extension = ".txt"
keep_tokens_separator= "|||"
shuffle_caption = true
caption_tag_dropout_rate = 0.1
secondary_separator = ";;;"
enable_wildcard = true

  [[datasets.subsets]]
  image_dir = "images"
  num_repeats = 1
  caption_prefix = "1girl, hatsune miku, vocaloid |||"
  caption_suffix = ", anime screencap ||| masterpiece, rating: general"
"""

MASKS = """
[[datasets]]
resolution = 512

  [[datasets.subsets]]
  image_dir = "a"
  caption_extension = ".txt"
  conditioning_data_dir = "a_mask"
  num_repeats = 8

  [[datasets.subsets]]
  image_dir = "b"
  caption_extension = ".txt"
  num_repeats = 8
  alpha_mask = true
"""

VALIDATION = """
[[datasets]]
validation_split = 0.1
validation_seed = 1234
resolution = "1024,768"
enable_bucket = true
min_bucket_reso = 256
max_bucket_reso = 1024
bucket_reso_steps = 64

  [[datasets.subsets]]
  image_dir = "a"
  resize_interpolation = "lanczos"
  random_crop = true
  token_warmup_min = 1
  token_warmup_step = 0
  caption_dropout_rate = 0
  caption_dropout_every_n_epochs = 0

[[datasets]]
validation_split = 0.0
resolution = 768

  [[datasets.subsets]]
  image_dir = "a"
"""


def parsed(tmp_path, text):
    """The job of a dataset file, as `dataset_config` takes it in."""
    path = tmp_path / "dataset.toml"
    path.write_text(text, encoding="utf-8")
    table = kohya.read_dataset_config(path)
    return schema.Job.model_validate({"model": {"pretrained_model_name_or_path": "x"}, **table})


def keys(job, number):
    return inherited(Buckets, job.datasets[number], job.general)


def test_dreambooth_with_regularisation_and_fine_tuning(tmp_path):
    job = parsed(tmp_path, DREAMBOOTH_AND_FINE_TUNING)
    subsets = job.subsets()
    assert [subset.keep_tokens for subset in subsets] == [2, 3, 1, 1]
    assert all(subset.shuffle_caption and subset.caption_extension == ".txt" for subset in subsets)
    assert [subset.is_reg for subset in subsets] == [False, False, True, False]
    assert [subset.class_tokens for subset in subsets] == ["first girl", "second boy", "human", None]
    assert [keys(job, number)["resolution"] for number in (0, 1)] == [512, (768, 768)]
    assert [keys(job, number)["batch_size"] for number in (0, 1)] == [4, 2]
    assert subsets[3].metadata_file.endswith(r"C:\third\third_md.json")


def test_separators_and_wildcards(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (900, 700)).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "a.txt").write_text("sky;;;cloud;;;day, {simple|white} background")
    job = parsed(tmp_path, SEPARATORS)
    assert keys(job, 0)["batch_size"] == 6
    found = dataset.scan(job, 512, 32)
    assert not found.problems
    [picture] = found.train
    assert picture.flip and not picture.color
    assert picture.geometry.bucket == (896, 640)  # its own size: nothing is enlarged
    assert picture.caption.plain() == (
        "1girl, hatsune miku, vocaloid, sky,cloud,day, simple background, anime screencap, masterpiece, rating: general"
    )
    views = [picture.caption.draw(0, step, 0, 0, 10) for step in range(100)]
    assert all(view.startswith("1girl, hatsune miku, vocaloid, ") for view in views)
    assert all(view.endswith(", masterpiece, rating: general") for view in views)
    assert any("white background" in view for view in views) and any("sky,cloud,day" not in view for view in views)


def test_masks(tmp_path):
    for name, mode in (("a", "RGB"), ("a_mask", "L"), ("b", "RGBA")):
        (tmp_path / name).mkdir()
        Image.new(mode, (64, 64)).save(tmp_path / name / "1.png")
        (tmp_path / name / "1.txt").write_text(name)
    found = dataset.scan(parsed(tmp_path, MASKS), 1024, 32)
    assert not found.problems
    assert [(picture.mask, picture.alpha_mask, picture.repeats) for picture in found.train] == [
        (tmp_path / "a_mask" / "1.png", False, 8), (None, True, 8),
    ]  # fmt: skip


def test_validation_and_bounds(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(10):
        Image.new("RGB", (300, 200), (number, 0, 0)).save(tmp_path / "a" / f"{number}.png")
        (tmp_path / "a" / f"{number}.txt").write_text("x")
    job = parsed(tmp_path, VALIDATION)
    assert keys(job, 0)["resolution"] == (1024, 768)
    found = dataset.scan(job, 1024, 32)
    assert not found.problems
    assert len(found.validation) == 2  # one picture, of both datasets
    assert {picture.geometry.bucket for picture in found.train} == {(1024, 704), (928, 608)}
    assert [picture.interpolation for picture in found.train[::9]] == ["lanczos", "auto"]
    assert found.train[0].random_crop and not found.train[-1].random_crop


def test_the_same_tables_as_json(tmp_path):
    table = {"general": {"keep_tokens": 1}, "datasets": [{"subsets": [{"image_dir": "a"}]}]}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    read = kohya.read_dataset_config(tmp_path / "dataset.json")
    assert read["datasets"][0]["subsets"][0]["image_dir"] == str(tmp_path / "a")
    assert read["general"] == {"keep_tokens": 1}


def test_paths_are_seen_from_the_files_folder(tmp_path):
    path = tmp_path / "set" / "dataset.toml"
    path.parent.mkdir()
    path.write_text(
        '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "../images"\nmetadata_file = "md.json"\n'
        'conditioning_data_dir = "/masks"\nclass_tokens = "a/b"\n'
    )
    [subset] = kohya.read_dataset_config(path)["datasets"][0]["subsets"]
    assert subset == {
        "image_dir": str(tmp_path / "images"), "metadata_file": str(tmp_path / "set" / "md.json"),
        "conditioning_data_dir": "/masks", "class_tokens": "a/b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[general]\n", "expected [[datasets]], got none"),
        ("[[datasets]]\n[model]\n[network]\n", "expected [general] and [[datasets]] alone, got model, network"),
        ('[[datasets]]\nimage_dir = "C:\\data"\n', "put it in 'single quotes'"),
        ("[[datasets]\n", "line 1"),
    ],
)
def test_what_is_no_dataset_file(tmp_path, text, said):
    path = tmp_path / "dataset.toml"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        kohya.read_dataset_config(path)
    assert said in str(raised.value)
    assert "dataset.toml" in str(raised.value)


def test_a_dataset_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="not found"):
        kohya.read_dataset_config(tmp_path / "none.toml")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(UserError, match="got a list"):
        kohya.read_dataset_config(tmp_path / "a.json")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match=r"b\.json"):
        kohya.read_dataset_config(tmp_path / "b.json")


FROG = {"caption": "a frog\na green frog", "tags": "open mouth, animal"}


def metadata(tmp_path, table, separator=",", apart=False):
    path = tmp_path / "md.json"
    path.write_text(json.dumps(table))
    return kohya.Metadata(path, separator, apart)


@pytest.mark.parametrize("name", ["a.png", "a", "{folder}/a.png", "{folder}/a", "/moved/a.png", r"D:\moved\a.png"])
def test_a_picture_is_found_by_whatever_name(tmp_path, name):
    made = metadata(tmp_path, {name.format(folder=tmp_path): FROG})
    assert made.get(tmp_path / "a.png", tmp_path) == "a frog a green frog, open mouth, animal"
    assert made.unused() == []
    assert made.get(tmp_path / "b.png", tmp_path) is None


def test_a_name_that_two_moved_pictures_have_is_not_guessed(tmp_path):
    made = metadata(tmp_path, {"/x/a.png": {"tags": "x"}, "/y/a.png": {"tags": "y"}})
    assert made.get(tmp_path / "a.png", tmp_path) is None


def test_tags_are_added_to_each_line(tmp_path):
    made = metadata(tmp_path, {"a": FROG, "b": {"tags": "x\ny"}, "c": {"caption": "c"}, "d": {}}, apart=True)
    lines = ["a frog, open mouth, animal", "a green frog, open mouth, animal"]
    assert made.get(Path("/i/a.png"), Path("/i")).splitlines() == lines
    assert [made.get(Path(f"/i/{name}.png"), Path("/i")) for name in "bcd"] == ["x, y", "c", ""]


def test_json_lines(tmp_path):
    path = tmp_path / "md.jsonl"
    path.write_text('{"image_path": "a.png", "caption": "x"}\n\n{"image_path": "b.png", "tags": ["y", "z"]}\n')
    made = kohya.Metadata(path, ",", False)
    assert [made.get(tmp_path / name, tmp_path) for name in ("a.png", "b.png")] == ["x", "y, z"]


@pytest.mark.parametrize(
    ("text", "said"), [("[1]", "got a list"), ("{", "expected kohya's JSON"), ('{"a": 1}', '"a": expected the texts')]
)
def test_what_is_no_metadata(tmp_path, text, said):
    path = tmp_path / "md.json"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        kohya.Metadata(path, ",", False)
    assert said in str(raised.value)


def test_a_subset_of_metadata(tmp_path):
    folder, elsewhere = tmp_path / "images", tmp_path / "more"
    for path in (folder / "a.png", folder / "b.png", folder / "c.png", elsewhere / "d.png"):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9), (len(path.name), ord(path.stem), 0)).save(path)
    table = {"a": FROG, "b.png": {"tags": "[trigger], x"}, str(elsewhere / "d.png"): {"caption": "d"}, "gone": {}}
    (tmp_path / "md.json").write_text(json.dumps(table))
    subset = {"image_dir": str(folder), "metadata_file": str(tmp_path / "md.json")}
    job = schema.Job.model_validate(
        {
            "model": {"pretrained_model_name_or_path": "x"},
            "metadata": {"trigger_phrase": "sks"},
            "datasets": [{"subsets": [subset]}],
        }
    )
    found = dataset.scan(job, 16, 8)
    assert not found.problems
    assert [(picture.path.name, picture.caption.plain()) for picture in found.train] == [
        ("a.png", "a frog a green frog, open mouth, animal"), ("b.png", "sks, x"), ("d.png", "d"),
    ]  # fmt: skip
    assert any("no images for gone" in notice for notice in found.notices)
    assert any("does not name c.png" in notice for notice in found.notices)


def test_metadata_of_another_folder(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "md.json").write_text(json.dumps({"x": FROG}))
    job = parsed(tmp_path, '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "."\nmetadata_file = "md.json"\n')
    [problem] = [text for text in dataset.scan(job, 16, 8).problems if "metadata_file" in text]
    assert "expected names of images" in problem and "'x'" in problem


def test_an_entry_without_a_caption(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "md.json").write_text(json.dumps({"a": {}}))
    text = '[[datasets]]\n[[datasets.subsets]]\nmetadata_file = "md.json"\n'  # its folder need not be named
    [problem] = dataset.scan(parsed(tmp_path, text), 16, 8).problems
    assert "expected captions or tags for all images, got none for a.png" in problem
    [picture] = dataset.scan(parsed(tmp_path, text + 'class_tokens = "x"\n'), 16, 8).train
    assert picture.caption.plain() == "x"
    assert picture.geometry.time_ids(View())[:2] == (9, 9)
