"""How much memory and time a run will take, from headers and the job alone: estimates, not promises. No torch.

Weights are counted. Activations follow from the layers' shapes: what autograd keeps of one transformer block or resnet
is `BLOCK` or `RESNET` bytes for each number that goes through it, whole without gradient checkpointing, inputs and one
block at a time with it. These were counted, not measured: `python -m benchmarks.roofline` runs the whole UNet on
tensors without memory, and a test holds the estimates to what lives there at its peak. The rest, `OVERHEAD`, is a
guess: the driver's context, cuDNN's workspaces and gaps between allocations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..base import layershapes
from ..base.modelfacts import ModelFacts
from ..job.schema import Job
from ..methods import registry

GB = 1e9
BLOCK = 50.5  # bytes by token and width: two attentions, a gated feed-forward of 4 times the width, three fp32 norms
RESNET = 11  # bytes by pixel and channel, in and out: fp32 around each norm, then what the convolution reads
KEPT = 2.5  # bytes of a checkpointed block's input, and of what lies between the blocks
AGAIN = 26, 3  # what the gradients of a block that is computed again take beside it: of a transformer's, of a resnet's
OVERHEAD = (0.5 * GB, 0.3, 2.0 * GB)  # at least, for each byte of weights and activations, at most
LAUNCH = {"cpu": 2e-4, "gpu": 7e-5}  # seconds a layer takes at least, forward and back: what starting its kernels costs
CONTEXT = 0.3 * GB  # of a caption in trained text encoders of SDXL's size
TOKENS = 77
MOMENTS = {"SGD": 4, "Lion": 4, "Lion8bit": 4, "Adafactor": 4, "Prodigy": 16}  # bytes by trained number; 8 otherwise
NF4 = 0.53  # bytes by weight, its block's scale among them
# TFLOP/s that a run of SDXL's reaches in practice, base frozen, bf16 on the GPUs; rough
REACHED = {"an H100": 65.0, "an RTX 4090": 27.0, "an RTX 3090": 12.0, "8 CPU cores": 0.3}
BANDWIDTH = {"an H100": 3350 * GB, "an RTX 4090": 1008 * GB, "an RTX 3090": 936 * GB, "8 CPU cores": 50 * GB}  # per s
START = 5e-6  # seconds that starting a kernel takes a GPU's host


@dataclass(frozen=True)
class Setting:
    """What memory and time depend on.

    Attributes:
        width, height: px of the largest bucket.
        batch: pictures at a time.
        checkpointing: whether blocks are computed again in the backward pass.
        compute: bytes of a number that the base computes in.
        base: `base_dtype` of the job.
        text: whether text encoders stay on the device, and whether they train.
        vae: whether the VAE stays on the device.
    """

    width: int
    height: int
    batch: int
    checkpointing: bool
    compute: int
    base: str
    text: tuple[bool, bool]
    vae: bool


@dataclass(frozen=True)
class Memory:
    """Bytes on the device at the peak of training.

    Attributes:
        weights: of the frozen base.
        trained: the numbers that train, their gradients, the optimizer's state, and what the method needs beside them.
        activations: what the forward pass leaves for the backward pass.
    """

    weights: float
    trained: float
    activations: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.trained + self.activations + self.overhead

    @property
    def overhead(self) -> float:
        """Libraries, workspaces and gaps between allocations: little for a small base, 2 GB for SDXL."""
        least, share, most = OVERHEAD
        return min(most, least + share * (self.weights + self.activations))


def setting(job: Job, size: tuple[int, int], batch: int) -> Setting:
    """Returns what the job says; "auto" is taken for a GPU that computes in bf16, unless the job names the CPU."""
    cpu, train = job.train.device == "cpu", job.train
    compute = {"no": 4, "fp16": 2, "bf16": 2, "auto": 4 if cpu else 2}[train.mixed_precision]
    checkpointing = not cpu if train.gradient_checkpointing == "auto" else train.gradient_checkpointing
    trained, cache = job.network.train_text_encoder, job.cache
    views = any(subset.color_aug or subset.random_crop for subset in job.subsets())
    text = (trained or not cache.cache_text_encoder_outputs, trained)
    base = job.model.base_dtype
    return Setting(*size, batch, bool(checkpointing), compute, base, text, views or not cache.cache_latents)


def memory(job: Job, facts: ModelFacts, given: Setting) -> Memory | None:
    """Returns the peak while training, None where the files do not tell how large the base is."""
    if not facts.unet_shapes:
        return None
    weights = unet_bytes(facts, given) + given.text[0] * facts.text_parameters * given.compute
    weights += 4 * facts.vae_parameters if given.vae else 0
    tapped = registry.of(job.network).TAPPED
    return Memory(weights, trained_bytes(job, facts, given), activations(facts, given, tapped))


def unet_bytes(facts: ModelFacts, given: Setting) -> float:
    """Returns what the UNet's weights take on the device."""
    if given.base == "fp32":
        return 4 * facts.unet_parameters
    shapes = layershapes.shapes(facts)
    linear = {path: layershapes.numel(shape) for path, shape in shapes.items() if len(shape) == 2}
    if given.base == "fp8":
        eased = sum(linear.values())
        return eased + given.compute * (facts.unet_parameters - eased)
    if given.base == "nf4":
        eased = sum(size for path, size in linear.items() if "attentions." in path)
        return NF4 * eased + given.compute * (facts.unet_parameters - eased)
    return given.compute * facts.unet_parameters


