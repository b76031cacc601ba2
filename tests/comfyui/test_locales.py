"""ComfyUI hands the pack's translations to the front end."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui

LOCALES = Path(__file__).parents[2] / "locales"


def test_comfyui_serves_every_translation(serve):
    with serve({}) as server:
        served, nodes = server.get("/i18n"), set(server.nodes())
    for folder in LOCALES.iterdir():
        texts = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
        assert texts.items() <= served[folder.name]["nodeDefs"].items(), folder.name
        assert set(texts) <= nodes, folder.name
