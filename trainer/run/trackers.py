"""Who is told of a run beside its own log: TensorBoard and wandb. Neither is needed, and neither ever stops a run.

Torch and the trackers themselves are imported when they are made.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..job.schema import Logging
from ..system import commandline
from ..system.console import say
from ..system.errors import UserError, reason

if TYPE_CHECKING:
    from ..samples.sampling import Drawn

ALL = ("tensorboard", "wandb")  # by their packages' names too


class Tracker(Protocol):
    """One that is told of the run."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def pictures(self, step: int, drawn: Sequence[Drawn]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """A folder of event files; `tensorboard --logdir` shows it."""

    def __init__(self, folder: Path, job_table: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # a run that was resumed does later steps again: what was noted of them before is hidden
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        self.writer.add_text("job", f"```\n{json.dumps(job_table, indent=2, default=str)}\n```", step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def pictures(self, step: int, drawn: Sequence[Drawn]) -> None:
        import numpy as np

        for number, sample in enumerate(drawn, 1):
            pixels = np.asarray(sample.image.convert("RGB"))  # [height, width, 3]
            self.writer.add_image(f"samples/{number:02d}", pixels, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of wandb, online, offline or off as its own environment variables say."""

    def __init__(self, folder: Path, logging: Logging, name: str, job_table: Mapping[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=logging.log_tracker_name,
            name=logging.wandb_run_name or name,
            dir=str(folder),
            config=dict(job_table),
        )
        self.image = wandb.Image

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def pictures(self, step: int, drawn: Sequence[Drawn]) -> None:
        shown = {
            f"samples/{number:02d}": self.image(sample.image, caption=sample.shot.prompt)
            for number, sample in enumerate(drawn, 1)
        }
        self.run.log(shown, step=step)

    def close(self) -> None:
        self.run.finish()


class Trackers:
    """All the trackers of a run; one that fails is dropped, with a notice. A context manager: it closes them.

    Args:
        trackers: by name; none is fine.
        notice: told of each that was dropped.
    """

    def __init__(self, trackers: Mapping[str, Tracker], notice: Callable[[str], None] = say) -> None:
        self._trackers, self._notice = dict(trackers), notice

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._trackers)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Tells numbers after a step, by their names."""
        self._each(lambda tracker: tracker.log(step, values))

    def pictures(self, step: int, drawn: Sequence[Drawn]) -> None:
        """Tells samples after a step; they keep their order, so that the same one is compared over time."""
        if drawn:
            self._each(lambda tracker: tracker.pictures(step, drawn))

    def close(self) -> None:
        """Ends them; nothing can be told any more."""
        self._each(lambda tracker: tracker.close())
        self._trackers.clear()

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                tell(tracker)
            except Exception as error:  # noqa: BLE001 - whatever a foreign library raises, training needs none of it
                del self._trackers[name]
                self._notice(f"{name}: failed ({reason(error)}) and is told nothing more. Training goes on.")


def chosen(logging: Logging) -> tuple[str, ...]:
    """Returns the names of the trackers that the job asks for."""
    if logging.log_with == "none":
        return ()
    return ALL if logging.log_with == "all" else (logging.log_with,)


def check(logging: Logging) -> list[str]:
    """Returns a fault for each tracker that is asked for and not installed; imports none of them."""
    return [
        f'[logging] log_with "{logging.log_with}": {name} is not installed. Run: {commandline.install(name)}'
        for name in chosen(logging)
        if not installed(name)
    ]


def installed(name: str) -> bool:
    """Returns whether a package can be imported; a folder of its name, as wandb leaves one, is none."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None


def make(
    logging: Logging,
    output_dir: Path,
    name: str,
    job_table: Mapping[str, Any],
    step: int = 0,
    notice: Callable[[str], None] = say,
) -> Trackers:
    """Returns the trackers that the job asks for, begun.

    Args:
        logging: the job's section.
        output_dir: of the run; the trackers' files are in its `logs`, unless the job says otherwise.
        name: of the run.
        job_table: what is shown of the job: nothing private.
        step: optimizer steps that a resumed run has behind it.
        notice: told when one fails later.

    Raises:
        UserError: one is not installed, or refuses to begin.
    """
    if faults := check(logging):
        raise UserError(faults)
    folder = Path(logging.logging_dir) if logging.logging_dir else output_dir / "logs"
    made = Trackers({}, notice)
    for one in chosen(logging):
        try:
            made._trackers[one] = (
                TensorBoard(folder / logging.log_tracker_name / name, job_table, step)
                if one == "tensorboard"
                else Wandb(folder, logging, name, job_table)
            )
        except Exception as error:  # its own kinds of error, which only it knows
            made.close()
            how = (
                "Log in (wandb login), or set WANDB_MODE=offline." if one == "wandb" else "Check [logging] logging_dir."
            )
            raise UserError(
                f'[logging] log_with "{logging.log_with}": {one} cannot begin ({reason(error)}). {how}'
            ) from error
    return made
