"""Whether a path holds an SDXL that can be trained, from JSON files and safetensors headers alone, without torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ..job.config import is_hub_id
from ..job.schema import Model
from ..system import commandline
from ..system.errors import RELATIVE, UserError
from ..system.plaintext import shown
from . import basetensors, headers, modelfacts, vocabulary
from .headers import Header
from .modelfacts import PREDICTIONS, TEXT, UNET, VAE, ModelFacts, read_json

LIBRARIES = ("diffusers", "transformers")  # whose classes a pipeline is made of
PIPELINE_FOLDERS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")
CONFIGS = ("model_index.json", *(f"{part}/config.json" for part in WEIGHTS), "scheduler/scheduler_config.json")
FIRST = f"{UNET}input_blocks.0.0.weight"
DEEPEST = f"{UNET}middle_block.1.transformer_blocks.9.attn1.to_q.weight"  # distilled relatives have fewer blocks
EMBEDDING = f"{TEXT[0]}text_model.embeddings.token_embedding.weight"
SECOND_ENCODER = "conditioner.embedders.1."  # the one thing that every SDXL checkpoint has and no relative does
LATENT_CHANNELS = 4  # inpainting UNets see a mask and its picture beside them; the VAEs of later models have 16
REMEDY = "Name an SDXL base: a diffusers folder or a .safetensors checkpoint"
PACKAGES = {"xformers": "xformers", "nf4": "bitsandbytes"}  # what a job asks for -> what must be installed
TO_DOWNLOAD = " To download a hub id set allow_download = true."


def check(model: Model) -> tuple[ModelFacts, list[str]]:
    """Returns what is known of the base before its weights are read, and what is wrong with [model]."""
    name = model.pretrained_model_name_or_path
    path, where = Path(name), "[model] pretrained_model_name_or_path"
    problems = check_vae(model) + not_installed("base_dtype", model.base_dtype, "[model]")
    if model.allow_download and is_hub_id(name) and not path.exists():
        facts = ModelFacts() if problems else modelfacts.of_hub(model)
        return facts, problems + prediction_faults(model, facts)
    if not path.exists():
        hint = TO_DOWNLOAD if is_hub_id("/".join(path.parts[-2:])) else ""
        text = f'{where}: nothing at "{path}". {RELATIVE}{hint}'
        return ModelFacts(), [text, *problems]
    if path.is_dir():
        faults = check_folder(path)
        idle = [key for key in ("tokenizer", "config") if getattr(model, key)]
        others = [f"[model] {key}: only a single file needs it; the folder has its own. Remove it." for key in idle]
        others += problems
        facts = ModelFacts() if faults or problems else modelfacts.of_folder(model, path)
    else:
        header, faults = check_single_file(path, model)
        others = problems + check_companions(model, header)
        facts = modelfacts.of_file(model, header) if header and not faults and not others else ModelFacts()
    return facts, [f'{where} "{path}": {fault}' for fault in faults] + others + prediction_faults(model, facts)


def not_installed(key: str, value: str, section: str) -> list[str]:
    """Returns what must be installed before a key can have its value; torch is not imported to find out."""
    package = PACKAGES.get(value)
    if package is None or importlib.util.find_spec(package) is not None:
        return []
    return [f'{section} {key}: "{value}" needs {package}, which is not installed. Run: {commandline.install(package)}']


def prediction_faults(model: Model, facts: ModelFacts) -> list[str]:
    """Returns why the base's prediction and its noise schedule do not go together, or are of a kind not trained."""
    if facts.prediction not in (None, *PREDICTIONS):
        return [
            'base\'s scheduler: expected prediction_type "epsilon" or "v_prediction", got '
            f'"{facts.prediction}". {REMEDY} that predicts either.'
        ]
    if not facts.zero_terminal_snr or facts.prediction != PREDICTIONS[0]:
        return []
    says = "the job" if model.zero_terminal_snr is True else "the base"
    return [
        f"[model] zero_terminal_snr: expected a base that predicts velocity, as {says} says that the noise schedule "
        "ends in pure noise, got one that predicts noise. Set v_parameterization = true if it predicts velocity, else "
        "zero_terminal_snr = false."
    ]