def trained_bytes(job: Job, facts: ModelFacts, given: Setting) -> float:
    """Returns what the method takes beside the base."""
    counts = trained(job, facts) or []
    layers = layershapes.layers(facts, job.model, job.network) or []
    each = 8 + MOMENTS.get(job.optimizer.optimizer_type, 8) + (4 if job.train.ema_decay else 0)
    held = registry.of(job.network).held_bytes(layers, counts, given.checkpointing, given.compute)
    return sum(counts) * each + held


def trained(job: Job, facts: ModelFacts) -> list[int] | None:
    """Returns how many numbers train in each layer, None where the files do not tell."""
    method = registry.of(job.network)
    if job.network.begins_with:
        found = layershapes.of_file(Path(job.network.begins_with), method.TRAINED)
        return list(found.values()) if found else None
    layers = layershapes.layers(facts, job.model, job.network)
    return method.counts(layers) if layers else None


def activations(facts: ModelFacts, given: Setting, tapped: float = 0.0) -> float:
    """Returns what a forward pass leaves for the backward pass, at its peak.

    Args:
        facts: of the base.
        given: the setting.
        tapped: bytes by token and width that a method keeps of each transformer block beside what the base does.
    """
    whole, inputs, largest = 0.0, 0.0, 0.0
    shapes, pixels = layershapes.shapes(facts), seen(facts, given)
    for path, shape in shapes.items():
        if path.endswith("attn1.to_q"):  # one for each transformer block
            through = pixels(path) * shape[0]
            each, extra, entry = BLOCK + tapped, AGAIN[0], through
        elif path.endswith((".conv1", ".in_layers.2")) and not comes_first(path, shapes):  # one for each resnet
            through, entry = pixels(path) * (shape[0] + shape[1]), pixels(path) * shape[1]
            each, extra = float(RESNET), AGAIN[1]
        else:
            continue
        whole, inputs = whole + each * through, inputs + KEPT * entry
        largest = max(largest, (each + extra) * through)
    text = CONTEXT * facts.text_parameters / 0.82e9 if given.text[1] else 0.0
    vae = 6 * 4 * 128 * given.width * given.height if given.vae else 0.0  # its widest layers, one picture at a time
    blocks = (inputs + largest if given.checkpointing else whole) * given.compute / 2
    return given.batch * (blocks + text) + vae + cast_weights(facts, given)


def comes_first(path: str, paths: Iterable[str]) -> bool:
    """Returns whether a block comes before every attention: nothing there trains, and no gradient goes back to it."""
    if path.startswith("input_blocks."):
        return path.split(".")[1] in ("1", "2") and not any(other.startswith("down_blocks.0.att") for other in paths)
    return path.startswith("down_blocks.0.") and not any(other.startswith("down_blocks.0.att") for other in paths)


