"""The stand-ins of the quick tests are checked against the real ComfyUI."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.comfyui

PACK = Path(__file__).parents[2]


def test_what_stands_in_for_comfyui_is_like_it(comfyui, tmp_path):
    for name in ("waveft", "loras"):
        (tmp_path / "models" / name).mkdir(parents=True)
    said = comfyui.script("in_process/stand_in.py", PACK, tmp_path / "models").splitlines()[-1]
    found = json.loads(said)
    assert {"comfy.lora", "comfy_api.v0_0_2", "folder_paths"} <= set(found["modules"])
    assert "WaveFTLoader" in found["nodes"]
    assert not found["faults"], "\n".join(found["faults"])
