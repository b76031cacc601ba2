import ast
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import start
from waveft.cli import WORDS

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 900  # for what ends by itself, however busy the machine is
SOURCE = (ROOT / "start.py").read_text(encoding="utf-8")


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A small clone whose environment is pretended; `clone.pip` lists what pip was asked to install, run by run."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a.toml").write_text("")
    (tmp_path / "constraints.txt").write_text("torch==9.9\n")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["torch", "numpy"]\n'
        '[project.optional-dependencies]\ntrain = ["tqdm"]\ndev = ["pytest"]\n'
    )
    (tmp_path / ".venv").mkdir()
    asked = []
    monkeypatch.setattr(start, "run_pip", lambda command, log: asked.append(_packages(command)))
    monkeypatch.setattr(start, "ROOT", tmp_path)
    monkeypatch.setattr(start, "takes_cpu_build", lambda python: False)
    return tmp_path, asked


def _packages(command):
    return [
        word for word in command[command.index("install") + 1 :] if not word.startswith(("-", "/")) and word != "off"
    ]


def test_old_pythons_can_read_the_file_as_far_as_its_own_message():
    tree = ast.parse(SOURCE, feature_version=(3, 7))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        name
        for node in top
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert "__future__" not in names, "Python 3.6 has no `annotations` there"
    assert not names & {"tomllib", "graphlib", "zoneinfo"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            hints = [node.returns, *(argument.annotation for argument in node.args.args)]
            assert all(hint is None or isinstance(hint, ast.Name | ast.Constant) for hint in hints), node.name


def test_it_needs_the_standard_library_only():
    for node in ast.walk(ast.parse(SOURCE)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_the_oldest_python_trains_and_checks_and_the_core_asks_for_no_newer_one():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tool = tomllib.loads(text)
    cores = tuple(map(int, tool["project"]["requires-python"].removeprefix(">=").split(".")))
    assert cores == (3, 10) < start.OLDEST
    assert tool["tool"]["ruff"]["target-version"] == "py{}{}".format(*cores)
    assert tool["tool"]["ruff"]["per-file-target-version"]["trainer/**"] == "py{}{}".format(*start.OLDEST)
    assert tool["tool"]["mypy"]["python_version"] == "{}.{}".format(*start.OLDEST)


def test_every_direct_dependency_is_pinned():
    pins = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in _constraint_lines()}
    named = [*start.requirements(ROOT, "train"), *start.requirements(ROOT, "dev")]
    assert {re.match(r"[\w.-]+", line)[0].lower() for line in named} <= pins
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in _constraint_lines()), "a pin of one platform alone"
    assert not any(line.startswith(("nvidia", "cuda", "triton")) for line in _constraint_lines())


def _constraint_lines():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_train_runs_the_trainer_in_the_clone(clone, monkeypatch, tmp_path_factory):
    root, _ = clone
    monkeypatch.chdir(root)
    expected = (("train",), ["-m", "waveft", "train", "jobs/a.toml", "--dry-run"])
    assert start.plan(["train", "jobs/a.toml", "--dry-run"], root) == expected
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    assert start.plan(["train", "jobs/a.toml"], root)[1][-1] == str(root / "jobs/a.toml")
    (elsewhere / "mine.toml").write_text("")
    assert start.plan(["train", "mine.toml"], root)[1][-1] == "mine.toml"


def test_the_version_is_said_without_an_environment(monkeypatch, capsys):
    monkeypatch.setattr(start, "make_environment", lambda root: pytest.fail("made an environment"))
    assert start.main(["--version"]) == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert capsys.readouterr().out == f"waveft {project['version']}\n"


def test_every_word_of_the_command_is_one_of_start_py():
    assert {"train", *start.WORDS} == set(WORDS)
    assert start.plan(["inspect", "a.safetensors"], ROOT) == (("train",), ["-m", "waveft", "inspect", "a.safetensors"])


def test_words_run_where_they_are_typed_and_find_the_clone(tmp_path, monkeypatch, capfd):
    """A folder that holds a `trainer` of its own does not take the clone's place."""
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").write_text("raise AssertionError")
    monkeypatch.chdir(tmp_path)
    previous = signal.getsignal(signal.SIGTERM)
    try:
        assert start.run([sys.executable, "-m", "waveft", "--help"], None) == 0
        asked = "import os, trainer; print(os.getcwd(), trainer.__file__)"
        assert start.run([sys.executable, "-c", asked], None) == 0
    finally:
        signal.signal(signal.SIGTERM, previous)
    said = capfd.readouterr().out
    assert re.search(r"usage: py(thon3)? \S+ WORD", said), "help names the command as it was called"
    assert f"{tmp_path} {ROOT / 'trainer' / '__init__.py'}" in said


