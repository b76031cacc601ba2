import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def install():
    spec = importlib.util.spec_from_file_location("waveft_install", REPOSITORY / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def world(install, monkeypatch):
    """An environment on paper, and an installer that brings the lowest version asked for and notes its calls."""

    class World:
        packages = {"numpy": "1.26.4", "safetensors": "0.4.2", "PyWavelets": "1.9.0", "torch": "2.13.0+cpu"}
        calls, pins, status, works = [], [], 0, True

        def run(self, command, check):
            self.calls.append(command)
            self.pins = Path(command[command.index("-c") + 1]).read_text().split()
            for name, lowest in (word.split(">=") for word in command if ">=" in word):
                if self.works:
                    self.packages[name] = lowest
            return subprocess.CompletedProcess(command, self.status)

    world = World()
    monkeypatch.setattr(install, "at_terminal", lambda: True)
    world.packages, world.calls = dict(world.packages), []
    monkeypatch.setattr(install, "installed", lambda name: world.packages.get(name))
    monkeypatch.setattr(install.subprocess, "run", world.run)
    return world


def test_the_list_is_the_projects_without_torch():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    assert listed == {name for name in project["dependencies"] if not name.startswith("torch")}
    assert all(re.fullmatch(r"[A-Za-z]+>=[\d.]+", line) for line in listed)


def test_a_complete_environment_is_left_alone(install, world, capsys):
    assert install.main() == 0
    assert world.calls == []
    said = capsys.readouterr().out
    assert "PyWavelets 1.9.0 are in place" in said
    assert "torch 2.13.0+cpu was left as it is" in said


def test_at_every_start_of_a_web_ui_a_complete_environment_is_not_worth_a_word(install, world, capsys, monkeypatch):
    monkeypatch.setattr(install, "at_terminal", lambda: False)
    assert install.main() == 0
    assert world.calls == []
    assert capsys.readouterr().out == ""


def test_what_was_installed_is_told_to_a_log_too(install, world, capsys, monkeypatch):
    monkeypatch.setattr(install, "at_terminal", lambda: False)
    del world.packages["PyWavelets"]
    assert install.main() == 0
    assert "are in place" in capsys.readouterr().out


def test_the_oldest_python_is_that_of_pyproject(install):
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">={}.{}".format(*install.OLDEST_PYTHON)


def test_only_what_is_missing_or_too_old_is_installed(install, world, capsys):
    del world.packages["PyWavelets"]
    world.packages["numpy"] = "1.25.2"
    assert install.main() == 0
    (command,) = world.calls
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert sorted(word for word in command if ">=" in word) == ["PyWavelets>=1.6", "numpy>=1.26"]
    assert sorted(world.pins) == ["safetensors==0.4.2", "torch==2.13.0+cpu"]
    said = capsys.readouterr().out
    assert "PyWavelets: expected 1.6 or newer, got none: installing it" in said
    assert "numpy: expected 1.26 or newer, got 1.25.2: installing it" in said
    assert install.main() == 0
    assert len(world.calls) == 1


def test_torch_is_never_installed_but_asked_for(install, world, capsys):
    del world.packages["torch"], world.packages["PyWavelets"]
    assert install.main() == 0
    assert not any("torch" in word for word in world.calls[0])
    said = capsys.readouterr().out
    assert "torch: expected an installed one, got none" in said
    assert "https://pytorch.org" in said


@pytest.mark.parametrize(("status", "works"), [(1, False), (1, True), (0, False)])
def test_a_failing_installer_is_a_failure_with_the_remedy(install, world, capsys, status, works):
    del world.packages["PyWavelets"]
    world.status, world.works = status, works
    assert install.main() == 1
    said = capsys.readouterr().out
    assert f"ended with status {status}" in said
    assert f'"{sys.executable}" -m pip install "PyWavelets>=1.6"' in said


def test_a_replaced_torch_is_reported(install, world, capsys, monkeypatch):
    del world.packages["PyWavelets"]

    def run(command, check):
        world.packages |= {"PyWavelets": "1.9.0", "torch": "2.14.0"}
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(install.subprocess, "run", run)
    assert install.main() == 1
    assert "torch: expected 2.13.0+cpu untouched, got 2.14.0" in capsys.readouterr().out


def test_an_old_python_is_told_so(install, world, capsys, monkeypatch):
    monkeypatch.setattr(install, "OLDEST_PYTHON", (99, 0))
    assert install.main() == 1
    assert "Python: expected 99.0 or newer" in capsys.readouterr().out
    assert world.calls == []


def test_uv_stands_in_where_an_environment_has_no_pip(install, monkeypatch):
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None if name == "pip" else name)
    assert install.installer()[1:5] == ["-m", "uv", "pip", "install"]


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.1.0rc1+cpu", (2, 1, 0)), ("1.9", (1, 9)), ("2026.1.post2", (2026, 1)), ("x", ())]
)
def test_versions_are_compared_by_their_numbers(install, version, numbers):
    assert install.release(version) == numbers


@pytest.mark.slow
def test_a_bare_environment_becomes_complete_and_stays_so(tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    command = [str(python), str(REPOSITORY / "install.py")]
    first = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "PyWavelets: expected 1.6 or newer, got none: installing it" in first.stdout
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert again.returncode == 0
    assert "installing" not in again.stdout
    assert "torch: expected an installed one, got none" in again.stdout
    probe = "import pywt, numpy, safetensors, importlib.util as u; print(u.find_spec('torch'))"
    assert subprocess.check_output([str(python), "-c", probe], text=True) == "None\n"
