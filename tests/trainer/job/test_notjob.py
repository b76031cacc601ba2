"""What is told of an adapter that stands where a job or a run belongs."""

from pathlib import Path

import pytest

from trainer import cli
from trainer.job import notjob
from trainer.system.errors import UserError
from trainer.system.reading import LARGEST_TEXT, read_text

ADAPTER, CHECKPOINT, STATE = "dog.safetensors", "dog-step00000300.safetensors", "dog-step00000300.state"
GOT = {ADAPTER: "an adapter or a model (.safetensors)", STATE: "a run's state (.state)"}
GOT[CHECKPOINT] = GOT[ADAPTER]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of what looks like a run, from the folder that holds it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "output"
    folder.mkdir()
    for name in (ADAPTER, CHECKPOINT, STATE):
        (folder / name).write_bytes(b"\xff\x00tensors")
    (folder / "dog-job.toml").write_text("")
    return folder


def said(capsys, *words):
    assert cli.main(list(words)) == 2
    error = capsys.readouterr().err
    assert "UTF-8" not in error
    return error


@pytest.mark.parametrize("name", [ADAPTER, CHECKPOINT, STATE])
@pytest.mark.parametrize("words", [["train"], ["--config"], ["compare"], ["evaluate", "output", "--config"]])
def test_words_that_take_a_job_name_it(run, capsys, name, words):
    told = said(capsys, *words, f"output/{name}")
    assert (
        f'"{Path("output", name)}": expected a .toml file, got {GOT[name]}. Its job is "dog-job.toml" beside it' in told
    )
    (run / "dog-job.toml").rename(run / "cat-job.toml")
    assert "Name the job that it was trained by." in said(capsys, *words, f"output/{name}")


@pytest.mark.parametrize("name", [ADAPTER, CHECKPOINT, STATE])
@pytest.mark.parametrize("word", ["sample", "evaluate"])
def test_words_that_take_a_run_name_its_folder_and_its_job(run, capsys, name, word):
    told = said(capsys, word, f"output/{name}")
    assert f'run "{Path("output", name)}": expected a job file or the output_dir of a run, got {GOT[name]}. ' in told
    assert f'Name "output", its folder, or "{Path("output", "dog-job.toml")}", its job' in told
    takes_it = word == "sample" and name != STATE
    assert ("; the file itself goes to --adapter." in told) is takes_it
    (run / "dog-job.toml").unlink()
    assert "Name the folder of its run, or its job" in said(capsys, word, f"output/{name}")


def test_publish_names_the_folder(run, capsys):
    told = said(capsys, "publish", f"output/{ADAPTER}", "--repo", "me/dog")
    assert (
        f'"{Path("output", ADAPTER)}": expected the output folder of a run, got {GOT[ADAPTER]}. Name "output", its'
        in told
    )
    assert "got a file. Name" in said(capsys, "publish", "output/dog-job.toml", "--repo", "me/dog")


def test_tensors_are_no_text_however_large_and_a_missing_file_is_missing(tmp_path):
    path = tmp_path / "sdxl.safetensors"
    with pytest.raises(UserError, match="not found"):
        read_text(path, "words")
    assert not notjob.told(path)
    with path.open("wb") as file:
        file.truncate(LARGEST_TEXT + 1)
    with pytest.raises(UserError, match=r"words: expected a text, got an adapter or a model \(\.safetensors\)\."):
        read_text(path, "words")
    assert notjob.told(path).endswith("Name the job that it was trained by.")


def test_a_folder_or_a_text_of_any_name_may_be_a_job(tmp_path):
    (tmp_path / "a.safetensors").mkdir()
    (tmp_path / "job.txt").write_text("")
    assert [notjob.told(tmp_path / name) for name in ("a.safetensors", "job.txt")] == ["", ""]
    assert notjob.told_of_run(tmp_path / "job.txt", "--adapter") == ""
