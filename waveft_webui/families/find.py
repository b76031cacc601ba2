"""Which family this UI is of, by what can be imported in it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from ..gate import Family
from . import adapters, forge
from .a1111 import A1111
from .forge import ForgeFamily


def find() -> Family | None:
    """Returns the family's way, its hooks in place; None where the UI's Lora extension is switched off."""
    networks = sys.modules.get("networks")
    if networks is None or not hasattr(networks, "load_networks"):
        return None
    family = _forge(networks) if hasattr(networks, "load_lora_state_dict") else _a1111(networks)
    if family is not None:
        family.install()
    return family


def _a1111(networks: Any) -> Family | None:
    if not hasattr(networks, "module_types"):
        return None
    return A1111(networks, sys.modules["network"], importlib.import_module("modules.shared"))


def _forge(networks: Any) -> Family | None:
    models = importlib.import_module("modules.sd_models")
    if _exists("backend.patcher.lora"):
        lora = importlib.import_module("backend.patcher.lora")
        if hasattr(lora, "lora_collection_priority"):
            forge.install_forge(lora)
            return ForgeFamily("Forge", networks, models, lora)
        if not hasattr(lora, "weight_adapter"):  # Forge Neo's first months
            return None
        adapters.install(lora.weight_adapter)
        return ForgeFamily("Forge Neo", networks, models, lora)
    if not _exists("ldm_patched.modules.lora"):
        return None
    lora = importlib.import_module("ldm_patched.modules.lora")
    if _exists("ldm_patched.modules.weight_adapter"):
        adapters.install(importlib.import_module("ldm_patched.modules.weight_adapter"))
        return ForgeFamily("reForge", networks, models, lora)
    patcher = importlib.import_module("ldm_patched.modules.model_patcher")
    if not hasattr(patcher, "extra_weight_calculators"):
        return None
    forge.install_classic(lora, patcher)
    return ForgeFamily("Forge Classic", networks, models, lora)


def _exists(name: str) -> bool:
    """Says whether a module can be imported, without importing more than its parents."""
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
