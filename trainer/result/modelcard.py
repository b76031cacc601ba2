"""The page of an adapter on a hub: README.md with what hubs read at its head, and how to use the file. Nothing private.

It is written beside the adapter as `NAME-README.md`; `trainer.publish` uploads it with the pictures that it shows.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..job.config import is_hub_id
from ..methods import registry
from ..preflight.preflight import Ready
from ..samples.prompts import Shot
from ..system.plaintext import shown as escaped
from .kohyakeys import base_name, is_sdxl
from .runfacts import Run, facts

if TYPE_CHECKING:
    from .runparts import Parts

SDXL_1 = "stabilityai/stable-diffusion-xl-base-1.0"
SDXLS_LICENSE = "openrail++"  # its restrictions on use go along with what is made from it
KNOWN_BASES = dict.fromkeys(
    ("stable-diffusion-xl-base-1.0", "sd_xl_base_1.0", "sd_xl_base_1.0_0.9vae", "sdxl-base-1.0"), SDXL_1
)
# The hub's own names of licences that adapters have; any other is called "other" there.
LICENSES = (
    "apache-2.0", "mit", "openrail", "openrail++", "creativeml-openrail-m", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "unlicense", "wtfpl",
)  # fmt: skip
LICENSE_LINE = (
    f"The base, [SDXL 1.0](https://huggingface.co/{SDXL_1}), is under the CreativeML Open RAIL++-M licence: its "
    "restrictions on use go along with this adapter."
)
TOLD = ("base", "pictures", "class pictures", "validation", "steps", "adapter", "validation loss")


def page(parts: Parts, run: Run, pictures: Sequence[tuple[Shot, Path]], grid: Path | None) -> str:
    """Returns the card.

    Args:
        parts: the run's.
        run: what came of it.
        pictures: samples of the trained adapter, each with its file, all below the output folder.
        grid: file of the sheet of all samples, or None.
    """
    ready, folder = parts.ready, Path(parts.ready.job.save.output_dir)
    method = registry.of(ready.job.network)
    given, base = ready.job.metadata, base_name(ready.job)
    sdxl = is_sdxl(parts.forward.base)
    shown = [(shot, link(path, folder)) for shot, path in pictures]
    told = facts(parts, run)
    fit = "SDXL 1.0 and its fine-tunes" if sdxl else f"{plain(base)} alone: it has layers of other sizes than SDXL"
    blocks = [
        front_matter(ready, sdxl, shown),
        f"# {plain(given.metadata_title or ready.job.save.output_name)}",
        prose(given.metadata_description),
        f"![The samples over the run]({link(grid, folder)})" if grid else gallery(shown),
        f"A [{method.TITLE}]({method.PAPER}) adapter. It fits {fit}.",
        f"**Trigger phrase:** {code(given.trigger_phrase)}" if given.trigger_phrase else "",
        usage(ready, sdxl, shown, parts.forward.base.prediction),
        LICENSE_LINE if hub_id(ready, sdxl) == SDXL_1 else "",
        "## How it was trained",
        markdown_table([(key, told[key]) for key in TOLD if key in told]),
        job_hint(ready),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def front_matter(ready: Ready, sdxl: bool, shown: Sequence[tuple[Shot, str]]) -> str:
    """Returns the YAML block; every text in it is written as JSON, which is YAML."""
    job = ready.job
    words = [word.strip() for word in job.metadata.metadata_tags.split(",")]
    tags = ["text-to-image", *(["stable-diffusion-xl"] if sdxl else []), job.network.method, "diffusers", *words]
    subsets = [subset.class_tokens for subset in job.subsets() if not subset.is_reg and subset.class_tokens]
    instance = job.metadata.trigger_phrase or (subsets[0] if subsets and "{" not in subsets[0] else "")
    lines = ["---", "pipeline_tag: text-to-image"]
    if base := hub_id(ready, sdxl):
        lines += [f"base_model: {quoted(base)}", "base_model_relation: adapter"]
    lines += license_lines(job.metadata.metadata_license or (SDXLS_LICENSE if base == SDXL_1 else ""))
    lines += ["tags:", *(f"- {quoted(tag)}" for tag in dict.fromkeys(tags) if tag)]
    if instance:
        lines.append(f"instance_prompt: {quoted(instance)}")
    if shown:
        lines.append("widget:")
    for shot, url in shown:
        lines.append(f"- text: {quoted(shot.prompt)}")
        if shot.negative_prompt:
            lines += ["  parameters:", f"    negative_prompt: {quoted(shot.negative_prompt)}"]
        lines += ["  output:", f"    url: {quoted(url)}"]
    return "\n".join([*lines, "---"])


def license_lines(name: str) -> list[str]:
    """Returns the lines that name the licence; one that the hub does not know is "other", with its name beside it."""
    if not name:
        return []
    if name.lower() in LICENSES:
        return [f"license: {name.lower()}"]
    slug = re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-")
    return ["license: other", f"license_name: {quoted(slug or 'other')}"]


def hub_id(ready: Ready, sdxl: bool) -> str:
    """Returns the base's id on the hub, or "" where it has none that is known."""
    name = ready.job.model.pretrained_model_name_or_path
    if is_hub_id(name):
        return name
    return KNOWN_BASES.get(base_name(ready.job), "") if sdxl else ""


