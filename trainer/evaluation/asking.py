"""Which prompts a run is asked: some of its subject, some that have nothing to do with it. Torch is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..job.schema import Job, Prompt
from ..pictures import captions
from ..pictures.picture import Picture
from ..samples import prompts
from ..samples.prompts import Shot

# Words that SDXL and the nano base both know.
SUBJECT = (
    "{trigger}",
    "{trigger} on the grass",
    "{trigger} in the snow",
    "{trigger} on the beach",
    "{trigger} on a wooden table",
    "{trigger} at night",
    "{trigger} in front of a brick wall",
    "{trigger} on a blue background",
)
PLAIN = (
    "a red cup on a wooden table",
    "a cat on the grass",
    "a house in the snow",
    "a yellow star on a black background",
)
PLAIN_CLASS = ("{class}", "{class} on the beach")  # where an adapter leaks first: what the subject is one of
MOST_CAPTIONS = 8

Key = tuple[int, int]  # a picture: its prompt's number and its seed


@dataclass(frozen=True)
class Asked:
    """A prompt.

    Attributes:
        number: among all of them.
        prompt: as it is drawn.
        read: as a CLIP reads it, which has never seen the trigger.
        is_plain: whether it has nothing to do with the subject's trigger.
    """

    number: int
    prompt: str
    read: str
    is_plain: bool


def trigger(job: Job, pictures: Sequence[Picture]) -> str:
    """Returns what calls the subject: the job's trigger phrase, or the one caption that all pictures share, or ""."""
    if job.metadata.trigger_phrase:
        return job.metadata.trigger_phrase
    texts = {picture.caption.plain() for picture in pictures if not picture.is_reg}
    return texts.pop() if len(texts) == 1 else ""


def class_word(job: Job, phrase: str) -> str:
    """Returns what the subject is without its trigger: the job's word, or the phrase without its first word."""
    return job.evaluation.class_word or phrase.partition(" ")[2]


def with_article(word: str) -> str:
    """Returns the word as a caption says it."""
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}" if word else ""


def asked(job: Job, pictures: Sequence[Picture]) -> list[Asked]:
    """Returns the prompts of the subject and then the plain ones, as the job says or by default."""
    phrase, settings = trigger(job, pictures), job.evaluation
    word = with_article(class_word(job, phrase))
    subject = list(settings.subject_prompts or (SUBJECT if phrase else shared_captions(pictures)))
    plain = list(settings.plain_prompts or (*PLAIN, *(PLAIN_CLASS if word else ())))
    said = {"full": phrase, "class": word, "without_trigger": ""}[settings.prompt_text]
    found: list[Asked] = []
    for text, is_plain in [*((text, False) for text in subject), *((text, True) for text in plain)]:
        text = text.replace("{class}", word)
        drawn = captions.fill_trigger(text, phrase)
        found.append(Asked(len(found), drawn, drawn if is_plain else read_as(text, phrase, said), is_plain))
    return found


def read_as(text: str, phrase: str, said: str) -> str:
    """Returns a prompt with what is said for the trigger, written as its mark or as it is; "" where nothing is left."""
    marked = text if captions.has_trigger(text) or not phrase else text.replace(phrase, captions.TRIGGERS[0])
    return " ".join(captions.fill_trigger(marked, said).split()).strip(" ,")


def shared_captions(pictures: Sequence[Picture]) -> list[str]:
    """Returns the first captions of the pictures, for a run without a trigger."""
    texts = dict.fromkeys(picture.caption.plain() for picture in pictures if not picture.is_reg)
    return [text for text in texts if text][:MOST_CAPTIONS]


def shots(job: Job, questions: Sequence[Asked], resolution: tuple[int, int]) -> dict[Key, Shot]:
    """Returns the picture to draw of each prompt and seed, steps, sampler and size those of [sample]."""
    first, found = job.evaluation.first_seed, {}
    for one in questions:
        for seed in range(first, first + job.evaluation.images_per_prompt):
            found[one.number, seed] = prompts.shot(Prompt(prompt=one.prompt, seed=seed), job, resolution, 0)
    return found
