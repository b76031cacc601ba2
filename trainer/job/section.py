"""What every table of a job has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of the job. Unknown keys are refused; "4" is not a number; nan and inf are not either."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    def says(self, key: str) -> bool:
        """Returns whether the job gives the key another value than its default.

        A job that is written out with every default, as an adapter file carries it, must be readable again.
        """
        return key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].default
