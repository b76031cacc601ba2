"""A picture's caption: what was written for it, and the text that is encoded for one view of it. Pure text.

What is done to a caption, and in which order, is kohya's: whole-caption dropout, one line of several, prefix and
suffix, wildcards, then the tags (kept ones, warm-up, shuffle, dropout) and the secondary separator. Every draw is a
function of the seed and of the view's place in the run.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..system import rng

TRIGGERS = ("{trigger}", "[trigger]")
WILDCARD = re.compile(r"\{([^}]+)\}")
ESCAPED = (("{{", "\ue000", "{"), ("}}", "\ue001", "}"))  # as written, hidden meanwhile, as read
JOINER = ", "  # between tags, whatever separated them


def has_trigger(text: str) -> bool:
    """Returns whether the text asks for the job's trigger phrase."""
    return any(mark in text for mark in TRIGGERS)


def fill_trigger(text: str, trigger: str) -> str:
    """Returns the text with `{trigger}` and `[trigger]` replaced by the trigger phrase."""
    for mark in TRIGGERS:
        text = text.replace(mark, trigger)
    return text


def says_nothing(text: str, *separators: str) -> bool:
    """Returns whether a caption holds separators, marks and blanks alone: neither a word, a number nor a picture."""
    for separator in filter(None, separators):
        text = text.replace(separator, " ")
    return not any(unicodedata.category(letter) == "So" or unicodedata.category(letter)[0] in "LN" for letter in text)


class Tags(NamedTuple):
    """A caption's tags: those that stay in front, those that are shuffled and dropped, those that stay at the end."""

    kept: list[str]
    loose: list[str]
    last: list[str]

    @property
    def text(self) -> str:
        """All of them, joined."""
        return JOINER.join(self.kept + self.loose + self.last)


@dataclass(frozen=True)
class Rules:
    """What is done to a subset's captions: the keys of that name of `dataschema.Views`."""

    shuffle_caption: bool = False
    caption_separator: str = ","
    keep_tokens: int = 0
    keep_tokens_separator: str = ""
    secondary_separator: str = ""
    enable_wildcard: bool = False
    caption_prefix: str = ""
    caption_suffix: str = ""
    caption_dropout_rate: float = 0.0
    caption_dropout_every_n_epochs: int = 0
    caption_tag_dropout_rate: float = 0.0
    token_warmup_min: int = 1
    token_warmup_step: float = 0.0

    def tags(self, text: str) -> Tags | None:
        """Returns the text's tags, or None where nothing asks for it to be taken apart."""
        marker = self.keep_tokens_separator
        if marker and marker in text:
            front, _, rest = text.partition(marker)
            middle, _, end = rest.partition(marker)
            return Tags(self._split(front), self._split(middle), self._split(end))
        if not (self.shuffle_caption or self.caption_tag_dropout_rate or self.token_warmup_step):
            return None
        tags = self._split(text)
        return Tags(tags[: self.keep_tokens], tags[self.keep_tokens :], [])

    def _split(self, text: str) -> list[str]:
        return [tag.strip() for tag in text.split(self.caption_separator) if tag.strip()]

    def seen(self, count: int, step: int, steps: int) -> int:
        """Returns how many of `count` loose tags the warm-up shows in optimizer step `step` of `steps`."""
        over = self.token_warmup_step
        over = over if over >= 1 else math.floor(over * steps)
        if step >= over:
            return count
        return min(count, self.token_warmup_min + math.floor(step * (count - self.token_warmup_min) / over))

    def finished(self, text: str) -> str:
        """Returns the text with the secondary separator replaced, line breaks and runs of blanks made one blank."""
        if self.secondary_separator:
            text = text.replace(self.secondary_separator, self.caption_separator)
        return " ".join(text.split())


@dataclass(frozen=True)
class Caption:
    """What was written for one picture, and what is done to it.

    Attributes:
        lines: at least one; the trigger is filled in. Without `enable_wildcard` the first alone is used.
        rules: of its subset; the trigger is filled in.
    """

    lines: tuple[str, ...]
    rules: Rules = Rules()

    def plain(self) -> str:
        """Returns what is seen without any draw: the first line, each wildcard's first option, tags in their order."""
        text = self._worded(lambda purpose, place, count: 0)
        tags = self.rules.tags(text)
        return self.rules.finished(text if tags is None else tags.text)

    @property
    def varies(self) -> bool:
        """Whether a draw can give another text than `plain`; "" counts."""
        rules = self.rules
        if rules.enable_wildcard and (len(set(self.lines)) > 1 or self._has_options()):
            return True
        if self.plain() and (rules.caption_dropout_rate or rules.caption_dropout_every_n_epochs):
            return True
        tags = rules.tags(self._worded(lambda purpose, place, count: 0))
        if tags is None:
            return False
        return bool(
            (rules.shuffle_caption and len(set(tags.loose)) > 1)
            or (rules.caption_tag_dropout_rate and tags.loose)
            or (rules.token_warmup_step and len(tags.loose) > rules.token_warmup_min)
        )

    def draw(self, seed: int, step: int, index: int, epoch: int, steps: int) -> str:
        """Returns the final text of one view, "" where it is dropped: a function of the arguments alone.

        Args:
            seed: the run's.
            step: optimizer step, counted from 0.
            index: the view's place in the step's global batch.
            epoch: in which its turn came, counted from 0.
            steps: optimizer steps of the whole run, for a warm-up that is given as a part of it.
        """
        rules = self.rules
        every = rules.caption_dropout_every_n_epochs
        if every and (epoch + 1) % every == 0:
            return ""
        if rng.uniform(seed, "caption dropout", step, index) < rules.caption_dropout_rate:
            return ""
        text = self._worded(lambda purpose, place, count: rng.integer(seed, purpose, step, index, place) % count)
        tags = rules.tags(text)
        if tags is None:
            return rules.finished(text)
        loose = tags.loose[: rules.seen(len(tags.loose), step, steps)]
        if rules.shuffle_caption:
            places = sorted(range(len(loose)), key=lambda place: rng.integer(seed, "tag order", step, index, place))
            loose = [loose[place] for place in places]
        rate = rules.caption_tag_dropout_rate
        if rate:
            draws = [rng.uniform(seed, "tag dropout", step, index, place) for place in range(len(loose))]
            loose = [tag for tag, drawn in zip(loose, draws, strict=True) if drawn >= rate]
        return rules.finished(tags._replace(loose=loose).text)

    def _worded(self, pick: Callable[[str, int, int], int]) -> str:
        """Returns the chosen line between prefix and suffix, wildcards replaced; `pick` says which of `count` it is."""
        rules = self.rules
        line = self.lines[pick("caption line", 0, len(self.lines)) if rules.enable_wildcard else 0]
        text = f"{rules.caption_prefix} {line} {rules.caption_suffix}"
        if not rules.enable_wildcard:
            return text
        for written, hidden, _ in ESCAPED:
            text = text.replace(written, hidden)
        parts = WILDCARD.split(text)  # text, options, text, options, ..., text
        for place in range(1, len(parts), 2):
            options = parts[place].split("|")
            parts[place] = options[pick("wildcard", place // 2, len(options))]
        text = "".join(parts)
        for _, hidden, read in ESCAPED:
            text = text.replace(hidden, read)
        return text

    def _has_options(self) -> bool:
        text = " ".join((self.rules.caption_prefix, *self.lines, self.rules.caption_suffix))
        for written, hidden, _ in ESCAPED:
            text = text.replace(written, hidden)
        return any(len(set(options.split("|"))) > 1 for options in WILDCARD.findall(text))
