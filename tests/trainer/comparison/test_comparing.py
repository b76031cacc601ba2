"""`waveft compare` from a job to its page: killed in the middle, with cells that fail, by two processes."""

import contextlib
import io
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.processes import ROOT, ended, prepared, python
from trainer import cli, loop
from trainer.comparison import cells, comparing, contestants, workers
from trainer.system.errors import TrainingStopped, UserError
from trainer.system.files import locked

# diffusers' Euler scheduler, with NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ARGUMENTS = ("--methods", "waveft,shira", "--rates", "1e-3", "--seeds", "2", "--points", "2")


@pytest.fixture
def counted(monkeypatch):
    """The names of the runs that were trained."""
    trained, run = [], loop.run

    def count(ready):
        trained.append(Path(ready.job.save.output_dir).name)
        return run(ready)

    monkeypatch.setattr(loop, "run", count)
    return trained


def compare(path, out, *more):
    return cli.main(["compare", str(path), "--out", str(out), *ARGUMENTS, *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Where one comparison is kept, which cells it trained and what it said."""
    return SimpleNamespace(out=tmp_path_factory.mktemp("whole") / "comparison", trained=None, said=None)


@pytest.fixture
def done(compared, whole, counted):
    """The job, and the folder of its comparison, which went through: once, and copied."""
    path, out = compared(network={"scaling": 1e4})  # so far that every picture is another one
    if whole.trained is None:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert compare(path, whole.out) == 0
        whole.trained, whole.said = [*counted], said.getvalue()
        counted.clear()
    shutil.copytree(whole.out, out)
    return path, out


def table(out):
    return json.loads((out / "comparison.json").read_text(encoding="utf-8"))


def test_a_page_with_every_method_and_nothing_done_twice(done, whole, counted):
    path, out = done
    assert len(whole.trained) == 4
    found = table(out)
    assert found["methods"] == ["waveft", "shira"]
    assert set(found["best"]) == {"waveft", "shira"}
    assert "One learning rate alone was tried for waveft, shira" in whole.said
    record = json.loads(next((out / "cells").glob("*.json")).read_text())
    assert [point["step"] for point in record["points"]] == [0, 1, 2]
    assert set(record["points"][2]["columns"]) >= {"held_out", "trained", "copy", "drift"}
    assert record["train"]["parameters"] == 16 * 32
    assert record["versions"]["torch"]
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert "Side by side" in page
    assert page.count("<img") == 4 + 4 * 3, "photos; prompts of the base and two methods"
    assert page.count("trained on</figcaption>") == 3
    assert page.count("held out</figcaption>") == 1
    with Image.open(out / "grid-waveft.png") as grid:
        assert grid.width > 4 * 128, "photos, the base, two methods"
        assert grid.height > 4 * 128
    assert (out / "fronts.png").is_file()
    assert compare(path, out) == 0
    assert counted == []
    assert table(out) == found


def test_a_failed_cell_is_said_and_the_rest_goes_on(done, monkeypatch, counted, capsys):
    path, out = done
    for file in (out / "cells").glob("*--shira--*.json"):
        file.unlink()
    run = loop.run

    def stumble(ready):
        if "shira" in ready.job.save.output_dir and ready.job.train.seed == 42:
            raise TrainingStopped("no memory left")
        return run(ready)

    monkeypatch.setattr(loop, "run", stumble)
    assert compare(path, out) == 1
    assert counted == ["waveft--shira--0.001--43"]
    found = table(out)
    assert list(found["failures"].values()) == ["no memory left"]
    assert set(found["best"]) == {"waveft", "shira"}
    assert "failed: no memory left" in capsys.readouterr().out
    monkeypatch.setattr(loop, "run", run)
    next(file for file in (out / "cells").glob("*.json") if "failed" in file.read_text()).unlink()
    assert compare(path, out) == 0


def test_killed_in_the_middle_it_ends_in_the_same_table(done, monkeypatch, tmp_path, counted):
    path, out = done
    whole, run = table(out), loop.run
    again, left = tmp_path / "again", [1]
    shutil.copytree(out, again)
    for record in (again / "cells").glob("*--shira--*.json"):  # the second half is done anew
        record.unlink()
        shutil.rmtree(again / "pictures" / record.stem)
    (again / "comparison.json").unlink()

    def until_killed(ready):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return run(ready)

    monkeypatch.setattr(loop, "run", until_killed)
    assert compare(path, again) == 130
    assert not (again / "comparison.json").exists()
    monkeypatch.setattr(loop, "run", run)
    counted.clear()
    assert compare(path, again) == 0
    assert len(counted) == 1
    assert table(again) == whole


def test_a_signal_while_a_cell_trains_ends_the_comparison_and_blames_no_cell(compared, monkeypatch):
    path, out = compared()
    run = loop.run

    def signalled(ready):
        outcome = run(ready)
        outcome.stop("stopped on request", 128 + signal.SIGTERM)
        return outcome

    monkeypatch.setattr(loop, "run", signalled)
    assert compare(path, out) == 130
    assert not list((out / "cells").glob("*.json"))


def test_a_claimed_cell_is_left_to_who_claimed_it(compared, counted):
    path, out = compared()
    (out / "cells").mkdir(parents=True)
    names = [f"waveft--waveft--0.001--{seed}" for seed in (42, 43)]
    lock, held = locked(out / "cells" / f".{names[0]}.lock")
    if not held:
        pytest.skip("this disk knows no locks")
    with lock:  # of this process: a worker of another one must pass it by
        assert ended(start(path, out, "--methods", "waveft")) == 0
    assert {file.stem for file in (out / "cells").glob("*.json")} == {names[1]}
    assert compare(path, out, "--methods", "waveft") == 0
    assert counted == [names[0]]


def start(path, out, *more):
    words = ["-m", "trainer", "compare", str(path), "--out", str(out), *ARGUMENTS, *more, workers.WORKER]
    worker = prepared().Process(target=python, args=(words, str(ROOT), os.devnull, os.devnull))
    worker.start()
    return worker


@pytest.mark.slow
def test_two_workers_one_of_them_killed_give_the_same_table_and_no_cell_twice(done, tmp_path, counted):
    path, out = done
    whole, shared = table(out), tmp_path / "shared"
    (shared / "cells").mkdir(parents=True)
    pair = [start(path, shared) for _ in range(2)]
    while not list((shared / "cells").glob("*.json")) and any(one.is_alive() for one in pair):
        time.sleep(0.2)
    pair[0].kill()
    for one in pair:
        ended(one)
    counted.clear()
    assert compare(path, shared, "--workers", "2") == 0
    assert counted == [], "the workers did all that was left"
    assert table(shared) == whole


@pytest.mark.slow
def test_submitit_runs_the_workers(compared, tmp_path, counted, monkeypatch):
    pytest.importorskip("submitit")
    path, out = compared()
    monkeypatch.chdir(ROOT)
    assert compare(path, out, "--workers", "2", "--slurm", "cluster=local", "--slurm", "timeout_min=30") == 0
    assert counted == []
    assert len(list((out / "cells").glob("*.json"))) == 4


def test_without_submitit_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match="pip install submitit"):
        workers.on_cluster([], 1, tmp_path, [])
    with pytest.raises(UserError, match="expected KEY=VALUE"):
        workers.read("partition")
    assert workers.read("gpus_per_node=2") == ("gpus_per_node", 2)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere.toml"], "not found"),
        (["JOB", "--methods", "dora"], "expected one of waveft"),
        (["JOB", "--seeds", "0"], "expected 1 at least"),
        (["JOB", "--subjects", "nowhere"], "got nothing there"),
        (["JOB", "--set", "evaluation.image_model=nowhere"], "expected a folder with config.json"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_trained(compared, capsys, counted, tmp_path, arguments, expected):
    path, out = compared()
    arguments = [str(path) if argument == "JOB" else argument for argument in arguments]
    assert cli.main(["compare", *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Nothing can be compared")
    assert expected in error
    assert counted == []
    assert not out.exists()


def test_a_dry_run_lists_the_cells(compared, capsys, counted):
    path, out = compared()
    assert compare(path, out, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "4 cells: 2 methods, their rates, 2 seeds" in said
    assert "waveft--shira--0.001--43" in said
    assert not out.exists()
    assert counted == []


def test_a_record_of_another_job_does_not_count(done, counted):
    path, out = done
    counted.clear()
    one = ("--methods", "waveft", "--seeds", "1")  # of the four
    assert compare(path, out, *one) == 0
    assert counted == []
    assert compare(path, out, *one, "--set", "train.max_train_steps=3") == 0
    assert counted == ["waveft--waveft--0.001--42"]


def test_other_pictures_and_another_base_make_other_cells(compared, base_folder, pictures, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(base_folder, base)
    shutil.copytree(pictures, tmp_path / "pictures", dirs_exist_ok=True)
    path, out = compared(model={"pretrained_model_name_or_path": str(base)})
    path.write_text(path.read_text().replace(str(pictures), str(tmp_path / "pictures")))

    def digest():
        found = contestants.parse("waveft", "1e-3", {}, 1e-3)
        [cell] = comparing.grounded(cells.grid(cells.read(path, []), found, 1, None, out))
        return cell.digest

    first = digest()
    assert digest() == first
    photo = next((tmp_path / "pictures").glob("*.png"))
    with Image.open(photo) as image:
        image.transpose(Image.Transpose.ROTATE_180).save(photo)
    other = digest()
    assert other != first
    weights = next((base / "unet").glob("*.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    assert digest() not in (first, other)
