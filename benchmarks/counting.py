"""What a step would ask of a GPU, counted call by call on tensors that have no memory: launches, operations, bytes.

PyTorch's FakeTensorMode runs a model of any size without computing anything.  `Counter` sees every call below autograd
and notes what it would cost a GPU.  What a CPU build cannot run is modelled, and said here:

- Attention is one kernel forward and one back, whose results are flash attention's: the CPU's own is of that form.
- Autocast computes norms in float32, as CUDA's does and the CPU's does not (`cuda_autocast`).
- A boolean mask is true everywhere; finding the true ones is `NONZERO` kernels more, and the host waits for them.
- A call is one launch; `MANY` lists those that are more (lists of tensors, concatenations of many).
- Gathers read what they return and scatters write what they are given, at `SECTOR` bytes an entry that stands alone.
- Memory is what is allocated, in the allocator's own pieces of `PIECE` bytes: no workspaces, no gaps, no context.
"""

from __future__ import annotations

import contextlib
import functools
import math
import weakref
from collections import Counter as Bag
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten

PIECE = 512  # bytes: CUDA's caching allocator hands out no less
SECTOR = 32  # bytes: a GPU's memory reads and writes no less at a time
PHASES = ("forward", "backward", "optimizer")  # the last one with the write of the weights that follows it
KINDS = ("weights", "activations", "adapter", "optimizer")

# Tensors by the number of lists of a multi-tensor kernel, and its blocks of 65,536 numbers: as many as fit into the
# arguments of one launch (aten/src/ATen/native/cuda/MultiTensorApply.cuh, depth_to_max_tensors and _blocks).
LISTED = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
BLOCKS, BLOCK = 320, 65536
NONZERO = 3  # a reduction in two passes and a selection (aten/src/ATen/native/cuda/Nonzero.cu)
CONCATENATED = 128  # tensors of one launch of `cat` (aten/src/ATen/native/cuda/Shape.cu, CAT_ARRAY_BATCH_SIZE)

GATHERS = ("index_select", "gather", "take", "index", "embedding")
BAGS = ("_embedding_bag", "_embedding_bag_forward_only")  # a gather and a weighted sum in one
SCATTERS = ("index_copy_", "index_put_", "_index_put_impl_", "scatter_", "put_", "index_add_", "index_put")
FREE = ("empty", "detach", "device", "_record_function", "sym_", "is_", "lift_fresh", "_local_scalar_dense", "alias")


@dataclass
class Tally:
    """What the calls of a phase cost.

    Attributes:
        launches: kernels started.
        flops: floating-point operations of matrix products, convolutions and attention; a multiply-add is two.
        read, written: bytes of the device's memory.
        calls: launches by the call's name.
        work: (flops, bytes) of each call, for a roofline.
    """

    launches: int = 0
    flops: int = 0
    read: int = 0
    written: int = 0
    calls: Bag[str] = field(default_factory=Bag)
    work: list[tuple[int, int]] = field(default_factory=list)

    @property
    def moved(self) -> int:
        """Bytes read and written."""
        return self.read + self.written

    def __add__(self, other: Tally) -> Tally:
        pairs = ((getattr(self, part.name), getattr(other, part.name)) for part in fields(self))
        return Tally(*(own + theirs for own, theirs in pairs))


class Counter(TorchDispatchMode):
    """Counts the calls made while it is entered, by phase, and the memory that lives.

    Attributes:
        tallies: by phase.
        peak: by kind, bytes at the moment when all of them together were most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase = PHASES[0]
        self.reset()
        self._sizes: dict[int, tuple[int, str]] = {}
        self._live: Bag[str] = Bag()
        self._known: dict[int, weakref.ref[Any]] = {}

    def reset(self) -> None:
        """Begins to count anew; what lives goes on living."""
        self.tallies = {phase: Tally() for phase in PHASES}
        self.peak: dict[str, int] = dict.fromkeys(KINDS, 0)

    def total(self) -> Tally:
        """Returns the sum of all phases."""
        return sum(self.tallies.values(), Tally())

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Inside, calls are counted for `phase`."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def hold(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Takes tensors for memory of that kind, whether or not they were seen before."""
        for tensor in tensors:
            key = self._seen(tensor)
            size, old = self._sizes[key]
            self._live[old] -= size
            self._live[kind] += size
            self._sizes[key] = size, kind
        self._note_peak()

    def live(self) -> dict[str, int]:
        """Returns the bytes that live now, by kind."""
        return {kind: self._live[kind] for kind in KINDS}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the call and counts it."""
        out = _masked(func, args) if _is_masked(func, args) else func(*args, **(kwargs or {}))
        made = [part for leaf in tree_leaves(out) if isinstance(leaf, Tensor) for part in parts(leaf)]
        for tensor in made:
            self._seen(tensor)
        name = func._schema.name.split("::")[1]
        if not (is_view(func) or name.startswith(FREE)) and (made or tree_leaves(args)):
            given = [part for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) for part in parts(leaf)]
            self._count(func, name, args, kwargs or {}, given, made, out)
        self._note_peak()
        return out

    def _count(
        self, func: Any, name: str, args: Any, kwargs: Any, given: list[Tensor], made: list[Tensor], out: Any
    ) -> None:
        tally = self.tallies[self.phase]
        started = launches(name, args) + NONZERO * _is_masked(func, args)
        tally.launches += started
        tally.calls[name] += started
        before, worked = tally.moved, flops(func, args, kwargs, out)
        tally.flops += worked
        mutated = [given_ for given_, written in _arguments(func, args, kwargs) if written]
        if name in GATHERS:
            index = [tensor for tensor in given[1:] if not tensor.is_floating_point()]
            tally.read += sum(map(nbytes, index)) + sum(map(scattered, made))
            tally.written += sum(map(nbytes, made))
        elif name in BAGS:
            _, entries, *rest = given
            tally.read += nbytes(entries) + entries.numel() * SECTOR + sum(map(nbytes, rest))
            tally.written += nbytes(made[0])
        elif name in SCATTERS:
            *_, content = given
            tally.read += sum(map(nbytes, given[1:]))
            tally.written += scattered(content)
        else:
            only_written = name.removesuffix("_") in ("copy", "zero", "fill", "normal", "uniform", "bernoulli")
            unread = {id(tensor) for tensor in mutated} if only_written else set()
            tally.read += sum(nbytes(tensor) for tensor in unique(given) if id(tensor) not in unread)
            fresh = {id(tensor) for tensor in given}
            written = mutated + [tensor for tensor in made if id(tensor) not in fresh]
            tally.written += sum(nbytes(tensor) for tensor in unique(written))
        tally.work.append((worked, tally.moved - before))

    def _seen(self, tensor: Tensor) -> int:
        """Takes note of a tensor's memory, and of its end; returns what it goes by."""
        storage = tensor.untyped_storage()
        key: int = storage._cdata
        if key not in self._sizes:
            size = PIECE * math.ceil(storage.nbytes() / PIECE)
            self._sizes[key] = size, "activations"
            self._live["activations"] += size
            weakref.finalize(storage, self._gone, key)
        return key

    def _gone(self, key: int) -> None:
        size, kind = self._sizes.pop(key)
        self._live[kind] -= size

    def _note_peak(self) -> None:
        if sum(self._live.values()) > sum(self.peak.values()):
            self.peak = self.live()


