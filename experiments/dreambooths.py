"""DreamBooth's own list of subjects and prompts, where it lies beside the photographs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer.comparison import cells
from trainer.job.schema import Job
from trainer.pictures import folders

TOKEN = "zjw"  # the paper's
LIVE = ("cat", "dog")  # classes that are asked the live subjects' prompts
ONE, LIVE_FILE, OBJECT_FILE = "prompts_and_classes.txt", "prompts_and_classes_live.txt", "prompts_and_classes_obj.txt"
SUBJECT = "{0} {1}"  # in their prompts: the token and the class
PROMPT = re.compile(r"""['"]([^'"\n]*\{0\} \{1\}[^'"\n]*)['"]""")
CLASS = re.compile(r"^([A-Za-z0-9_]+),([A-Za-z ]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Catalogue:
    """What the list says.

    Attributes:
        classes: subject's folder -> its class.
        live: the prompts of live subjects, `{0} {1}` for token and class.
        objects: the same of objects.
    """

    classes: Mapping[str, str]
    live: tuple[str, ...]
    objects: tuple[str, ...]

    def prompts(self, subject: str) -> list[str]:
        """Returns a subject's prompts, the trigger as its mark."""
        found = self.live if self.classes.get(subject, subject) in LIVE else self.objects
        return [prompt.replace(SUBJECT, "{trigger}") for prompt in found]


def read(folder: Path) -> Catalogue | None:
    """Returns the list that lies in a folder: one file, or one for each kind; None where there is none."""
    whole, parts = folder / ONE, [folder / LIVE_FILE, folder / OBJECT_FILE]
    if whole.is_file():
        text = whole.read_text(encoding="utf-8", errors="replace")
        objects, _, live = text.partition("Live Subject Prompts")
    elif all(path.is_file() for path in parts):
        live, objects = (path.read_text(encoding="utf-8", errors="replace") for path in parts)
        text = objects + "\n" + live
    else:
        return None
    return Catalogue(dict(CLASS.findall(text)), *(tuple(PROMPT.findall(part)) for part in (live, objects)))


def subjects(job: Job, folder: Path) -> list[tuple[str, Job]]:
    """Returns each subject of a folder of folders with its job, in DreamBooth's words where its list is there."""
    found = cells.subjects(job, folder)
    catalogue = read(folder)
    if catalogue is None:
        return found
    names = {cells.plain(inside.name) for inside in folders.folders_in(folder)}
    return [(name, asked(own, name, catalogue)) for name, own in found if cells.plain(name) in names]


def asked(job: Job, subject: str, catalogue: Catalogue) -> Job:
    """Returns a subject's job with DreamBooth's class and prompts, and the paper's token and captions."""
    word = catalogue.classes.get(subject, subject.replace("_", " "))
    subset = job.datasets[0].subsets[0].model_copy(update={"class_tokens": "a {trigger}"})
    return job.model_copy(
        update={
            "datasets": [job.datasets[0].model_copy(update={"subsets": [subset]})],
            "metadata": job.metadata.model_copy(update={"trigger_phrase": f"{TOKEN} {word}"}),
            "evaluation": job.evaluation.model_copy(
                update={"class_word": word, "subject_prompts": catalogue.prompts(subject)}
            ),
        }
    )
