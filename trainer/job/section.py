"""What every table of a job has in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from .values import IS_PATH, text_fault


class Section(BaseModel):
    """A table of the job. Unknown keys are refused; "4" is not a number; nan and inf are not either."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def plain_texts(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses texts, in whatever key, that hold what nobody writes, and paths that no disk can hold."""
        field = cls.model_fields[info.field_name or ""]
        is_path = IS_PATH in field.metadata or IS_PATH in get_args(field.annotation)
        for text in texts_in(value):
            if fault := text_fault(text, is_path):
                raise ValueError(fault)
        return value

    def says(self, key: str) -> bool:
        """Returns whether the job gives the key another value than its default.

        A job that is written out with every default, as an adapter file carries it, must be readable again.
        """
        return key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].default


def texts_in(value: Any) -> Iterator[str]:
    """Yields the texts of a value, those in its lists and tables among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for pair in value.items() for item in pair for text in texts_in(item))
    elif isinstance(value, list | tuple):
        yield from (text for item in value for text in texts_in(item))
