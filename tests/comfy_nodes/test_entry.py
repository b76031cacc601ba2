"""What ComfyUI, pytest and a bare Python see of the clone's root `__init__.py`."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LOAD = """
import importlib.util, sys
folder = sys.argv[1]
name = folder.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, folder + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
print(hasattr(module, "comfy_entrypoint"), sorted({n.split(".")[0] for n in sys.modules} & {"waveft_core", "trainer"}))
"""
# Importing the real core and ComfyUI takes seconds, and one test does: here whatever is asked for is there.
ANYTHING = """
class Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return made(name)
    def __iter__(cls):
        return iter(())
    def __call__(cls, *args, **kwargs):
        return cls if args and isinstance(args[0], str | int) else super().__call__(*args, **kwargs)
def made(name):
    return Anything(name, (), {})
def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return made(name)
"""
STUBS = dict.fromkeys(
    (
        "torch.py",
        "comfy/__init__.py",
        "comfy/hooks.py",
        "comfy/lora.py",
        "comfy/model_management.py",
        "comfy/model_patcher.py",
        "comfy/patcher_extension.py",
        "comfy/utils.py",
        "comfy/cli_args.py",
        "comfy/weight_adapter.py",
        "folder_paths.py",
        "comfy_api/v0_0_2/__init__.py",
    ),
    ANYTHING,
)


def core_stub():
    """The list of names that the shim takes from the core, with anything behind each."""
    tree = ast.parse((REPOSITORY / "waveft_core/packs.py").read_text())
    (names,) = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    return f"{ANYTHING}\n__all__ = {ast.literal_eval(names)!r}\n"


@pytest.fixture
def pack(tmp_path):
    """A clone whose folder's name is no Python identifier."""
    clone = tmp_path / "comfy.ui" / "ComfyUI-waveft.1"
    (clone / "waveft_core").mkdir(parents=True)
    shutil.copy(REPOSITORY / "__init__.py", clone)
    shutil.copytree(REPOSITORY / "comfy_nodes", clone / "comfy_nodes", ignore=shutil.ignore_patterns("__pycache__"))
    (clone / "waveft_core/__init__.py").write_text("")
    (clone / "waveft_core/packs.py").write_text(core_stub())
    return clone


def load(pack, tmp_path, stubs):
    for name, text in stubs.items():
        path = tmp_path / "stubs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    command = [sys.executable, "-c", LOAD, str(pack)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "stubs"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)


def test_without_comfyui_nothing_happens(pack, tmp_path):
    done = load(pack, tmp_path, {})
    assert (done.returncode, done.stdout) == (0, "False []\n"), done.stderr


def test_inside_comfyui_the_core_beside_it_is_used(pack, tmp_path):
    shutil.rmtree(pack / "waveft_core")
    shutil.copytree(REPOSITORY / "waveft_core", pack / "waveft_core", ignore=shutil.ignore_patterns("__pycache__"))
    done = load(pack, tmp_path, {name: text for name, text in STUBS.items() if name != "torch.py"})
    assert (done.returncode, done.stdout) == (0, "True []\n"), done.stderr


def test_on_its_own_it_does_nothing_even_where_comfyui_can_be_imported(pack, tmp_path):
    """pytest imports the file as a module named `__init__`, which has no package to reach the nodes through."""
    (tmp_path / "stubs/comfy").mkdir(parents=True)
    command = [sys.executable, "-c", "import __init__ as root; print(hasattr(root, 'comfy_entrypoint'))"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path / "stubs"), str(pack)))}
    assert subprocess.check_output(command, text=True, cwd=tmp_path, env=environment) == "False\n"


def test_an_error_of_our_own_is_not_taken_for_comfyuis_absence(pack, tmp_path):
    (pack / "comfy_nodes/nodes/loader.py").write_text("import no_such_module")
    done = load(pack, tmp_path, STUBS)
    assert done.returncode != 0
    assert "no_such_module" in done.stderr


def test_a_comfyui_without_the_api_is_told_the_version(pack, tmp_path):
    done = load(pack, tmp_path, {**STUBS, "comfy_api/v0_0_2/__init__.py": "class ComfyExtension: pass"})
    assert "expected 0.3.48 or newer" in done.stderr
    older = {name: text for name, text in STUBS.items() if not name.startswith("comfy_api")}
    shutil.rmtree(tmp_path / "stubs")
    assert "expected 0.3.48 or newer" in load(pack, tmp_path, older).stderr


def test_a_missing_package_is_told_how_to_install(pack, tmp_path):
    (pack / "waveft_core/__init__.py").write_text("raise ModuleNotFoundError('No module named pywt', name='pywt')")
    done = load(pack, tmp_path, STUBS)
    assert done.returncode != 0
    assert f'"{sys.executable}" "{pack / "install.py"}"' in done.stderr
