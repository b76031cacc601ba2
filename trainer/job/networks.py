"""[network] of a job: what trains in the base. A table of keys for each method. Torch is not imported.

Keys are called as kohya calls them where kohya has them (`network_dim`), else as HF PEFT does (`d_initial`). A method
takes its own keys alone: what means nothing to it is refused, with the methods that have it. The defaults are those of
the WaveFT paper's comparison, at the size of LoRA rank 1, but where those do not train (`adalora`, `fourierft`); the
paper's own settings are the jobs in `jobs/paper`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from ..system.patterns import pattern
from .section import Section
from .values import (
    LARGEST_SEED,
    LOCATIONS,
    MOST_COEFFICIENTS,
    MOST_RANK,
    MOST_STEPS,
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


class Lora(Network):
    """A product of two thin matrices (LoRA)."""

    SIZE = "network_dim and network_alpha say how large its update is"

    method: Annotated[Literal["lora"], Choice] = Field("lora", description=METHOD)
    network_dim: int = Field(1, ge=1, le=MOST_RANK, description="rank")
    network_alpha: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="the update is multiplied by `network_alpha` / `network_dim`; `network_dim` unless given",
    )
    network_weights: PathText = Field("", description="LoRA file to start from; its layers, ranks and alpha are taken")

    @property
    def alpha(self) -> float:
        """The numerator of the update's factor."""
        return float(self.network_dim) if self.network_alpha is None else self.network_alpha


class Loha(Network):
    """The product, entry by entry, of two such products (LyCORIS's LoHa)."""

    SIZE = Lora.SIZE

    method: Annotated[Literal["loha"], Choice] = Field("loha", description=METHOD)
    network_dim: int = Field(1, ge=1, le=MOST_RANK, description="rank of each of both products")
    network_alpha: float = Field(
        64.0, gt=0, le=1e6, description="the update is multiplied by `network_alpha` / `network_dim`"
    )
    network_weights: PathText = Field("", description="LoHa file to start from; its layers, ranks and alpha are taken")


class Lokr(Network):
    """A Kronecker product of two matrices (LyCORIS's LoKr)."""

    SIZE = "network_dim, network_alpha and factor say how large its update is"

    method: Annotated[Literal["lokr"], Choice] = Field("lokr", description=METHOD)
    network_dim: int = Field(
        20,
        ge=1,
        le=MOST_RANK,
        description="rank of the larger matrix; from half its longer side on, it is trained whole",
    )
    network_alpha: float = Field(
        192.0, gt=0, le=1e6, description="the update is multiplied by `network_alpha` / `network_dim`"
    )
    factor: int = Field(
        -1, ge=-1, le=MOST_RANK, description="into how many parts sides are cut; -1 = about their square root"
    )
    decompose_both: bool = Field(False, description="give the smaller matrix that rank too, where it is large enough")
    network_weights: PathText = Field("", description="LoKr file to start from; its layers, ranks and alpha are taken")

    @field_validator("factor")
    @classmethod
    def not_none(cls, value: int) -> int:
        """Refuses a factor of 0."""
        if value == 0:
            raise ValueError("expected -1 or a number from 1 on, got 0")
        return value


class Adalora(Network):
    """LoRA with singular values, whose ranks move to the layers that need them (AdaLoRA). Ships as a LoRA."""

    SIZE = "init_r, target_r and network_alpha say how large its update is"

    method: Annotated[Literal["adalora"], Choice] = Field("adalora", description=METHOD)
    init_r: int = Field(2, ge=1, le=MOST_RANK, description="rank of every layer at the beginning")
    target_r: int = Field(1, ge=1, le=MOST_RANK, description="mean rank at the end; `init_r` = none is taken away")
    network_alpha: float = Field(
        32.0, gt=0, le=1e6, description="the update is multiplied by `network_alpha` / `init_r`"
    )
    tinit: int | float = Field(
        0.1,
        ge=0,
        le=MOST_STEPS,
        description="optimizer steps before ranks are taken away; below 1, the part of the run",
    )
    tfinal: int | float = Field(
        0.3, ge=0, le=MOST_STEPS, description="optimizer steps after it, at the final ranks; as `tinit`"
    )
    deltaT: int = Field(10, ge=1, le=MOST_STEPS, description="optimizer steps between two allocations")
    beta1: float = Field(0.85, gt=0, lt=1, description="how slowly a number's importance follows its gradient")
    beta2: float = Field(0.85, gt=0, lt=1, description="the same of the importance's uncertainty")
    orth_reg_weight: float = Field(
        0.5, ge=0, le=1e6, description="weight of the penalty that keeps both factors orthogonal"
    )

    @model_validator(mode="after")
    def ranks_fall(self) -> Adalora:
        """Refuses ranks that grow, and a schedule of more than the run."""
        if self.target_r > self.init_r:
            raise ValueError(f"target_r: expected at most init_r = {self.init_r}, got {self.target_r}")
        for key in ("tinit", "tfinal"):
            value = getattr(self, key)
            if isinstance(value, float) and value >= 1:
                raise ValueError(f"{key}: expected whole steps or a part below 1, got {value}")
        if self.target_r == self.init_r:
            for key in ("tinit", "tfinal", "deltaT", "beta1", "beta2"):
                if self.says(key):
                    raise ValueError(f"{key}: target_r is init_r, so that no rank is taken away. Remove it")
        return self


