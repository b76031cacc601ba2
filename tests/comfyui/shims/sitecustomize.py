"""Makes a torchvision built for CUDA importable beside a CPU torch, when and only when it is imported.

Its compiled part cannot be loaded without CUDA's libraries, so the operators to which torchvision attaches fake kernels
do not exist and `import torchvision` raises. Declaring them bare is enough for ComfyUI, which uses the transforms only;
calling one still raises.
"""

import importlib.abc
import sys

OPERATORS = ("nms", "qnms")
kept = []  # a library that is dropped takes its operators along


class BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Declares the operators at the first import of torchvision, and finds nothing."""

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                kept.append(library := torch.library.Library("torchvision", "DEF"))
                for operator in OPERATORS:
                    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, BeforeTorchvision())
