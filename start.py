#!/usr/bin/env python3
"""Sets up WaveFT's own virtual environment, `.venv`, and runs things in it.

    python3 start.py train JOB.toml [arguments]    trains; a job that is not here is looked for in the clone
    python3 start.py WORD [arguments]              init, sample, evaluate, compare, publish, inspect, merge, combine,
                                                   prune, extract, convert; `WORD --help` tells of each
    python3 start.py test [arguments of pytest]
    python3 start.py nox [arguments of nox]        the developers' commands: check, test, slow, docs, bench

On Windows say `py start.py ...`.  Nothing but Python 3.11 or newer is needed, and nothing outside `.venv` is changed.
It runs where you are: paths are as you type them, from any folder.
The first run downloads PyTorch and the libraries of constraints.txt; later runs find them and begin at once.

PyTorch comes from pip's package index, whose builds for Linux bring gigabytes of CUDA libraries.  On Linux without
a GPU, and without an index in pip's own settings, the far smaller build of https://download.pytorch.org/whl/cpu is
taken instead.  For another build set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL before the first run (delete .venv to change
it later); on Windows with an NVIDIA GPU, take the address of a CUDA build from https://pytorch.org/get-started/locally.
"""

# Python 3.6 must be able to read this file, so that it can say what is missing: no newer syntax or modules at the top,
# annotations in quotes.

import hashlib
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST = (3, 11)
FRONT_DOOR = "waveft"  # the package whose words these are; `tests/test_start.py` holds the two lists together
WORDS = (
    *("init", "sample", "evaluate", "compare", "publish"),
    *("inspect", "merge", "combine", "prune", "extract", "convert"),
)
# pytest-xdist's: half of the tests for each worker, and the rest of the slower one's; a worker takes about 1.5 GB.
ON_ALL_CORES = ("-n", "auto", "--maxprocesses", "8", "--dist", "worksteal")
# It carries CLIP's vocabulary (1.5 MB), which a single-file checkpoint lacks; nothing of its code runs.
VOCABULARY = "open_clip_torch"
SAID_ABOVE_BYTES = 20e6  # downloads smaller than this are not worth a line
SAY_EVERY_S = 20

LARGEST_JOB_BYTES = 2**24  # what is larger is no job, and the trainer says so

CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
GPU_SIGNS = ("proc/driver/nvidia", "dev/nvidia*", "usr/lib/wsl/lib/libcuda.so*", "dev/kfd")  # the last one is AMD's
# What further words stand on: HF PEFT's methods beside ours, and a network that sees.
FURTHER = {"evaluate": ("methods", "eval"), "compare": ("methods", "eval")}
# A job, or `--set`, that names a method whose classes are HF PEFT's: in the trainer's extra of its own.
OF_PEFT = re.compile(
    r"(?im)^\s*(?:--set=)?(?:network\.)?method\s*=\s*[\"']?(?:lora|loha|lokr|adalora|vera|fourierft)\b"
)
OWN_INDEX = re.compile(r"\.(index-url|extra-index-url|find-links|no-index)=")  # in what `pip config list` prints

REMEDIES = (  # what pip says -> what helps; the first that matches is told
    (r"No space left|Errno 28|not enough space", "The disk is full: free about 8 GB, then run the same command again."),
    (
        r"NameResolution|name resolution|NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|getaddrinfo|SSLError",
        "The package index was not reached: check the network (behind a proxy, set HTTPS_PROXY), then run it again.",
    ),
    (
        r"No matching distribution found for torch\b",
        "There is no such PyTorch for Python {python} on {machine}: run start.py with another Python (3.11 to 3.13).",
    ),
    (r"", "Run the same command again; if it fails again, delete the folder .venv first."),
)

VENV_REMEDIES = (  # what `python -m venv` says -> what helps; the first that matches is told
    (
        r"Read-only file system|Errno 30",
        "Nothing can be written where the clone lies: copy it to a folder of your own.",
    ),
    (
        r"Permission denied|Errno 13",
        "The clone's folder may not be written to: run it as its owner, or copy it.",
    ),
    (r"No space left|Errno 28", "The disk is full: free about 8 GB, then run the same command again."),
    (r"ensurepip", "On Debian and Ubuntu: `sudo apt install python3-venv`, then run the same command again."),
    (r"", "Delete the folder {folder} and run the same command again."),
)


