"""What the UI runs at its start: our hooks, put in once, whatever "Reload UI" runs again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from . import axes, cards, settings, tab
from .families.find import find
from .families.forge import tell_block_weights
from .gate import Gate
from .messages import say
from .panel import script_class
from .places import Places
from .workshop import Workshop

GATE: Gate | None = None  # of this process


def register() -> None:
    """Puts WaveFT into whatever this UI has; a second time takes the first one's place."""
    global GATE
    family = find()
    if family is None:
        say(
            "the UI's own Lora extension: expected it, got none that we know, so nothing is loaded. Switch Lora on "
            "under Extensions, then restart the UI; docs/webui.md lists the UIs that we know."
        )
        return
    networks, lora = sys.modules["networks"], sys.modules["extra_networks_lora"]
    from modules import shared

    GATE = family.gate = Gate(family, networks, shared)
    GATE.install(lora.ExtraNetworkLora)
    cards.mend(sys.modules["network"], networks)
    settings.register(shared)
    _register_callbacks()
    say(f"ready for {family.title}: Python {sys.version.split()[0]}, torch {torch.__version__}")


def panel() -> type | None:
    """Returns the class that the UI finds in our script and makes an accordion of; None where nothing is loaded."""
    if GATE is None:
        return None
    import gradio
    from modules import scripts

    return script_class(scripts, gradio, lambda: GATE)


def _register_callbacks() -> None:
    from modules import script_callbacks, scripts

    def before_ui(*_: Any) -> None:  # when the others' scripts have been loaded too
        tell_block_weights(scripts.scripts_data)
        axes.add(scripts.scripts_data)
        _make_temp_dir()

    def tabs() -> list[Any]:  # only where there is a page
        import gradio
        from modules import extra_networks, sd_models, shared, ui_common

        assert GATE is not None
        places = Places(shared, sd_models, GATE.networks, GATE.entry)
        return tab.build(gradio, ui_common.create_refresh_button, Workshop(places, extra_networks.parse_prompt))

    axes.add(scripts.scripts_data)  # A1111 without its page lists them before that call; scripts of its own come first
    script_callbacks.on_before_ui(before_ui)
    script_callbacks.on_ui_tabs(tabs)


def _make_temp_dir() -> None:
    """Makes the folder that the page puts pictures such as ours into: Forge Neo's is made by its webui.bat alone."""
    from modules import shared

    folder = getattr(shared.opts, "temp_dir", "")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
