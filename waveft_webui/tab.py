"""The tab "WaveFT": the page in front of `workshop`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .core import WaveFTError, wavelets
from .describing import preformatted
from .messages import say
from .workshop import BUDGETS, Tell, Workshop

TITLE, NAME = "WaveFT", "waveft"
PROMPT = "Adapters and strengths, as in a prompt: <lora:dog:0.8>, also te=, unet= and multipliers"
PAPERS_BUDGET = 2592


def build(gradio: Any, refresh_button: Callable[..., Any], work: Workshop) -> list[tuple[Any, str, str]]:
    """Returns what the UI makes a tab of.

    Args:
        gradio: 3.41 or 4.
        refresh_button: the UI's own, `ui_common.create_refresh_button`.
    """
    page = _Page(gradio, refresh_button, work)
    with gradio.Blocks(analytics_enabled=False) as blocks, gradio.Tabs(elem_id="waveft_tools"):
        for title, tool in (
            ("Merge into a checkpoint", page.merge),
            ("Combine", page.combine),
            ("Extract", page.extract),
            ("Inspect", page.inspect),
        ):
            with gradio.Tab(title, elem_id=f"waveft_{tool.__name__}"):
                tool()
    return [(blocks, TITLE, NAME)]


class _Page:
    def __init__(self, gradio: Any, refresh_button: Callable[..., Any], work: Workshop) -> None:
        self._gradio, self._refresh_button, self._work = gradio, refresh_button, work

    def merge(self) -> None:
        """Adapters into a checkpoint."""
        self._say("Writes a new checkpoint: every weight rounded once, all other tensors copied byte for byte.")
        checkpoint = self._chosen("Checkpoint to merge into", "merge", self._work.places.checkpoints)
        prompt = self._prompt("merge")
        name = self._name("Name of the new checkpoint")
        self._button("Merge", self._work.merge, [checkpoint, prompt, name])

    def combine(self) -> None:
        """Adapters into one."""
        self._say("Writes the weighted sum of adapters as one: the strengths become a part of it, and 1 is then all.")
        prompt = self._prompt("combine")
        convert = self._gradio.Checkbox(
            label="Rewrite adapters of another wavelet in the first one's (with a loss, which is said)", value=False
        )
        name = self._name("Name of the new adapter")
        self._button("Combine", self._work.combine, [prompt, convert, name])

    def extract(self) -> None:
        """An adapter out of a fine-tune."""
        self._say(
            "Writes the adapter that comes closest to the difference between a checkpoint and a fine-tune of it. Of "
            "checkpoints the UNet's attention is compared, of a LoRA all that it changes."
        )
        places = self._work.places
        checkpoint = self._chosen("Checkpoint that it was made of", "extract", places.checkpoints)
        tuned = self._chosen(
            "What was made of it: a checkpoint, a LoRA, LoHa, LoKr or full differences",
            "tuned",
            lambda: [*places.checkpoints(), *places.loras()],
            first=False,  # the loaded one would be the base itself
        )
        with self._gradio.Row():
            budget = self._gradio.Radio(list(BUDGETS), value=next(iter(BUDGETS)), label="Budget")
            amount = self._gradio.Number(value=PAPERS_BUDGET, label="Number, or share such as 0.9")
            wavelet = self._gradio.Dropdown(list(wavelets()), value="db1", label="Wavelet")
        name = self._name("Name of the extracted adapter")
        self._button("Extract", self._work.extract, [checkpoint, tuned, budget, amount, wavelet, name])

    def inspect(self) -> None:
        """What an adapter is."""
        chosen = self._chosen("Adapter to inspect", "inspect", self._work.places.adapters, first=False)
        button = self._gradio.Button("Inspect", variant="primary")
        text = self._gradio.HTML()
        picture = self._gradio.Image(show_label=False, interactive=False, type="pil")

        def inspected(name: str) -> tuple[str, Any]:
            told, drawn = _answer(lambda: self._work.inspect(name), lambda why: (why, None))
            return preformatted(told), drawn

        button.click(
            fn=inspected,
            inputs=[chosen],
            outputs=[text, picture],
        )

    def _say(self, text: str) -> None:
        self._gradio.Markdown(text)

    def _name(self, label: str) -> Any:
        return self._gradio.Textbox(label=label, lines=1, placeholder="without a folder; a new one")

    def _chosen(self, label: str, part: str, names: Callable[[], list[str]], first: bool = True) -> Any:
        with self._gradio.Row():
            found = names()
            made = self._gradio.Dropdown(found, value=found[0] if first and found else None, label=label)

            def choices() -> Mapping[str, Any]:
                return {"choices": names()}

            self._refresh_button(made, self._work.places.refresh, choices, f"waveft_refresh_{part}")
        return made

    def _prompt(self, part: str) -> Any:
        added = self._chosen("Add an adapter", f"{part}_added", self._work.places.adapters, first=False)
        prompt = self._gradio.Textbox(label=PROMPT, lines=2, elem_id=f"waveft_{part}_adapters")
        added.input(
            fn=lambda name, text: f"{text or ''} <lora:{name}:1>".strip() if name else text,
            inputs=[added, prompt],
            outputs=[prompt],
        )
        return prompt

    def _button(self, title: str, tool: Callable[..., str], inputs: list[Any]) -> None:
        with self._gradio.Row():
            button = self._gradio.Button(title, variant="primary")
            cancel = self._gradio.Button("Cancel", elem_id=f"waveft_{title.lower()}_cancel")
        report = self._gradio.Textbox(
            label="Report", lines=6, interactive=False, elem_id=f"waveft_{title.lower()}_report"
        )
        # gradio looks among the positional parameters for a default of this class, and gives the event's own for it
        shown, runs = self._gradio.Progress(), Runs()

        def run(progress: Any = shown, *given: Any) -> str:
            with runs.stoppable(bar(progress, title)) as tell:
                return _answer(lambda: tool(*given, tell), lambda why: f"Nothing was written. {why}")

        button.click(fn=run, inputs=inputs, outputs=[report])
        cancel.click(fn=runs.cancel, inputs=[], outputs=[], queue=False)  # it must not wait for what it stops


class Cancelled(Exception):
    """Somebody pressed Cancel: no file stands at its place yet, and the core takes its unfinished one away."""

    def __str__(self) -> str:
        return "It was cancelled."


class Runs:
    """What one part of the page is doing; its Cancel stops all of it, whoever began it, as the UIs' own Interrupt."""

    def __init__(self) -> None:
        self._asked: set[threading.Event] = set()

    @contextlib.contextmanager
    def stoppable(self, tell: Tell) -> Iterator[Tell]:
        """Gives a `tell` that ends what it is told of, once `cancel` was called."""
        asked = threading.Event()

        def told(count: int, total: int) -> None:
            if asked.is_set():
                raise Cancelled
            tell(count, total)

        self._asked.add(asked)
        try:
            yield told
        finally:
            self._asked.discard(asked)

    def cancel(self) -> None:
        """Ends what runs now, at the next layer or tensor."""
        for asked in list(self._asked):
            asked.set()


def bar(progress: Any, title: str) -> Tell:
    """Returns what is told of progress, and hands on every hundredth of it to gradio's."""
    done, shown = 0, -1

    def tell(count: int, total: int) -> None:
        nonlocal done, shown
        done += count
        share = min(1.0, done / total) if total else 0.0
        if int(share * 100) > shown:
            shown = int(share * 100)
            progress(share, desc=title)

    return tell


def _answer(work: Callable[[], Any], refusal: Callable[[str], Any]) -> Any:
    """Returns what a tool says, or why it did nothing: one message, on the page and on the console."""
    try:
        return work()
    except (WaveFTError, OSError, Cancelled) as error:
        say(str(error))
        return refusal(str(error))
