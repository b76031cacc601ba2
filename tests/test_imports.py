"""Law 1: waveft_core <- trainer <- waveft and experiments, <- comfy_nodes, <- waveft_webui, nothing else, no cycles.

Inside each of them imports run one way too: `STOREYS` is the table, CONTRIBUTING.md its picture.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("waveft_core", "trainer", "comfy_nodes", "waveft_webui", "waveft", "experiments")
IN_THE_WHEEL = {"waveft_core", "trainer", "waveft"}
CORE_MAY_IMPORT = {"torch", "numpy", "safetensors", "pywt", "ptwt"}
CORE_LAZILY = {"ptwt", "matplotlib", "tqdm"}  # optional: inside functions only
CORE_IN_ONE_PLACE = {"waveft_core.toolbox.plot": "matplotlib", "waveft_core.cli.console": "tqdm"}  # the command line's
# Rooms (folders) and the modules beside them, from the ground up: each imports from itself and from those before it.
STOREYS = {
    "waveft_core": (
        *("errors", "versions", "letters", "pattern", "basis", "format", "update", "toolbox", "interop"),
        *("public", "__init__", "diffusers", "cli", "packs", "__main__"),
    ),
    "trainer": (
        *("system", "job", "pictures", "base", "samples", "run", "methods", "preflight", "learning", "result"),
        *("measures", "embedders", "evaluation"),
        *("resume", "saving", "setup", "loop", "comparison", "cli", "__init__", "__main__", "keys", "publish"),
    ),
    "comfy_nodes": (
        *("core", "api", "sockets", "folders", "models", "messages"),
        *("adapters", "patching", "drawing", "training", "widgets", "nodes", "extension", "__init__"),
    ),
    "waveft": ("cli", "__init__", "__main__"),
    "experiments": (
        *("experiment", "plots", "running", "jobs", "sentences", "gradients"),
        *("bottlenecks", "scores", "lite0", "heads", "pictures", "vits", "texts", "table", "dreambooths", "permuted"),
        *("variants", "rows", "panels", "compared"),
        *("rank", "bottleneck", "interpolation", "coverage", "interference", "energy", "classification", "glue"),
        *("dreambooth", "budget", "wavelets", "ablations", "seeds", "lambdas", "cost"),
        *("registry", "__init__", "__main__"),
    ),
    "waveft_webui": (
        *("core", "messages", "settings", "tags", "axes", "files", "applying", "gate", "cards", "describing", "panel"),
        *("places", "workshop", "tab", "families", "extension", "__init__"),
    ),
}
# ComfyUI's own modules, and who touches them: a node's own file does not.
COMFYUI = {
    "comfy": {
        "comfy_nodes.patching.hooks",
        "comfy_nodes.patching.layerpatch",
        "comfy_nodes.patching.original",
        "comfy_nodes.patching.patch",
        "comfy_nodes.adapters.progress",
        "comfy_nodes.patching.stock",
        "comfy_nodes.adapters.weights",
    },
    "comfy_api": {"comfy_nodes.api"},
    "comfy_execution": set(),
    "comfy_extras": set(),
    "folder_paths": {"comfy_nodes.folders", "comfy_nodes.models"},
    "nodes": set(),
    "server": {"comfy_nodes.messages"},
}
WEBUI = {"modules", "gradio", "networks", "network", "backend", "ldm_patched"}  # the web UIs' own modules
NOT_FOR_NODES = {"pywt", "ptwt", "safetensors"}  # wavelets and files are the core's
STRANGERS = {
    "waveft_core": {"trainer", "comfy_nodes", "waveft_webui", "waveft", "experiments"},
    "trainer": {"comfy_nodes", "waveft_webui", "comfy", "comfy_api", "waveft", "experiments"},
    "comfy_nodes": {"trainer", "waveft_webui", "waveft", "experiments"},
    "waveft_webui": {"trainer", "comfy_nodes", "comfy", "comfy_api", "waveft", "experiments"},
    "waveft": {"comfy_nodes", "waveft_webui", "comfy", "comfy_api", "torch", "experiments"},
    "experiments": {"comfy_nodes", "waveft_webui", "comfy", "comfy_api", "waveft"},
}


@dataclass(frozen=True)
class Import:
    """One imported module by its absolute name, counted from the clone's root."""

    name: str
    names: tuple[str, ...]  # after `from name import`
    relative: bool
    lazy: bool  # inside a function
    line: int


