"""A real ComfyUI, headless on the CPU, in a throw-away base directory, stopped by its own process id.

    with Server(settings(), models={"checkpoints": {"micro.safetensors": path}}) as server:
        server.run(prompt)

The checkout is never written to but for Python's own caches.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.comfyui.settings import HERE, Failed, Settings, Unavailable, settings

__all__ = ["Done", "Failed", "Interrupted", "Server", "Settings", "Unavailable", "settings"]

REPOSITORY = HERE.parents[1]
NOT_IN_A_CLONE = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "*.egg-info")
STARTING_S = 900  # a quiet machine takes 5 to 13 s, one that is busy with other tests took more than 180
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Interrupted(Failed):
    """The prompt was cancelled."""


@dataclass(frozen=True)
class Done:
    """What a prompt gave.

    Attributes:
        outputs: by node, what its UI shows.
        files: by node, the files that it wrote.
        cached: the nodes that did not run again.
        seconds: from start to success, by ComfyUI's own clock.
    """

    outputs: dict[str, dict[str, Any]]
    files: dict[str, list[Path]]
    cached: list[str]
    seconds: float


class Server:
    """A running ComfyUI; a context manager.

    Args:
        models: by folder of `models/`, the files to link there: {name: path}.
        packs: by folder name, what to install into custom_nodes beside the tests' helper nodes; this one if not said.
        flags: for ComfyUI's command line.
        environment: variables for ComfyUI, beside this process's own.
        base: the base directory; without one a temporary directory, removed at the end.
        link: whether packs are links, so that edits show after a restart, or copies, as a clone would be.

    Attributes:
        base: the base directory, with `models`, `input`, `output`, `custom_nodes` and the log.
        start_s: how long the start took.
        version: ComfyUI's, after the start.
    """

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, Mapping[str, Path]] | None = None,
        packs: Mapping[str, Path] | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        base: Path | None = None,
        link: bool = False,
    ) -> None:
        self.settings, self.flags = settings, flags
        self.environment = settings.environment() | dict(environment or {})
        self.base = base or Path(tempfile.mkdtemp(prefix="comfyui-"))
        self.start_s, self.version = 0.0, ""
        self._is_temporary = base is None
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        for folder in ("models", "custom_nodes", "input", "output", "temp", "user"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        for name, path in {"harness": HERE / "helper_nodes", **(packs or {"waveft": REPOSITORY})}.items():
            _put(path, self.base / "custom_nodes" / name, link)
        for folder, files in (models or {}).items():
            for name, path in files.items():
                _put(path, self.base / "models" / folder / name, link=True)

    def __enter__(self) -> Server:
        began = time.monotonic()
        command = [self.settings.python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", self.url.split(":")[-1]]
        command += ["--base-directory", str(self.base), "--user-directory", str(self.base / "user")]
        command += ["--database-url", "sqlite:///:memory:", "--disable-api-nodes", "--disable-auto-launch", *self.flags]
        with (self.base / "comfyui.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.settings.comfyui, env=self.environment, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        try:
            while not self.version:
                self._check_alive(time.monotonic() - began, STARTING_S)
                with contextlib.suppress(OSError):  # not listening yet
                    self.version = self.get("/system_stats")["system"]["comfyui_version"]
                time.sleep(0.1)
        except BaseException:
            self.__exit__()
            raise
        self.start_s = time.monotonic() - began
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
        if self._is_temporary:
            shutil.rmtree(self.base, ignore_errors=True)

    def stop(self) -> None:
        """Ends our own child: asks, asks firmly, kills."""
        process = self._process
        if process is None:
            return
        for how, wait_s in ((signal.SIGINT, 15), (signal.SIGTERM, 5)):
            if process.poll() is None:
                process.send_signal(how)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(wait_s)
        if process.poll() is None:
            process.kill()
            process.wait()

    @property
    def log(self) -> str:
        """Everything that ComfyUI printed, without colours."""
        return COLOUR.sub("", (self.base / "comfyui.log").read_text(encoding="utf-8", errors="replace"))

    @property
    def import_s(self) -> dict[str, float]:
        """By pack, the import time that ComfyUI prints (in tenths of a second).

        Raises:
            Failed: a pack could not be imported.
        """
        found = re.findall(r"^(?:\[\w+\])? *([0-9.]+) seconds( \(IMPORT FAILED\))?: (.+)$", self.log, re.MULTILINE)
        if failed := [path for _, failed, path in found if failed]:
            raise Failed(f"ComfyUI cannot import {failed}\n{self.log[-8000:]}")
        return {Path(path).name: float(seconds) for seconds, _, path in found}

    def get(self, path: str) -> Any:
        """Returns the JSON at a path of ComfyUI's API."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, content: object) -> Any:
        """Returns the JSON that ComfyUI answers, or None.

        Raises:
            Failed: it refused.
        """
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(content).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise Failed(_explained(error.read())) from None
        return json.loads(body) if body else None

    def nodes(self) -> dict[str, Any]:
        """Returns every node's description by its id, as the front end gets it."""
        return dict(self.get("/object_info"))

    def start(self, prompt: Mapping[str, Any]) -> str:
        """Queues a prompt in the API's format and returns its id.

        Raises:
            Failed: it does not pass ComfyUI's validation.
        """
        return str(self.post("/prompt", {"prompt": prompt, "client_id": "harness"})["prompt_id"])

    def interrupt(self) -> None:
        """Cancels what runs now."""
        self.post("/interrupt", {})

    def wait(self, prompt_id: str, timeout_s: float = 600) -> Done:
        """Returns what a queued prompt gave, once it is done.

        Raises:
            Failed: it failed, was interrupted, or took too long.
        """
        began = time.monotonic()
        while prompt_id not in (history := self.get(f"/history/{prompt_id}")):
            self._check_alive(time.monotonic() - began, timeout_s)
            time.sleep(0.05)
        ended = history[prompt_id]
        said = dict(ended["status"]["messages"])
        if "execution_interrupted" in said:
            raise Interrupted("interrupted at node {node_id} ({node_type})".format_map(said["execution_interrupted"]))
        if "execution_success" not in said:
            error = said["execution_error"]
            words = "node {node_id} ({node_type}): {exception_type}: {exception_message}\n".format_map(error)
            raise Failed(words + "".join(error["traceback"])[-3000:])
        taken_ms = said["execution_success"]["timestamp"] - said["execution_start"]["timestamp"]
        files = {node: list(self._files(shown)) for node, shown in ended["outputs"].items()}
        return Done(ended["outputs"], files, said["execution_cached"]["nodes"], taken_ms / 1e3)

    def run(self, prompt: Mapping[str, Any], timeout_s: float = 600) -> Done:
        """Queues a prompt and returns what it gave.

        Raises:
            Failed: as `start` and `wait` do.
        """
        return self.wait(self.start(prompt), timeout_s)

    def _files(self, shown: Mapping[str, Any]) -> Sequence[Path]:
        listed = [item for items in shown.values() if isinstance(items, list) for item in items]
        named = [item for item in listed if isinstance(item, dict) and "filename" in item]
        return [self.base / item.get("type", "output") / item.get("subfolder", "") / item["filename"] for item in named]

    def _check_alive(self, waited_s: float, limit_s: float) -> None:
        if self._process is None or self._process.poll() is not None:
            raise Failed(f"ComfyUI is not running\n{self.log[-4000:]}")
        if waited_s > limit_s:
            raise Failed(f"ComfyUI did not finish within {limit_s:g} s\n{self.log[-2000:]}")


def _put(path: Path, place: Path, link: bool) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        place.unlink()
    if link:
        place.symlink_to(path.resolve())
    else:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(path, place, ignore=NOT_IN_A_CLONE)


def _explained(body: bytes) -> str:
    """Returns a refusal's words: what is wrong with the prompt, and at which nodes."""
    try:
        said = json.loads(body)
    except ValueError:
        return body[:2000].decode(errors="replace")
    lines = ["{message}: {details}".format_map(said["error"])]
    for node, of in (said.get("node_errors") or {}).items():
        lines += [f"node {node} ({of['class_type']}): {error['message']}: {error['details']}" for error in of["errors"]]
    return "\n".join(lines)
