"""What stands between a prompt's `<lora:...>` tags and the UI: a WaveFT file is applied whole, or left out with a word.

All UIs come from one, and call `networks.load_networks(names, te, unet, dyn)` of their Lora extension for each picture.
We look first: a file that does not fit is taken off the list, so that nothing is half applied and no picture's infotext
names what it was drawn without; of the others the UI is told where they changed on the disk or in their multipliers,
since it knows a file by its name alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from . import files, settings, tags
from .core import WaveFTError, is_waveft
from .files import PLANS, Loaded
from .messages import say, tell

NOTED_STRENGTH, NOTED_FACTORS = "WaveFT strength", "WaveFT multipliers"  # in the infotext
_ORIGINAL = "waveft_original"  # on our wrappers: "Reload UI" registers again in the same process


class Family(Protocol):
    """What a family of UIs does in its own way."""

    title: str
    gate: Gate | None

    def install(self) -> None:
        """Puts our hooks into the UI's Lora extension, in place of those that were there before."""

    def is_ready(self) -> bool:
        """Says whether a model is loaded that adapters could be applied to."""

    def prepare(self, entry: Any, loaded: Loaded, unet: float, te: float) -> None:
        """Checks a file against the models, and readies what the UI will ask for.

        Args:
            entry: the UI's object of the file.

        Raises:
            WaveFTError: it does not fit.
        """

    def changed(self) -> None:
        """Has the UI apply all adapters anew: one of ours is not what it was, though its name is."""

    def applied(self, by_name: Mapping[str, Loaded]) -> None:
        """Is told what the UI has loaded, before any weight is changed."""


@dataclass(frozen=True)
class Use:
    """An adapter of the present picture, and how strongly."""

    loaded: Loaded
    unet: float
    te: float

    def line(self) -> str:
        """Returns what the console says of it."""
        whole, left = self.loaded.whole, self.loaded.adapter
        count = sum(layer.values.numel() for layer in whole.layers.values())
        kept = 0 if left is None else len(left.layers)
        layers = f"{kept} of {len(whole.layers)}" if left is not whole else f"{kept}"
        said = self.loaded.factors and f", with {self.loaded.factors}"
        return (
            f"{self.loaded.name}: {layers} layers ({whole.wavelet}, {count:,} coefficients), unet {self.unet:g}, "
            f"te {self.te:g}{said}"
        )


