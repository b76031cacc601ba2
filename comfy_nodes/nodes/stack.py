"""The node that lists several files, to be applied at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import folders, widgets
from ..api import io
from ..sockets import WAVEFT_STACK, Row

ROWS = 8


class WaveFTStack(io.ComfyNode):
    """WaveFT Stack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        return io.Schema(
            node_id="WaveFTStack",
            display_name="WaveFT Stack",
            category="WaveFT",
            description=f"Lists up to {ROWS} adapters and their strengths. Stacks can be chained.",
            inputs=[
                *(widget for number in range(1, ROWS + 1) for widget in _row(number)),
                WAVEFT_STACK.Input("previous", optional=True, tooltip="A stack whose rows come before these."),
            ],
            outputs=[WAVEFT_STACK.Output("stack", display_name="WAVEFT_STACK", tooltip="The rows that are enabled.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        adapter_1: str | None = None,
        enabled_1: bool | None = None,
        adapter_2: str | None = None,
        enabled_2: bool | None = None,
        adapter_3: str | None = None,
        enabled_3: bool | None = None,
        adapter_4: str | None = None,
        enabled_4: bool | None = None,
        adapter_5: str | None = None,
        enabled_5: bool | None = None,
        adapter_6: str | None = None,
        enabled_6: bool | None = None,
        adapter_7: str | None = None,
        enabled_7: bool | None = None,
        adapter_8: str | None = None,
        enabled_8: bool | None = None,
    ) -> bool | str:
        """Returns True, or why a file of a row in use cannot be loaded.

        The names are written out: `**inputs` would switch off ComfyUI's own checks of the strengths.
        """
        given = locals()
        return folders.checked(*(name for name, _ in _enabled(given)))

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> str | float:
        """Returns what changes when a file of a row in use is written anew."""
        return folders.fingerprint(*(name for name, _ in _enabled(inputs)))

    @classmethod
    def execute(cls, previous: tuple[Row, ...] = (), **inputs: Any) -> io.NodeOutput:
        """Returns the stack, its files read; rows of strength 0 stay, as a strength may be linked."""
        rows = tuple(Row(folders.read(name), strength) for name, strength in _enabled(inputs))
        return io.NodeOutput((*previous, *rows))


def _row(number: int) -> list[Any]:
    return [
        io.Combo.Input(
            f"adapter_{number}",
            options=[widgets.NONE, *folders.choices()],
            default=widgets.NONE,
            tooltip=f'The file of row {number}; "{widgets.NONE}" leaves the row empty.',
        ),
        widgets.strength(f"strength_{number}", f"How strongly the file of row {number} is applied: 1 as trained."),
        io.Boolean.Input(
            f"enabled_{number}", default=True, tooltip=f"Turns row {number} off without forgetting its file."
        ),
    ]


def _enabled(inputs: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yields the name and strength of each row in use; what is linked is None or missing before the graph runs."""
    for number in range(1, ROWS + 1):
        name, enabled = inputs.get(f"adapter_{number}"), inputs.get(f"enabled_{number}")
        if name != widgets.NONE and enabled is not False:
            yield name, inputs.get(f"strength_{number}")
