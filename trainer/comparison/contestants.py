"""Who is compared: a method with its size, and the learning rates at which it is tried. Torch is not imported."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..job.jobtext import toml_value
from ..system.errors import UserError

# The keys that say how large a method's update is, as multiples of the number behind its name: "lora:4".
SIZES: dict[str, dict[str, int]] = {
    "waveft": {"coefficients": 1},
    "shira": {"coefficients": 1},
    "lora": {"network_dim": 1},
    "loha": {"network_dim": 1},
    "lokr": {"network_dim": 1},
    "adalora": {"target_r": 1, "init_r": 2},  # ranks are given to layers out of twice as many, as in its paper
    "vera": {"network_dim": 1},
    "fourierft": {"n_frequency": 1},
    "bitfit": {},
}
# How far AdamW carries a 1280 x 1280 weight's update in one step at a learning rate of 1, Frobenius norm, from constant
# gradients at the methods' default sizes: measured, and a first guess that makes learning rates comparable. Two
# published settings move weights by factors of up to 700 apart.
REACH = {
    "waveft": 1275.0,
    "shira": 1275.0,
    "lora": 22.5,
    "loha": 500.0,
    "lokr": 1150.0,
    "adalora": 12.0,
    "vera": 10.3,
    "fourierft": 1.8,
    "bitfit": 36.0,  # sqrt(1280): each of a bias's numbers moves by the rate
}
SPREAD = (10**-0.5, 1.0, 10**0.5)  # of the rates about the one that reaches as far as the job's own


@dataclass(frozen=True)
class Contestant:
    """A method as it is compared.

    Attributes:
        label: as the command line and pages call it, such as "lora:4".
        method: of [network].
        keys: of [network] that it sets.
        rates: learning rates to try.
    """

    label: str
    method: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """A file's name for it."""
        return "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in self.label)


def parse(text: str, rates: str, network: Mapping[str, Any], rate: float) -> list[Contestant]:
    """Returns the contestants of a command line.

    Args:
        text: such as "waveft,lora:1,lora:4,shira:coefficients=512:scaling=10".
        rates: such as "1e-4,3e-4" for all, or "waveft=1e-4,3e-4;lora:1=1e-3" for some; "" = three for each method that
            reach as far as the job's own rate, a third and three times that.
        network: the job's own [network].
        rate: the job's own learning rate.

    Raises:
        UserError: with every name, size and rate that is not understood.
    """
    problems: list[str] = []
    found = []
    given = rates_by_name(rates, problems)
    for label in dict.fromkeys(part.strip() for part in text.split(",") if part.strip()):
        method, _, size = label.partition(":")
        if method not in SIZES:
            problems.append(f"--methods {label}: expected one of {', '.join(SIZES)}, got {method}.")
            continue
        keys = settings(label, method, size, problems)
        chosen = given.get(label) or given.get(method) or given.get("")
        found.append(Contestant(label, method, keys, tuple(chosen or default_rates(method, keys, network, rate))))
    labels = {one.label for one in found} | {one.method for one in found}
    problems += [f"--rates {name}=...: no such method is compared." for name in given if name and name not in labels]
    if not found and not problems:
        problems.append("--methods: expected names such as waveft,lora:1,shira, got none.")
    if problems:
        raise UserError(problems)
    return found


def settings(label: str, method: str, size: str, problems: list[str]) -> dict[str, Any]:
    """Returns what stands behind a method's name as keys of [network]; adds to `problems` what is not understood."""
    keys: dict[str, Any] = {}
    for part in filter(None, size.split(":")):
        key, equals, value = part.partition("=")
        if equals:
            keys[key] = written(value)
        elif not SIZES[method]:
            problems.append(f"--methods {label}: {method} has no size. Write {method} alone.")
        elif not part.isdigit():
            problems.append(f"--methods {label}: expected a whole number or KEY=VALUE, got {part}.")
        else:
            keys |= {name: factor * int(part) for name, factor in SIZES[method].items()}
    return keys


def written(text: str) -> Any:
    """Returns a value as TOML reads it; a text needs no quotes here."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def rates_by_name(text: str, problems: list[str]) -> dict[str, list[float]]:
    """Returns label or method -> rates, "" = of all; adds to `problems` what is no rate."""
    found: dict[str, list[float]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, values = part.rpartition("=")
        try:
            rates = [float(value) for value in values.split(",")]
        except ValueError:
            rates = []
        if not rates or not all(0 < rate < math.inf for rate in rates):
            problems.append(f"--rates {part}: expected learning rates such as 1e-4,3e-4, got {values or 'none'}.")
        found[name if equals else ""] = rates
    return found


def reach(method: str, keys: Mapping[str, Any], network: Mapping[str, Any]) -> float:
    """Returns how far a step at a learning rate of 1 carries a weight, about: sparse methods' by their own size."""
    if method not in ("waveft", "shira"):
        return REACH[method]
    held = {**network, **keys}
    size = math.sqrt(held.get("coefficients", 2592) / 2592)
    return REACH[method] * size * abs(held.get("scaling", 25.0)) / 25


def default_rates(method: str, keys: Mapping[str, Any], network: Mapping[str, Any], rate: float) -> list[float]:
    """Returns three rates whose reach is about the job's own, to two digits."""
    own = str(network.get("method", "waveft"))
    shared = network if method in ("waveft", "shira") and own in ("waveft", "shira") else {}
    wanted = rate * reach(own, {}, network) / reach(method, keys, shared)
    return [float(f"{wanted * factor:.1e}") for factor in SPREAD]


def in_words(contestants: Sequence[Contestant]) -> list[str]:
    """Returns a line for each contestant: its settings and rates."""
    found = []
    for one in contestants:
        keys = ", ".join(f"{key} = {toml_value(value)}" for key, value in one.keys.items()) or "as in the job"
        found.append(f"{one.label}: {keys}; learning rates {', '.join(f'{rate:g}' for rate in one.rates)}")
    return found
