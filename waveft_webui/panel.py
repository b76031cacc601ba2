"""The accordion "WaveFT" below the prompt: what the last picture was drawn with, and where its energy lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .describing import described, preformatted
from .gate import Gate

NOTHING = "The last picture was drawn without a WaveFT adapter. Put one into the prompt: <lora:NAME:1>."


def script_class(scripts: Any, gradio: Any, gate: Callable[[], Gate | None]) -> type:
    """Returns the class that the UI makes the accordion of, in txt2img and in img2img.

    Args:
        scripts, gradio: the UI's module, and gradio.
        gate: returns the present one, which "Reload UI" replaces.
    """

    def show() -> tuple[str, Any]:
        return shown(gate())

    class WaveFTPanel(scripts.Script):
        """An always visible script without inputs: the API needs to say nothing of it."""

        def title(self) -> str:
            return "WaveFT"

        def show(self, is_img2img: bool) -> Any:
            return scripts.AlwaysVisible

        def ui(self, is_img2img: bool) -> list[Any]:
            with gradio.Accordion("WaveFT", open=False):
                button = gradio.Button("Show what the last picture was drawn with")
                text = gradio.HTML()
                picture = gradio.Image(show_label=False, interactive=False, type="pil")
            button.click(fn=show, inputs=[], outputs=[text, picture])
            return []

    return WaveFTPanel


def shown(gate: Gate | None) -> tuple[str, Any]:
    """Returns the text (HTML), and the energy picture (PIL, None for none) of the adapter named first."""
    if gate is None or not (gate.uses or gate.refused):
        return preformatted(NOTHING, wraps=True), None
    lines = [use.line() for use in gate.uses.values()]
    lines += [f"left out: {why}" for why in gate.refused.values()]
    said = preformatted("\n".join(lines), wraps=True)
    first = next((use.loaded for use in gate.uses.values() if use.loaded.adapter is not None), None)
    if first is None or first.adapter is None:
        return said, None
    text, picture = described(first.adapter, called=first.factors and first.title)
    return said + preformatted(f"{first.name}:\n{text}"), picture
