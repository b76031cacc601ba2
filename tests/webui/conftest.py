"""A real A1111, Forge, reForge or Forge Classic for the tests of this folder.

    WEBUI_DIR=... [WEBUI_PYTHON=...] [WEBUI_CKPT=... | WEBUI_URL=...] python -m pytest -m webui

WEBUI_DIR is a checkout with its `repositories/`. Its own modules are tested in this process's Python, or in
WEBUI_PYTHON where that has pytest: no model is made, it takes a minute. With WEBUI_CKPT, a checkpoint of SDXL's kind in
the checkout's `models/Stable-diffusion`, the UI itself is started too, headless on the CPU, with the further flags of
WEBUI_FLAGS; WEBUI_URL names one that runs already, with this clone and `probe/` among its extensions. Without them the
tests are skipped and say so.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.webui.server import Server

ROOT = Path(__file__).resolve().parents[2]
ran_on = set()


def pytest_terminal_summary(terminalreporter):
    for version in sorted(ran_on):
        terminalreporter.write_line(f"Ran on {version}")


@pytest.fixture(scope="session")
def checkout():
    named = os.environ.get("WEBUI_DIR")
    if not named:
        pytest.skip("WEBUI_DIR: expected the checkout of a web UI, got none")
    if not (Path(named) / "launch.py").is_file():
        pytest.skip(f"WEBUI_DIR: expected a checkout with launch.py, got {named}")
    return Path(named)


@pytest.fixture(scope="module")
def webui(checkout):
    """The UI, running: `webui.draw(prompt)`, `webui.weights()`, `webui.loras`."""
    url, checkpoint, python = (os.environ.get(name) for name in ("WEBUI_URL", "WEBUI_CKPT", "WEBUI_PYTHON"))
    if url:
        server = Server(checkout, url)
        server.without_previews()
        ran_on.add(server.version)
        yield server
        return
    if not checkpoint or not python:
        pytest.skip("WEBUI_CKPT and WEBUI_PYTHON: expected a checkpoint and the UI's Python, or WEBUI_URL, got none")
    with Server.started(checkout, Path(python), Path(checkpoint), ROOT) as server:
        ran_on.add(server.version)
        yield server
