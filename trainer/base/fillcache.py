"""Makes what a store lacks, alone or shared among the processes of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..system.errors import UserError
from .cache import Store

if TYPE_CHECKING:
    from torch import Tensor

    from ..system.distributed import World

Maker = Callable[[], "dict[str, Tensor]"]
Progress = Callable[[int, int], None]
ROUND = 32  # entries that each process makes before they are exchanged: a fault in one then stops all before long


def fill(
    store: Store, makers: Mapping[str, Maker], world: World | None = None, progress: Progress | None = None
) -> None:
    """Makes the entries that are not there, and keeps each at once: what was interrupted goes on where it was.

    Args:
        store: of this process; several processes may share its folder or not.
        makers: name -> what makes that entry; the same names in the same order in every process.
        world: its processes share the work and exchange what they made.
        progress: called with how many entries are there and how many shall be; each time one more is.

    Raises:
        UserError: an entry cannot be made; every process raises it.
    """
    lacking = [name for name in makers if store.get(name) is None]
    store.hits, store.misses = store.hits + len(makers) - len(lacking), store.misses + len(lacking)
    if world is None or world.size == 1:
        for number, name in enumerate(lacking):
            store.put(name, makers[name]())
            if progress:
                progress(len(makers) - len(lacking) + number + 1, len(makers))
        return
    anywhere = set(world.gather(lacking))  # folders may differ from machine to machine
    missing = [name for name in makers if name in anywhere]
    for start in range(0, len(missing), ROUND * world.size):
        names = missing[start : start + ROUND * world.size]
        share(store, {name: makers[name] for name in names}, world)
        if progress:
            progress(len(makers) - len(missing) + start + len(names), len(makers))


def share(store: Store, makers: Mapping[str, Maker], world: World) -> None:
    """Makes every `size`-th entry here and takes the others from the processes that made them."""
    made: list[tuple[str, dict[str, Tensor]]] = []
    faults: list[str] = []
    try:
        for name in list(makers)[world.rank :: world.size]:
            tensors = store.get(name) or makers[name]()
            store.put(name, tensors)
            made.append((name, tensors))
    except UserError as error:  # said to all: who is not told waits for ever
        faults = error.problems
    if faults := world.gather(faults):
        raise UserError(faults)
    for name, tensors in world.gather(made):
        store.put(name, tensors)
