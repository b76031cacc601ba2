"""WaveFT Train in the real ComfyUI, with the real trainer, on the nano base and its robot."""

import contextlib
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.comfyui.graphs import Graph, run
from tests.comfyui.server import REPOSITORY, Failed, Interrupted
from waveft_core import load

pytestmark = pytest.mark.comfyui

WIDGETS = {
    "checkpoint_name": "diffusers/nano",
    "image_folder": "robot",
    "trigger": "sks robot",
    "steps": 24,
    "name": "robot",
    "resolution_px": 64,
    "coefficients": 512,
    "learning_rate": 1e-3,
    "scaling": 25.0,
    "batch_size": 1,
    "seed": 42,
    "sample_prompt": "{trigger}",
    "python": "",
    "resume": True,
}


@pytest.fixture(scope="module")
def started(serve):
    """Returns a function that starts a server with base and pictures; this Python has what training needs."""

    @contextlib.contextmanager
    def start(python=sys.executable):
        models = {"diffusers": {"nano": REPOSITORY / "models/nano-sdxl"}}
        with serve(models, environment={"WAVEFT_PYTHON": python}) as server:
            shutil.copytree(
                REPOSITORY / "jobs/robot", server.base / "input/robot", ignore=shutil.ignore_patterns("*.txt")
            )  # the trigger is the caption
            yield server

    return start


@pytest.fixture(scope="module")
def server(started):
    with started() as server:
        yield server


def training(**changed):
    """Returns a graph of the node, its report and what is in its adapter."""
    graph = Graph()
    node = graph.add("WaveFTTrain", "train", **{**WIDGETS, **changed})
    graph.show([node, 1], "report")
    graph.add("WaveFTInspect", "inspect", adapter=[node, 0])
    graph.add("SaveImage", "samples", images=[node, 2], filename_prefix="samples")
    return graph


def folder(server, name="robot"):
    return server.base / "output/waveft/training" / name


def begun(server, name, steps):
    """Waits until so many steps are done."""
    log = folder(server, name) / f"{name}-metrics.jsonl"
    until = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= steps):
        assert time.monotonic() < until
        time.sleep(0.1)


def values(server, name):
    return {key: layer.values for key, layer in load(folder(server, name) / f"{name}.safetensors").layers.items()}


def test_a_cancelled_training_goes_on_and_ends_as_if_it_had_not_been(server):
    whole = run(server, training(name="whole"))
    assert "24 steps in" in whole.texts["report"] and sys.executable in whole.texts["report"]
    assert len(whole.done.files["samples"]) == 1

    prompt = server.start(training().nodes)
    begun(server, "robot", 3)
    server.interrupt()
    with pytest.raises(Interrupted, match="WaveFTTrain"):
        server.wait(prompt)
    (state,) = folder(server).glob("*.state")
    assert not (folder(server) / ".robot.lock").exists(), "the child has ended"
    assert not (folder(server) / "robot.safetensors").exists()
    assert "training/robot/" not in str(server.nodes()["WaveFTLoader"]["input"]["required"]["adapter_name"])

    report = run(server, training()).texts["report"]
    assert "went on with an earlier run" in report
    assert 3 <= int(state.stem[-8:]) < 24
    expected, got = values(server, "whole"), values(server, "robot")
    assert all(torch.equal(got[layer], held) for layer, held in expected.items())


def test_a_finished_one_is_loaded_and_the_loader_lists_it(server):
    run(server, training(name="done", steps=2, sample_prompt=""))
    done = run(server, training(name="done", steps=2, sample_prompt="", python=sys.executable))
    assert "nothing was trained" in done.texts["report"]
    assert run(server, training(name="done", steps=2, sample_prompt="", python=sys.executable)).done.cached
    names = server.nodes()["WaveFTLoader"]["input"]["required"]["adapter_name"]
    assert "training/done/done.safetensors" in str(names)
    assert not re.search(r"\.state|\.png", str(names))


def test_other_settings_are_refused_in_the_widgets_names(server):
    run(server, training(name="first", steps=2, sample_prompt=""))
    with pytest.raises(Failed, match=r"learning_rate: expected 0\.001 as in the saved run, got 0\.002") as caught:
        server.run(training(name="first", steps=2, sample_prompt="", learning_rate=2e-3).nodes)
    assert "under another name" in str(caught.value) and "Or turn `resume` off" in str(caught.value)
    again = run(server, training(name="first", steps=2, sample_prompt="", learning_rate=2e-3, resume=False))
    assert "2 steps in" in again.texts["report"]


def test_what_is_wrong_is_told_once_and_nothing_is_written(server):
    (server.base / "input/empty").mkdir()
    graph = Graph()
    graph.add("WaveFTTrain", "train", **{**WIDGETS, "image_folder": "cat", "name": "wrong"})
    with pytest.raises(Failed) as caught:
        server.start(graph.nodes)
    told = [line for line in str(caught.value).splitlines() if line.startswith("node train ")]
    assert len(told) == 1 and "expected a folder of pictures" in told[0], caught.value
    for changed, told in (
        ({"name": "../robot"}, "letters"),
        ({"python": "/bin/sh"}, "must not start programs"),
        ({"image_folder": "empty"}, "expected settings and files that can be trained"),
    ):
        with pytest.raises(Failed, match=told):
            server.run(training(**{"name": "wrong", **changed}).nodes)
    assert not folder(server, "wrong").exists()


def test_a_new_prompt_alone_is_what_comes_out(server):
    """Of a finished run the samples are drawn anew; an earlier prompt's stay in its folder."""
    settings = {"name": "prompts", "steps": 2}
    assert len(run(server, training(**settings, sample_prompt="a square\na circle")).done.files["samples"]) == 2
    assert len(run(server, training(**settings, sample_prompt="a line")).done.files["samples"]) == 1


def test_a_refused_one_leaves_the_finished_runs_files(server):
    run(server, training(name="kept", steps=2))
    before = {path: path.read_bytes() for path in folder(server, "kept").rglob("*") if path.is_file()}
    with pytest.raises(Failed, match=r"got other captions \(of `trigger`, or in text files\) of 6 \(00\.png, "):
        server.run(training(name="kept", steps=2, trigger="another").nodes)
    assert {path: path.read_bytes() for path in folder(server, "kept").rglob("*") if path.is_file()} == before


def test_when_comfyui_is_killed_the_training_saves_and_ends(started):
    with started() as server:
        server.start(training(steps=1000).nodes)
        begun(server, "robot", 2)
        server._process.kill()
        until = time.monotonic() + 60
        while not list(folder(server).glob("*.state")) or (folder(server) / ".robot.lock").exists():
            assert time.monotonic() < until
            time.sleep(0.1)


def test_missing_packages_are_one_error_with_the_command(started, comfyui):
    with started(comfyui.python) as server:
        try:
            server.run(training(steps=1, sample_prompt="").nodes)
        except Failed as error:
            assert re.search(r"got one without .*Run: .*python.* -m pip install", str(error), re.DOTALL), error
            assert not (folder(server) / "robot.toml").exists()
        else:
            pytest.skip(f"{Path(comfyui.python)} has what training needs")
