"""Pictures of a workflow in ComfyUI's front end: for the documents, and the template browser's thumbnails.

    pip install playwright       # and a Chromium: `playwright install chromium`, or the system's with --chromium
    python -m tools.screenshot_comfyui http://127.0.0.1:8188 --picture stack.png --workflow waveft_stack_grid
    python -m tools.screenshot_comfyui http://127.0.0.1:8188 --thumbnails

The ComfyUI must have this pack. With --run the workflow runs first and the picture shows its previews. It ends with an
error if the front end would queue anything else than the prompt in workflows/api.
"""

from __future__ import annotations

import argparse
import json
import time
import tomllib
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright  # type: ignore[import-not-found]

from tools.make_workflows import FOLDER

BARS = (58, 78)  # px: what the front end takes at the left and at the top
THUMBNAIL = 400  # px, square
READY = "() => window.app?.graph && 'WaveFTLoader' in window.LiteGraph.registered_node_types"
SETTINGS = {
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
    "LiteGraph.Canvas.LowQualityRenderingZoomThreshold": 0.2,  # else the text vanishes from wide graphs
}
SET = "settings => Promise.all(Object.entries(settings).map(s => app.extensionManager.setting.set(...s)))"
LOAD = "([graph, name]) => app.loadGraphData(graph, true, true, name)"
FIT = """([ids, [left, top, width, height]]) => {
  const shown = app.graph._nodes.filter(node => !ids || ids.includes(String(node.id)));
  const boxes = ids ? shown : shown.concat(app.graph._groups);
  const low = i => Math.min(...boxes.map(b => b.pos[i])), high = i => Math.max(...boxes.map(b => b.pos[i] + b.size[i]));
  const [x0, y0, x1, y1] = [low(0), low(1) - (ids ? 50 : 0), high(0), high(1)];  // 50: a node's title and badge
  const view = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
  view.scale = Math.min((width - 30) / (x1 - x0), (height - 30) / (y1 - y0), 1.2);
  view.offset[0] = (left - canvas.x + width / 2) / view.scale - (x0 + x1) / 2;
  view.offset[1] = (top - canvas.y + height / 2) / view.scale - (y0 + y1) / 2;
  app.canvas.setDirty(true, true);
}"""


def open_workflow(page: Page, name: str) -> None:
    """Opens a template, and holds what would be queued to its prompt.

    Raises:
        ValueError: they differ; the message names the node.
    """
    page.evaluate(LOAD, [json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")), name])
    time.sleep(1)
    page.keyboard.press("Escape")  # a dialogue about missing models, say
    queued = page.evaluate("() => app.graphToPrompt()")["output"]
    for key, node in json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8")).items():
        inputs = {
            name: value for name, value in queued[key]["inputs"].items() if name != "preview"
        }  # Preview as Text's
        if (queued[key]["class_type"], inputs) != (node["class_type"], node["inputs"]):
            raise ValueError(f"{name}, node {key}: expected {node['inputs']}, got {inputs}. Make the workflows again.")


def set_widgets(page: Page, assignments: Sequence[str]) -> None:
    """Sets widgets; each assignment is NODE.WIDGET=VALUE."""
    change = "([id, name, value]) => { app.graph.getNodeById(id).widgets.find(w => w.name === name).value = value; }"
    for assignment in assignments:
        place, value = assignment.split("=", 1)
        node, widget = place.split(".", 1)
        page.evaluate(change, [int(node), widget, float(value) if value.replace(".", "").isdigit() else value])


def run(page: Page, url: str) -> None:
    """Queues the graph and waits until nothing is queued."""
    page.evaluate("() => app.queuePrompt(0)")
    queue: dict[str, Any] = {"": [None]}
    while any(queue.values()):
        time.sleep(1)
        with urllib.request.urlopen(f"{url}/queue", timeout=60) as answer:
            queue = json.load(answer)
    time.sleep(3)  # for the previews to be drawn


def take(page: Page, path: Path, nodes: list[str] | None, bars: bool) -> None:
    """Writes the picture: all of the graph or some nodes, with the front end's bars or without."""
    size = page.viewport_size
    assert size
    box = [*BARS, size["width"] - BARS[0], size["height"] - BARS[1]]
    page.evaluate(FIT, [nodes, box])
    time.sleep(1)
    page.screenshot(path=path, clip=None if bars else dict(zip(("x", "y", "width", "height"), box, strict=True)))
    print(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Takes pictures of workflows in ComfyUI's front end.")
    parser.add_argument("url", help="a running ComfyUI with this pack, e.g. http://127.0.0.1:8188")
    parser.add_argument("--picture", type=Path, help="where to write one (.png or .jpg)")
    parser.add_argument("--workflow", default="waveft_sdxl", help="a template's name")
    parser.add_argument("--nodes", nargs="+", help="show these nodes instead of all")
    parser.add_argument("--set", nargs="+", default=[], metavar="NODE.WIDGET=VALUE", help="change widgets first")
    parser.add_argument("--run", action="store_true", help="run the workflow first")
    parser.add_argument("--size", default="1900x1000", help="of the window in px")
    parser.add_argument("--thumbnails", action="store_true", help="write workflows/NAME.jpg for every template")
    parser.add_argument("--chromium", help="the browser's program; playwright's own if not said")
    options = parser.parse_args(argv)
    width, height = map(int, options.size.split("x"))
    if options.thumbnails:
        width, height = (THUMBNAIL + bar for bar in BARS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.goto(options.url)
        page.wait_for_function(READY)
        time.sleep(2)
        page.keyboard.press("Escape")  # the template browser, at a first start
        page.evaluate(SET, SETTINGS)
        for path in sorted(FOLDER.glob("*.json")) if options.thumbnails else []:
            open_workflow(page, path.stem)
            layout = tomllib.loads((FOLDER / "api" / f"{path.stem}.toml").read_text(encoding="utf-8"))
            take(page, path.with_suffix(".jpg"), layout["thumbnail"], bars=False)
        if options.picture:
            open_workflow(page, options.workflow)
            set_widgets(page, options.set)
            if options.run:
                run(page, options.url)
            take(page, options.picture, options.nodes, bars=not options.nodes)


if __name__ == "__main__":
    main()
