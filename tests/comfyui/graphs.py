"""Prompts in ComfyUI's API format, written as one would draw them, and what they gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from tests.comfyui.server import Done, Server
from tests.comfyui.weights import ATTENTION, layer_name

Link = list[Any]  # [node, output number]


@dataclass
class Graph:
    """A prompt that grows; `nodes` is what ComfyUI takes.

    graph = Graph()
    model, clip, vae = graph.checkpoint("micro.safetensors")
    model = graph.waveft(model, "a.safetensors", 0.5)
    graph.dump(model)
    graph.sample(model, steps=2)
    result = run(server, graph)
    """

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, class_type: str, node: str = "", **inputs: Any) -> str:
        """Adds a node and returns its id: the one given, or its class and a number."""
        node = node or f"{class_type} {len(self.nodes)}"
        assert node not in self.nodes
        self.nodes[node] = {"class_type": class_type, "inputs": inputs}
        return node

    def checkpoint(self, name: str) -> tuple[Link, Link, Link]:
        """Adds Load Checkpoint; returns its MODEL, CLIP and VAE."""
        node = self.add("CheckpointLoaderSimple", ckpt_name=name)
        return [node, 0], [node, 1], [node, 2]

    def waveft(self, model: Link, name: str, strength: float = 1.0, node: str = "", **optional: Any) -> Link:
        """Adds Load WaveFT and a view of its report under the same name; returns its MODEL."""
        node = self.add("WaveFTLoader", node, model=model, adapter_name=name, strength_model=strength, **optional)
        self.show([node, 2], f"{node} report")
        return [node, 0]

    def lora(self, model: Link, name: str, strength: float = 1.0) -> Link:
        """Adds the stock LoRA loader for models alone; returns its MODEL."""
        return [self.add("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=strength), 0]

    def show(self, text: Link, node: str = "") -> None:
        """Adds a view of a text, whose content is in the result's `texts`."""
        self.add("PreviewAny", node, source=text)

    def dump(self, model: Link | None = None, clip: Link | None = None, patterns: str = ATTENTION) -> None:
        """Adds the dump of the weights that ComfyUI merges: the result's `weights`."""
        sockets = {name: link for name, link in (("model", model), ("clip", clip)) if link is not None}
        self.add("HarnessDumpWeights", "dump", patterns=patterns, **sockets)

    def sample(self, model: Link, positive: Link | None = None, size_px: int = 64, **sampler: Any) -> None:
        """Adds a KSampler on random conditioning: the result's `latent`."""
        conditions = {
            name: [self.add("HarnessRandomConditioning", name, seed=seed, tokens=77), 0]
            for name, seed in (("positive", 1), ("negative", 2))
        }
        if positive is not None:
            conditions["positive"] = positive
        empty = [self.add("EmptyLatentImage", "empty", width=size_px, height=size_px, batch_size=1), 0]
        settings = {"seed": 7, "steps": 1, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        inputs = {**settings, **conditions, "model": model, "latent_image": empty, **sampler}
        self.add(
            "SaveLatent", "latent", samples=[self.add("KSampler", "sampler", **inputs), 0], filename_prefix="latent"
        )


@dataclass(frozen=True)
class Result:
    """What a graph gave.

    Attributes:
        weights: by layer (or by key, for what is no UNet's), as ComfyUI merged them; where there is a dump.
        latent: what was sampled, where something was.
        texts: by node, what Preview Any shows.
        done: the rest.
    """

    weights: dict[str, Tensor]
    latent: Tensor | None
    texts: dict[str, str]
    done: Done


def run(server: Server, graph: Graph) -> Result:
    """Runs a graph and reads its files, which it deletes: dumps are large.

    Raises:
        Failed: ComfyUI refused or failed it.
    """
    done = server.run(graph.nodes)
    weights = {
        layer_name(key) if key.startswith("diffusion_model.") else key: weight
        for key, weight in _taken(done.files.get("dump", [])).items()
    }
    latent = _taken(done.files.get("latent", [])).get("latent_tensor")
    texts = {node: str(shown["text"][0]) for node, shown in done.outputs.items() if shown.get("text")}
    return Result(weights, latent, texts, done)


def plain(name: str) -> Graph:
    """Returns the graph that dumps a checkpoint as it is."""
    graph = Graph()
    graph.dump(graph.checkpoint(name)[0])
    return graph


def loaded(name: str, adapters: Mapping[str, float], sample: bool = False) -> Graph:
    """Returns the graph of a checkpoint and a chain of Load WaveFT nodes, dumped, and sampled if asked for.

    The loaders are called w0, w1, ..., their reports "w0 report", ...

    Args:
        adapters: {adapter name: strength}.
    """
    graph = Graph()
    model = graph.checkpoint(name)[0]
    for number, (adapter, strength) in enumerate(adapters.items()):
        model = graph.waveft(model, adapter, strength, f"w{number}")
    graph.dump(model)
    if sample:
        graph.sample(model)
    return graph


def _taken(files: list[Path]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in files:
        found |= {key: tensor.clone() for key, tensor in load_file(path).items()}
        path.unlink()
    return found