@pytest.mark.parametrize(
    ("text", "arguments", "extras"),
    [
        ('[network]\nmethod = "lora"', [], ("train", "methods")),
        ("[network]\n  method='VeRA'  # shared", [], ("train", "methods")),
        ("", ["--set", "network.method=loha"], ("train", "methods")),
        ("", ["--set=network.method=adalora"], ("train", "methods")),
        ('[network]\nmethod = "shira"', [], ("train",)),
        ('# method = "lora"', ["--set", "network.method=bitfit"], ("train",)),
    ],
)
def test_a_job_of_another_method_has_its_package_installed(clone, text, arguments, extras):
    root, _ = clone
    (root / "jobs" / "a.toml").write_text(text)
    assert start.plan(["train", "jobs/a.toml", *arguments], root)[0] == extras


@pytest.mark.parametrize("word", ["evaluate", "compare"])
def test_what_measures_has_the_other_methods_and_a_network_that_sees(clone, word):
    extras = start.plan([word, "job.toml"], clone[0])[0]
    assert extras == ("train", "methods", "eval")
    assert all(start.requirements(ROOT, extra) for extra in extras)


def test_test_and_nox_hand_their_arguments_on(clone):
    assert start.plan(["test", "-k", "x"], clone[0]) == (
        ("train", "dev"),
        ["-m", "pytest", *start.ON_ALL_CORES, "-k", "x"],
    )
    assert start.plan(["nox", "-s", "check"], clone[0]) == (("train", "dev"), ["-m", "nox", "-s", "check"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frob"], "expected one of train, init"),
        (["train"], "job file first"),
        (["train", "no.toml"], 'job file "no.toml"'),
    ],
)
def test_a_wrong_command_line_is_refused_in_words(clone, capsys, arguments, said):
    assert start.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_torch_comes_first_and_a_second_run_installs_nothing(clone):
    root, asked = clone
    start.install(root, Path("python"), ("train",))
    assert asked == [["torch"], ["numpy", "torch", "tqdm"], [start.VOCABULARY]]
    start.install(root, Path("python"), ("train",))
    assert len(asked) == 3
    start.install(root, Path("python"), ("train", "dev"))  # what `train` had installed is not asked for again
    assert asked[3:] == [["torch"], ["numpy", "pytest", "torch"], [start.VOCABULARY]]


def test_what_is_too_large_for_a_job_is_not_read_for_its_method(tmp_path):
    job = tmp_path / "sdxl.safetensors"
    job.write_text('method = "lora"\n')
    assert start.extras_of("train", [str(job)]) == ("train", "methods")
    os.truncate(job, start.LARGEST_JOB_BYTES)
    assert start.extras_of("train", [str(job)]) == ("train",)


@pytest.mark.parametrize("libraries", ["lib/python3.11", "Lib"])
@pytest.mark.parametrize("build", ["9.9", "9.9+cpu"])
def test_a_torch_that_is_there_is_neither_said_nor_asked_to_be_installed(clone, capsys, libraries, build):
    root, asked = clone
    start.install(root, Path("python"), ("train",))
    assert "Installing PyTorch" in capsys.readouterr().out
    record = root / ".venv" / libraries / "site-packages" / f"torch-{build}.dist-info" / "RECORD"
    record.parent.mkdir(parents=True)
    start.install(root, Path("python"), ("train", "dev"))  # an interrupted installation has no record
    assert "Installing PyTorch" in capsys.readouterr().out
    record.write_text("")
    (root / ".venv" / "installed-dev").unlink()
    start.install(root, Path("python"), ("train", "dev"))
    said = capsys.readouterr().out
    assert "PyTorch" not in said
    assert "Installing the libraries of: dev\n" in said
    assert asked[6:] == [["numpy", "pytest", "torch"], [start.VOCABULARY]]
    (root / "constraints.txt").write_text("torch==9.10\n")
    start.install(root, Path("python"), ("train",))
    assert "Installing PyTorch" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["constraints.txt", "pyproject.toml"])
def test_changed_requirements_are_installed(clone, name):
    root, asked = clone
    start.install(root, Path("python"), ("train",))
    (root / name).write_text((root / name).read_text().replace("torch", "torch2"))
    start.install(root, Path("python"), ("train",))
    assert len(asked) == 6


