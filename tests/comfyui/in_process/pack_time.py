"""Prints how many seconds loading the pack takes, after everything that ComfyUI itself has loaded by then.

pack_time.py COMFYUI_DIR PACK
"""

import asyncio
import sys
import time

import inside

inside.use(sys.argv[1])

import nodes  # noqa: E402 - ComfyUI's, with the models' and samplers' modules

began = time.perf_counter()
loaded = asyncio.run(nodes.load_custom_node(sys.argv[2]))
taken = time.perf_counter() - began
if not loaded:
    raise SystemExit("ComfyUI could not load the pack")
print(f"{taken:.3f}")