class Vera(Network):
    """Two trained vectors around two random matrices that all layers share (VeRA)."""

    SIZE = "network_dim says how large its update is"

    method: Annotated[Literal["vera"], Choice] = Field("vera", description=METHOD)
    network_dim: int = Field(1402, ge=1, le=MOST_RANK, description="rank of the shared matrices")
    d_initial: float = Field(0.1, ge=-1e6, le=1e6, description="first value of the vector between them, not 0")
    projection_prng_key: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of the shared matrices")

    @field_validator("d_initial")
    @classmethod
    def moves(cls, value: float) -> float:
        """Refuses a start from which no gradient comes."""
        if value == 0:
            raise ValueError("expected a number other than 0, got 0: nothing would be trained")
        return value


class Fourierft(Network):
    """Entries of the update's Fourier transform at drawn positions (FourierFT)."""

    SIZE = "n_frequency and scaling say how large its update is"

    method: Annotated[Literal["fourierft"], Choice] = Field("fourierft", description=METHOD)
    n_frequency: int = Field(2592, ge=1, le=MOST_COEFFICIENTS, description="trained entries of a layer's spectrum")
    scaling: float = Field(64.0, ge=-1e6, le=1e6, description="factor of the weight update, not 0")
    random_loc_seed: int = Field(777, ge=0, le=LARGEST_SEED, description="of the positions, the same for every layer")
    init_weights: bool = Field(
        True, description="begin at zero; false = PEFT's own default, a random update of the size of `scaling`"
    )

    @field_validator("scaling")
    @classmethod
    def not_zero(cls, value: float) -> float:
        """Refuses a factor that would train nothing."""
        return Sparse.not_zero(value)


class Bitfit(Network):
    """The biases of the UNet's layers, and nothing else (BitFit)."""

    SIZE = "it trains the biases of its targets, of whatever size they are"

    method: Annotated[Literal["bitfit"], Choice] = Field("bitfit", description=METHOD)
    targets: list[str] | str = Field(".*", description="layers, as above; those without a bias are passed over")


METHODS: dict[str, type[Network]] = {
    "waveft": Waveft, "shira": Shira, "lora": Lora, "loha": Loha, "lokr": Lokr, "adalora": Adalora, "vera": Vera,
    "fourierft": Fourierft, "bitfit": Bitfit,
}  # fmt: skip


def method_of(value: Any) -> str | None:
    """Returns which method's keys a table has, None for what is no table."""
    if isinstance(value, Network):
        return value.method
    if not isinstance(value, Mapping):
        return None
    name = value.get("method", FIRST)
    return name.lower() if isinstance(name, str) else repr(name)


AnyNetwork = Annotated[
    Annotated[Waveft, Tag("waveft")]
    | Annotated[Shira, Tag("shira")]
    | Annotated[Lora, Tag("lora")]
    | Annotated[Loha, Tag("loha")]
    | Annotated[Lokr, Tag("lokr")]
    | Annotated[Adalora, Tag("adalora")]
    | Annotated[Vera, Tag("vera")]
    | Annotated[Fourierft, Tag("fourierft")]
    | Annotated[Bitfit, Tag("bitfit")],
    Discriminator(method_of),
]


def owners(key: str) -> list[str]:
    """Returns the methods that have the key."""
    return [name for name, model in METHODS.items() if key in model.model_fields]


def with_method(table: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Returns a job's [network] for another method: what both understand alike stays, what is the old one's own goes.

    Keys of one name may mean another thing: a `scaling` of WaveFT's is none of FourierFT's. So that only what the two
    have from a common table is carried over, and no file to start from.
    """
    old, new = (METHODS.get(str(name).lower(), Network) for name in (table.get("method", FIRST), method))
    if new is old:
        return {**table, "method": method}
    common: Any = next(kind for kind in new.__mro__ if issubclass(old, kind))
    kept = {key: value for key, value in table.items() if key in common.model_fields and key != "network_weights"}
    return {**kept, "method": method}
