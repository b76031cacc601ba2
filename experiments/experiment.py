"""The face of an experiment: what it is, what it takes, and that it runs; and what one measurement of it is."""

from __future__ import annotations

import argparse
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        name: a file's name for it.
        settings: all that its numbers depend on, as JSON has it.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the settings: a cell whose settings changed is another one."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]


class Experiment(ABC):
    """A table or a figure of the paper.

    Attributes:
        NAME: on the command line.
        PAPER: where the paper has it.
        ABOUT: what it answers, in a line.
        SMALL: what the small form runs on and how long, on two CPU cores.
        SEE: the plot's title: what to look for in it, for one who has not read the paper.
    """

    NAME: ClassVar[str]
    PAPER: ClassVar[str]
    ABOUT: ClassVar[str]
    SMALL: ClassVar[str]
    SEE: ClassVar[str]

    def options(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027 - most have none
        """Adds the experiment's own options."""

    @abstractmethod
    def run(self, options: argparse.Namespace) -> int:
        """Does what is missing and writes table and plot into `options.out`; returns 1 where a cell failed, else 0.

        Raises:
            UserError: what the options name is missing or not what it should be; nothing was measured.
        """
