"""How a finished file is used, as model cards and file headers say it: in UIs, and from Python."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """Where a kind of file loads.

    Attributes:
        hint: one line, for the file's header.
        interfaces: lines of Markdown for UIs, with {file}, {bare} and {diff}, or none.
        needs: what Python needs beside diffusers, or "".
        imports: lines of Python before the base is loaded.
        inspect: command that shows the job that a file holds, with {name}, or "".
        code: lines of Python that put the file into `pipe`, with {file} or {folder}, or none.
    """

    hint: str
    interfaces: tuple[str, ...] = ()
    needs: str = ""
    imports: tuple[str, ...] = ()
    code: tuple[str, ...] = ()
    inspect: str = ""

    def filled(self, lines: tuple[str, ...], name: str) -> list[str]:
        """Returns lines with the names of a run's files in them, quoted as JSON, which both shells and Python read."""
        names = {
            "{file}": json.dumps(f"{name}.safetensors"),
            "{bare}": f"`{name}.safetensors`",
            "{diff}": json.dumps(f"{name}-diff.safetensors"),
            "{folder}": json.dumps(f"{name}-peft"),
        }
        made = list(lines)
        for mark, told in names.items():
            made = [line.replace(mark, told) for line in made]
        return made


OURS = Usage(
    hint="ComfyUI: the node Load WaveFT, or Load LoRA. Other UIs: python -m waveft_core convert FILE --to diff --out "
    "DIFF. diffusers: waveft_core.diffusers.load(pipe, FILE).",
    interfaces=(
        "**ComfyUI**: put {bare} into `models/loras`, and add the node *Load WaveFT* of the WaveFT pack",
        "(or *Load LoRA*).\n",
        "**A1111, Forge and others** load it after a conversion, with a clone of WaveFT:\n",
        "```sh",
        "python -m waveft_core convert {file} --to diff --out {diff}",
        "```\n",
    ),
    needs=", with `waveft_core` installed from the same clone (`pip install .`)",
    imports=("import waveft_core.diffusers",),
    code=("waveft_core.diffusers.load(pipe, {file}, strength=1.0)",),
    inspect="python -m waveft_core inspect {name} --json",
)
UIS = (
    "**ComfyUI**: put {bare} into `models/loras`, and add the node *Load LoRA*. **A1111, Forge and others**: put it",
    "into `models/Lora`.\n",
)
KOHYA = Usage(
    hint="ComfyUI, A1111, Forge: as any LoRA. diffusers: pipe.load_lora_weights(FILE).",
    interfaces=UIS,
    needs=", with peft",
    code=("pipe.load_lora_weights({file})",),
)
LYCORIS = Usage(hint="ComfyUI, A1111, Forge: as any LyCORIS file.", interfaces=UIS)
DIFFERENCES = Usage(hint="ComfyUI: the node Load LoRA.", interfaces=UIS[:1])
FOLDER = Usage(
    hint="diffusers and HF PEFT: the folder beside this file. UIs: the file that [save] save_diff = true writes.",
    needs=", with peft and the folder `-peft` of the same run",
    imports=("from peft import PeftModel",),
    code=("pipe.unet = PeftModel.from_pretrained(pipe.unet, {folder})",),
)
