"""Prints what comfy_api.v0_0_2 is: its version, and which of its names are the latest API's own."""

import json
import sys

import inside

inside.use(sys.argv[1])

from comfy_api import latest, v0_0_2  # noqa: E402

names = ("io", "ui", "ComfyExtension")
same = {name: getattr(v0_0_2, name) is getattr(latest, name) for name in names}
print(json.dumps({"version": v0_0_2.ComfyAPI.VERSION, "same as latest": same}))