def check_folder(folder: Path) -> list[str]:
    """Returns what keeps a folder from being an SDXL pipeline in diffusers' layout."""
    index = folder / "model_index.json"
    if not index.is_file():
        return [f"expected a diffusers folder, but it has no model_index.json. {REMEDY}."]
    try:
        kind = str(read_json(index).get("_class_name", ""))
    except ValueError as error:
        return [f"model_index.json cannot be read: {error}. Fetch the model again."]
    if not kind.startswith("StableDiffusionXL"):
        return [f"expected a StableDiffusionXL pipeline, got {kind or 'one without _class_name'}. {REMEDY}."]
    if strange := [name for name, given in read_json(index).items() if brings_code(given)]:
        return [
            f"brings code of its own for {', '.join(map(shown, strange))}, which is never run here. {REMEDY} of the "
            "libraries' own classes."
        ]
    missing = [name for name in PIPELINE_FOLDERS if not (folder / name).is_dir()]
    missing = missing or [name for name in CONFIGS if not (folder / name).is_file()]
    if missing:
        return [f"has no {', '.join(missing)}. Fetch the whole model."]
    return check_unet(folder, kind) + [fault for name in WEIGHTS for fault in check_weights(folder / name)]


def brings_code(given: Any) -> bool:
    """Returns whether an entry of model_index.json names a class of neither library, and so a file of the model's."""
    return isinstance(given, list) and bool(given) and isinstance(given[0], str) and given[0] not in LIBRARIES


def check_unet(folder: Path, kind: str) -> list[str]:
    """Returns what keeps a pipeline's UNet from being a text-to-image one, by its config."""
    try:
        channels = read_json(folder / "unet" / "config.json").get("in_channels", LATENT_CHANNELS)
    except ValueError as error:
        return [f"unet/config.json cannot be read: {error}. Fetch the model again."]
    if channels == LATENT_CHANNELS:
        return []
    what = "an inpainting model (StableDiffusionXLInpaintPipeline)" if channels == 9 else kind
    return [f"expected a UNet with {LATENT_CHANNELS} input channels, got {channels}: {what} is not trained. {REMEDY}."]


def check_weights(folder: Path) -> list[str]:
    """Returns what is wrong with the weights of one component: none there, pickles, a file cut short, tensors."""
    try:
        files = headers.weight_files(folder)
    except ValueError as error:
        return [f"{folder.name}/{error}"]
    if not files:
        found = headers.pickles(folder)
        return [only_pickles(folder, found) if found else f"{folder.name} holds no weights. Fetch the whole model."]
    faults: list[str] = []
    tensors: dict[str, dict[str, Any]] = {}
    metadata: dict[str, str] = {}
    for file in files:
        try:
            header = headers.read(file)
            tensors, metadata = tensors | header.tensors, metadata | header.metadata
        except ValueError as error:
            faults.append(f"{file.name} {error}")
    kind = "text" if folder.name.startswith("text_encoder") else "unet" if folder.name == "unet" else "vae"
    faults = faults or basetensors.faults(kind, tensors) or basetensors.scaled(tensors, metadata)
    return [f"{folder.name}: {fault}" for fault in faults]


def only_pickles(folder: Path, found: list[Path]) -> str:
    """Returns what is said of a component that is stored as pickles alone."""
    whole = folder.parent
    line = f"P.from_pretrained({str(whole)!r}, use_safetensors=False).save_pretrained({str(whole) + '-safetensors'!r})"
    return (
        f"{folder.name} holds pickles alone ({found[0].name}), which can run code when they are opened and are not "
        "read. Fetch the model's safetensors or, where you trust it, convert it once: "
        f'python -c "from diffusers import DiffusionPipeline as P; {line}"'
    )


def check_single_file(path: Path, model: Model) -> tuple[Header | None, list[str]]:
    """Returns a file's header, and what keeps it from being an SDXL checkpoint, saying what it looks like instead."""
    if path.suffix != ".safetensors":
        return None, [f"expected a .safetensors file, got {path.suffix or 'no ending'}. {REMEDY}."]
    try:
        header = headers.read(path)
    except ValueError as error:
        return None, [str(error)]
    likeness = looks_like(header.tensors)
    if likeness != "SDXL":
        return header, [f"expected an SDXL checkpoint, but this looks like {likeness}. {REMEDY}."]
    if not model.vae and not any(name.startswith(VAE) for name in header.tensors):
        return header, ["has no VAE in it. Name one in [model] vae."]
    if not model.config and DEEPEST not in header.tensors:
        return header, [
            "has fewer layers than SDXL 1.0, as SSD-1B and Vega do. Name the folder of its own configs in [model] "
            "config."
        ]
    return header, check_tensors(header, model)


