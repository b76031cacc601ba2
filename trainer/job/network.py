"""[network] of a job: what every method has, and the keys of those that are this project's own. Torch is not imported.

Keys are called as kohya calls them where kohya has them (`network_dim`), else as HF PEFT does (`d_initial`). A method
takes its own keys alone: what means nothing to it is refused, with the methods that have it (`networks`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ..system.patterns import pattern
from .section import Section
from .values import (
    LARGEST_SEED,
    LOCATIONS,
    MOST_COEFFICIENTS,
    SDXL_ATTENTION,
    WAVELETS,
    Choice,
    PathText,
    Pattern,
)

FREE = ("method", "network_weights", "train_text_encoder")  # what a file to start from does not settle
FIRST = "waveft"  # the method of a job that names none
METHOD = (
    "`waveft`, `shira`, `lora`, `loha`, `lokr`, `adalora`, `vera`, `fourierft` or `bitfit`; those from `lora` to "
    "`fourierft` need the package peft"
)


class Network(Section):
    """What trains in the base. Each method has keys of its own beside these."""

    SIZE: ClassVar[str] = ""  # the keys that say how large the method's update is, in words

    method: str = Field(FIRST, description=METHOD)
    targets: list[str] | str = Field(
        list(SDXL_ATTENTION), description="layers: a list of path endings, or one regular expression for the whole path"
    )
    include: list[Pattern] = Field(
        [], description="of those, only layers whose path one of these regular expressions finds"
    )
    exclude: list[Pattern] = Field([], description="and none that one of these finds, e.g. `['^up_blocks\\.0']`")
    train_text_encoder: bool = Field(False, description="adapt the attention of both text encoders too")

    @property
    def begins_with(self) -> str:
        """Path of the file that the job starts from, or ""."""
        return getattr(self, "network_weights", "")

    @field_validator("targets", mode="before")
    @classmethod
    def texts(cls, value: Any) -> Any:
        """Refuses what is neither a text nor a list of texts."""
        good = isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))
        if not good or not value:
            raise ValueError(f"expected a list of path endings or one regular expression, got {value!r}")
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(
                    f"expected a list of path endings or one regular expression, got {value!r} ({error})"
                ) from None
            pattern(value)
        return value

    @model_validator(mode="after")
    def weights_bring_the_rest(self) -> Network:
        """Refuses what the file to start from settles."""
        idle = [key for key in type(self).model_fields if key not in FREE and self.says(key)]
        if self.begins_with and idle:
            raise ValueError(f"{idle[0]}: network_weights brings its own. Remove {', '.join(idle)}")
        return self


class Sparse(Network):
    """A method that trains some entries of a plane as large as the weight."""

    SIZE = "coefficients and scaling say how large its update is"

    coefficients: int = Field(
        2592, ge=1, le=MOST_COEFFICIENTS, description="trained wavelet coefficients of a layer (p)"
    )
    allocation: Annotated[Literal["fixed", "proportional"], Choice] = Field(
        "fixed",
        description="`fixed` = one p for all layers; `proportional` = p follows m + n, as a LoRA's size does, and "
        "`coefficients` is its mean",
    )
    coefficients_pattern: dict[Pattern, Annotated[int, Field(ge=1, le=MOST_COEFFICIENTS)]] = Field(
        {}, description="p of the layers whose path a regular expression finds, e.g. `{ '^mid_block' = 5000 }`"
    )
    scaling: float = Field(
        25.0, ge=-1e6, le=1e6, description="factor of the weight update (lambda), not 0; stored in the file"
    )
    locations: str = Field(
        "uniform:777",
        pattern=LOCATIONS,
        description="how positions are drawn: `uniform:SEED`, `peft:SEED`, or `gradient:SEED` (where the base's own "
        "gradient is largest)",
    )
    location_batches: int = Field(
        8, ge=1, le=10_000, description="batches whose gradient places the positions of `gradient:SEED`"
    )
    network_weights: PathText = Field(
        "", description="WaveFT file to start from; its layers, positions, wavelet and scaling take the place of these"
    )

    @field_validator("scaling")
    @classmethod
    def not_zero(cls, value: float) -> float:
        """Refuses a factor that would train nothing."""
        if value == 0:
            raise ValueError("expected a number other than 0, got 0: nothing would be trained")
        return value

    @field_validator("locations")
    @classmethod
    def seed_fits(cls, value: str) -> str:
        """Refuses seeds that no generator takes."""
        seed = value.partition(":")[2]
        if len(seed) > len(str(LARGEST_SEED)) or int(seed) > LARGEST_SEED:
            raise ValueError(f"expected a seed of at most {LARGEST_SEED}, got {value!r}")
        return value

    @model_validator(mode="after")
    def batches_are_used(self) -> Sparse:
        """Refuses warm-up batches that nothing needs."""
        if self.says("location_batches") and not self.locations.startswith("gradient:"):
            raise ValueError(
                f"location_batches: only gradient:SEED needs it, locations is {self.locations!r}. Remove it"
            )
        return self


class Waveft(Sparse):
    """Wavelet coefficients at drawn positions: this project's method."""

    method: Annotated[Literal["waveft"], Choice] = Field("waveft", description=METHOD)
    wavelet: str = Field(
        "db1", description="`db1` to `db38`, `sym2` to `sym20`, `coif1` to `coif17`, or `identity` (no transform)"
    )
    mode: Annotated[Literal["periodization", "zero"], Choice] = Field(
        "periodization", description="how the transform treats borders; `zero` is PEFT's"
    )

    @field_validator("wavelet")
    @classmethod
    def known_wavelet(cls, value: str) -> str:
        """Refuses names that the core does not know."""
        if value == "haar":
            raise ValueError("expected one name for each wavelet, got 'haar'. Write 'db1', which is the same")
        if value != "identity" and value not in WAVELETS:
            raise ValueError(f"expected db1 to db38, sym2 to sym20, coif1 to coif17 or identity, got {value!r}")
        return value

    @model_validator(mode="after")
    def mode_is_used(self) -> Waveft:
        """Refuses a treatment of borders where there is no transform, and PEFT's positions under another one."""
        shared = self.mode == "zero" or self.wavelet in ("db1", "identity")  # whose atoms are PEFT's too
        if self.locations.startswith("peft:") and not shared:
            raise ValueError(
                f"locations: 'peft:SEED' are positions under wavelet 'db1', 'identity' or mode 'zero', got "
                f"{self.wavelet!r} and {self.mode!r}. Write uniform:SEED"
            )
        if self.wavelet == "identity" and self.mode != "periodization":
            raise ValueError(f"mode: expected 'periodization' with wavelet 'identity', got {self.mode!r}. Remove it")
        return self


class Shira(Sparse):
    """Entries of the weight itself at drawn positions, as WaveFT without its transform."""

    method: Annotated[Literal["shira"], Choice] = Field("shira", description=METHOD)
    wavelet: ClassVar[str] = "identity"
    mode: ClassVar[str] = "periodization"
    coefficients: int = Field(2592, ge=1, le=MOST_COEFFICIENTS, description="trained entries of a layer's weight (p)")


class Bitfit(Network):
    """The biases of the UNet's layers, and nothing else (BitFit)."""

    SIZE = "it trains the biases of its targets, of whatever size they are"

    method: Annotated[Literal["bitfit"], Choice] = Field("bitfit", description=METHOD)
    targets: list[str] | str = Field(".*", description="layers, as above; those without a bias are passed over")