def imports(module: str, source: str, is_package: bool) -> Iterator[Import]:
    """Yields every import of a module's source, `importlib.import_module("literal")` included."""
    package = module.split(".") if is_package else module.split(".")[:-1]

    def absolute(name: str, level: int) -> str:
        base = package[: len(package) - (level - 1)] if level else []
        return ".".join([*base, *([name] if name else [])])

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, (), False, lazy, child.lineno)
            elif isinstance(child, ast.ImportFrom):
                names = tuple(alias.name for alias in child.names)
                yield Import(absolute(child.module or "", child.level), names, child.level > 0, lazy, child.lineno)
            elif isinstance(child, ast.Call) and child.args and isinstance(child.args[0], ast.Constant):
                called = getattr(child.func, "attr", getattr(child.func, "id", ""))
                if called in ("import_module", "__import__") and isinstance(child.args[0].value, str):
                    name = child.args[0].value
                    level = len(name) - len(name.lstrip("."))
                    yield Import(absolute(name.lstrip("."), level), (), level > 0, lazy, child.lineno)
            yield from walk(child, inside)

    yield from walk(ast.parse(source), lazy=False)


def targets(imported: Import, modules: Mapping[str, str]) -> set[str]:
    """The project's modules that an import reads: `from .a import b` is a.b where that is a module, else a."""
    found = {f"{imported.name}.{name}".lstrip(".") for name in imported.names} & modules.keys()
    rest = [name for name in imported.names if f"{imported.name}.{name}".lstrip(".") not in modules]
    if (rest or not imported.names) and imported.name in modules:
        found.add(imported.name)
    return found


def violations(modules: Mapping[str, str], packages: frozenset[str]) -> list[str]:
    """Every breach of the law in `modules` (dotted name -> source), `packages` being those that are folders."""
    faults = []
    graph: dict[str, set[str]] = {}
    for module, source in modules.items():
        home = module.partition(".")[0]
        graph[module] = set()
        if room(module)[1] not in STOREYS[home]:
            faults.append(f"{module}: {'/'.join(room(module))} has no place in STOREYS")
        for imported in imports(module, source, module in packages):
            # `from .. import trainer` names the package only after the `import`
            tops = {imported.name.partition(".")[0]} if imported.name else set(imported.names)
            where = f"{module}, line {imported.line}"
            faults += [f"{where}: {home} must not import {top}" for top in sorted(tops & STRANGERS[home])]
            if home == "waveft_core":
                faults += _core_faults(imported, tops, CORE_IN_ONE_PLACE.get(module), where)
            if home == "waveft_webui":
                faults += _extension_faults(module, imported, tops, where)
            if home == "comfy_nodes":
                faults += _pack_faults(module, imported, tops, where)
            graph[module] |= (read := targets(imported, modules) - {module})
            faults += _upward(module, read, where)
    return faults + _cycles(graph)


def room(module: str) -> tuple[str, str]:
    """The package of a module and its room there: ("trainer", "job") for trainer.job.schema."""
    home, _, inside = module.partition(".")
    return home, inside.partition(".")[0] or "__init__"


def _upward(module: str, read: set[str], where: str) -> Iterator[str]:
    home, own = room(module)
    order = STOREYS[home]
    for other in sorted(read):
        package, asked = room(other)
        if package == home and {own, asked} <= set(order) and order.index(asked) > order.index(own):
            yield f"{where}: {home}/{own} must not import {other}: {asked} lies above it"


