"""The nodes in the real ComfyUI: what it really merged, against float64 and PyWavelets.

    COMFYUI_DIR=... COMFYUI_PYTHON=... WAVEFT_COMFY_HARNESS=... python -m pytest -m comfy

COMFYUI_DIR is a ComfyUI checkout, COMFYUI_PYTHON a Python with its requirements and ours. WAVEFT_COMFY_HARNESS is
a folder that this repository does not hold; whoever runs these tests brings one that provides:

- `run_comfy.py`: `with Comfy([(pack, name)], {folder of models: [path or (path, name)]}, dir, python, extra=[flag])`
  starts ComfyUI headless and gives a server: `base`, its folder; `run(prompt)`, `outputs` by node, `files` (`node`,
  `path`) and `cached` nodes, or `Failed` with ComfyUI's words; `get(path)`, `object_info()`, `require_nodes(ids)`;
- in that server AcceptDumpWeights (model, globs, filename_prefix), which saves the merged weights as safetensors, and
  AcceptRandomConditioning (seed, tokens), random conditioning; a folder `shims` for PYTHONPATH, which may be empty;
- `make_sdxl_checkpoint.py --arch micro|narrow [--no-clip] --comfy DIR -o FILE`: random weights in a checkpoint of 88
  attention layers (`micro`, an SDXL relative), or with all 560 of SDXL's names and every width 320 (`narrow`).
"""

import importlib.util
import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