@dataclass
class Gate:
    """The present picture's adapters.

    Attributes:
        family: how this UI is told.
        networks: its Lora extension's module of that name.
        shared: the UI's module that holds the settings.
        uses: by the prompt's name.
        refused: why, by the prompt's name.
    """

    family: Family
    networks: Any
    shared: Any = None
    uses: dict[str, Use] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    _processing: Any = None
    _named: dict[str, list[Mapping[str, Any]]] = field(default_factory=dict)
    _last: object = None
    _said: object = None

    def loaded(self, path: str) -> Use | None:
        """Returns the present picture's adapter of a file."""
        return next((use for use in self.uses.values() if use.loaded.whole.source == path), None)

    def install(self, lora_class: Any) -> None:
        """Wraps what the UI calls for each picture.

        Args:
            lora_class: the class of its `<lora:...>` network.
        """
        self.networks.load_networks = wrapped(self.networks.load_networks, self._load_networks)
        lora_class.activate = wrapped(lora_class.activate, self._activate)

    def _activate(self, original: Callable[..., None], network: Any, processing: Any, params: Sequence[Any]) -> None:
        self._processing = processing
        self._named = {}
        for param in params:
            if param.positional:
                self._named.setdefault(str(param.positional[0]), []).append(param.named)
        try:
            original(network, processing, params)
        finally:
            self._processing, self._named = None, {}

    def _load_networks(
        self,
        original: Callable[..., None],
        names: Sequence[str],
        te_multipliers: Sequence[float] | None = None,
        unet_multipliers: Sequence[float] | None = None,
        dyn_dims: Sequence[Any] | None = None,
    ) -> None:
        ranks = () if dyn_dims is None else (dyn_dims,)  # newer Forge Neos have none, and take no such argument
        if not self.family.is_ready():
            original(names, te_multipliers, unet_multipliers, *ranks)
            return
        PLANS.limit = int(settings.value(self.shared, settings.PLANS_MIB)) << 20
        before = self._adapters()
        self.uses, self.refused = {}, {}
        te = list(te_multipliers or [1.0] * len(names))
        unet = list(unet_multipliers or [1.0] * len(names))
        factor = getattr(self._processing, "waveft_strength", 1.0)
        kept = []
        for number, name in enumerate(names):
            entry = self.entry(name)
            if entry is not None and is_waveft(entry.filename):
                te[number], unet[number] = te[number] * factor, unet[number] * factor
                if not self._take(name, entry, unet[number], te[number]):
                    continue
            kept.append(number)
        told = [(name, use.loaded.token, use.unet, use.te) for name, use in self.uses.items()]
        now = (told, sorted(self.refused))
        if now != self._last:
            self.family.changed()
            _forget_conditioning(self._processing)
        self._last = None  # until it has worked: after an error the same prompt must not pass for what is applied
        original(*([held[number] for number in kept] for held in (names, te, unet, *ranks)))
        self.family.applied({name: use.loaded for name, use in self.uses.items()})
        self._note()
        self._say(now)
        self._last = now
        for adapter in before - self._adapters():
            PLANS.drop(adapter)

    def _adapters(self) -> set[Any]:
        return {use.loaded.adapter for use in self.uses.values() if use.loaded.adapter is not None}

    def entry(self, name: str) -> Any:
        """Returns the UI's object of the file that a name stands for, as the UI itself looks it up."""
        found = self._look_up(name)
        if found is None:
            self.networks.list_available_networks()
            found = self._look_up(name)
        return found

    def _look_up(self, name: str) -> Any:
        networks = self.networks
        if name.lower() in networks.forbidden_network_aliases:
            return networks.available_networks.get(name)
        return networks.available_network_aliases.get(name)

    def _take(self, name: str, entry: Any, unet: float, te: float) -> bool:
        """Readies an adapter; where it cannot be applied whole, says why and returns False."""
        try:
            loaded = files.read(entry.filename, name, self._multipliers(name))
            other = self.loaded(entry.filename)
            if other is not None and other.loaded.token != loaded.token:
                raise WaveFTError(
                    f'adapters "{other.loaded.name}" and "{name}": expected two files, got one under two names that '
                    "the prompt says different things of. Keep one, or make a copy of the file."
                )
            self.uses[name] = Use(loaded, unet, te)
            self.family.prepare(entry, loaded, unet, te)
        except WaveFTError as error:
            self.uses.pop(name, None)
            self.refused[name] = str(error)
            tell(self._processing, f"{error} The picture is drawn without it.")
            return False
        return True

    def _multipliers(self, name: str) -> Any:
        given = self._named.get(name, [])
        if len({str(sorted(named.items())) for named in given}) > 1:
            raise WaveFTError(
                f'adapter "{name}": expected one tag of that name, got {len(given)} that say different things. '
                "Keep one, or make a copy of the file under another name."
            )
        return tags.multipliers(name, given[0] if given else {}, *self._beyond_the_prompt())

    def _beyond_the_prompt(self) -> tuple[dict[str, str], dict[str, str]]:
        """Returns the multipliers of the settings, and those of an X/Y/Z axis."""
        everywhere = tags.parsed(str(settings.value(self.shared, settings.FACTORS)))
        return everywhere, getattr(self._processing, "waveft_factors", {})

    def _note(self) -> None:
        """Has the infotext say what was multiplied without the prompt saying so."""
        infotext = getattr(self._processing, "extra_generation_params", None)
        if infotext is None:
            return
        for key in (NOTED_STRENGTH, NOTED_FACTORS):
            infotext.pop(key, None)  # of the X/Y/Z plot's last cell, which shares it
        if not self.uses:
            return
        factor = getattr(self._processing, "waveft_strength", 1.0)
        if factor != 1:
            infotext[NOTED_STRENGTH] = f"{factor:g}"
        factors = [f"{name}={value}" for given in self._beyond_the_prompt() for name, value in given.items()]
        if factors:
            infotext[NOTED_FACTORS] = " ".join(factors)

    def _say(self, now: object) -> None:
        if now != self._said and settings.value(self.shared, settings.CONSOLE):
            for use in self.uses.values():
                say(use.line())
        self._said = now


def _forget_conditioning(processing: Any) -> None:
    """Has the UI encode the prompt anew: it keeps what the text encoders gave while the words are the same.

    A file that was written anew, or an axis, changes the encoders under the same words.
    """
    for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
        cache = getattr(processing, name, None)
        if isinstance(cache, list):  # in place: the UI's classes share it
            cache[:] = [None] * len(cache)


def wrapped(present: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that calls `ours(original, ...)`, `original` being what stood there before any of us came."""
    original = getattr(present, _ORIGINAL, present)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return ours(original, *args, **kwargs)

    setattr(wrapper, _ORIGINAL, original)
    return wrapper
