import hashlib
import os

import pytest
from safetensors.torch import save_file
from torch import zeros


@pytest.fixture
def folders(comfy):
    found = comfy("folders")
    found.register()
    found.LISTED_S = -1.0  # each call looks anew
    return found


@pytest.fixture
def write(models, small):
    from waveft_core import save

    return lambda name, adapter=small: save(adapter, models / name)


def test_registering_twice_extends_what_the_user_configured(comfy, models):
    module = comfy("folders")
    paths = module.folder_paths
    paths.folder_names_and_paths["waveft"] = (["/elsewhere"], set())
    module.register()
    module.register()
    expected = ["/elsewhere", str(models / "waveft"), str(models.parent / "output/waveft")]
    assert paths.folder_names_and_paths["waveft"] == (expected, {".safetensors"})


def test_the_folder_is_made_and_a_read_only_one_is_borne(comfy, models, monkeypatch):
    (models / "waveft").rmdir()
    comfy("folders").register()
    assert (models / "waveft").is_dir()

    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    comfy("folders").register()


def test_loras_are_listed_only_if_they_are_waveft(folders, models, write):
    write("waveft/b.safetensors")
    write("loras/c.safetensors")
    write("loras/b.safetensors")
    save_file({"lora_unet_x.lora_up.weight": zeros(2)}, models / "loras/plain.safetensors")
    (models / "loras/broken.safetensors").write_bytes(b"\xff" * 20)
    (models / "loras/c.pt").write_bytes(b'        "waveft.header"')
    (models / "waveft/notes.txt").write_text("not an adapter")
    (models / "loras/nowhere.safetensors").symlink_to(models / "gone")
    assert folders.choices() == ["b.safetensors", "c.safetensors"]
    assert folders.find("b.safetensors")[1] == "waveft"
    assert folders.find("c.safetensors")[1] == "loras"


def test_a_file_is_sniffed_once_until_it_changes(folders, models, write, monkeypatch):
    save_file({"x": zeros(2)}, models / "loras/a.safetensors")
    assert folders.choices() == [folders.EMPTY]
    opened, real = [], type(models).open
    monkeypatch.setattr(type(models), "open", lambda path, *rest: opened.append(path) or real(path, *rest))
    assert folders.choices() == [folders.EMPTY]
    assert opened == []
    write("loras/a.safetensors")
    assert folders.choices() == ["a.safetensors"]


def test_a_file_written_anew_is_read_anew(folders, models, write, make_adapter):
    write("waveft/a.safetensors")
    first = folders.read("a.safetensors")
    assert folders.read("a.safetensors") is first
    before = folders.stamp(models / "waveft/a.safetensors")
    retrained = make_adapter({name: layer.shape for name, layer in first.adapter.layers.items()}, seed=9)
    write("waveft/a.safetensors", retrained)
    os.utime(models / "waveft/a.safetensors", ns=(1, 1))
    assert folders.stamp(models / "waveft/a.safetensors") != before
    name = next(iter(retrained.layers))
    again = folders.read("a.safetensors")
    assert again.adapter.layers[name].values.equal(retrained.layers[name].values)
    assert again.origin["sha256"] != first.origin["sha256"]


def test_what_was_read_survives_its_file_being_overwritten(folders, models, write):
    write("waveft/a.safetensors")
    carried = folders.read("a.safetensors")
    held = {name: layer.values.clone() for name, layer in carried.adapter.layers.items()}
    path = models / "waveft/a.safetensors"
    path.write_bytes(b"\0" * path.stat().st_size)  # in place: whoever holds the memory map sees zeros
    assert all(carried.adapter.layers[name].values.equal(values) for name, values in held.items())


def test_an_adapter_carries_its_name_and_hash(folders, models, write):
    write("waveft/a.safetensors")
    carried = folders.read("a.safetensors")
    digest = hashlib.sha256((models / "waveft/a.safetensors").read_bytes()).hexdigest()
    assert (carried.title, carried.origin) == ("a.safetensors", {"file": "a.safetensors", "sha256": digest})


def test_saved_adapters_are_listed_and_other_output_is_not(folders, models, small):
    from waveft_core import save

    path = folders.output_path("waveft/mine")
    assert path == models.parent / "output/waveft/mine_00001_.safetensors"
    save(small, path)
    save_file({"x": zeros(2)}, path.with_name("state.safetensors"))
    assert folders.choices() == ["mine_00001_.safetensors"]
    assert folders.output_path("waveft/mine").name == "mine_00002_.safetensors"


