"""Makes a torchvision or torchaudio built for CUDA importable beside a CPU torch, when and only when it is imported.

Their compiled parts cannot be loaded without CUDA's libraries: the operators to which torchvision attaches fake kernels
do not exist, and torchaudio raises. Declaring the former bare, and telling torchaudio that it was built without its
own, is enough for ComfyUI, which uses transforms and resampling only; calling one still raises.
"""

import importlib.abc
import importlib.machinery
import sys

OPERATORS = ("nms", "qnms")
EXTENSION = "torchaudio._extension"
kept = []  # a library that is dropped takes its operators along


class WithoutExtension(importlib.abc.Loader):
    """Stands in for the module of torchaudio that loads its compiled part."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        def missing(*_args, **_kwargs):
            raise RuntimeError("torchaudio: this needs its compiled part, which was left out beside a CPU torch")

        module._IS_TORCHAUDIO_EXT_AVAILABLE = module._IS_ALIGN_AVAILABLE = module._IS_RIR_AVAILABLE = False
        module.fail_if_no_align = module.fail_if_no_rir = lambda function: missing


class Beside(importlib.abc.MetaPathFinder):
    """Declares torchvision's operators before it is imported, and exchanges the one module of torchaudio."""

    def find_spec(self, name, path=None, target=None):
        if name not in ("torchvision", EXTENSION):
            return None
        import torch

        if torch.version.cuda is not None:
            return None
        if name == EXTENSION:
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            if spec is not None:
                spec.loader = WithoutExtension()
            return spec
        if not kept:
            kept.append(library := torch.library.Library("torchvision", "DEF"))
            for operator in OPERATORS:
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, Beside())
