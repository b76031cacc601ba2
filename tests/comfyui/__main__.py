"""Starts a real ComfyUI with this pack and random weights, to try prompts on or to open in a browser.

    COMFYUI_DIR=~/ComfyUI python -m tests.comfyui --checkpoint micro [--adapter FILE] [--prompt FILE] [--stay]

The pack is linked: edits show after a restart. --stay leaves the front end open until Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.comfyui.server import Server
from tests.comfyui.settings import Unavailable, settings


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Starts a real ComfyUI with this pack and random weights.")
    parser.add_argument("--checkpoint", default="micro", help="micro, narrow, sdxl (6.9 GB), or a checkpoint file")
    parser.add_argument("--adapter", type=Path, action="append", default=[], help="a file for models/waveft")
    parser.add_argument("--prompt", type=Path, action="append", default=[], help="run this prompt (API format)")
    parser.add_argument("--stay", action="store_true", help="leave the front end open until Ctrl-C")
    parser.add_argument("flags", nargs="*", help="after --: flags for ComfyUI, e.g. -- --bf16-unet")
    options = parser.parse_args(argv)
    try:
        found = settings()
    except Unavailable as error:
        raise SystemExit(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="comfyui-checkpoint-") as folder:
        checkpoint = Path(options.checkpoint)
        if not checkpoint.is_file():
            checkpoint = Path(folder, f"{options.checkpoint}.safetensors")
            found.script("checkpoints.py", options.checkpoint, checkpoint)
        models = {"checkpoints": {checkpoint.name: checkpoint}, "waveft": {file.name: file for file in options.adapter}}
        with Server(found, models, flags=options.flags, link=True) as server:
            print(
                f"ComfyUI {server.version} after {server.start_s:.1f} s: {server.url}, base {server.base}", flush=True
            )
            for path in options.prompt:
                done = server.run(json.loads(path.read_text(encoding="utf-8")))
                print(f"{path}: {done.seconds:.1f} s\n{json.dumps(done.outputs, indent=1)}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while options.stay:
                    time.sleep(1)


if __name__ == "__main__":
    main()
