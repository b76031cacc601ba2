"""The extension on a checkout's own modules: its Lora extension, its patchers and its merging, without a model."""

import os
import subprocess
import sys

import pytest

from tests.webui.conftest import ROOT
from tests.webui.real import family_of

pytestmark = pytest.mark.webui


def _has_pytest(python):
    return subprocess.run([python, "-c", "import pytest, PIL"], capture_output=True, check=False).returncode == 0


def test_every_test_of_the_families_holds_on_the_checkouts_own_modules(checkout):
    named = os.environ.get("WEBUI_PYTHON")
    python = named if named and _has_pytest(named) else sys.executable
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/waveft_webui/test_families.py"]
    command += ["-W", "default"]  # what a UI's own packages warn of is not ours
    environment = {**os.environ, "WAVEFT_TESTS_ON_CHECKOUT": str(checkout)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{family_of(checkout)}, {python}:\n{done.stdout[-8000:]}"
    assert " passed" in done.stdout