class SetupError(Exception):
    """The environment cannot be made; the message says what was found and what to do."""


def main(arguments: "list[str]") -> int:
    """Runs one command line; returns the exit status of what it ran."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print("waveft " + re.findall('^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0])
        return 0
    try:
        extras, command = plan(arguments, ROOT)
        check_python()
        python = make_environment(ROOT)
        install(ROOT, python, extras)
    except SetupError as error:
        print(f"start.py: {error}", file=sys.stderr)
        return 2
    print("Running: python " + " ".join(map(shlex.quote, command)), flush=True)
    return run([str(python), *command], None if command[1] == FRONT_DOOR else ROOT)


def plan(arguments: "list[str]", root: Path) -> "tuple[tuple[str, ...], list[str]]":
    """Returns the extras that a command needs and what Python is to run, from the clone's root."""
    name, rest = arguments[0], arguments[1:]
    if name == "test":
        return ("train", "dev"), ["-m", "pytest", *ON_ALL_CORES, *rest]
    if name == "nox":
        return ("train", "dev"), ["-m", "nox", *rest]
    if name == "train":
        rest = [found_job(rest, root), *rest[1:]]
    elif name not in WORDS:
        words = ", ".join(("train", *WORDS, "test", "nox"))
        raise SetupError(f'word: expected one of {words}, got "{name}". See `python3 start.py --help`.')
    return extras_of(name, rest), ["-m", FRONT_DOOR, name, *rest]


def extras_of(name: str, rest: "list[str]") -> "tuple[str, ...]":
    """Returns the extras that a word needs: a job that is trained, or `--set`, may ask for HF PEFT's methods."""
    text = "\n".join(rest)
    if name == "train" and rest and Path(rest[0]).is_file() and Path(rest[0]).stat().st_size < LARGEST_JOB_BYTES:
        text += "\n" + Path(rest[0]).read_text(encoding="utf-8", errors="replace")
    return ("train", *FURTHER.get(name, ("methods",) if OF_PEFT.search(text) else ()))


def found_job(rest: "list[str]", root: Path) -> str:
    """Returns the path of the job that `train` is asked for: as it was typed, or in the clone."""
    if not rest or (rest[0].startswith("-") and rest[0] not in ("-h", "--help")):
        raise SetupError("train: expected a job file first, e.g. `python3 start.py train jobs/quickstart.toml`.")
    if rest[0].startswith("-") or Path(rest[0]).is_file():
        return rest[0]
    job = root / rest[0]
    if not job.is_file():
        raise SetupError(f'train, job file "{rest[0]}": expected a file here or in {root}, got none. See `jobs/`.')
    return str(job)


def check_python() -> None:
    """Refuses a Python that is too old or that cannot make virtual environments."""
    if sys.version_info[:2] < OLDEST:
        raise SetupError(
            f"Python: expected {OLDEST[0]}.{OLDEST[1]} or newer, got {platform.python_version()} ({sys.executable}). "
            "Install one (https://www.python.org/downloads) and run start.py with it, e.g. `python3.12 start.py ...`."
        )
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            f"Python's venv and ensurepip modules: expected both, got {sys.executable} without. "
            "On Debian and Ubuntu: `sudo apt install python3-venv`, then run the same command again."
        )


def make_environment(root: Path) -> Path:
    """Makes `.venv` unless there is one that works; returns its Python."""
    folder = root / ".venv"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if python.exists() and is_environment(python, folder):
        return python
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        got = "a file" if folder.exists() else "a link to nothing"
        raise SetupError(
            f"virtual environment {folder}: expected a folder or none, got {got}. Remove it, then run the same command "
            "again."
        )
    print(f"Making the virtual environment {folder}", flush=True)
    # Not sys.executable: that may be the broken environment's own.
    base = getattr(sys, "_base_executable", None) or sys.executable
    made = subprocess.run([base, "-m", "venv", "--clear", str(folder)], capture_output=True, text=True, check=False)
    if made.returncode:
        said = made.stdout + made.stderr
        remedy = next(text for pattern, text in VENV_REMEDIES if re.search(pattern, said)).format(folder=folder)
        raise SetupError(f"virtual environment {folder}: `{base} -m venv` failed:\n{_tail(said)}\n{remedy}")
    return python


