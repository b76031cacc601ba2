"""[network] of a job for the methods whose classes are HF PEFT's. Torch is not imported.

The defaults are those of the WaveFT paper's comparison, at the size of LoRA rank 1, but where those do not train
(`adalora`, `fourierft`); the paper's own settings are the jobs in `jobs/paper`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from .network import METHOD, Network, Sparse
from .values import LARGEST_SEED, MOST_COEFFICIENTS, MOST_RANK, MOST_STEPS, Choice, PathText


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
