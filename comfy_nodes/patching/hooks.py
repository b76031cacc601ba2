"""An adapter as a ComfyUI hook, which rides on conditioning; and keyframes, which change strengths over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import comfy.hooks

from ..adapters import describe
from ..core import WaveFTError, check_strength
from ..sockets import Carried
from .patch import clip_patches, model_patches, text_layers

LIMIT = 20.0  # the stock hook nodes'
CURVES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    "ease in": lambda x: x**2,
    "ease out": lambda x: 1 - (1 - x) ** 2,
    "ease in and out": lambda x: (1 - math.cos(math.pi * x)) / 2,
}

Point = tuple[float, float]  # start percent, strength


class AdapterHook(comfy.hooks.WeightHook):
    """Puts an adapter's layers onto whatever it is registered with: a model, or text encoders.

    ComfyUI makes one without arguments to clone it, and takes hooks for the same if their `hook_ref` is.
    """

    def __init__(self, carried: Carried | None = None, strength_model: float = 1.0, strength_clip: float = 1.0) -> None:
        super().__init__(strength_model=strength_model, strength_clip=strength_clip)
        self.carried = carried

    def clone(self) -> AdapterHook:
        """Returns a hook that is equal to this one."""
        made: AdapterHook = super().clone()
        made.carried = self.carried
        return made

    def add_hook_patches(self, model: Any, model_options: Any, target_dict: dict[str, Any], registered: Any) -> bool:
        """Registers the layers for `model`, a ModelPatcher, all of them; returns whether this hook is in use.

        A hook of strength 0 is registered without layers: ComfyUI asks hooks that are not again and again.

        Raises:
            WaveFTError: a layer does not fit. Nothing has been registered then.
        """
        if not self.should_register(model, model_options, target_dict, registered):
            return False
        is_clip = target_dict.get("target") == comfy.hooks.EnumWeightTarget.Clip
        strength = self._strength_clip if is_clip else self._strength_model
        fitted = clip_patches if is_clip else model_patches
        patches = fitted(model.model, self.carried, strength) if self.carried is not None and strength != 0 else {}
        model.add_hook_patches(hook=self, patches=patches, strength_patch=strength)
        registered.add(self)
        return True


def hooked(carried: Carried, strength_model: float, strength_clip: float, previous: Any = None) -> Any:
    """Returns a HookGroup: the previous one's hooks, and the adapter's unless both its strengths are 0."""
    for strength in (strength_model, strength_clip):
        check_strength(strength, carried.title)
    group = comfy.hooks.HookGroup() if previous is None else previous
    if strength_model == 0 and strength_clip == 0:
        return group
    added = comfy.hooks.HookGroup()
    added.add(AdapterHook(carried, strength_model, strength_clip))
    return group.clone_and_combine(added)


def report(carried: Carried, strength_model: float, strength_clip: float) -> str:
    """Returns what a hook carries: whether it acts on text encoders is settled elsewhere in the graph."""
    of_text = len(text_layers(carried))
    of_model = len(carried.adapter.layers) - of_text
    lines = [
        f"hook of {carried.title}",
        f"model: {describe.plural(of_model, 'layer')}, {_at(strength_model)}",
        *describe.facts(carried.adapter),
    ]
    if of_text and strength_clip != 0:
        layers = f"{describe.plural(of_text, 'layer')}, {_at(strength_clip)}"
        lines.insert(2, f"CLIP: {layers}, where Set CLIP Hooks puts the hook on it, and not otherwise")
    return "\n".join(lines)


def _at(strength: float) -> str:
    return f"at strength {strength:g} times the keyframes'" if strength else "left out by strength 0"


def points(strengths: Point, percents: Point, curve: str, count: int) -> list[Point]:
    """Returns `count` points of a curve from the first strength to the second; one if it is level or a jump.

    Args:
        strengths, percents: at the start and at the end.

    Raises:
        WaveFTError: the end comes before the start.
    """
    (first, last), (start, end) = strengths, percents
    if start > end:
        raise WaveFTError(
            f"end_percent: expected {start:g} (start_percent) or more, got {end:g}. "
            "Exchange the two; to go down, exchange the strengths."
        )
    if start == end or first == last:  # each change of a keyframe has ComfyUI merge the weights anew
        return [(start, last)]
    steps = [number / (count - 1) for number in range(count - 1)]
    shaped = [(start + (end - start) * x, first + (last - first) * CURVES[curve](x)) for x in steps]
    return [*shaped, (end, last)]


def scheduled(strengths: Point, percents: Point, curve: str, count: int, previous: Any = None) -> Any:
    """Returns a HookKeyframeGroup; before the first percent the first strength holds, after the last the last.

    Where a schedule follows on another, the strength that begins at a percent is that of the one that begins there.

    Raises:
        WaveFTError: percents in the wrong order, or a previous schedule with keyframes between them.
    """
    made = points(strengths, percents, curve, count)
    (start, _), end = made[0], percents[1]
    held = [] if previous is None else previous.clone().keyframes
    if inside := [keyframe.start_percent for keyframe in held if start < keyframe.start_percent < end]:
        raise WaveFTError(
            f"prev_hook_kf: expected keyframes before {start:g} and after {end:g}, the range of this schedule, got one "
            f"at {inside[0]:g}. Give the two schedules ranges that follow each other."
        )
    before = [keyframe for keyframe in held if keyframe.start_percent <= start]
    after = [keyframe for keyframe in held if keyframe.start_percent > start]
    # the first lasts a step at least, as the stock interpolation's does, so that no range passes between two steps
    own = [
        comfy.hooks.HookKeyframe(strength=strength, start_percent=percent, guarantee_steps=int(number == 0))
        for number, (percent, strength) in enumerate(made)
    ]
    if not before and start > 0:
        # text encoders are at strength 1 before the first keyframe, whatever that one says
        own.insert(0, comfy.hooks.HookKeyframe(strength=strengths[0], start_percent=0.0, guarantee_steps=0))
    group = comfy.hooks.HookKeyframeGroup()
    for keyframe in (*before, *own, *after):  # keyframes of one percent stay in the order in which they are added
        group.add(keyframe)
    return group
