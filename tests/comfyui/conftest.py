"""A real ComfyUI for the tests of this folder, checkpoints of random weights, and adapters for them.

    COMFYUI_DIR=... [COMFYUI_PYTHON=...] python -m pytest -m comfyui

COMFYUI_DIR is a checkout, or several, separated as in PATH: every test runs on each. COMFYUI_PYTHON is a Python with
ComfyUI's requirements and ours, or one for each; left out, it is that of the checkout's own venv, if there is one.
Without them every test here is skipped and says so.
"""

import shutil
from pathlib import Path

import pytest

from tests.comfyui import graphs
from tests.comfyui.server import Server, Unavailable
from tests.comfyui.settings import checkouts, settings
from tests.comfyui.weights import TEXT_SHAPES, attention_shapes, write_adapter

ran_on = set()
NAMED = [Path(named).name for named in checkouts()]


def pytest_terminal_summary(terminalreporter):
    for version in sorted(ran_on):
        terminalreporter.write_line(f"Ran on {version}")


@pytest.fixture(scope="session", params=range(len(NAMED)) if len(NAMED) > 1 else None, ids=NAMED or None)
def comfyui(request):
    """Which ComfyUI to run: `comfyui.comfyui`, `comfyui.python`, `comfyui.script(...)`."""
    try:
        found = settings(getattr(request, "param", 0))
    except Unavailable as error:
        pytest.skip(str(error))
    ran_on.add(found.script("in_process/version.py").strip())
    return found


@pytest.fixture(scope="session")
def checkpoint(comfyui, tmp_path_factory):
    """Returns a function from "micro" or "narrow" to a checkpoint, made once."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(architecture, clip=False, seed=0):
        path = folder / f"{architecture}{'_clip' if clip else ''}{seed or ''}.safetensors"
        if not path.exists():
            flags = [] if clip else ["--no-clip"]
            comfyui.script("checkpoints.py", architecture, path, "--seed", seed, *flags)
        return path

    yield make
    shutil.rmtree(folder)  # gigabytes, and pytest keeps the folders of three runs


@pytest.fixture(scope="module")
def serve(comfyui):
    """Returns `Server` of this ComfyUI: `with serve({"checkpoints": {name: path}}, flags=[...]) as server`."""
    return lambda models, **options: Server(comfyui, models, **options)


@pytest.fixture(scope="session")
def adapters(checkpoint, tmp_path_factory):
    """A folder of adapters for `micro`: a (db1), b (sym4), text (a's layers and text encoders').

    Others are wrong for it: sdxl (narrow's layers), wide (one layer's shape), damaged (cut short).
    """
    folder, shapes = tmp_path_factory.mktemp("adapters"), attention_shapes(checkpoint("micro"))
    write_adapter(folder / "a.safetensors", shapes, seed=1)
    write_adapter(folder / "b.safetensors", shapes, seed=2, wavelet="sym4")
    write_adapter(folder / "text.safetensors", {**shapes, **TEXT_SHAPES}, seed=3)
    write_adapter(folder / "sdxl.safetensors", attention_shapes(checkpoint("narrow")))
    write_adapter(folder / "wide.safetensors", {**shapes, next(iter(shapes)): (64, 64)})
    whole = (folder / "a.safetensors").read_bytes()
    (folder / "damaged.safetensors").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def micro(serve, checkpoint, adapters, tmp_path_factory):
    """A server with `micro.safetensors` in fp32 and a copy of `adapters` in models/waveft.

    Besides: `server.adapters`, the copy, whose files a test may overwrite, and `server.unpatched`, the weights.
    """
    folder = shutil.copytree(adapters, tmp_path_factory.mktemp("micro") / "adapters")
    models = {
        "checkpoints": {"micro.safetensors": checkpoint("micro")},
        "waveft": {path.name: path for path in Path(folder).iterdir()},
    }
    with serve(models, flags=["--fp32-unet"]) as server:
        server.adapters = folder
        server.unpatched = graphs.run(server, graphs.plain("micro.safetensors")).weights
        yield server
