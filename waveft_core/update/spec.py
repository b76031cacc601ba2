"""What to train: a basis, how many coefficients a layer, where, and in which layers."""

from __future__ import annotations

from dataclasses import dataclass

from ..basis.atoms import check_wavelet
from ..basis.locations import parse_locations
from ..errors import WaveFTError
from ..format.header import is_finite
from ..pattern import compile_pattern

SDXL_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True)
class Spec:
    """What to train; the defaults are the paper's (section 4): 1,451,520 coefficients on SDXL, LoRA rank 1's budget.

    Attributes:
        coefficients: p, for each layer.
        scaling: the lambda that multiplies IDWT(C).
        locations: `uniform:SEED`, `peft:SEED`, or `gradient:SEED` for `locate`.
        targets: path suffixes matched at a component's boundary, or one regular expression for the whole path.

    Raises:
        WaveFTError: a value that cannot be.
    """

    coefficients: int = 2592
    scaling: float = 25.0
    wavelet: str = "db1"
    mode: str = "periodization"
    locations: str = "uniform:777"
    targets: tuple[str, ...] | str = SDXL_ATTENTION

    def __post_init__(self) -> None:
        check_wavelet(self.wavelet, self.mode)
        parse_locations(self.locations)
        if type(self.coefficients) is not int or self.coefficients < 1:
            raise WaveFTError(f"coefficients: expected a whole number of at least 1, got {self.coefficients!r}.")
        if type(self.scaling) not in (int, float) or not is_finite(self.scaling) or self.scaling == 0:
            raise WaveFTError(f"scaling: expected a finite number other than 0, got {self.scaling!r}.")
        if not self.targets:
            raise WaveFTError(f"targets: expected path suffixes or a regular expression, got {self.targets!r}.")
        if isinstance(self.targets, str):
            try:
                compile_pattern(self.targets, "targets")
            except WaveFTError as error:
                raise WaveFTError(f"{error} Suffixes are given as a tuple.") from None
        if not isinstance(self.targets, str):
            object.__setattr__(self, "targets", tuple(self.targets))


def check_strength(strength: float) -> None:
    """Refuses a dial that is no finite number.

    Raises:
        WaveFTError: NaN, infinity, a whole number beyond a float, or no number at all.
    """
    if not is_finite(strength):
        raise WaveFTError(f"strength: expected a finite number, got {strength!r}. Give, say, 1.")