def usage(ready: Ready, sdxl: bool, shown: Sequence[tuple[Shot, str]], prediction: str) -> str:
    """Returns how the file is used in ComfyUI, in other UIs and from Python; UIs load no base that is not SDXL."""
    name, use = ready.job.save.output_name, registry.of(ready.job.network).USAGE
    prompt = shown[0][0].prompt if shown else ready.job.metadata.trigger_phrase or "a photo"
    source = json.dumps(hub_id(ready, sdxl) or f"path or hub id of {base_name(ready.job)}", ensure_ascii=False)
    python = [
        f"**diffusers**{use.needs}:\n",
        "```python",
        "import torch",
        *use.imports,
        "from diffusers import StableDiffusionXLPipeline\n",
        f"pipe = StableDiffusionXLPipeline.from_pretrained({source}, torch_dtype=torch.float16)",
        *use.filled(use.code, name),
        f'image = pipe.to("cuda")({json.dumps(prompt, ensure_ascii=False)}).images[0]',
        "```",
    ]
    lines = ["## How to use it\n", *(use.filled(use.interfaces, name) if sdxl else []), *(python if use.code else [])]
    if prediction == "v_prediction":
        lines.insert(1, "The base predicts velocity (v-prediction): say so where your UI does not see it.\n")
    return "\n".join(lines)


def job_hint(ready: Ready) -> str:
    """Returns where the whole job can be read, if the file holds it."""
    if ready.job.metadata.no_metadata:
        return ""
    command = registry.of(ready.job.network).USAGE.inspect.format(name=f"{ready.job.save.output_name}.safetensors")
    return f"The whole job is in the file{f': `{command}`' if command else ', in its header, under `waveft.job`'}."


def gallery(shown: Sequence[tuple[Shot, str]]) -> str:
    """Returns the pictures one after the other."""
    return "\n".join(f"![{plain(shot.prompt)}]({url})" for shot, url in shown)


def markdown_table(rows: Sequence[tuple[str, str]]) -> str:
    """Returns a table of two columns."""
    return "\n".join(["| | |", "|---|---|", *(f"| {plain(key)} | {plain(value)} |" for key, value in rows)])


def link(path: Path, folder: Path) -> str:
    """Returns the file's address as seen from the card."""
    return quote(path.resolve().relative_to(folder.resolve()).as_posix())


def quoted(text: str) -> str:
    """Returns the text as a YAML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f").replace("\x85", "\\x85")


def plain(text: str) -> str:
    """Returns the text so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", html.escape(escaped(" ".join(text.split())), quote=False))


def prose(text: str) -> str:
    """Returns free text so that Markdown shows it as it is, lines and paragraphs kept: no markup, no second head."""
    paragraphs = (part.split("\n") for part in re.split(r"\n\s*\n", text.strip()))
    return "\n\n".join("  \n".join(map(line_of_text, lines)) for lines in paragraphs)


def line_of_text(line: str) -> str:
    """Returns one line of free text, with an escape where it would begin a list, a rule or a heading."""
    return re.sub(r"^(\d*)([-+=>.)])", r"\1\\\2", plain(line))


def code(text: str) -> str:
    """Returns the text as inline code, whatever backticks it holds."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{escaped(' '.join(text.split()))}{pad}{fence}"