def _core_faults(imported: Import, tops: set[str], here: str | None, where: str) -> Iterator[str]:
    if "waveft_core" in tops and not imported.relative:
        yield f"{where}: the core imports itself relatively"
    for top in sorted(tops - CORE_MAY_IMPORT - {here} - sys.stdlib_module_names - set(PACKAGES)):
        yield f"{where}: the core must not import {top}"
    if tops & CORE_LAZILY and not imported.lazy:
        yield f"{where}: the core imports {imported.name} only inside functions"


def _pack_faults(module: str, imported: Import, tops: set[str], where: str) -> Iterator[str]:
    if "waveft_core" in tops and module != "comfy_nodes.core":
        yield f"{where}: the nodes reach the core through comfy_nodes.core alone"
    if not imported.relative:
        for top in sorted(tops & COMFYUI.keys()):
            if module not in COMFYUI[top]:
                yield f"{where}: {module} must not import {top}"
        for top in sorted(tops & NOT_FOR_NODES):
            yield f"{where}: the nodes must not import {top}"


def _extension_faults(module: str, imported: Import, tops: set[str], where: str) -> Iterator[str]:
    if "waveft_core" in tops and module != "waveft_webui.core":
        yield f"{where}: the extension reaches the core through waveft_webui.core alone"
    if not imported.relative:
        for top in sorted(tops & WEBUI):
            if not imported.lazy:
                yield f"{where}: {top} is imported inside functions: the tests have no web UI"
        for top in sorted(tops & NOT_FOR_NODES):
            yield f"{where}: the extension must not import {top}"


def _cycles(graph: Mapping[str, set[str]]) -> list[str]:
    faults: list[str] = []
    state: dict[str, int] = {}  # 1: on the path, 2: done

    def visit(module: str, path: list[str]) -> None:
        state[module] = 1
        for other in sorted(graph[module]):
            if state.get(other) == 1:
                faults.append("cycle: " + " -> ".join([*path[path.index(other) :], other]))
            elif other not in state:
                visit(other, [*path, other])
        state[module] = 2

    for module in sorted(graph):
        if module not in state:
            visit(module, [module])
    return faults


def _on_disk() -> tuple[dict[str, str], frozenset[str]]:
    modules, packages = {}, set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] == "__init__":
                parts = parts[:-1]
                packages.add(".".join(parts))
            modules[".".join(parts)] = path.read_text(encoding="utf-8")
    return modules, frozenset(packages)


def test_the_packages_keep_the_law():
    modules, packages = _on_disk()
    assert packages >= set(PACKAGES), "a package is missing: the law was not checked"
    assert violations(modules, packages) == []


