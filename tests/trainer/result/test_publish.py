import sys
import types

import pytest
import torch

import waveft_core
from trainer.result import publish
from trainer.system.errors import UserError

CARD = """---
widget:
- text: "a"
  output:
    url: "samples/my%20dog-after-01.png"
---
![grid](my%20dog-grid.png) ![elsewhere](https://example.org/x.png)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "samples").mkdir()
    layer = waveft_core.Layer(torch.ones(2), torch.tensor([0, 5], dtype=torch.int32), (4, 4))
    waveft_core.save(waveft_core.Adapter({"lora_unet_a": layer}), tmp_path / "my dog.safetensors")
    (tmp_path / "my dog-README.md").write_text(CARD, encoding="utf-8")
    for name in ("my dog-grid.png", "samples/my dog-after-01.png"):
        (tmp_path / name).write_bytes(b"png")
    return tmp_path


class HTTPError(Exception):
    pass


class HfHubHTTPError(HTTPError, OSError):
    pass


@pytest.fixture
def hub(monkeypatch):
    """A hub that remembers what was asked of it, in the place of the library."""
    made = types.ModuleType("huggingface_hub")
    made.errors = types.ModuleType("huggingface_hub.errors")
    made.errors.HTTPError, made.errors.HfHubHTTPError = HTTPError, HfHubHTTPError
    made.calls, made.failure, made.token = [], None, "hf_x"
    made.get_token = lambda: made.token
    made.CommitOperationAdd = lambda path_in_repo, path_or_fileobj: (path_in_repo, path_or_fileobj)

    class HfApi:
        def create_repo(self, repo, **keys):
            if made.failure:
                raise made.failure
            made.calls.append(("create", repo, keys))
            return f"https://huggingface.co/{repo}"

        def create_commit(self, repo, operations, **keys):
            made.calls.append(("commit", repo, operations))

    made.HfApi = HfApi
    monkeypatch.setitem(sys.modules, "huggingface_hub", made)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", made.errors)
    return made


def test_everything_goes_up_in_one_commit(folder, hub, capsys):
    assert publish.main([str(folder), "--repo", "me/dog", "--private"]) == 0
    create, commit = hub.calls
    assert create == ("create", "me/dog", {"private": True, "repo_type": "model", "exist_ok": True})
    assert commit == (
        "commit",
        "me/dog",
        [
            ("my dog.safetensors", str(folder / "my dog.safetensors")),
            ("README.md", str(folder / "my dog-README.md")),
            ("my dog-grid.png", str(folder / "my dog-grid.png")),
            ("samples/my dog-after-01.png", str(folder / "samples" / "my dog-after-01.png")),
        ],
    )
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "to me/dog (private):"
    assert said[3] == "  my dog-grid.png (3 bytes)"
    assert said[-1] == "done: https://huggingface.co/me/dog"


def test_a_dry_run_asks_nobody(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert publish.main([str(folder), "--repo", "me/dog", "--dry-run"]) == 0
    assert "README.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        (lambda hub: setattr(hub, "token", None), 2, "no token: expected one that may write"),
        (lambda hub: setattr(hub, "failure", HfHubHTTPError("403 Forbidden")), 1, "the hub refused: 403 Forbidden"),
        (lambda hub: setattr(hub, "failure", ValueError("bad name")), 1, "the hub refused: bad name"),
        (lambda hub: setattr(hub, "failure", HTTPError("no route")), 1, "the hub cannot be reached: no route"),
        (lambda hub: setattr(hub, "failure", ConnectionError("offline")), 1, "the hub cannot be reached: offline"),
    ],
)
def test_what_a_hub_may_answer(folder, hub, capsys, change, status, told):
    change(hub)
    assert publish.main([str(folder), "--repo", "me/dog"]) == status
    assert told in capsys.readouterr().err
    assert hub.calls == []


def test_without_the_library(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert publish.main([str(folder), "--repo", "me/dog"]) == 2
    assert "pip install huggingface_hub" in capsys.readouterr().err


def told(*arguments):
    with pytest.raises(UserError) as raised:
        publish.plan(*arguments)
    return raised.value.problems


@pytest.mark.parametrize("name", ["dog--x", "-dog", "dog-", "dog.git", "dog..x", ".dog", "d" * 100])
def test_a_name_that_the_hub_refuses_is_refused_before(folder, name):
    (fault,) = told(folder, "", f"me/{name}")
    assert fault.startswith("--repo: expected")
    assert publish.plan(folder, "", "me/dog_1.x")


def test_no_such_run(folder, tmp_path):
    assert "got nothing there" in told(tmp_path / "none", "", "me/dog")[0]
    assert 'named "cat", got none. It holds my dog' in told(folder, "cat", "me/dog")[0]
    assert "expected OWNER/NAME" in told(folder, "", "dog")[0]
    (folder / "my dog.safetensors").rename(folder / "other.safetensors")
    assert "expected a finished run, got none" in told(folder, "", "me/dog")[0]


def test_several_runs_in_one_folder(folder):
    for ending in (".safetensors", "-README.md"):
        (folder / f"cat{ending}").write_bytes((folder / f"my dog{ending}").read_bytes())
    assert "got 2: cat, my dog. Choose with --name" in told(folder, "", "me/dog")[0]
    assert publish.plan(folder, "my dog", "me/dog")[0].name == "my dog.safetensors"


def test_faults_of_the_files_come_together(folder):
    (folder / "my dog-grid.png").unlink()
    (folder / "my dog.safetensors").write_bytes(b"cut short")
    with (folder / "my dog-README.md").open("a", encoding="utf-8") as card:
        card.write("![x](../secret.png)")
    found = told(folder, "", "me/dog")
    assert len(found) == 3
    assert "my dog.safetensors" in found[0]
    assert 'names the picture "my dog-grid.png", which is not there' in "".join(found)
    assert 'got "../secret.png"' in "".join(found)