def is_environment(python: Path, folder: Path) -> bool:
    """Tells whether `python` has a pip that installs into `folder`, and not into the Python that it was made from.

    Without its `pyvenv.cfg` an environment's Python is the system's own, whose pip works very well.
    """
    asked = "import os, pip, sys; print(os.path.realpath(sys.prefix))"
    try:
        told = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return told.returncode == 0 and told.stdout.strip() == os.path.realpath(str(folder))


def install(root: Path, python: Path, extras: "tuple[str, ...]") -> None:
    """Installs the core's dependencies and those of `extras`, PyTorch first; nothing that was installed already."""
    constraints = root / "constraints.txt"
    needed = {extra: requirements(root, extra) for extra in extras}
    stamps = {extra: root / ".venv" / f"installed-{extra}" for extra in extras}
    prints = {
        extra: hashlib.sha256(json.dumps([*lines, VOCABULARY]).encode() + constraints.read_bytes()).hexdigest()
        for extra, lines in needed.items()
    }
    missing = [extra for extra, stamp in stamps.items() if not stamp.is_file() or stamp.read_text() != prints[extra]]
    if not missing:
        print(f"Using {root / '.venv'}, which is up to date", flush=True)
        return
    log = root / ".venv" / "pip.log"
    log.write_bytes(b"")
    pip = [str(python), "-m", "pip", "install", "-c", str(constraints), "--no-input", "--progress-bar", "off"]
    pip.append("--disable-pip-version-check")
    begin = time.monotonic()
    if not has_torch(root):
        print("Installing PyTorch, the largest part (once; later runs begin at once)", flush=True)
        install_torch(pip, log, takes_cpu_build(python))
    print(f"Installing the libraries of: {', '.join(missing)}", flush=True)
    run_pip([*pip, *sorted({line for extra in missing for line in needed[extra]})], log)
    run_pip([*pip, "--no-deps", VOCABULARY], log)
    for extra in missing:  # last: an interrupted installation must not look finished
        stamps[extra].write_text(prints[extra])
    print(f"The environment is ready ({time.monotonic() - begin:.0f} s)", flush=True)


