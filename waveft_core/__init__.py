"""WaveFT's core: the wavelet update of a weight, its training, its merging and its file.

Its names are `public`'s, imported when the first of them is asked for: a command line that only tells its words, and a
module that needs no tensor, do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public import *  # noqa: F403
    from .public import __all__ as __all__

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Returns a public name (PEP 562)."""
    public = import_module(f"{__name__}.public")
    if name != "__all__" and name not in public.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found = getattr(public, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
