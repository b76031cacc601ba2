"""A web UI by its API: pictures, and the weights that lie in its model; started headless on the CPU if need be."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file

STARTING_S, PICTURE_S = 900, 900
PROBE = Path(__file__).resolve().parent / "probe"
# Without its installers and without the network.
FLAGS = (
    *("--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check", "--api", "--nowebui"),
    *("--disable-console-progressbars", "--server-name", "127.0.0.1"),
)
A1111_FLAGS = ("--use-cpu", "all", "--no-half", "--precision", "full", "--do-not-download-clip")


def flags_of(checkout: Path, checkpoint: Path) -> tuple[str, ...]:
    """Returns the flags with which this family loads a checkpoint on the CPU; Neo takes what its folder has."""
    if (checkout / "modules_forge" / "packages").is_dir():
        return ("--cpu",)
    own = ("--always-cpu",) if (checkout / "modules_forge").is_dir() else A1111_FLAGS
    return ("--no-download-sd-model", "--ckpt", str(checkpoint), *own)


@dataclass(frozen=True)
class Picture:
    pixels: str
    info: str
    png: str


class Server:
    """A running UI.

    Attributes:
        loras: its folder of LoRA files.
        version: the checkout's commit.
    """

    def __init__(self, checkout: Path, url: str) -> None:
        self.checkout, self.url, self.loras = checkout, url.rstrip("/"), checkout / "models" / "Lora"
        self.loras.mkdir(parents=True, exist_ok=True)
        found = subprocess.run(
            ["git", "-C", str(checkout), "log", "-1", "--format=%h"], capture_output=True, text=True, check=False
        )
        self.version = f"{checkout.name} {found.stdout.strip()}"

    @classmethod
    @contextlib.contextmanager
    def started(cls, checkout: Path, python: Path, checkpoint: Path, clone: Path):
        """Starts a UI with this clone and the probe among its extensions, and ends it by its own process id."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        found = {"waveft": clone, "waveft-probe": PROBE}
        links = {checkout / "extensions" / name: path for name, path in found.items()}
        made = [link for link in links if not link.exists()]
        for link in made:
            link.symlink_to(links[link])
        own = (*flags_of(checkout, checkpoint), *os.environ.get("WEBUI_FLAGS", "").split())
        command = [str(python), "launch.py", *FLAGS, "--port", str(port), *own]
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        with tempfile.TemporaryFile() as log:
            environment = {**os.environ, **quiet, "CUDA_VISIBLE_DEVICES": ""}
            process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=log, stderr=log)
            try:
                server = cls(checkout, f"http://127.0.0.1:{port}")
                server._wait(process, log)
                yield server
            finally:
                process.terminate()
                process.wait(timeout=60)
                for link in made:
                    link.unlink()

    def call(self, path, body=None):
        """Returns what the API answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=PICTURE_S) as answer:
            return json.load(answer)

    def without_previews(self):
        """Switches live previews off: they would download a decoder."""
        self.call("/sdapi/v1/options", {"live_previews_enable": False})

    def draw(self, prompt, **more):
        """Returns a picture of 64 x 64 and one step, the first of several.

        Args:
            more: what the API is asked for beside that, or otherwise.
        """
        answer = self._asked(prompt, more)
        png = answer["images"][0]
        return Picture(_hash(png), json.loads(answer["info"])["infotexts"][0], png)

    def draw_all(self, prompt, **more):
        """Returns the pixels of all pictures that such a request answers, as `Picture.pixels`, and their infotexts."""
        answer = self._asked(prompt, more)
        return [_hash(png) for png in answer["images"]], json.loads(answer["info"])["infotexts"]

    def _asked(self, prompt, more):
        body = {"prompt": prompt, "seed": 1, "steps": 1, "width": 64, "height": 64, "cfg_scale": 2}
        return self.call("/sdapi/v1/txt2img", body | {"sampler_name": "Euler", **more})

    def weights(self):
        """Returns the attention weights that lie in the model now, by the names of adapter files."""
        with tempfile.TemporaryDirectory() as folder:  # a gigabyte
            path = Path(folder) / "weights.safetensors"
            self.call("/probe/weights?" + urllib.parse.urlencode({"out": str(path)}))
            return {name: held.clone() for name, held in load_file(path).items()}

    def _wait(self, process, log):
        ends = time.monotonic() + STARTING_S
        while time.monotonic() < ends and process.poll() is None:
            try:
                self.without_previews()
            except (OSError, urllib.error.HTTPError):
                time.sleep(2)
            else:
                return
        log.seek(0)
        raise AssertionError(f"the UI did not start:\n{log.read()[-4000:].decode(errors='replace')}")


def _hash(png):
    """Returns a digest of the pixels of a picture in base64."""
    return hashlib.sha256(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").tobytes()).hexdigest()
