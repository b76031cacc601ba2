"""The node that lists several files, to be applied at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import folders, widgets
from ..adapters import describe
from ..api import io
from ..core import WaveFTError
from ..sockets import WAVEFT_STACK, Row

ROWS = 8


class WaveFTStack(io.ComfyNode):
    """WaveFT Stack."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts."""
        names = folders.choices()
        return io.Schema(
            node_id="WaveFTStack",
            display_name="WaveFT Stack",
            category="WaveFT",
            description=f"Lists up to {ROWS} adapters and their strengths. Stacks can be chained.",
            inputs=[
                *(widget for number in range(1, ROWS + 1) for widget in _row(number, names)),
                WAVEFT_STACK.Input("previous", optional=True, tooltip="A stack whose rows come before these."),
            ],
            outputs=[
                WAVEFT_STACK.Output("stack", display_name="WAVEFT_STACK", tooltip="The rows that are in use."),
                widgets.report("The rows that are in use, and what their files were trained for."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> str | float:
        """Returns what changes when a file of a row in use is written anew."""
        return folders.fingerprint(*(name for _, name, _ in _enabled(inputs)))

    @classmethod
    def execute(cls, previous: tuple[Row, ...] = (), **inputs: Any) -> io.NodeOutput:
        """Returns the stack, its files read, and the report.

        Files are checked here and not by `validate_inputs`: ComfyUI repeats what that says for each of the inputs that
        it looks at, which are sixteen.

        Raises:
            WaveFTError: a file of a row in use cannot be loaded; it names the row.
        """
        rows = (*previous, *(_read(number, name, strength) for number, name, strength in _enabled(inputs)))
        return io.NodeOutput(rows, "\n".join(_told(row) for row in rows) or "no row is in use")


def _row(number: int, names: list[str]) -> list[Any]:
    return [
        io.Combo.Input(
            f"adapter_{number}",
            options=[widgets.NONE, *names],
            default=widgets.NONE,
            tooltip=f'The file of row {number}; "{widgets.NONE}" leaves the row empty.',
        ),
        widgets.strength(f"strength_{number}", f"How strongly the file of row {number} is applied: 1 as trained."),
        io.Boolean.Input(
            f"enabled_{number}", default=True, tooltip=f"Turns row {number} off without forgetting its file."
        ),
    ]


def _enabled(inputs: dict[str, Any]) -> Iterator[tuple[int, Any, Any]]:
    """Yields the number, name and strength of each row in use; what is linked is None or missing before it is known."""
    for number in range(1, ROWS + 1):
        name, enabled = inputs.get(f"adapter_{number}"), inputs.get(f"enabled_{number}")
        if name != widgets.NONE and enabled is not False:
            yield number, name, inputs.get(f"strength_{number}")


def _read(number: int, name: str, strength: float) -> Row:
    try:
        return Row(folders.read(name), strength)
    except WaveFTError as error:
        raise WaveFTError(f"row {number}: {error}") from None


def _told(row: Row) -> str:
    carried = row.carried
    return f"{row.strength:g} * {carried.title}: {', '.join(describe.facts(carried.adapter))}"
