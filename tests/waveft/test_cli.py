import importlib
import importlib.metadata
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

import waveft_core
from trainer.system import commandline
from waveft import cli

ROOT = Path(__file__).resolve().parents[2]
HEAVY = "import sys, waveft.cli as c; c.main(sys.argv[1:]); print(sorted({'torch', 'pydantic'} & set(sys.modules)))"


@pytest.fixture(autouse=True)
def called_as_installed(monkeypatch):
    monkeypatch.setenv(commandline.PROGRAM, "waveft")


@pytest.fixture
def ran(monkeypatch):
    """What a word's own `main` was called with; it returns 7."""
    calls = []

    def imported(name):
        return SimpleNamespace(main=lambda arguments: calls.append((name, arguments)) or 7)

    monkeypatch.setattr(importlib, "import_module", imported)
    return calls


@pytest.mark.parametrize("word", cli.WORDS)
def test_every_word_reaches_its_own_command_line(ran, word):
    assert cli.main([word, "a", "--b"]) == 7
    assert ran == [(cli.WORDS[word][0], [word, "a", "--b"])]


@pytest.mark.parametrize("asked", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(asked):
    assert subprocess.check_output([sys.executable, "-c", HEAVY, asked], cwd=ROOT, text=True).endswith("[]\n")


HELPS = """
import contextlib, sys, waveft.cli
for word in waveft.cli.WORDS:
    with contextlib.suppress(SystemExit):
        waveft.cli.main([word, "--help"])
    print(word, "torch" in sys.modules)
"""


def test_no_words_help_waits_for_torch():
    told = subprocess.check_output([sys.executable, "-c", HELPS], cwd=ROOT, text=True).splitlines()
    assert [line for line in told if line.endswith(("True", "False"))] == [f"{word} False" for word in cli.WORDS]
    assert sum(line.startswith("usage: ") for line in told) == len(cli.WORDS)


def test_the_core_gives_its_names_when_they_are_asked_for():
    asked = "import sys, waveft_core as w; a = 'torch' in sys.modules; w.load; print(a, 'torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", asked], cwd=ROOT, text=True) == "False True\n"
    assert set(waveft_core.__all__) < set(dir(waveft_core))
    with pytest.raises(AttributeError, match="module 'waveft_core' has no attribute 'nothing'"):
        waveft_core.nothing  # noqa: B018


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error on Windows")
@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_who_closes_the_pipe_has_read_enough(flag):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "waveft", flag], stdout=write, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_names_every_word(capsys):
    assert cli.main([]) == cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {word} " in said for word in cli.WORDS)
    assert said.startswith("usage: waveft WORD")


def test_one_version_everywhere(capsys):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"waveft {waveft_core.__version__}\n"
    assert project["version"] == waveft_core.__version__
    assert f"## {waveft_core.__version__} - 20" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_word_that_there_is_none_of_is_refused_with_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err.startswith('waveft: word "trian": expected one of init, train, ')
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err.endswith('Did you mean "train"?\n')


@pytest.mark.parametrize(
    ("word", "wanted", "other"), [("train", "diffusers>=0.35", "peft"), ("inspect", "torch>=2.1", "diffusers")]
)
def test_what_is_not_installed_is_named_with_the_line_that_installs_it(monkeypatch, capsys, word, wanted, other):
    lines = [
        "torch>=2.1", "numpy>=1.26",
        'torch>=2.8; extra == "train"', 'diffusers>=0.35; extra == "train"', 'peft>=0.18; extra == "dev"',
    ]  # fmt: skip

    def missing(name):
        raise ModuleNotFoundError("No module named 'pydantic'", name="pydantic")

    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    assert cli.main([word]) == 2
    said = capsys.readouterr().err
    assert f'"{word}": expected the Python package pydantic, got none installed. Run: ' in said
    assert sys.executable in said and " -m pip install " in said
    assert wanted in said and other not in said


def test_a_package_that_is_missed_while_the_word_works_is_named_too(monkeypatch, capsys):
    def inspect(arguments):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(importlib, "import_module", lambda name: SimpleNamespace(main=inspect))
    assert cli.main(["inspect", "dog.safetensors"]) == 2
    assert '"inspect": expected the Python package torch, got none installed. Run: ' in capsys.readouterr().err


def test_a_module_of_ours_that_is_missing_is_a_fault_and_no_advice(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'trainer.nothing'", name="trainer.nothing")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["train"])


def test_an_old_python_is_told_before_the_trainer_is_imported(monkeypatch, capsys, ran):
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert cli.main(["train", "job.toml"]) == 2
    assert "Python: expected 3.11 or newer, got 3.10.4" in capsys.readouterr().err
    assert cli.main(["inspect"]) == 7, "the core runs on it"


def test_train_takes_the_job_by_itself(tmp_path, capsys):
    from trainer.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["train", "--help"])
    assert ended.value.code == 0
    assert "usage: waveft train [-h]" in capsys.readouterr().out
    assert main(["train", str(tmp_path / "none.toml")]) == 2


@pytest.mark.slow
def test_an_installed_wheel_has_the_command_and_carries_all_that_it_needs(tmp_path):
    """The libraries are those of this environment; the package comes from the wheel alone."""
    wheels, folder = tmp_path / "wheels", tmp_path / "venv"
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "--no-deps", "-q", "-w", str(wheels), str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(folder)], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    found = subprocess.run(
        [sys.executable, "-c", "import torch, pathlib; print(pathlib.Path(torch.__file__).parents[1])"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    (Path(site) / "libraries.pth").write_text(found)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "-q", "--no-deps", str(wheel)], check=True)
    command = python.with_name("waveft.exe" if os.name == "nt" else "waveft")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "WAVEFT"))}

    def run(*words):
        return subprocess.run(
            [str(command), *words], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
        )

    began = time.perf_counter()
    assert run("--version").stdout == f"waveft {waveft_core.__version__}\n"
    print(f"--version took {time.perf_counter() - began:.2f} s")
    job = ROOT / "jobs" / "quickstart.toml"
    done = run("train", str(job), "--dry-run", "--set", f"save.output_dir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "inspect" in run("inspect", "--help").stdout
