import pytest
from pydantic import ValidationError

from trainer.job.dataschema import DEFAULTS, Buckets, Dataset, General, Subset, Views, filled, inherited
from trainer.pictures.captions import Rules


def layers(subset=None, dataset=None, general=None):
    made = Dataset.model_validate({**(dataset or {}), "subsets": [{"image_dir": "a", **(subset or {})}]})
    return made.subsets[0], made, General.model_validate(general or {})


def test_the_nearest_layer_wins_and_false_counts():
    keys = {"keep_tokens": 3, "flip_aug": False}
    made = filled(*layers(keys, {"keep_tokens": 2, "caption_prefix": "d"}, {"caption_prefix": "g", "flip_aug": True}))
    assert (made.keep_tokens, made.caption_prefix, made.flip_aug) == (3, "d", False)
    assert filled(*layers(general={"keep_tokens": 1})).keep_tokens == 1


def test_a_subset_that_says_nothing_has_every_default():
    made = filled(*layers())
    for key in Views.model_fields:
        expected = None if key in ("missing_caption", "class_tokens") else DEFAULTS[key]
        assert getattr(made, key) == expected, key


def test_captions_rules_are_keys_of_the_job_with_the_same_defaults():
    for key, field in Rules.__dataclass_fields__.items():
        assert key in Views.model_fields
        assert DEFAULTS[key] == field.default, key


def test_a_datasets_keys():
    _, dataset, general = layers(dataset={"resolution": [768, 512], "batch_size": 2}, general={"min_bucket_reso": 256})
    keys = inherited(Buckets, dataset, general)
    assert (keys["resolution"], keys["batch_size"], keys["min_bucket_reso"]) == ((768, 512), 2, 256)
    assert (keys["enable_bucket"], keys["bucket_no_upscale"], keys["max_bucket_reso"]) == (True, False, None)


def test_what_a_subset_may_say_a_dataset_may_not_say_for_it():
    for key, value in (("image_dir", "x"), ("is_reg", True), ("alpha_mask", True), ("metadata_file", "x")):
        with pytest.raises(ValidationError):
            General.model_validate({key: value})
    with pytest.raises(ValidationError):
        Subset.model_validate({"image_dir": "x", "resolution": 512})


@pytest.mark.parametrize("given", [512, [512], [512, 768], "512", "512,768"])
def test_kohyas_spellings_of_a_resolution(given):
    assert General.model_validate({"resolution": given}).resolution in (512, (512, 768))


@pytest.mark.parametrize("given", ["white", "#808080", "rgb(1,2,3)"])
def test_colours(given):
    assert Subset(image_dir="a", transparent_background=given).transparent_background == given


def test_a_colour_that_is_none():
    with pytest.raises(ValidationError, match="expected a colour such as 'white' or '#808080', got 'whtie'"):
        Subset(image_dir="a", transparent_background="whtie")


def test_metadata_may_stand_for_its_folder():
    assert Subset.model_validate({"metadata_file": "set/md.json"}).image_dir == "set"
    assert Subset.model_validate({"metadata_file": "set/md.json", "image_dir": "x"}).image_dir == "x"
    with pytest.raises(ValidationError):
        Subset.model_validate({})


@pytest.mark.parametrize(
    "name", ["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box", "AREA"]
)
def test_kohyas_interpolations_in_every_layer(name):
    for keys in ({"subset": {"resize_interpolation": name}}, {"general": {"resize_interpolation": name}}):
        assert filled(*layers(**keys)).resize_interpolation == name.lower()