def cast_weights(facts: ModelFacts, given: Setting) -> float:
    """Returns what the backward pass keeps of weights in eight bits: each as it was cast for its product.

    Without gradient checkpointing that is all of them, and eight bits save nothing.
    """
    if given.base != "fp8":
        return 0.0
    linear = {path: layershapes.numel(shape) for path, shape in layershapes.shapes(facts).items() if len(shape) == 2}
    if not given.checkpointing:
        return given.compute * sum(linear.values())
    blocks: dict[str, int] = {}
    for path, size in linear.items():
        block = path.partition(".attn")[0].partition(".ff")[0]
        blocks[block] = blocks.get(block, 0) + size
    return given.compute * max(blocks.values(), default=0)


def seen(facts: ModelFacts, given: Setting) -> Callable[[str], float]:
    """Returns the function that tells how many places of the picture a layer sees, by its path."""
    deepest = layershapes.deepest(layershapes.shapes(facts))
    factor = max(1, (facts.multiple or 32) // 2**deepest)  # px of a latent
    whole = given.width * given.height / factor**2
    return lambda path: whole / 4 ** layershapes.level(path, deepest)


def flops(facts: ModelFacts, given: Setting) -> float:
    """Returns the floating-point operations of the UNet's forward pass on one picture."""
    pixels, total = seen(facts, given), 0.0
    for path, shape in layershapes.shapes(facts).items():
        count = 1 if "emb" in path else places(path, pixels)
        total += 2 * layershapes.numel(shape) * count
        if path.endswith("attn1.to_q"):
            total += 4 * count**2 * shape[0]
        elif path.endswith("attn2.to_q"):
            total += 4 * count * TOKENS * shape[0]
    return total


def seconds(job: Job, facts: ModelFacts, given: Setting, pictures: int) -> dict[str, float]:
    """Returns device -> how long training on so many views takes: forward, backward to the inputs, and blocks again.

    A small base computes less than starting its kernels takes: then that is the time.
    """
    work = flops(facts, given) * passes(given) * pictures / 1e12
    moved, started = beside(job, facts, given)
    steps, layers, found = pictures / given.batch, len(layershapes.shapes(facts)), {}
    for device, rate in REACHED.items():
        cpu = device.endswith("cores")
        least = steps * (LAUNCH["cpu" if cpu else "gpu"] * layers + (0.0 if cpu else START * started))
        found[device] = max(work / rate + pictures * moved / BANDWIDTH[device], least)
    return found


def passes(given: Setting) -> int:
    """Returns how often a step goes through the UNet: forward, back, and forward again where nothing was kept."""
    return 3 if given.checkpointing else 2


def beside(job: Job, facts: ModelFacts, given: Setting) -> tuple[float, float]:
    """Returns the bytes that an update moves by picture, and the kernels that it starts, in a step beside the weights.

    That is where these are held in eight or four bits; into others it is written, once a step.
    """
    each, kernels = registry.of(job.network).BESIDE
    if given.base not in ("fp8", "nf4"):
        return 0.0, 0.0
    shapes, pixels = layershapes.shapes(facts), seen(facts, given)
    layers = [one for one in layershapes.layers(facts, job.model, job.network) or [] if one.path in shapes]
    through = sum(places(one.path, pixels) * (one.rows + one.columns) for one in layers)
    return passes(given) * each * through, passes(given) * kernels * len(layers)


def places(path: str, pixels: Callable[[str], float]) -> float:
    """Returns how many places a layer computes for: those of the picture, or of the text that it reads."""
    return TOKENS if path.endswith(("attn2.to_k", "attn2.to_v")) else pixels(path)


def file_bytes(job: Job, facts: ModelFacts) -> int | None:
    """Returns the adapter file's size without its metadata, None where the files do not tell."""
    counts, value = trained(job, facts), 4 if job.save.save_precision == "float" else 2
    layers = layershapes.layers(facts, job.model, job.network) or []
    return None if counts is None else registry.of(job.network).file_bytes(layers, counts, value)


def state_bytes(job: Job, facts: ModelFacts) -> int | None:
    """Returns the size of what a run keeps to be resumed, None where the files do not tell."""
    counts = trained(job, facts)
    each = 4 + MOMENTS.get(job.optimizer.optimizer_type, 8) + (4 if job.train.ema_decay else 0)
    return None if counts is None else sum(counts) * each


def dataset_batches(job: Job) -> list[int]:
    """Returns how many pictures each dataset has at a time."""
    return [dataset.batch_size or job.general.batch_size or 1 for dataset in job.datasets]
