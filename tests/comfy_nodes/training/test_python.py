"""Which Python trains, and what is said of one that cannot."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def pythons(comfy, monkeypatch, tmp_path):
    """The module, in a clone of its own without .venv."""
    module = comfy("training.python")
    for name in ("pyproject.toml", "install.py"):
        (tmp_path / name).write_text((REPOSITORY / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv("WAVEFT_PYTHON", raising=False)
    return module


@pytest.fixture
def lacking(pythons, monkeypatch):
    """Returns a function that adds packages to what training needs, as if they were not installed."""

    def add(**packages):
        monkeypatch.setattr(pythons, "requirements", lambda: packages)

    return add


def said(pythons, python):
    with pytest.raises(ValueError) as caught:
        pythons.check(python)
    return str(caught.value)


def test_the_order_is_the_variable_the_clones_own_and_comfyuis(pythons, monkeypatch, tmp_path):
    assert pythons.choose("") == pythons.Python(sys.executable, "ComfyUI's own")
    own = tmp_path / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    own.parent.mkdir(parents=True)
    own.touch()
    assert pythons.choose("").path == str(own)
    monkeypatch.setenv("WAVEFT_PYTHON", "/a/python")
    assert pythons.choose("").path == "/a/python"
    assert [pythons.choose(path).why for path in (str(own), sys.executable)] == ["WaveFT's own .venv", "ComfyUI's own"]


def test_what_training_needs_is_what_the_project_says(pythons):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = pythons.requirements()
    listed = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    assert needed == dict(line.split(">=") for line in listed), "of a package that both name, training's bound"


def test_one_that_has_everything_is_let_through(pythons):
    pythons.check(pythons.Python(sys.executable, "ComfyUI's own"))


def test_missing_packages_are_one_error_with_the_command(pythons, lacking, tmp_path):
    lacking(**{"no-such-package": "1.0", "torch": "2.0", "numpy": "999"})
    text = said(pythons, pythons.Python(sys.executable, "ComfyUI's own"))
    assert "got one without no-such-package, numpy " in text and "(too old)" in text
    assert f'Run: "{sys.executable}" "{tmp_path / "start.py"}" train jobs/quickstart.toml --help' in text
    assert f'"{sys.executable}" -m pip install "no-such-package>=1.0" "numpy>=999"' in text
    named = said(pythons, pythons.Python(sys.executable, "of WAVEFT_PYTHON"))
    assert named.endswith(f'Run: "{sys.executable}" -m pip install "no-such-package>=1.0" "numpy>=999"')


def test_comfyuis_torch_is_left_as_it_is(pythons, lacking):
    lacking(torch="999")
    text = said(pythons, pythons.Python(sys.executable, "ComfyUI's own"))
    assert "start.py" in text and "pip install" not in text


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise SystemExit('no disk')", "no disk"),
        ("unmet = 1", "TypeError: 'int' object is not callable"),
        ("print(3)\nunmet = lambda _: {}", "Extra data"),
    ],
)
def test_one_that_does_not_run_is_told(pythons, tmp_path, code, told):
    (tmp_path / "install.py").write_text(code)
    text = said(pythons, pythons.Python(sys.executable, "of WAVEFT_PYTHON"))
    assert f"expected one that runs, got: {told}" in text and "Correct WAVEFT_PYTHON" in text


def test_one_that_is_not_there_is_told(pythons, tmp_path):
    text = said(pythons, pythons.Python(str(tmp_path / "python"), "of WAVEFT_PYTHON"))
    assert "expected one that runs, got: " in text and str(tmp_path / "python") in text


def test_one_that_is_too_old_is_told(pythons, monkeypatch):
    monkeypatch.setattr(pythons, "OLDEST", (99, 0))
    version = ".".join(map(str, sys.version_info[:2]))
    text = said(pythons, pythons.Python(sys.executable, "of WAVEFT_PYTHON"))
    assert f"expected 99.0 or newer, got {version}. Name another in WAVEFT_PYTHON." in text


def test_another_python_is_not_given_ours_modules(pythons, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    assert pythons.environment(pythons.Python(sys.executable, ""))["PYTHONPATH"] == "/ours"
    assert "PYTHONPATH" not in pythons.environment(pythons.Python("/a/python", ""))


def test_the_command_that_it_names_is_one_that_start_py_has():
    """`train JOB --help` installs and trains nothing, and ends with a page: here it is planned, and its end run."""
    code = "import json, start; print(json.dumps(start.plan(['train', 'jobs/quickstart.toml', '--help'], start.ROOT)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    extras, command = json.loads(done.stdout)
    assert extras == ["train"]
    done = subprocess.run([sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "usage: python -m waveft train" in done.stdout and len(done.stdout.splitlines()) < 40


def test_the_help_page_and_the_error_name_one_command(pythons):
    page = (REPOSITORY / "comfy_nodes/web/docs/WaveFTTrain.md").read_text(encoding="utf-8")
    assert f"`python3 start.py {pythons._SETUP}`" in page
