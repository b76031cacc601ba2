"""A model of any size with an adapter in it, as tensors without memory, and its training step, counted.

The adapter is put in by its own code, into weights that nobody has written yet; then every tensor is replaced by a fake
of its shape.  What fakes do not run is modelled: `modelled.py`, and PEFT SHiRA's sparse add here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.counting import Counter, cuda_autocast
from benchmarks.load import SIZES
from benchmarks.modelled import COMPUTE, Float4, Float8, Plane
from benchmarks.step import peft_config
from trainer.base.quantise import QUANTISED
from waveft_core import SDXL_ATTENTION, Spec, attach
from waveft_core.basis import plan
from waveft_core.basis.atoms import coeffs_shape
from waveft_core.update import gradient, ledger
from waveft_core.update.coefficients import InWeight
from waveft_core.update.storage import lay_together
from waveft_core.update.targets import select
from waveft_core.update.tuning import Tuning

FROZEN, OURS = "frozen", "WaveFT (ours)"
RANKS = {"PEFT LoRA r=1": 1, "PEFT LoRA r=16": 16}
METHODS = (FROZEN, OURS, *RANKS, "PEFT SHiRA", "PEFT FourierFT", "PEFT WaveFT")
ON_QUANTISED = (FROZEN, OURS, *RANKS)  # the others of PEFT add to a dense weight
BASES = ("bf16", "fp8", "nf4")
TEXT_TOKENS = 77
FACTOR = 8  # px of a latent
COEFFICIENTS = Spec().coefficients


@dataclasses.dataclass
class Case:
    """A model of fakes, ready to step.

    Attributes:
        method, base, size: what it is.
        mode: of its fakes.
        model: with the adapter in it.
        optimizer: of what trains; None where nothing does.
        kinds: its tensors by kind of memory.
        tuning: ours, where it is ours.
    """

    method: str
    base: str
    size: str
    mode: FakeTensorMode
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    kinds: dict[str, list[Tensor]]
    tuning: Tuning | None


def make(method: str, base: str = "bf16", size: str = "sdxl", coefficients: int = COEFFICIENTS) -> Case:
    """Returns a UNet of that size with the method in it, all of it fakes."""
    unet = _empty_unet(base, size)
    own = {id(module): None for module in unet.modules()}
    layers = [target.module for target in select(unet, SDXL_ATTENTION)]
    model, tuning = unet, None
    if method == OURS:
        if base == "bf16":  # as the trainer does
            lay_together(target.weight for target in select(unet, SDXL_ATTENTION))
        tuning = attach(unet, Spec(coefficients=coefficients), beside=base == "fp8")
    elif method == FROZEN:
        for layer in layers:
            assert layer is not None
            layer.register_forward_hook(_begins)
    else:
        import peft

        model = peft.get_peft_model(unet, _config(method, coefficients))
        for layer in model.modules():
            if isinstance(layer, peft.tuners.shira.Linear):
                layer.forward = functools.partial(_with_mask, layer)
    in_weight = [layer for layer in (tuning._layers if tuning is not None else ()) if isinstance(layer, InWeight)]
    for layer in in_weight:  # a ledger is found by its weight's id, which may be used again once that is a fake
        ledger._BY_TENSOR.pop(id(layer.ledger.weight), None)
        ledger._BY_MEMORY.pop(layer.ledger._where, None)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    faker = _Faker(mode)
    with _tables_apart():
        faker.replace(model)
        faker.replace(tuning)
        for layer in in_weight:  # a fake is another tensor elsewhere, which nobody has written to
            layer.ledger.mark()
            layer.saw()
        weights = [held for module in model.modules() if id(module) in own for held in _own(module)]
        based = set(map(id, weights))
        kinds = {"weights": weights, "adapter": [held for held in faker.made.values() if id(held) not in based]}
        trained = [held for held in model.parameters() if held.requires_grad]
        with mode:
            optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True) if trained else None
        case = Case(method, base, size, mode, model, optimizer, kinds, tuning)
        count(case, FACTOR * 4, 1, False)  # makes what is made once: the optimizer's state, places that are kept
    return case


def count(case: Case, px: int, batch: int, checkpointing: bool) -> Counter:
    """Returns what one training step of the case costs at that size; in the trainer's autocast, to a plain loss."""
    counter, size = Counter(), SIZES[case.size]
    with _tables_apart(), case.mode, cuda_autocast(), _on_a_gpu():
        unet: Any = case.model
        unet.train()
        (unet.enable_gradient_checkpointing if checkpointing else unet.disable_gradient_checkpointing)()
        pooled = size["projection_class_embeddings_input_dim"] - 6 * size["addition_time_embed_dim"]
        noisy = torch.empty(batch, 4, px // FACTOR, px // FACTOR, dtype=COMPUTE)
        timesteps = torch.empty(batch, dtype=torch.int64)
        context = torch.empty(batch, TEXT_TOKENS, size["cross_attention_dim"], dtype=COMPUTE)
        conditions = {
            "text_embeds": torch.empty(batch, pooled, dtype=COMPUTE),
            "time_ids": torch.empty(batch, 6, dtype=COMPUTE),
        }
        with counter:
            for kind, tensors in case.kinds.items():
                counter.hold(tensors, kind)
            counter.hold(_state(case), "optimizer")
            with torch.autocast("cpu", COMPUTE):
                found = unet(noisy, timesteps, context, added_cond_kwargs=conditions, return_dict=False)[0]
                loss = found.float().square().mean()
            del found
            with counter.during("backward"):
                loss.backward()
            del loss
            if case.optimizer is not None:
                with counter.during("optimizer"):
                    case.optimizer.step()
                case.optimizer.zero_grad()
    return counter


def _empty_unet(base: str, size: str) -> nn.Module:
    """Returns the UNet, frozen, its memory asked for and never touched."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SIZES[size]).requires_grad_(False)
    for path, layer in list(unet.named_modules()):
        for parameter in layer._parameters.values():
            if parameter is not None:
                parameter.data = torch.empty(parameter.shape, dtype=COMPUTE, device="meta")
        if type(layer) is nn.Linear and (base == "fp8" or (base == "nf4" and QUANTISED in path)):
            layer.__class__ = Float8 if base == "fp8" else Float4
    unet.to_empty(device="cpu")
    for layer in unet.modules():
        if isinstance(layer, Float8):
            layer.weight = nn.Parameter(torch.empty(layer.weight.shape, dtype=torch.float8_e4m3fn), requires_grad=False)
        elif isinstance(layer, Float4):
            layer.pack()
    return unet


def _config(method: str, coefficients: int) -> Any:
    import peft

    if rank := RANKS.get(method):
        return peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=list(SDXL_ATTENTION))
    return peft_config(method, coefficients)


def _with_mask(layer: Any, x: Tensor) -> Tensor:
    """PEFT SHiRA's forward with the sparse add as one indexed add: fakes have no sparse tensors."""
    (name,) = layer.active_adapters
    rows, columns = layer.shira_indices[name]
    weight = layer.get_base_weight().clone()
    values = (layer.shira_weight[name] * layer.scaling[name]).to(weight.dtype)
    return nn.functional.linear(x, weight.index_put((rows, columns), values, accumulate=True), layer.base_layer.bias)


def _begins(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    """Lets the gradient go back to here, as any adapter in this layer asks for, and to nothing before it."""
    return output if output.requires_grad else output.requires_grad_()


def _own(module: nn.Module) -> list[Tensor]:
    """Returns a module's own tensors."""
    return [held for held in (*module._parameters.values(), *module._buffers.values()) if held is not None]


def _state(case: Case) -> list[Tensor]:
    if case.optimizer is None:
        return []
    return [held for state in case.optimizer.state.values() for held in state.values() if isinstance(held, Tensor)]


@contextlib.contextmanager
def _tables_apart() -> Iterator[None]:
    """Inside, the core's cached tables are fakes' own: a fake that stays in one would be anybody's."""
    for cached in (gradient._table, gradient._starts, plan.taps_of):
        cached.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Accessing the data pointer")  # of a fake: 0, as good as any
            yield
    finally:
        for cached in (gradient._table, gradient._starts, plan.taps_of):
            cached.cache_clear()


@contextlib.contextmanager
def _on_a_gpu() -> Iterator[None]:
    """Inside, our gradient takes the way that it takes on a GPU, and C in CSR form is a `Plane`."""

    def plane(sampler: gradient.Sampler, values: Tensor) -> Plane:
        return Plane(values, coeffs_shape(sampler.wavelet, sampler.mode, sampler.shape))

    with (
        mock.patch.object(gradient, "has_matrix_units", lambda device: True),
        mock.patch.object(gradient.Sampler, "plane", plane),
    ):
        yield


class _Faker:
    """Replaces tensors by fakes wherever they are held: in modules, containers and the core's own objects.

    Attributes:
        made: the fakes, by the tensor that each stands for.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode, self.made = mode, dict[int, Tensor]()
        self._seen: dict[int, Any] = {}  # kept alive: no id comes twice

    def replace(self, held: Any) -> Any:
        """Returns what stands for `held`: a fake for a tensor, a container of fakes, or the object itself, changed."""
        if isinstance(held, Tensor):
            if id(held) not in self.made:
                self._seen[id(held)] = held
                self.made[id(held)] = self.mode.from_tensor(held)
            return self.made[id(held)]
        if isinstance(held, list | tuple) and type(held) in (list, tuple):
            return type(held)(map(self.replace, held))
        if isinstance(held, dict):
            for key, value in held.items():
                held[key] = self.replace(value)
            return held
        if id(held) in self._seen or not self._is_entered(held):
            return held
        self._seen[id(held)] = held
        for name, value in vars(held).items():
            new = self.replace(value)
            if new is not value:
                vars(held)[name] = new  # frozen dataclasses too
        return held

    @staticmethod
    def _is_entered(held: Any) -> bool:
        own = type(held).__module__.startswith(("waveft_core.", "peft.")) and hasattr(held, "__dict__")
        return isinstance(held, nn.Module) or (own and not isinstance(held, type))