@pytest.fixture
def bare_linux(tmp_path, monkeypatch):
    """Linux without a GPU and without settings of pip's; a test adds what it is about."""
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("shutil.which", lambda name: None)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    (tmp_path / "dev").mkdir()
    return tmp_path


def test_linux_without_a_gpu_or_an_index_takes_the_cpu_build(bare_linux, monkeypatch):
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "60")  # a setting that is no index
    assert start.takes_cpu_build(sys.executable, bare_linux)


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems_take_what_pip_gives(bare_linux, monkeypatch, platform):
    monkeypatch.setattr(sys, "platform", platform)
    assert not start.takes_cpu_build(sys.executable, bare_linux)


@pytest.mark.parametrize("sign", ["proc/driver/nvidia", "dev/nvidia0", "dev/kfd", "usr/lib/wsl/lib/libcuda.so.1"])
def test_a_sign_of_a_gpu_leaves_pip_alone(bare_linux, sign):
    (bare_linux / sign).parent.mkdir(parents=True, exist_ok=True)
    (bare_linux / sign).write_text("")
    assert not start.takes_cpu_build(sys.executable, bare_linux)


def test_an_nvidia_driver_leaves_pip_alone(bare_linux, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/opt/bin/nvidia-smi" if name == "nvidia-smi" else None)
    assert not start.takes_cpu_build(sys.executable, bare_linux)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PIP_INDEX_URL", "https://pypi.org/simple"),
        ("PIP_EXTRA_INDEX_URL", "https://example.org/simple"),
        ("PIP_FIND_LINKS", "/wheels"),
        ("PIP_NO_INDEX", "1"),
    ],
)
def test_an_index_in_the_environment_leaves_pip_alone(bare_linux, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert not start.takes_cpu_build(sys.executable, bare_linux)


@pytest.mark.parametrize(
    ("status", "printed", "cpu"),
    [
        (0, "global.cert='/a.pem'\nglobal.proxy='http://x:1'\n", True),
        (0, "global.index-url='https://x.y/simple'\n", False),
        (0, "global.cert='/a.pem'\ninstall.find-links='/wheels'\n", False),
        (0, "user.extra-index-url='https://x.y'\n", False),
        (1, "", False),
    ],
)
def test_an_index_in_pips_files_leaves_pip_alone(bare_linux, monkeypatch, status, printed, cpu):
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, status, printed)

    monkeypatch.setattr(subprocess, "run", run)
    assert start.takes_cpu_build(Path("python"), bare_linux) is cpu
    assert asked == [["python", "-m", "pip", "config", "list"]]


@pytest.mark.parametrize("reached", [True, False])
def test_the_cpu_build_is_tried_first_and_pips_own_index_is_the_way_out(clone, monkeypatch, capsys, reached):
    root, _ = clone
    commands = []

    def run_pip(command, log):
        commands.append(command)
        if start.CPU_BUILDS in command and not reached:
            raise start.SetupError("pip could not install the libraries")

    monkeypatch.setattr(start, "run_pip", run_pip)
    monkeypatch.setattr(start, "takes_cpu_build", lambda python: True)
    start.install(root, Path("python"), ("train",))
    first, *middle, last, vocabulary = commands
    assert first[first.index("--index-url") + 1] == start.CPU_BUILDS
    assert first[-1] == "torch"
    assert [_packages(command) for command in middle] == ([] if reached else [["torch"]])
    assert _packages(last) == ["numpy", "torch", "tqdm"]
    assert not any("--index-url" in command for command in [*middle, last, vocabulary])
    assert vocabulary[-2:] == ["--no-deps", start.VOCABULARY]
    said = capsys.readouterr().out
    assert re.search(r"no GPU found: the CPU build, .*set PIP_INDEX_URL", said)
    assert ("did not work" in said) is not reached


def test_an_interrupted_installation_is_taken_up_again(clone, monkeypatch):
    root, asked = clone
    working = start.run_pip

    def interrupted(command, log):
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "run_pip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start.install(root, Path("python"), ("train",))
    monkeypatch.setattr(start, "run_pip", working)
    start.install(root, Path("python"), ("train",))
    assert len(asked) == 3


def test_an_environment_that_does_not_work_is_made_anew(tmp_path, monkeypatch):
    made = []

    def run(command, **_):
        made.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    python = tmp_path / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python.parent.mkdir(parents=True)
    python.write_text("not a program")
    monkeypatch.setattr(start, "is_environment", lambda python, folder: False)
    monkeypatch.setattr(subprocess, "run", run)
    assert start.make_environment(tmp_path) == python
    assert made[0][1:] == ["-m", "venv", "--clear", str(tmp_path / ".venv")]


