"""The node that trains an adapter."""

from __future__ import annotations

from typing import Any

from .. import messages, widgets
from ..api import io, ui
from ..core import WaveFTError
from ..sockets import WAVEFT
from ..training import paths, train
from ..training.job import Wanted

LARGEST_SEED = 2**32 - 1


class WaveFTTrain(io.ComfyNode):
    """WaveFT Train."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Returns the node's inputs, outputs and texts. Saved workflows hold widgets by position: only ever append."""
        return io.Schema(
            node_id="WaveFTTrain",
            display_name="WaveFT Train",
            category="WaveFT",
            description=(
                "Trains an adapter on a folder of pictures, in a process of its own, and returns it. Cancelling saves "
                "what was trained, and the next run goes on from there. Everything is written to "
                "output/waveft/training. Training needs more packages than the other nodes: the help page says which."
            ),
            is_output_node=True,
            is_experimental=True,
            inputs=[*_of_what(), *_how_long(), *_how(), *_run()],
            outputs=[
                WAVEFT.Output("trained", display_name="WAVEFT", tooltip="The adapter."),
                widgets.report("What was trained, by which Python, and where the files are."),
                io.Image.Output(
                    "samples", display_name="IMAGE", tooltip="The last samples; a grey picture without sample_prompt."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, image_folder: str | None = None) -> bool | str:
        """Returns True, or what is wrong with the folder; None is linked.

        ComfyUI repeats the answer for every input that is named here. The rest is told by `execute`, at once.
        """
        try:
            if image_folder is not None:
                paths.pictures(image_folder)
        except WaveFTError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, checkpoint_name: str | None = None, image_folder: str | None = None, **_inputs: Any
    ) -> str | float:
        """Returns what changes when the base, a picture or a caption does; NaN, which equals nothing, while linked."""
        if checkpoint_name is None or image_folder is None:
            return float("nan")
        return paths.stamp(checkpoint_name, image_folder)

    @classmethod
    def execute(cls, python: str, resume: bool, **settings: Any) -> io.NodeOutput:
        """Returns the adapter, the report and the samples.

        Raises:
            WaveFTError: base, pictures, Python or settings will not do, or the training failed.
        """
        hidden = cls.hidden
        carried, report, samples = train.train(
            Wanted(**settings), python, resume, lambda text: messages.show(hidden, text)
        )
        messages.show(hidden, report)
        shown = {**ui.PreviewImage(samples, cls=cls).as_dict(), **ui.PreviewText(report).as_dict()}
        return io.NodeOutput(carried, report, samples, ui=shown)


def _of_what() -> list[Any]:
    return [
        io.Combo.Input(
            "checkpoint_name",
            options=paths.bases(),
            tooltip="The SDXL base: a .safetensors file in models/checkpoints, or a folder in models/diffusers.",
        ),
        io.String.Input(
            "image_folder",
            default="",
            tooltip="The folder of pictures: its whole path, or a folder inside ComfyUI's input folder. A text file of "
            "a picture's name (dog.txt for dog.png) is its caption.",
        ),
        io.String.Input(
            "trigger",
            default="a photo of sks dog",
            tooltip="The caption of pictures without a text file, and what {trigger} means in captions and prompts.",
        ),
    ]


def _how_long() -> list[Any]:
    return [
        io.Int.Input(
            "steps",
            default=500,
            min=1,
            max=10**6,
            tooltip="Optimizer steps, each of 4 times batch_size pictures. More than an earlier run's go on from it.",
        ),
        io.String.Input(
            "name",
            default="my-subject",
            tooltip="Name of the adapter and of its folder in output/waveft/training: letters, digits, - and _.",
        ),
        io.Int.Input(
            "resolution_px",
            default=1024,
            min=64,
            max=4096,
            step=32,
            tooltip="Pictures keep their aspect ratio, at about the area of a square of this side.",
        ),
    ]


def _how() -> list[Any]:
    return [
        io.Int.Input(
            "coefficients",
            default=2592,
            min=1,
            max=2**26,
            tooltip="Trained wavelet coefficients of each attention layer: 2592 is the paper's for SDXL.",
        ),
        io.Float.Input(
            "learning_rate",
            default=1e-4,
            min=1e-7,
            max=1.0,
            step=1e-6,
            tooltip="How far a step goes; 0.0001 is the paper's.",
        ),
        io.Float.Input(
            "scaling",
            default=25.0,
            min=0.01,
            max=10000.0,
            step=0.01,
            tooltip="More learns the subject faster and lets more of the base drift; 25 is the paper's.",
        ),
        io.Int.Input(
            "batch_size",
            default=1,
            min=1,
            max=64,
            tooltip="Pictures at a time: more need more memory, and train better.",
        ),
        io.Int.Input(
            "seed",
            default=42,
            min=0,
            max=LARGEST_SEED,
            control_after_generate=False,
            tooltip="Of the order of pictures, the noise and the samples. Another seed is another training.",
        ),
    ]


def _run() -> list[Any]:
    return [
        io.String.Input(
            "sample_prompt",
            default="",
            multiline=True,
            tooltip="Drawn before training, at each quarter and after; one prompt a line, {trigger} is filled in. "
            "Empty for no samples.",
        ),
        io.String.Input(
            "python",
            default="",
            tooltip="Empty for the Python of the environment variable WAVEFT_PYTHON, else WaveFT's own .venv, else "
            "ComfyUI's. Or the path of one of these.",
        ),
        io.Boolean.Input(
            "resume",
            default=True,
            tooltip="Goes on with an interrupted run of that name; a finished one of the same settings and pictures is "
            "loaded, not trained again. Off: begins anew and replaces what is there.",
        ),
    ]