def check_tensors(header: Header, model: Model) -> list[str]:
    """Returns what is wrong with the tensors of a whole checkpoint, whatever component they are of."""
    parts = {"unet": [UNET], "text": [*TEXT], "vae": [] if model.vae else [VAE]}
    found = [
        fault
        for kind, prefixes in parts.items()
        for prefix in prefixes
        for fault in basetensors.faults(kind, headers.inside(header, prefix))
    ]
    found += basetensors.outside(header.tensors, (UNET, *TEXT, VAE))
    return found or basetensors.scaled(header.tensors, header.metadata)


def looks_like(tensors: dict[str, Any]) -> str:
    """Returns what a checkpoint's tensor names say it is; "SDXL" for one that can be trained."""
    if FIRST in tensors and any(name.startswith(SECOND_ENCODER) for name in tensors):
        channels = inputs(tensors[FIRST])
        if channels != LATENT_CHANNELS:
            return f"an SDXL inpainting checkpoint ({channels} input channels)"
        if not any(name.startswith(TEXT[0]) for name in tensors):
            return "an SDXL without its first text encoder"
        edm = {"edm_mean": "Playground 2.5", "edm_vpred.sigma_max": "CosXL"}
        kin = next((kind for mark, kind in edm.items() if mark in tensors), "")
        return f"{kin}, whose noise is of another kind (EDM)" if kin else "SDXL"
    marks = {
        "a WaveFT adapter": ".waveft_values",
        "a LoRA": "lora_",
        "SD 1.5": "cond_stage_model.transformer.",
        "SD 2": "cond_stage_model.model.",
        "the SDXL refiner": "conditioner.embedders.0.model.",
        "Flux": "double_blocks.",
        "SD 3": "joint_blocks.",
        "a VAE": "decoder.mid",
        "a bare UNet": "diffusion_model.",
    }
    return next(
        (kind for kind, mark in marks.items() if any(mark in name for name in tensors)), "no model that is known here"
    )


def inputs(entry: dict[str, Any]) -> int:
    """Returns how many input channels a convolution's weight has, 0 for what is none."""
    return entry["shape"][1] if len(entry["shape"]) == 4 else 0


def check_companions(model: Model, header: Header | None) -> list[str]:
    """Returns what a single file lacks beside it: whole configs, where a folder of them is named, and a vocabulary."""
    problems = []
    if model.config and (absent := [name for name in CONFIGS if not (Path(model.config) / name).is_file()]):
        problems.append(
            f"[model] config \"{model.config}\": expected a folder with SDXL's configs in diffusers' layout, got one "
            f"without {', '.join(absent)}. Add them, or remove the key: SDXL 1.0's are known here."
        )
    try:
        rows = header.tensors.get(EMBEDDING, {}).get("shape", [None]) if header else [None]
        vocabulary.find(model, rows[0])
    except UserError as error:
        problems += error.problems
    return problems


def check_vae(model: Model) -> list[str]:
    """Returns what keeps [model] vae from being the VAE of an SDXL."""
    path = Path(model.vae)
    if not model.vae or (model.allow_download and is_hub_id(model.vae) and not path.exists()):
        return []
    where = f'[model] vae "{path}"'
    if not path.exists():
        hint = TO_DOWNLOAD if is_hub_id("/".join(path.parts[-2:])) else ""
        return [f"{where}: nothing there. {RELATIVE}{hint}"]
    if path.is_dir() and not (path / "config.json").is_file():
        return [f"{where}: expected a folder with config.json and weights, in diffusers' layout."]
    if path.is_dir():
        return [f"{where}: {fault}" for fault in check_weights(path)]
    if path.suffix != ".safetensors":
        return [f"{where}: expected a folder or a .safetensors file, got {path.suffix or 'no ending'}."]
    try:
        header = headers.read(path)
    except ValueError as error:
        return [f"{where}: {error}"]
    first = header.tensors.get(f"{modelfacts.vae_prefix(header)}decoder.conv_in.weight")
    if first is None:
        return [f"{where}: expected a VAE, but this looks like {looks_like(header.tensors)}. Name a VAE of SDXL's."]
    if (channels := inputs(first)) != LATENT_CHANNELS:
        return [f"{where}: expected a VAE of {LATENT_CHANNELS} latent channels, got {channels}. Name one of SDXL's."]
    tensors = headers.inside(header, modelfacts.vae_prefix(header))
    found = basetensors.faults("vae", tensors) or basetensors.scaled(tensors, header.metadata)
    return [f"{where}: {fault}" for fault in found]