def test_a_python_whose_environment_lost_its_cfg_is_not_taken_for_one(tmp_path):
    """It is the system's own then, pip and all: what would be installed would go there."""
    folder = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    assert not start.is_environment(python, folder)  # no pip yet
    libraries = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    (Path(libraries.stdout.strip()) / "pip").mkdir()
    assert start.is_environment(python, folder)
    (folder / "pyvenv.cfg").unlink()
    assert not start.is_environment(python, folder)
    assert not start.is_environment(tmp_path / "nowhere", folder)


@pytest.mark.parametrize("kind", ["a file", "a link to nothing"])
def test_what_lies_in_the_environments_place_is_named(tmp_path, monkeypatch, kind):
    if kind == "a file":
        (tmp_path / ".venv").write_text("mine")
    else:
        (tmp_path / ".venv").symlink_to(tmp_path / "nowhere")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("nothing is to be made"))
    with pytest.raises(start.SetupError, match=f"got {kind}. Remove it"):
        start.make_environment(tmp_path)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Error: [Errno 30] Read-only file system: '/clone/.venv'", "copy it to a folder of your own"),
        ("Error: [Errno 13] Permission denied: '/clone/.venv'", "run it as its owner"),
        ("[Errno 28] No space left on device", "disk is full"),
        ("The virtual environment was not created successfully because ensurepip is not available", "python3-venv"),
        ("something else", "Delete the folder"),
    ],
)
def test_the_remedy_follows_what_venv_says(tmp_path, monkeypatch, said, remedy):
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(start.SetupError) as caught:
        start.make_environment(tmp_path)
    assert said in str(caught.value)
    assert remedy in str(caught.value)
    assert ("apt install" in str(caught.value)) is (remedy == "python3-venv")


def test_an_old_python_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    with pytest.raises(start.SetupError, match=r"expected 3\.11 or newer, got .*Install"):
        start.check_python()


def test_a_debian_python_without_ensurepip_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(start.SetupError, match="apt install python3-venv"):
        start.check_python()


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("ERROR: No matching distribution found for torch==2.13.0", "another Python"),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        (
            "NewConnectionError: getaddrinfo failed\nERROR: No matching distribution found for torch",
            "check the network",
        ),
        ("something else", "delete the folder .venv"),
    ],
)
def test_pips_failure_shows_its_last_lines_and_a_remedy(tmp_path, output, remedy):
    log = tmp_path / "pip.log"
    log.write_text("of an earlier call\n")
    failing = [sys.executable, "-c", f"import sys; print('first'); print({output!r}); sys.exit(3)"]
    with pytest.raises(start.SetupError) as caught:
        start.run_pip(failing, log)
    assert output.splitlines()[-1] in str(caught.value)
    assert remedy in str(caught.value)
    assert "earlier call" not in str(caught.value)


def test_large_downloads_are_said_and_small_ones_are_not(tmp_path, capsys):
    log = tmp_path / "pip.log"
    log.write_bytes(b"")
    lines = ["Collecting torch", "  Downloading torch-2.13.0.whl (900.1 MB)", "  Downloading tqdm.whl (78 kB)", "done"]
    talking = f"for line in {lines!r}:\n    print(line, flush=True)"
    start.run_pip([sys.executable, "-c", talking], log)
    assert capsys.readouterr().out == "  Downloading torch-2.13.0.whl (900.1 MB)\n"


def test_the_exit_status_is_passed_through():
    previous = signal.getsignal(signal.SIGTERM)
    try:
        assert start.run([sys.executable, "-c", "raise SystemExit(7)"]) == 7
        assert start.run([sys.executable, "-c", ""]) == 0
        if os.name != "nt":
            assert start.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 128 + 9
    finally:
        signal.signal(signal.SIGTERM, previous)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals to hand on")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_command_and_its_own_ending_counts(tmp_path, number):
    """As `timeout` and Ctrl-C do it: the trainer saves what it has, and its exit status is start.py's."""
    child = (
        "import signal, sys\n"
        f"def end(*_): open({str(tmp_path / 'saved')!r}, 'w').close(); sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, end); signal.signal(signal.SIGINT, end)\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()"
    )
    code = f"import sys, start; sys.exit(start.run([sys.executable, '-c', {child!r}]))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # a terminal's Ctrl-C goes to both
        else:
            process.send_signal(number)
        assert process.wait(LIMIT_S) == 5
    assert (tmp_path / "saved").exists()
