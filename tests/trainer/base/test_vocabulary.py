import gzip
import importlib.util
import json
import sys

import pytest

from trainer.base import vocabulary
from trainer.job import schema
from trainer.system.errors import UserError

MERGES = ["c a", "ca t</w>", "a t</w>"]
KNOWN = [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """The hub's cache is empty, and no package holds anything."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(vocabulary, "PACKAGES", ("open_clip_of_the_tests",))


def write(folder, words=3):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({str(number): number for number in range(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


def model(tmp_path, **keys):
    (tmp_path / "models").mkdir(exist_ok=True)
    return schema.Model(pretrained_model_name_or_path=str(tmp_path / "models" / "a.safetensors"), **keys)


def cached(tmp_path, name, inner=""):
    """Writes a vocabulary into the hub's cache as it lays its files out."""
    repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    return write(repository / "snapshots" / "abc" / inner)


def packed(folder, lines, monkeypatch):
    """Writes a package with a packed vocabulary, and puts it where packages are found."""
    package = folder / "open_clip_of_the_tests"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    (package / vocabulary.PACKED).write_bytes(gzip.compress("\n".join(lines).encode()))
    monkeypatch.syspath_prepend(str(folder))
    return package / vocabulary.PACKED


@pytest.mark.parametrize(
    ("inner", "first", "second"),
    [
        (["tokenizer", "tokenizer_2"], "tokenizer", "tokenizer_2"),
        (["tokenizer"], "tokenizer", "tokenizer"),
        (["."], ".", "."),
        (["comfy/sd1_tokenizer"], "comfy/sd1_tokenizer", "comfy/sd1_tokenizer"),
        (["sd1_tokenizer"], "sd1_tokenizer", "sd1_tokenizer"),
    ],
)
def test_the_folder_that_the_job_names(tmp_path, inner, first, second):
    for name in inner:
        write(tmp_path / "named" / name)
    found = vocabulary.find(model(tmp_path, tokenizer=str(tmp_path / "named")))
    assert found == vocabulary.Vocabulary(tmp_path / "named" / first, tmp_path / "named" / second)


def test_a_named_folder_is_not_passed_over(tmp_path):
    write(tmp_path / "models" / "tokenizer")
    (tmp_path / "named").mkdir()
    with pytest.raises(UserError, match=r'\[model\] tokenizer ".*named": expected a folder that holds tokenizer/'):
        vocabulary.find(model(tmp_path, tokenizer=str(tmp_path / "named")))
    with pytest.raises(UserError, match="expected 5 tokens, as the text encoders have, got 3"):
        vocabulary.find(model(tmp_path, tokenizer=str(tmp_path / "models")), words=5)


def test_the_nearest_place_comes_first(tmp_path, monkeypatch):
    """Beside the file, the configs, the hub's cache, a package: each is taken when those before it are gone."""
    held = model(tmp_path, config=str(tmp_path / "config"))
    places = [
        write(tmp_path / "models" / "tokenizer"),
        write(tmp_path / "config" / "tokenizer"),
        cached(tmp_path, vocabulary.HUB[0]),
        packed(tmp_path / "packages", [], monkeypatch),
    ]
    for place in places:
        assert vocabulary.find(held).first == place
        if place.is_dir():
            (place / "vocab.json").unlink()
        else:
            place.unlink()
    assert "open_clip_of_the_tests" not in sys.modules
    with pytest.raises(UserError):
        vocabulary.find(held)


@pytest.mark.parametrize(("name", "inner"), list(zip(vocabulary.HUB, ["", "", "tokenizer"], strict=True)))
def test_models_in_the_hubs_cache(tmp_path, name, inner):
    place = cached(tmp_path, name, inner)
    found = vocabulary.find(model(tmp_path))
    assert found.first == place
    if inner:
        second = write(place.parent / "tokenizer_2")
        assert vocabulary.find(model(tmp_path)).second == second


def test_found_nowhere_is_one_error_that_says_it_all(tmp_path):
    held = model(tmp_path, config=str(tmp_path / "config"))
    write(tmp_path / "models" / "tokenizer", words=7)
    with pytest.raises(UserError) as caught:
        vocabulary.find(held, words=5)
    (text,) = caught.value.problems
    for part in (
        f'"{tmp_path / "models" / "tokenizer"}" (expected 5 tokens, as the text encoders have, got 7)',
        f'"{tmp_path / "config" / "tokenizer"}"',
        "openai/clip-vit-large-patch14, laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
        "open_clip_of_the_tests",
        "allow_download = true",
        "-m pip install --no-deps open_clip_torch",
        "ComfyUI",
    ):
        assert part in text


def test_a_broken_vocabulary_is_passed_over_and_said(tmp_path):
    write(tmp_path / "models" / "tokenizer")
    (tmp_path / "models" / "tokenizer" / "vocab.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        vocabulary.find(model(tmp_path))


def test_with_leave_it_is_fetched_once(tmp_path, monkeypatch):
    import huggingface_hub

    found = vocabulary.find(model(tmp_path, allow_download=True))
    assert found == vocabulary.Vocabulary(None, None)
    asked = []

    def download(name, file):
        asked.append((name, file))
        return str(folder / file)

    folder = cached(tmp_path, vocabulary.HUB[0])
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert vocabulary.fetched() == folder
    assert asked == [(vocabulary.HUB[0], "vocab.json"), (vocabulary.HUB[0], "merges.txt")]
    assert vocabulary.find(model(tmp_path, allow_download=True)).first == folder, "the next run has it"

    def offline(name, file):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(UserError, match="cannot be fetched from openai/clip-vit-large-patch14: no route to host"):
        vocabulary.fetched()


def test_a_packed_vocabulary_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "MERGES", len(MERGES))
    place = packed(tmp_path / "packages", ["version", *MERGES, "x y", ""], monkeypatch)
    first, second = vocabulary.tokenizers(vocabulary.Vocabulary(place, place))
    # "!" is byte 33, the first that prints; letters come first, then letters that end a word, then the merges
    letters = {chr(byte): byte - 33 for byte in range(33, 127)}
    start, end = 512 + len(MERGES), 513 + len(MERGES)
    assert first("cat").input_ids == [start, 513, end]
    assert first("at c!").input_ids == [start, 514, 256 + letters["c"], 256, end]
    assert first("act").input_ids == [start, letters["a"], letters["c"], 256 + letters["t"], end]
    assert first("a", padding="max_length", max_length=5).input_ids[-1] == end
    assert second("a", padding="max_length", max_length=5).input_ids[-1] == 0
    assert second("c!").input_ids == [start, 256 + letters["c"], 256, end], "the pad is no mark within a text"
    assert (first.model_max_length, second.model_max_length) == (77, 77)


def test_the_letters_of_the_bytes_are_those_of_the_tokenizers_library():
    from tokenizers import pre_tokenizers

    letters = vocabulary.byte_letters()
    assert (len(letters), letters[0], letters[188]) == (256, "!", chr(256))
    assert sorted(letters) == sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(b"version\na b\n", mtime=0)], ids=["no gzip", "too short"]
)
def test_a_packed_vocabulary_that_is_broken(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(UserError, match="Install its package again"):
        vocabulary.unpack(tmp_path / "a.gz", tmp_path)


def test_a_vocabulary_of_clips_size_must_be_clips(tmp_path, monkeypatch):
    monkeypatch.setattr(vocabulary, "MERGES", len(MERGES))
    monkeypatch.setattr(vocabulary, "WORDS", 514 + len(MERGES))
    place = packed(tmp_path / "packages", ["version", *MERGES], monkeypatch)
    with pytest.raises(UserError, match='expected "a photo of a cat" to be'):
        vocabulary.tokenizer(place)
    monkeypatch.setattr(vocabulary, "KNOWN", ("a cat", [515, 320, 513, 516]))
    assert vocabulary.tokenizer(place)("a cat").input_ids[1] == 256 + ord("a") - 33


def test_the_second_encoder_is_padded_with_token_0(base_folder):
    """A second tokenizer of its own keeps its own padding; one for both pads differently."""
    both = vocabulary.in_folder(base_folder)
    assert both is not None
    assert [made.pad_token for made in vocabulary.tokenizers(both)] == ["<|endoftext|>", "!"]
    first = vocabulary.in_folder(base_folder / "tokenizer")
    assert [made.pad_token for made in vocabulary.tokenizers(first)] == ["<|endoftext|>", "!"]
    assert vocabulary.tokenizers(first)[1].pad_token_id == 0
    assert vocabulary.size(base_folder / "tokenizer") == 514


@pytest.mark.skipif(not any(importlib.util.find_spec(name) for name in ("open_clip", "clip")), reason="none")
def test_clips_own_vocabulary(monkeypatch):
    monkeypatch.setattr(vocabulary, "PACKAGES", ("open_clip", "clip"))
    found = vocabulary.in_packages()
    assert found is not None
    first, second = vocabulary.tokenizers(found)
    assert first("a photo of a cat").input_ids == KNOWN
    assert second("a", padding="max_length", max_length=5).input_ids == [49406, 320, 49407, 0, 0]