CORE = {"waveft_core": "", "waveft_core.basis.atoms": "import torch"}


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"waveft_core.format.a": "import trainer"}, "waveft_core must not import trainer"),
        (
            {"waveft_core.format.a": "def f():\n    from comfy_nodes.patching import x"},
            "waveft_core must not import comfy_nodes",
        ),
        ({"waveft_core.format.a": "from ... import trainer"}, "waveft_core must not import trainer"),
        ({"waveft_core.format.a": "import diffusers"}, "core must not import diffusers"),
        ({"waveft_core.format.a": "import importlib\nimportlib.import_module('peft')"}, "core must not import peft"),
        ({"waveft_core.format.a": "from waveft_core.basis.atoms import x"}, "relatively"),
        ({"waveft_core.format.a": "import ptwt"}, "only inside functions"),
        ({"waveft_core.toolbox.plot": "import matplotlib"}, "only inside functions"),
        ({"waveft_core.format.a": "def f():\n    import matplotlib"}, "core must not import matplotlib"),
        ({"waveft_core.toolbox.plot": "def f():\n    import tqdm"}, "core must not import tqdm"),
        (
            {"comfy_nodes": "", "comfy_nodes.adapters.a": "from waveft_core import x"},
            "the nodes reach the core through",
        ),
        ({"comfy_nodes": "", "comfy_nodes.nodes.a": "import comfy.utils"}, "comfy_nodes.nodes.a must not import comfy"),
        ({"comfy_nodes": "", "comfy_nodes.adapters.a": "import pywt"}, "the nodes must not import pywt"),
        ({"comfy_nodes": "", "comfy_nodes.nodes.a": "import folder_paths"}, "must not import folder_paths"),
        ({"waveft_webui.files": "from waveft_core import x"}, "the extension reaches the core through"),
        ({"waveft_webui.files": "import pywt"}, "the extension must not import pywt"),
        ({"waveft_webui.files": "import modules.shared"}, "inside functions"),
        ({"waveft_webui.files": "import comfy_nodes"}, "waveft_webui must not import comfy_nodes"),
        ({"comfy_nodes.widgets": "import waveft_webui"}, "comfy_nodes must not import waveft_webui"),
        ({"trainer": "", "trainer.job.a": "from comfy_nodes import x"}, "trainer must not import comfy_nodes"),
        ({"trainer": "", "trainer.job.a": "from ...comfy_nodes import x"}, "trainer must not import comfy_nodes"),
        (
            {"comfy_nodes": "", "comfy_nodes.adapters.a": "from ...trainer import loop"},
            "comfy_nodes must not import trainer",
        ),
        ({"waveft_core.format.a": "from .b import x", "waveft_core.format.b": "from . import a"}, "cycle"),
        (
            {"waveft_core.format.a": "from .b import x", "waveft_core.format.b": "def f():\n    from .a import y"},
            "cycle",
        ),
        (
            {"trainer.job": "from .a import x", "trainer.job.a": "from . import x"},
            "cycle: trainer.job -> trainer.job.a",
        ),
        ({"waveft_core.format.a": "from ..update.b import x", "waveft_core.update.b": ""}, "update lies above it"),
        ({"trainer.job.a": "def f():\n    from .. import loop", "trainer.loop": ""}, "loop lies above it"),
        ({"trainer.attic.a": ""}, "trainer/attic has no place"),
    ],
)
def test_a_breach_is_found(extra, expected):
    modules = CORE | extra
    packages = {name for name in modules if any(other.startswith(f"{name}.") for other in modules)}
    faults = violations(modules, frozenset(packages))
    assert len(faults) == 1, faults
    assert expected in faults[0]


def test_what_the_law_allows_is_let_through():
    modules = CORE | {
        "waveft_core": "from .basis.atoms import x",
        "waveft_core.basis.delta": "import math\nfrom .atoms import x\ndef f():\n    import ptwt",
        "waveft_core.toolbox.plot": "def f():\n    from matplotlib.figure import Figure",
        "waveft_core.cli.console": "def f():\n    import tqdm",
        "trainer": "",
        "trainer.loop": "from waveft_core import x\nimport diffusers",
        "comfy_nodes": "",
        "comfy_nodes.core": "from ..waveft_core import x",
        "comfy_nodes.patching.patch": "import comfy.utils",
    }
    assert violations(modules, frozenset({"waveft_core", "trainer", "comfy_nodes"})) == []


def test_the_cores_public_names_are_imports_and_nothing_else():
    tree = ast.parse((ROOT / "waveft_core" / "public.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body[1:]:
        dunder = isinstance(node, ast.Assign) and all(ast.unparse(name).startswith("__") for name in node.targets)
        assert dunder or isinstance(node, ast.Import | ast.ImportFrom), ast.unparse(node)


def test_the_wheel_carries_core_trainer_and_command_whole_and_nothing_else():
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    _, packages = _on_disk()
    assert sorted(tool["packages"]) == sorted(name for name in packages if name.partition(".")[0] in IN_THE_WHEEL)
    assert (ROOT / "waveft_core" / "py.typed").is_file()