REPOSITORY = Path(__file__).resolve().parents[2]
SETTINGS = ("COMFYUI_DIR", "COMFYUI_PYTHON", "WAVEFT_COMFY_HARNESS")
COMFYUI, PYTHON, HARNESS = (os.environ.get(name) for name in SETTINGS)
LAYER_COUNT = {"micro": 88, "narrow": 560}
GLOBS = "*attn?.to_*.weight"
FLAGS = {torch.float32: "--fp32-unet", torch.bfloat16: "--bf16-unet", torch.float16: "--fp16-unet"}
TEXT_SHAPES = {
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
    "lora_te1_text_model_encoder_layers_11_mlp_fc1": (3072, 768),
    "lora_te2_text_model_encoder_layers_31_self_attn_out_proj": (1280, 1280),
}

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.slow,
    pytest.mark.skipif(not all((COMFYUI, PYTHON, HARNESS)), reason=f"needs {', '.join(SETTINGS)}"),
    # the harness leaves /proc files to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def harness():
    spec = importlib.util.spec_from_file_location("run_comfy", Path(HARNESS) / "run_comfy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Returns a function from an architecture's name to its checkpoint, made once."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def make(arch, *flags):
        path = folder / f"{arch}{'' if flags else '_clip'}.safetensors"
        if not path.exists():
            script = str(Path(HARNESS) / "make_sdxl_checkpoint.py")
            subprocess.run([PYTHON, script, "--arch", arch, *flags, "--comfy", COMFYUI, "-o", str(path)], check=True)
        return path

    return make


def attention_shapes(path):
    """Returns {layer name: shape} read off a checkpoint: its own key with every dot an underscore."""
    with safe_open(path, framework="pt") as file:
        keys = [key for key in file.keys() if "attn" in key and ".to_" in key and key.endswith(".weight")]  # noqa: SIM118
        inner = {key: key.removeprefix("model.diffusion_model.").removesuffix(".weight") for key in keys}
        return {f"lora_unet_{inner[key].replace('.', '_')}": tuple(file.get_slice(key).get_shape()) for key in keys}


@pytest.fixture(scope="module")
def write():
    """Returns a function that writes a random adapter of `shapes` to `path`."""
    from waveft_core import Adapter, Layer, save

    def write(path, shapes, seed=0, p=2592, **fields):
        generator, layers = torch.Generator().manual_seed(seed), {}
        for name, shape in shapes.items():
            indices = torch.randperm(shape[0] * shape[1], generator=generator)[:p].sort().values.int()
            layers[name] = Layer(torch.randn(p, generator=generator) * 0.01, indices, shape)
        basis = {"wavelet": "db1", "mode": "periodization", "scaling": 25.0, **fields}
        save(Adapter(layers=layers, metadata={"modelspec.architecture": "test/waveft"}, **basis), path)

    return write


def oracle(path):
    """Yields (layer, dW float64, scaling * max|C|) of a file, read by hand and transformed by PyWavelets."""
    tensors = load_file(path)
    header = json.loads(bytes(tensors["waveft.header"].tolist()))
    assert header["mode"] == "periodization"
    for name in (key.removesuffix(".waveft_values") for key in tensors if key.endswith(".waveft_values")):
        m, n = tensors[f"{name}.waveft_shape"].tolist()
        coeffs = np.zeros(m * n)
        coeffs[tensors[f"{name}.waveft_indices"].numpy()] = tensors[f"{name}.waveft_values"].double().numpy()
        (aa, ad), (da, dd) = ((q for q in np.hsplit(half, 2)) for half in np.vsplit(coeffs.reshape(m, n), 2))
        delta = pywt.idwt2((aa, (da, ad, dd)), header["wavelet"], "periodization")
        yield name, torch.from_numpy(header["scaling"] * delta), header["scaling"] * float(np.abs(coeffs).max())


def prompt(checkpoint, *loaders, sample=True):
    """Returns an API prompt: checkpoint, a chain of Load WaveFT nodes (name, strength), sampler, and a weight dump."""
    nodes = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}}}
    model = ["1", 0]
    for number, (name, strength) in enumerate(loaders):
        inputs = {"model": model, "adapter_name": name, "strength_model": strength}
        nodes[f"w{number}"] = {"class_type": "WaveFTLoader", "inputs": inputs}
        nodes[f"p{number}"] = {"class_type": "PreviewAny", "inputs": {"source": [f"w{number}", 2]}}
        model = [f"w{number}", 0]
    dump = {"model": model, "globs": GLOBS, "filename_prefix": "weights"}
    nodes["dump"] = {"class_type": "AcceptDumpWeights", "inputs": dump}
    if sample:
        for key, seed in (("positive", 1), ("negative", 2)):
            nodes[key] = {"class_type": "AcceptRandomConditioning", "inputs": {"seed": seed, "tokens": 77}}
        nodes["latent"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
        sampler = {"seed": 7, "steps": 1, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
        links = {
            "model": model,
            "positive": ["positive", 0],
            "negative": ["negative", 0],
            "latent_image": ["latent", 0],
        }
        nodes["sampler"] = {"class_type": "KSampler", "inputs": {**sampler, **links}}
        nodes["save"] = {"class_type": "SaveLatent", "inputs": {"samples": ["sampler", 0], "filename_prefix": "latent"}}
    return nodes


def run(server, graph):
    """Runs a prompt and returns the dumped weights by layer name, the reports, and the latent if one was sampled."""
    done = server.run(graph)
    paths = {file["node"]: file["path"] for file in done["files"]}
    dumped = load_file(paths["dump"])
    Path(paths["dump"]).unlink()  # half a gigabyte each
    weights = {
        f"lora_unet_{key.removeprefix('diffusion_model.').removesuffix('.weight').replace('.', '_')}": value
        for key, value in dumped.items()
    }
    reports = {node: out["text"][0] for node, out in done["outputs"].items() if node.startswith("p") and "text" in out}
    latent = load_file(paths["save"])["latent_tensor"] if "save" in paths else None
    return weights, reports, latent


def largest_error(merged, base, changes):
    """Returns the largest |merged - (base + sum of strength * dW)| over every layer, in float64.

    Each entry may be off by one rounding to the storage dtype (half a unit in the last place) and by float32's
    arithmetic on its terms: 4 eps of |W| and of the largest coefficient (terms may cancel). What no coefficient touches
    must be W bit for bit.

    Args:
        changes: [(file, strength)].
    """
    totals = {}
    for path, strength in changes:
        for layer, delta, largest in oracle(path):
            change, touched, terms = totals.get(layer, (0.0, False, 0.0))
            totals[layer] = (change + strength * delta, touched | (delta != 0), terms + abs(strength) * largest)
    assert set(totals) == set(merged) == set(base)
    worst = 0.0
    for layer, (change, touched, terms) in totals.items():
        got, before = merged[layer], base[layer]
        assert got.dtype == before.dtype
        exact = before.double() + change
        error, info = (got.double() - exact).abs(), torch.finfo(got.dtype)
        tiny = info.smallest_normal * info.eps / 2
        slack = 4 * torch.finfo(torch.float32).eps * (before.double().abs() + terms)
        excess = float((error - info.eps / 2 * exact.abs() - tiny - slack).max())
        assert excess <= 0, (layer, excess)
        assert torch.equal(got[~touched], before[~touched]), layer
        assert not torch.equal(got, before), layer
        worst = max(worst, float(error.max()))
    return worst


@pytest.mark.parametrize("dtype", list(FLAGS), ids=str)
def test_every_layer_that_comfyui_merged_is_w_plus_strength_dw(harness, checkpoint, write, tmp_path, dtype):
    models, files = {"checkpoints": [], "waveft": []}, {}
    for arch, count in LAYER_COUNT.items():
        path = checkpoint(arch, "--no-clip")
        shapes = attention_shapes(path)
        assert len(shapes) == count
        files[arch] = tmp_path / f"{arch}_adapter.safetensors"
        write(files[arch], shapes, wavelet="db1" if arch == "narrow" else "db2")
        models["checkpoints"].append((str(path), f"{arch}.safetensors"))
        models["waveft"].append(str(files[arch]))
    packs = [(str(REPOSITORY), "ComfyUI-WaveFT.1")]
    with harness.Comfy(packs, models, COMFYUI, PYTHON, extra=[FLAGS[dtype]]) as server:
        for arch, path in files.items():
            base, _, plain = run(server, prompt(f"{arch}.safetensors", (path.name, 0.0)))
            for strength in (1.0, -0.7):
                began = time.perf_counter()
                merged, reports, latent = run(server, prompt(f"{arch}.safetensors", (path.name, strength)))
                seconds = time.perf_counter() - began
                assert next(iter(merged.values())).dtype == dtype
                error = largest_error(merged, base, [(path, strength)])
                print(
                    f"\n{arch} {dtype} strength {strength}: largest error {error:.2e}, prompt {seconds:.1f} s", end=""
                )
                count = LAYER_COUNT[arch]
                assert reports["p0"].startswith(f"{count}/{count} layers of {path.name}")
                assert bool(torch.isfinite(latent).all())
                assert not torch.equal(latent, plain)
            source = load_checkpoint(checkpoint(arch, "--no-clip"))
            assert all(torch.equal(base[layer], source[layer].to(dtype)) for layer in base), "strength 0 is W itself"


def load_checkpoint(path):
    """Returns {layer name: weight} of a checkpoint's attention layers."""
    found = load_file(path)
    inner = {key: key.removeprefix("model.diffusion_model.").removesuffix(".weight") for key in found}
    return {
        f"lora_unet_{inner[key].replace('.', '_')}": value
        for key, value in found.items()
        if ".to_" in key and key.endswith(".weight")
    }


@pytest.fixture(scope="module")
def micro(harness, checkpoint, write, tmp_path_factory):
    """A server with `micro` and a folder of adapters, some of them wrong."""
    from waveft_core import load
    from waveft_core.checkpoint import merge_files
    from waveft_core.interop.diff import write_diff

    folder, path = tmp_path_factory.mktemp("adapters"), checkpoint("micro", "--no-clip")
    shapes = attention_shapes(path)
    write(folder / "a.safetensors", shapes, seed=1)
    write(folder / "b.safetensors", shapes, seed=2, wavelet="sym4")
    write(folder / "sdxl.safetensors", attention_shapes(checkpoint("narrow", "--no-clip")))
    write_diff(load(folder / "a.safetensors"), folder / "diff.safetensors")
    merged = folder.parent / "merged.safetensors"
    adapters = [(load(folder / "a.safetensors"), 1.0), (load(folder / "b.safetensors"), -0.5)]
    merge_files(path, adapters, merged)
    write(folder / "wide.safetensors", {**shapes, next(iter(shapes)): (64, 64)})
    write(folder / "text.safetensors", {**shapes, **TEXT_SHAPES})
    save_file({"lora_unet_x.lora_up.weight": torch.zeros(2)}, folder / "lora.safetensors")
    models = {
        "checkpoints": [(str(path), "micro.safetensors"), (str(merged), "merged.safetensors")],
        "waveft": [str(file) for file in folder.iterdir()],
        "loras": [
            (str(folder / "a.safetensors"), "shared.safetensors"),
            str(folder / "lora.safetensors"),
            str(folder / "diff.safetensors"),
        ],
    }
    with harness.Comfy([(str(REPOSITORY), "waveft")], models, COMFYUI, PYTHON, extra=["--fp32-unet"]) as server:
        server.adapters, server.source, server.merged = folder, path, merged
        server.unpatched = run(server, prompt("micro.safetensors", sample=False))[0]
        yield server


def test_comfyuis_own_lora_loader_applies_our_diff_file(micro):
    """W + strength * dW to fp16's rounding of dW, in a UI that knows nothing of us."""
    graph = prompt("micro.safetensors", sample=False)
    inputs = {"model": ["1", 0], "lora_name": "diff.safetensors", "strength_model": 0.8}
    graph["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
    graph["dump"]["inputs"]["model"] = ["lora", 0]
    merged = run(micro, graph)[0]
    half, single = torch.finfo(torch.float16), torch.finfo(torch.float32).eps
    for layer, delta, _ in oracle(micro.adapters / "a.safetensors"):
        before = micro.unpatched[layer].double()
        error = (merged[layer].double() - (before + 0.8 * delta)).abs()
        allowed = 0.8 * (half.eps / 2 * delta.abs() + half.smallest_normal * half.eps)
        assert bool((error <= allowed + 4 * single * (before.abs() + delta.abs())).all()), layer
        assert not torch.equal(merged[layer], micro.unpatched[layer])


def test_a_checkpoint_that_adapters_were_merged_into_is_what_two_loaders_give(micro):
    baked = run(micro, prompt("merged.safetensors", sample=False))[0]
    loaded = run(micro, prompt("micro.safetensors", ("a.safetensors", 1.0), ("b.safetensors", -0.5), sample=False))[0]
    changes = [(micro.adapters / "a.safetensors", 1.0), (micro.adapters / "b.safetensors", -0.5)]
    stored, source = (load_checkpoint(path) for path in (micro.merged, micro.source))
    assert largest_error(stored, source, changes) < 0.01
    for layer, weight in baked.items():
        assert torch.equal(weight, stored[layer].float()), layer
        spacing = torch.finfo(stored[layer].dtype).eps * weight.abs() + torch.finfo(stored[layer].dtype).smallest_normal
        assert bool(((loaded[layer] - weight).abs() <= spacing).all()), layer


def test_the_node_and_its_template_are_listed(micro):
    info = micro.require_nodes(["WaveFTLoader"])["WaveFTLoader"]
    assert (info["display_name"], info["category"]) == ("Load WaveFT", "loaders")
    assert info["python_module"] == "custom_nodes.waveft"
    assert list(info["input"]["required"]) == ["model", "adapter_name", "strength_model"]
    assert list(info["input"]["optional"]) == ["clip", "strength_clip"]
    assert info["output_name"] == ["MODEL", "CLIP", "report"]
    assert all(info["output_tooltips"])
    assert info["description"]
    options = info["input"]["required"]["adapter_name"][1]["options"]
    assert "shared.safetensors" in options  # a WaveFT file in models/loras
    assert options.count("lora.safetensors") == 1  # in models/waveft; the LoRA in models/loras is not one
    assert micro.get("/workflow_templates")["waveft"] == ["waveft_sdxl"]
    assert micro.get("/api/workflow_templates/waveft/waveft_sdxl.json")["version"] == 0.4
    assert "waveft" in micro.get("/models")
    assert "shared.safetensors" not in micro.get("/models/waveft")


def test_two_loaders_add_up(micro):
    merged, reports, _ = run(
        micro, prompt("micro.safetensors", ("a.safetensors", 0.5), ("b.safetensors", -1.5), sample=False)
    )
    changes = [(micro.adapters / "a.safetensors", 0.5), (micro.adapters / "b.safetensors", -1.5)]
    print(f"\ntwo loaders: largest error {largest_error(merged, micro.unpatched, changes):.2e}", end="")
    assert reports["p0"].startswith("88/88") and reports["p1"].startswith("88/88")
    back = run(micro, prompt("micro.safetensors", ("a.safetensors", 0.0), sample=False))[0]
    assert all(torch.equal(back[layer], weight) for layer, weight in micro.unpatched.items())


def test_model_merging_and_saving_see_the_adapter(micro):
    graph, file = prompt("micro.safetensors", ("a.safetensors", 1.0), sample=False), micro.adapters / "a.safetensors"
    merge = {"model1": ["w0", 0], "model2": ["1", 0], "ratio": 0.25}
    graph["merge"] = {"class_type": "ModelMergeSimple", "inputs": merge}
    graph["dump"]["inputs"]["model"] = ["merge", 0]
    graph["bake"] = {"class_type": "ModelSave", "inputs": {"model": ["w0", 0], "filename_prefix": "baked"}}
    merged = run(micro, graph)[0]
    whole = {layer: delta for layer, delta, _ in oracle(file)}
    for layer, weight in micro.unpatched.items():
        torch.testing.assert_close(merged[layer].double(), weight + 0.25 * whole[layer], rtol=0, atol=1e-6)
    (baked,) = Path(micro.base, "output").glob("baked*.safetensors")
    largest_error(
        {layer: w for layer, w in load_checkpoint(baked).items() if layer in whole}, micro.unpatched, [(file, 1.0)]
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "lora.safetensors",
            ["node w0 (WaveFTLoader)", "Custom validation failed", "lora.safetensors", "no WaveFT adapter"],
        ),
        ("gone.safetensors", ["node w0 (WaveFTLoader)", "gone.safetensors", "models/waveft or models/loras"]),
        (
            "sdxl.safetensors",
            ["node w0 (WaveFTLoader)", 'adapter "sdxl.safetensors"', "does not have", "choose another"],
        ),
        (
            "wide.safetensors",
            ["node w0 (WaveFTLoader)", 'adapter "wide.safetensors"', "got [64, 64]", "choose another"],
        ),
        ("text.safetensors", ["node w0 (WaveFTLoader)", "lora_te2_", "Connect `clip`, or set strength_clip to 0"]),
    ],
)
def test_a_wrong_file_stops_the_node_and_says_why(harness, micro, name, words):
    with pytest.raises(harness.Failed) as failed:
        micro.run(prompt("micro.safetensors", (name, 1.0), sample=False))
    for word in words:
        assert word in str(failed.value)


def test_naming_the_text_encoder_out_lets_the_file_through(micro):
    graph = prompt("micro.safetensors", ("text.safetensors", 1.0), sample=False)
    graph["w0"]["inputs"]["strength_clip"] = 0.0
    assert run(micro, graph)[1]["p0"].startswith("88/91 layers")


def test_a_strength_out_of_range_is_refused(harness, micro):
    with pytest.raises(harness.Failed, match="bigger than max"):
        micro.run(prompt("micro.safetensors", ("a.safetensors", 101.0), sample=False))


def test_a_retrained_file_of_the_same_name_is_read_again(micro, write):
    graph, path = prompt("micro.safetensors", ("b.safetensors", 1.0), sample=False), micro.adapters / "b.safetensors"
    largest_error(run(micro, graph)[0], micro.unpatched, [(path, 1.0)])
    assert "w0" in micro.run(graph)["cached"]  # unchanged: not run again
    write(path, attention_shapes_of(micro), seed=77)
    largest_error(run(micro, graph)[0], micro.unpatched, [(path, 1.0)])


def attention_shapes_of(server):
    return {layer: tuple(weight.shape) for layer, weight in server.unpatched.items()}


def test_the_template_runs_as_it_is(harness, checkpoint, write, tmp_path):
    """Opened as the front end does (links by socket, widgets by position), with text encoders and a file for them."""
    path = checkpoint("micro")
    write(tmp_path / "waveft.safetensors", {**attention_shapes(path), **TEXT_SHAPES})
    models = {
        "checkpoints": [(str(path), "sd_xl_base_1.0.safetensors")],
        "loras": [str(tmp_path / "waveft.safetensors")],
    }
    with harness.Comfy([(str(REPOSITORY), "waveft")], models, COMFYUI, PYTHON) as server:
        graph = as_prompt(server.get("/api/workflow_templates/waveft/waveft_sdxl.json"), server.object_info())
        assert graph == {
            node: {**of, "inputs": {**of["inputs"]}}
            for node, of in json.loads((REPOSITORY / "workflows/api/waveft_sdxl.json").read_text()).items()
        }
        graph["5"]["inputs"].update(width=64, height=64)
        graph["6"]["inputs"].update(steps=1)
        done = server.run(graph)
        assert done["outputs"]["9"]["text"][0].startswith("91/91 layers of waveft.safetensors")
        assert any(file["path"].endswith(".png") and Path(file["path"]).stat().st_size for file in done["files"])


def as_prompt(graph, info):
    """Returns a template as an API prompt: what the front end does when a workflow is queued."""
    sources = {link[0]: [str(link[1]), link[2]] for link in graph["links"]}
    found = {}
    for node in (node for node in graph["nodes"] if node["type"] in info):
        kinds = info[node["type"]]["input"]
        values, inputs = iter(node["widgets_values"]), {}
        for name, (kind, *options) in {**kinds["required"], **kinds.get("optional", {})}.items():
            if kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO") or isinstance(kind, list):
                inputs[name] = next(values)
                if options and options[0].get("control_after_generate"):
                    next(values)
        inputs |= {i["name"]: sources[i["link"]] for i in node["inputs"] if i["link"] is not None}
        assert not list(values), node["type"]
        found[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return found


def test_merging_at_each_forward_and_text_encoders(checkpoint, write, tmp_path):
    path = checkpoint("micro")
    (tmp_path / "models/waveft").mkdir(parents=True)
    write(tmp_path / "models/waveft/a.safetensors", {**attention_shapes(path), **TEXT_SHAPES})
    script = str(Path(__file__).with_name("in_process.py"))
    shims = os.environ | {"PYTHONPATH": str(Path(HARNESS) / "shims"), "PYTHONDONTWRITEBYTECODE": "1"}
    arguments = [COMFYUI, str(REPOSITORY), str(path), str(tmp_path / "models"), "a.safetensors"]
    done = subprocess.run([PYTHON, script, *arguments], capture_output=True, text=True, check=False, env=shims)
    assert done.returncode == 0, done.stderr[-4000:]
    for dtype, found in json.loads(done.stdout.splitlines()[-1]).items():
        print(f"\n{dtype}: {found['low_vram']} {found['text']}", end="")
        assert found["stored"] == dtype
        assert found["report"].startswith("91/91 layers")
        assert (found["low_vram"]["layers"], found["text"]["layers"]) == (88, 3)
        assert found["restored"] and found["text_restored"]
        for part in ("low_vram", "text"):
            assert found[part]["excess"] <= 1e-6, (dtype, part)
