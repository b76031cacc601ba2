"""The experiments that there are, in the paper's order."""

from __future__ import annotations

from .ablations import Ablations
from .bottleneck import Bottleneck
from .budget import Budget
from .classification import Classification
from .cost import Cost
from .coverage import Coverage
from .dreambooth import Dreambooth
from .energy import Energy
from .experiment import Experiment
from .glue import Glue
from .interference import Interference
from .interpolation import Interpolation
from .lambdas import Lambdas
from .rank import Rank
from .seeds import Seeds
from .wavelets import Wavelets

ALL: tuple[Experiment, ...] = (
    Rank(), Bottleneck(), Interpolation(), Coverage(), Interference(), Dreambooth(), Budget(), Wavelets(), Ablations(),
    Seeds(), Lambdas(), Energy(), Classification(), Glue(), Cost(),
)  # fmt: skip
BY_NAME = {one.NAME: one for one in ALL}
