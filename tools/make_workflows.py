"""Makes the graphs of `workflows/`, which ComfyUI's template browser opens, of the prompts in `workflows/api/`.

    python -m tools.make_workflows http://127.0.0.1:8188 [NAME ...]

A prompt (NAME.json, the API format) says what runs; NAME.toml beside it says how it looks: the note, titles, sizes,
and the groups from left to right with their columns (`top` moves a group down, out of a link's way). The nodes' sockets
and widgets are asked of a running ComfyUI that has this pack. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import tomllib
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "workflows"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
WIDTH, TITLE, ROW, WIDGET, TEXT = 300, 30, 20, 24, 84  # pixels, as the front end draws nodes
GAP, PADDING, GROUP_TITLE = 40, 20, 50
GROUP_STYLE = {"color": "#3f789e", "font_size": 24, "flags": {}}
NOTE_COLORS = {"color": "#432", "bgcolor": "#653"}


def make(name: str, prompt: Mapping[str, Any], layout: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the graph of a prompt, in the front end's format 0.4.

    Args:
        name: the template's name, of which its id is made.
        prompt: {node: {"class_type", "inputs"}}; every widget must be there.
        layout: what the TOML file holds.
        info: ComfyUI's /object_info.

    Raises:
        ValueError: a node that ComfyUI lacks, a layout that leaves one out, or inputs that are not a node's.
    """
    if unknown := {node["class_type"] for node in prompt.values()} - set(info):
        raise ValueError(f"ComfyUI: expected nodes {', '.join(sorted(unknown))}, got none of them. Install this pack.")
    nodes = {key: _node(key, node, info[node["class_type"]]) for key, node in prompt.items()}
    links = _connect(prompt, nodes, info)
    note = str(max(map(int, nodes)) + 1)
    nodes[note] = _note(int(note), layout["note"])
    for key, title in layout.get("titles", {}).items():
        nodes[key]["title"] = title
    groups = _place(nodes, note, layout)
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"waveft/workflows/{name}")),
        "revision": 0,
        "last_node_id": int(note),
        "last_link_id": len(links),
        "nodes": list(nodes.values()),
        "links": links,
        "groups": groups,
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def as_text(graph: Mapping[str, Any]) -> str:
    """Returns a graph as JSON with a line for each node, link and group, so that changes can be read."""
    lines = []
    for key, value in graph.items():
        if isinstance(value, list) and value:
            items = ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in value)
            lines.append(f" {json.dumps(key)}: [\n{items}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _node(key: str, node: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    sockets, values, height = [], [], 0
    given = dict(node["inputs"])
    for name, (kind, *rest) in _inputs(info).items():
        options = rest[0] if rest else {}
        if not _is_widget(kind, options):
            sockets.append({"name": name, "type": kind, "link": None})
            given.pop(name, None)
            continue
        if name not in given or isinstance(given[name], list):
            raise ValueError(
                f'node {key} ({node["class_type"]}), input "{name}": expected a value, got {given.get(name)}'
            )
        values.append(given.pop(name))
        height += TEXT if options.get("multiline") else WIDGET
        if options.get("control_after_generate"):
            values.append("fixed")
            height += WIDGET
    if given:
        raise ValueError(f"node {key} ({node['class_type']}): it has no input {', '.join(given)}")
    outputs = [
        {"name": name, "type": kind, "links": [], "slot_index": number}
        for number, (name, kind) in enumerate(zip(info["output_name"], info["output"], strict=True))
    ]
    size = [WIDTH, max(len(sockets), len(outputs)) * ROW + (height + 14 if values else 6)]
    return _drawn(int(key), node["class_type"], size, values) | {"inputs": sockets, "outputs": outputs}


def _drawn(number: int, kind: str, size: list[int], values: list[Any]) -> dict[str, Any]:
    return {
        "id": number,
        "type": kind,
        "pos": [0, 0],
        "size": size,
        "flags": {},
        "order": number,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {"Node name for S&R": kind},
        "widgets_values": values,
    }


def _inputs(info: Mapping[str, Any]) -> dict[str, Any]:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def _is_widget(kind: Any, options: Mapping[str, Any]) -> bool:
    return (isinstance(kind, list) or kind in WIDGETS) and not options.get("forceInput")


def _connect(prompt: Mapping[str, Any], nodes: Mapping[str, Any], info: Mapping[str, Any]) -> list[list[Any]]:
    links: list[list[Any]] = []
    for key, node in nodes.items():
        for slot, socket in enumerate(node["inputs"]):
            linked = prompt[key]["inputs"].get(socket["name"])
            if linked is not None:
                source, output = linked
                number = len(links) + 1
                links.append([number, int(source), output, int(key), slot, socket["type"]])
                socket["link"] = number
                nodes[source]["outputs"][output]["links"].append(number)
            elif socket["name"] in info[node["type"]]["input"].get("required", {}):
                raise ValueError(f'node {key} ({node["type"]}), input "{socket["name"]}": expected a link, got none')
    for key, order in _order(prompt).items():
        nodes[key]["order"] = order
    return links


def _order(prompt: Mapping[str, Any]) -> dict[str, int]:
    """Returns when each node runs: after all that it needs."""
    done: dict[str, int] = {}

    def visit(key: str) -> None:
        for value in prompt[key]["inputs"].values():
            if isinstance(value, list):
                visit(value[0])
        done.setdefault(key, len(done))

    for key in prompt:
        visit(key)
    return done


def _note(number: int, text: str) -> dict[str, Any]:
    lines = sum(2 + len(paragraph) // 44 for paragraph in text.strip().split("\n\n"))  # of about 44 letters
    drawn = _drawn(number, "MarkdownNote", [WIDTH, lines * 17 + 40], [text.strip()])
    return drawn | {"title": "About this workflow", **NOTE_COLORS}


def _place(nodes: Mapping[str, Any], note: str, layout: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Sets the nodes' places, the note leftmost, and returns the groups around them."""
    listed = [key for group in layout["groups"] for column in group["columns"] for key in column]
    if sorted(listed) != sorted(key for key in nodes if key != note):
        raise ValueError(f"layout: expected nodes {sorted(nodes)} but the note {note}, got {sorted(listed)}")
    for key, size in layout.get("sizes", {}).items():
        nodes[key]["size"] = size
    right = _place_column([nodes[note]], 0, 0) + GAP
    groups = []
    for number, group in enumerate(layout["groups"], 1):
        left, top, x, bottom = right, group.get("top", 0), right + PADDING, 0
        for column in group["columns"]:
            members = [nodes[key] for key in column]
            x = _place_column(members, x, top + GROUP_TITLE) + GAP
            bottom = max(bottom, *(node["pos"][1] + node["size"][1] for node in members))
        width = x - GAP + PADDING - left
        box = [left, top - TITLE, width, bottom + PADDING + TITLE - top]
        groups.append({"id": number, "title": group["title"], "bounding": box, **GROUP_STYLE})
        right = left + width + GAP
    return groups


def _place_column(nodes: Sequence[dict[str, Any]], x: int, y: int) -> int:
    """Puts nodes below one another, all as wide as the widest, and returns where the column ends."""
    width = max(node["size"][0] for node in nodes)
    for node in nodes:
        node["pos"], node["size"] = [x, y], [width, node["size"][1]]
        y += node["size"][1] + TITLE + GAP
    return x + width


def read(path: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the graph of a prompt's file and of the layout beside it."""
    prompt = json.loads(path.read_text(encoding="utf-8"))
    return make(path.stem, prompt, tomllib.loads(path.with_suffix(".toml").read_text(encoding="utf-8")), info)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Makes workflows/*.json of workflows/api/*.json and *.toml.")
    parser.add_argument("url", help="a running ComfyUI with this pack, e.g. http://127.0.0.1:8188")
    parser.add_argument("name", nargs="*", help="templates; all of them if none is named")
    options = parser.parse_args(argv)
    with urllib.request.urlopen(f"{options.url}/object_info", timeout=60) as answer:
        info = json.load(answer)
    for path in sorted((FOLDER / "api").glob("*.json")):
        if not options.name or path.stem in options.name:
            (FOLDER / path.name).write_text(as_text(read(path, info)), encoding="utf-8")
            print(FOLDER / path.name)


if __name__ == "__main__":
    main()