def has_torch(root: Path) -> bool:
    """Tells whether `.venv` holds the PyTorch of constraints.txt, of whichever build: pip writes its name last."""
    pin = re.search(r"^torch==([\w.]+)", (root / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    inside = ("lib/python*/site-packages", "Lib/site-packages")  # of Windows the second
    places = [place for folder in inside for place in (root / ".venv").glob(folder + "/torch-*.dist-info/RECORD")]
    held = [place.parent.name[len("torch-") : -len(".dist-info")].partition("+")[0] for place in places]
    return pin is not None and pin.group(1) in held


def takes_cpu_build(python: Path, filesystem: Path = Path("/")) -> bool:
    """Tells whether PyTorch's CPU index is better than pip's own: on Linux, no sign of a GPU, no index that was chosen.

    `pip config list` names the settings of pip's files and of the environment (PIP_INDEX_URL and its kin) alike.
    """
    if sys.platform != "linux" or shutil.which("nvidia-smi"):
        return False
    if any(found for sign in GPU_SIGNS for found in filesystem.glob(sign)):
        return False
    listed = [str(python), "-m", "pip", "config", "list"]
    settings = subprocess.run(listed, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return settings.returncode == 0 and not OWN_INDEX.search(settings.stdout)


def install_torch(pip: "list[str]", log: Path, cpu_build: bool) -> None:
    """Installs PyTorch with the command `pip`; its CPU build where it is wanted and can be had."""
    if cpu_build:
        print(f"  no GPU found: the CPU build, from {CPU_BUILDS} (to choose yourself, set PIP_INDEX_URL)", flush=True)
        # Not --extra-index-url: where that host is not reached, pip waits for it once a library, for minutes in all.
        # Without dependencies it asks for one page; they come with the other libraries, from the usual index.
        try:
            run_pip([*pip, "--index-url", CPU_BUILDS, "--retries", "2", "--no-deps", "torch"], log)
            return
        except SetupError:
            print(f"  that did not work ({log} says why): the build of pip's own index", flush=True)
    run_pip([*pip, "torch"], log)


def requirements(root: Path, extra: str) -> "list[str]":
    """Returns the core's requirements and those of one extra, as pyproject.toml lists them."""
    import tomllib  # not at the top: the module came with Python 3.11

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"][extra]]


def run_pip(command: "list[str]", log: Path) -> None:
    """Runs pip with its output in `log`; says the large downloads and, now and then, that it goes on."""
    environment = {**os.environ, "PIP_USER": "0"}  # with `install.user` in its settings pip refuses an environment
    begin = said = time.monotonic()
    start = seen = log.stat().st_size
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=environment)
    try:
        running = True
        while running:
            time.sleep(0.2)
            running = process.poll() is None  # asked before the log is read: nothing said at the end is missed
            news = log.read_bytes()[seen:]
            news = news[: news.rfind(b"\n") + 1]
            seen += len(news)
            lines = [line for line in news.decode(errors="replace").splitlines() if _is_news(line)]
            if not lines and time.monotonic() - said > SAY_EVERY_S:
                lines = [f"still at work, {time.monotonic() - begin:.0f} s"]
            for line in lines:
                said = time.monotonic()
                print("  " + line.strip(), flush=True)
    finally:
        if process.poll() is None:  # this process was told to stop
            process.terminate()
            process.wait()
    if process.returncode:
        raise SetupError(_pip_failure(log.read_bytes()[start:].decode(errors="replace"), log))


def run(command: "list[str]", folder: "Path | None" = ROOT) -> int:
    """Runs `command` in a folder (None: where this process is); returns its exit status as a shell gives it."""
    asked = []  # type: list[bool]
    started = []  # type: list[subprocess.Popen[bytes]]

    def stop(*_):
        asked.append(True)
        for process in started:
            process.terminate()

    signal.signal(signal.SIGTERM, stop)  # before there is a child: what comes in between must reach it too
    # From here on a Ctrl-C is the child's, which gets the same one: the trainer saves its work before it ends.
    previous = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        process = subprocess.Popen(command, cwd=folder, env=child_environment(anywhere=folder is None))
        started.append(process)
        if asked:
            process.terminate()
        status = process.wait()
    finally:
        signal.signal(signal.SIGINT, previous)
    return status if status >= 0 else 128 - status


def child_environment(anywhere: bool) -> "dict[str, str]":
    """Returns a command's environment variables; one that runs `anywhere` finds the clone's packages from there."""
    # Windows consoles default to an old code page, in which a caption may not print.
    made = {"PYTHONUTF8": "1", **os.environ}
    if anywhere:
        made["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        made["PYTHONSAFEPATH"] = "1"  # a folder that holds a `trainer` of its own does not take the clone's place
        made["WAVEFT_PROGRAM"] = "{} {}".format("py" if os.name == "nt" else "python3", shlex.quote(sys.argv[0]))
    return made


def _is_news(line: str) -> bool:
    size = re.search(r"^\s*Downloading .*\(([\d.]+) (kB|MB|GB)\)", line)
    return size is not None and float(size[1]) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[size[2]] >= SAID_ABOVE_BYTES


def _pip_failure(output: str, log: Path) -> str:
    remedy = next(text for pattern, text in REMEDIES if re.search(pattern, output))
    remedy = remedy.format(python=platform.python_version(), machine=platform.platform(terse=True))
    return f"pip could not install the libraries. Its last lines (all of them: {log}):\n{_tail(output)}\n{remedy}"


def _tail(text: str, lines: int = 12) -> str:
    return "\n".join("  | " + line for line in text.strip().splitlines()[-lines:])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that pip is stopped too
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("start.py: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
