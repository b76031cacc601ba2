"""Methods whose files no UI loads: what HF PEFT's own folders hold, for diffusers and transformers."""

from __future__ import annotations

from typing import Any

import torch

from .injected import ADAPTER, Injected

DROPPED = ("auto_mapping", "base_model_name_or_path", "revision")  # of PEFT's settings: where a run had its base


class Foldered(Injected):
    """PEFT's layers, whose file goes into folders that PEFT loads too."""

    def folders(self) -> dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]:
        """Returns each component's configuration and tensors, copied."""
        found = {}
        for component, model in self.components():
            tensors: dict[str, torch.Tensor] = {
                f"base_model.model.{site.place}.{part}": parameter
                for site in self.sites
                if site.component == component
                for part, parameter in site.parts.items()
            } | {f"base_model.{name}": held for name, held in self.method.shared(model).items()}
            copied = {name: held.detach().to("cpu", copy=True) for name, held in tensors.items()}
            found[component] = (configuration(model.peft_config[ADAPTER]), copied)
        return found


def configuration(config: Any) -> dict[str, Any]:
    """Returns PEFT's settings as its folder has them, sets in order, nothing private in it."""
    held = {key: value for key, value in config.to_dict().items() if key not in DROPPED}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in held.items()}
    return {**plain, "inference_mode": True, "base_model_name_or_path": None}
