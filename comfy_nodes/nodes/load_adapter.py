"""The node that reads an adapter without applying it."""

from __future__ import annotations

from typing import Any

from .. import folders, widgets
from ..adapters import describe
from ..api import io
from ..sockets import WAVEFT


class WaveFTLoadAdapter(io.ComfyNode):
    """Load WaveFT Adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTLoadAdapter",
            display_name="Load WaveFT Adapter",
            category="WaveFT",
            description="Reads an adapter, to be scaled, combined, inspected, or applied by other nodes.",
            inputs=[widgets.adapter_name()],
            outputs=[
                WAVEFT.Output("loaded", display_name="WAVEFT", tooltip="The adapter."),
                widgets.report("What the file holds and what it was trained for."),
            ],
        )

    @classmethod
    def validate_inputs(cls, adapter_name: str | None = None) -> bool | str:
        """Returns True, or why the file cannot be loaded."""
        return folders.checked(adapter_name)

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str | None = None, **_inputs: Any) -> str | float:
        """Returns what changes when the file is written anew."""
        return folders.fingerprint(adapter_name)

    @classmethod
    def execute(cls, adapter_name: str) -> io.NodeOutput:
        """Returns the adapter and the report."""
        carried = folders.read(adapter_name)
        return io.NodeOutput(carried, describe.adapter(carried))