@pytest.mark.parametrize("prefix", ["", "  ", "waveft/", "../mine", "/tmp/mine", "waveft/../../mine"])
def test_a_name_outside_the_output_folder_is_refused(folders, comfy, prefix):
    with pytest.raises(comfy("core").WaveFTError, match=r"filename_prefix .* expected a name"):
        folders.output_path(prefix)


def test_fingerprints_follow_the_files_and_never_equal_while_linked(folders, models, write):
    write("waveft/a.safetensors")
    write("waveft/b.safetensors")
    first = folders.fingerprint("a.safetensors", "b.safetensors")
    assert folders.fingerprint("a.safetensors", "b.safetensors") == first
    os.utime(models / "waveft/b.safetensors", ns=(1, 1))
    assert folders.fingerprint("a.safetensors", "b.safetensors") != first
    linked = folders.fingerprint("a.safetensors", None)
    assert linked != linked
    assert folders.checked("a.safetensors", None) is True
    assert "gone.safetensors" in folders.checked("a.safetensors", "gone.safetensors")


def test_thousands_of_files_are_not_looked_at_for_every_question(folders, models, write, monkeypatch):
    write("loras/a.safetensors")
    folders.LISTED_S = 60.0
    assert folders.choices() == ["a.safetensors"]
    monkeypatch.setattr(folders, "is_waveft", lambda path: pytest.fail("looked again"))
    assert folders.choices() == ["a.safetensors"]
    folders.choices().append("not kept")
    assert folders.choices() == ["a.safetensors"]
    monkeypatch.undo()
    write("waveft/b.safetensors")  # a new file is there at once
    assert folders.choices() == ["b.safetensors", "a.safetensors"]


def test_a_long_header_is_read_to_its_first_tensor(folders, models, small):
    from waveft_core import save

    save(small, models / "loras/a.safetensors", metadata={"ss_tag_frequency": "x" * 100_000})
    save_file({"lora_unet_x.lora_up.weight": zeros(2)}, models / "loras/b.safetensors", {"tags": '.waveft_ "y"' * 9000})
    assert folders.choices() == ["a.safetensors"]


def test_an_empty_list_says_what_to_do_and_refuses_to_be_loaded(folders, comfy):
    assert folders.choices() == ["put an adapter into models/waveft"]
    assert "got none. Put it there" in folders.checked(folders.choices()[0])


@pytest.mark.parametrize("name", [5, ["a"], True])
def test_a_name_that_is_none_is_refused(folders, comfy, name):
    with pytest.raises(comfy("core").WaveFTError, match="expected a file in models/waveft"):
        folders.read(name)


def test_a_subfolder_in_windows_spelling_is_found(folders, models, write):
    (models / "waveft/people").mkdir()
    write("waveft/people/a.safetensors")
    assert folders.find("people\\a.safetensors")[0] == models / "waveft/people/a.safetensors"


def test_a_saved_files_number_is_not_used_again_after_it_was_moved(folders, models, small):
    from waveft_core import save

    first = folders.output_path("waveft/mine")
    save(small, first)
    first.rename(models / "waveft" / first.name)
    assert folders.output_path("waveft/mine").name == "mine_00002_.safetensors"
    assert folders.output_path("elsewhere/mine").name == "mine_00001_.safetensors"


def test_a_missing_file_is_refused_with_the_places_to_put_it(folders, comfy):
    with pytest.raises(comfy("core").WaveFTError, match=r'"gone.safetensors": expected.*models/waveft, output/waveft'):
        folders.read("gone.safetensors")


def test_a_name_that_is_almost_there_is_shown_its_nearest(folders, comfy, write):
    write("waveft/my_dog.safetensors")
    with pytest.raises(comfy("core").WaveFTError, match=r'Nearest: "my_dog.safetensors"'):
        folders.read("my-dog.safetensors")


def test_of_a_training_the_finished_adapter_alone_is_listed(folders, models, small):
    from waveft_core import save

    run = models.parent / "output/waveft/training/dog"
    run.mkdir(parents=True)
    for name in ("dog", "dog-step00000072"):
        save(small, run / f"{name}.safetensors")
    assert folders.choices() == ["training/dog/dog.safetensors"]
    folders.read("training/dog/dog-step00000072.safetensors")  # not listed, and there for who names it