@contextlib.contextmanager
def cuda_autocast() -> Iterator[None]:
    """Inside, norms within autocast compute in float32: CUDA's list holds them, the CPU's does not."""

    def widened(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(norm)
        def wide(*args: Any, **kwargs: Any) -> Tensor:
            if not torch.is_autocast_enabled("cpu"):
                return norm(*args, **kwargs)
            args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs))
            with torch.autocast("cpu", enabled=False):
                return norm(*args, **kwargs)

        return wide

    with contextlib.ExitStack() as stack:
        for name in ("layer_norm", "group_norm"):
            norm = getattr(nn.functional, name)
            stack.enter_context(mock.patch.object(nn.functional, name, widened(norm)))
        yield


def is_view(func: Any) -> bool:
    """Returns whether a call returns other views of memory that is there already, and writes nothing."""
    schema = func._schema
    if any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments):
        return False
    return any(returned.alias_info is not None for returned in schema.returns) or schema.name.endswith("_unsafe_view")


def parts(tensor: Tensor) -> list[Tensor]:
    """Returns a tensor, or what a sparse one is made of."""
    return [tensor._indices(), tensor._values()] if tensor.layout is torch.sparse_coo else [tensor]


def _is_masked(func: Any, args: Any) -> bool:
    return func is aten.index.Tensor and any(part is not None and part.dtype == torch.bool for part in args[1])


def _masked(func: Any, args: Any) -> Tensor:
    """Returns what indexing by masks would, were they true everywhere: a fake does not know how many are."""
    source, masks = args
    every = [None if mask is None else torch.empty(mask.shape, dtype=torch.int64) for mask in masks]
    found: Tensor = func(source, every)
    return found


def launches(name: str, args: Any) -> int:
    """Returns how many kernels a call starts."""
    if name == "cat":
        return math.ceil(len(args[0]) / CONCATENATED)
    if name.startswith(("_foreach_", "_fused_")):
        lists = [part for part in args if isinstance(part, list | tuple) and part and isinstance(part[0], Tensor)]
        depth = min(max(LISTED), len(lists) + (name.startswith("_foreach_") and not name.endswith("_")))
        blocks = sum(math.ceil(tensor.numel() / BLOCK) for tensor in lists[0])
        return max(math.ceil(len(lists[0]) / LISTED[depth]), math.ceil(blocks / BLOCKS))
    return 1


def flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Returns the operations of a matrix product, a convolution or attention; 0 of any other call."""
    name = func._schema.name.split("::")[1]
    if name == "_scaled_dot_product_flash_attention_for_cpu":
        return int(sdpa_flop_count(*(part.shape for part in args[:3])))
    if name == "_scaled_dot_product_flash_attention_for_cpu_backward":
        return int(sdpa_backward_flop_count(*(part.shape for part in args[:4])))
    counted: Callable[..., Any] | None = flop_registry.get(func.overloadpacket)
    if counted is None:
        return 0
    own = {key: value for key, value in kwargs.items() if key not in ("out_dtype",)}
    shaped = args[:2] if name == "mm" else args
    return int(counted(*shaped, **own, out_val=out))


def nbytes(tensor: Tensor) -> int:
    """Returns the bytes that a tensor's entries take; those of an expanded axis are there once."""
    held = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return math.prod(held) * tensor.element_size() if tensor.numel() else 0


def scattered(tensor: Tensor) -> int:
    """Returns the bytes of memory behind entries that lie wherever they lie: a whole sector for each run of them."""
    run = tensor.shape[-1] * tensor.element_size() if tensor.dim() > 1 else tensor.element_size()
    return tensor.numel() * tensor.element_size() * max(run, SECTOR) // max(run, 1)


def unique(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Returns each tensor once."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def _arguments(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[Tensor, bool]]:
    """Yields a call's tensors, each with whether the call writes to it."""
    for number, argument in enumerate(func._schema.arguments):
        value = args[number] if number < len(args) else kwargs.get(argument.name)
        writes = argument.alias_info is not None and argument.alias_info.is_write
        for leaf in tree_leaves(value):
            for part in parts(leaf) if isinstance(leaf, Tensor) else ():
                yield part, writes
