r"""Regular expressions whose search takes time in proportion to the text, whatever is written in them.

Python's own engine tries one way after another: `(.*)*z` or twenty times `\w?` keep it busy for hours, and nothing can
interrupt it. Patterns come with shared workflows and jobs, so here all ways are followed at once: the states in which
the expression can be after each letter (Thompson's construction). The standard library still reads the expression, so
that spelling, flags and messages are Python's. What cannot be searched so is refused: references back to a group,
conditional groups, and groups or repeats that give nothing back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .errors import WaveFTError
from .letters import Context, Test, holds, parser, takes

LONGEST, MOST_STATES = 4000, 2000  # letters of an expression; states, in which repeats with numbers are written out
MOST_WORK = 10_000_000  # states looked at in a pattern's life, some 3 s; SDXL's names take 60,000 of a usual one
_MEMORY = 4096  # steps that are remembered: names begin alike


@dataclass
class _State:
    """A place in the expression: it takes a letter, or asks about its surroundings, and leads on."""

    takes: Test | None = None
    asks: Context | None = None
    leads: list[int] = field(default_factory=list)


class Pattern:
    """A compiled expression. Its searches raise WaveFTError once they have taken more work than any honest one."""

    def __init__(self, built: _Built, start: int, last: int) -> None:
        self._states, self._start, self._end = built.states, start, built.ended(last)
        self._title, self._work = built.title, built.work
        self._steps: dict[tuple[Any, ...], frozenset[int]] | None = None if built.looks_around else {}

    def search(self, text: str) -> bool:
        """Returns whether the expression is found anywhere in a text, as `re.search` would find it."""
        return self._run(text, 0, anywhere=True, whole=False)

    def fullmatch(self, text: str) -> bool:
        """Returns whether it is the whole text, as `re.fullmatch` would."""
        return self._run(text, 0, anywhere=False, whole=True)

    def matches_at(self, text: str, start: int, end: int | None = None) -> bool:
        """Returns whether it begins at a place, and ends at `end` where that is given."""
        return self._run(text, start, anywhere=False, whole=end is not None, end=end)

    def _run(self, text: str, at: int, anywhere: bool, whole: bool, end: int | None = None) -> bool:
        stop = len(text) if end is None else end
        states = self._closed(frozenset((self._start,)), text, at)
        while True:
            if self._end in states and (not whole or at == stop):
                return True
            if at == stop or not (states or anywhere):
                return False
            states = self._step(states, text, at, anywhere)
            at += 1

    def _step(self, states: frozenset[int], text: str, at: int, anywhere: bool) -> frozenset[int]:
        """Returns the states after the letter at `at`; `anywhere`: with those of a match that begins after it."""
        key = (states, anywhere, text[at : at + 3])  # "$" looks two letters ahead of where it stands
        if self._steps is not None and key in self._steps:
            return self._steps[key]
        letter, led = text[at], set()
        for number in states:
            takes = self._states[number].takes
            if takes is not None and takes(letter):
                led.update(self._states[number].leads)
        if anywhere:
            led.add(self._start)
        found = self._closed(frozenset(led), text, at + 1)
        if self._steps is not None:
            if len(self._steps) >= _MEMORY:
                self._steps.clear()
            self._steps[key] = found
        return found

    def _closed(self, states: frozenset[int], text: str, at: int) -> frozenset[int]:
        """Returns the states that are reached without another letter; those that lead on alone are left out."""
        found, waiting, seen = set(), list(states), set(states)
        while waiting:
            number = waiting.pop()
            state = self._states[number]
            if state.takes is not None or number == self._end:
                found.add(number)
                continue
            if state.asks is None or state.asks(text, at):
                new = [lead for lead in state.leads if lead not in seen]
                seen.update(new)
                waiting += new
        self._work[0] += len(seen)
        if self._work[0] > MOST_WORK:
            raise WaveFTError(
                f"{self._title}: expected an expression that is quickly searched for, got one that can go on in too "
                "many ways. Use a simpler expression."
            )
        return frozenset(found)


@lru_cache(maxsize=64)
def compile_pattern(expression: str, name: str) -> Pattern:
    """Returns a regular expression.

    Args:
        expression: in Python's spelling.
        name: what messages call it.

    Raises:
        WaveFTError: it is none, is too long, or holds what takes time without bound.
    """
    title = f'{name} "{expression if len(expression) <= 80 else expression[:80] + "..."}"'
    if len(expression) > LONGEST:
        raise WaveFTError(
            f"{title}: expected at most {LONGEST} letters, got {len(expression)}. Use a simpler expression."
        )
    try:
        parsed = parser.parse(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise WaveFTError(
            f"{title}: expected a regular expression, got one that {_said(error)}. "
            r'Write "\(" for a bracket itself, and ".*" where you mean "anything".'
        ) from None
    made = _Built(title)
    try:
        start, end = made.sequence(parsed, parsed.state.flags)
    except RecursionError:
        raise made.refusal("brackets that are nested less deeply", "these") from None
    return Pattern(made, start, end)


class _Built:
    """The states of an expression, made of what the standard library's parser found in it."""

    def __init__(self, title: str, work: list[int] | None = None) -> None:
        self.title, self.states, self.looks_around = title, list[_State](), False
        self.work = [0] if work is None else work  # one count for what looks around, too
        self._writes = {
            parser.LITERAL: self._letter, parser.NOT_LITERAL: self._letter, parser.ANY: self._letter,
            parser.IN: self._letter, parser.AT: self._at, parser.BRANCH: self._branch,
            parser.SUBPATTERN: self._group, parser.MAX_REPEAT: self._repeat, parser.MIN_REPEAT: self._repeat,
            parser.ASSERT: self._look, parser.ASSERT_NOT: self._look,
        }  # fmt: skip

    def sequence(self, parsed: Any, flags: int) -> tuple[int, int]:
        """Returns the first and the last state of expressions that follow one another."""
        start = end = self._new()
        for code, value in parsed:
            if code not in self._writes:
                raise self.refusal(
                    "letters, classes, choices, groups, repeats and anchors", f"{str(code).lower().replace('_', ' ')}"
                )
            first, last = self._writes[code](code, value, flags)
            self.states[end].leads.append(first)
            end = last
        return start, end

    def ended(self, last: int) -> int:
        """Returns the state in which all of the expression has been found."""
        end = self._new()
        self.states[last].leads.append(end)
        return end

    def refusal(self, expected: str, got: str) -> WaveFTError:
        """Returns the refusal of what cannot be searched in bounded time."""
        return WaveFTError(f"{self.title}: expected {expected}, got {got}. Use a simpler expression.")

    def _new(self, takes: Test | None = None, asks: Context | None = None) -> int:
        if len(self.states) >= MOST_STATES:
            raise self.refusal(f"at most {MOST_STATES} places once repeats are written out", "more")
        self.states.append(_State(takes, asks))
        return len(self.states) - 1

    def _letter(self, code: Any, value: Any, flags: int) -> tuple[int, int]:
        taking = self._new(takes=takes(code, value, flags))
        return taking, taking

    def _at(self, _code: Any, value: Any, flags: int) -> tuple[int, int]:
        here = self._new(asks=holds(value, flags))
        return here, here

    def _branch(self, _code: Any, value: Any, flags: int) -> tuple[int, int]:
        first, last = self._new(), self._new()
        for choice in value[1]:
            inner_first, inner_last = self.sequence(choice, flags)
            self.states[first].leads.append(inner_first)
            self.states[inner_last].leads.append(last)
        return first, last

    def _group(self, _code: Any, value: Any, flags: int) -> tuple[int, int]:
        _number, added, removed, inner = value
        return self.sequence(inner, (flags | added) & ~removed)

    def _repeat(self, _code: Any, value: Any, flags: int) -> tuple[int, int]:
        fewest, most, inner = value
        start = end = self._new()
        for _ in range(fewest):
            first, last = self.sequence(inner, flags)
            self.states[end].leads.append(first)
            end = last
        if most is parser.MAXREPEAT:
            first, last = self.sequence(inner, flags)
            over = self._new()
            self.states[end].leads += [first, over]
            self.states[last].leads += [first, over]
            return start, over
        over = self._new()
        for _ in range(most - fewest):
            first, last = self.sequence(inner, flags)
            self.states[end].leads += [first, over]
            end = last
        self.states[end].leads.append(over)
        return start, over

    def _look(self, code: Any, value: Any, flags: int) -> tuple[int, int]:
        direction, inner = value
        made = _Built(self.title, self.work)
        start, end = made.sequence(inner, flags)
        if made.looks_around:
            raise self.refusal("no looking around within another", "one within another")
        pattern, width = Pattern(made, start, end), inner.getwidth()[0]
        wanted, self.looks_around = code is parser.ASSERT, True

        def looks(text: str, at: int) -> bool:
            if direction > 0:
                return pattern.matches_at(text, at) == wanted
            return (at >= width and pattern.matches_at(text, at - width, at)) == wanted

        here = self._new(asks=looks)
        return here, here


def _said(error: Exception) -> str:
    if isinstance(error, re.error):
        place = f" at character {error.pos + 1}" if error.pos is not None else ""
        return f"is broken{place} ({error.msg})"
    return "is nested too deeply" if isinstance(error, RecursionError) else f"is broken ({error})"
