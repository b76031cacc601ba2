"""The cards of the Lora tab: which model a file is for.

A1111 and its kin take a file that has metadata, but does not say `ss_base_model_version`, for SD 1.5, and hide it where
an SDXL model is loaded. Ours say it since 0.2; of older ones, and those that other tools wrote, the layers tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .core import WaveFTError, is_sdxl, is_waveft
from .files import read
from .gate import wrapped


def mend(network: Any, networks: Any) -> None:
    """Has the UI take WaveFT files with SDXL's layers for SDXL's.

    Args:
        network, networks: its Lora extension's modules.
    """
    versions = getattr(network, "SdVersion", None)
    on_disk = network.NetworkOnDisk
    if versions is None or not hasattr(versions, "SDXL") or not hasattr(on_disk, "detect_version"):
        return

    def detect_version(original: Callable[[Any], Any], entry: Any) -> Any:
        found = original(entry)
        return versions.SDXL if found is not versions.SDXL and _shows_sdxl(entry) else found

    on_disk.detect_version = wrapped(on_disk.detect_version, detect_version)
    for entry in networks.available_networks.values():  # they were listed before we came
        entry.sd_version = entry.detect_version()


def _shows_sdxl(entry: Any) -> bool:
    if "waveft" not in (entry.metadata or {}) or not is_waveft(entry.filename):
        return False
    try:
        return is_sdxl(read(entry.filename, entry.name).whole.layers)
    except WaveFTError:  # damaged: it says so when it is used
        return False
