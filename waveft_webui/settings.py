"""The section "WaveFT" of the UI's settings."""

from __future__ import annotations

from typing import Any

CONSOLE, FACTORS, PLANS_MIB = "waveft_console", "waveft_factors", "waveft_plans_mib"
DEFAULTS: dict[str, Any] = {CONSOLE: True, FACTORS: "", PLANS_MIB: 256}


def register(shared: Any) -> None:
    """Adds our section.

    Args:
        shared: the UI's module, which holds the settings.
    """
    option = shared.OptionInfo
    shared.options_templates.update(
        shared.options_section(
            ("waveft", "WaveFT"),
            {
                CONSOLE: option(DEFAULTS[CONSOLE], "Say on the console which WaveFT adapters a picture is drawn with"),
                FACTORS: option(
                    DEFAULTS[FACTORS],
                    "Multipliers for every WaveFT adapter, as in a tag but with spaces: dd=0.5 attn2=0.8",
                ),
                PLANS_MIB: option(
                    DEFAULTS[PLANS_MIB], "Memory for changing strengths quickly, on the device (MiB; 0 for none)"
                ),
            },
        )
    )


def value(shared: Any, name: str) -> Any:
    """Returns a setting as it is now, its default where the UI does not know it yet."""
    return getattr(getattr(shared, "opts", None), name, DEFAULTS[name])
