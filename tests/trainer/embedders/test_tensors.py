"""Plain tensors are read; anything else is refused in words, and no code of a file is run."""

import pytest
import torch
from safetensors.torch import save_file

from trainer.embedders import tensors
from trainer.system.errors import UserError


class Trap:
    def __reduce__(self):
        return print, ("this must not be printed",)


def test_both_kinds_of_file_give_the_same(tmp_path):
    held = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}
    torch.save(held, tmp_path / "a.pth")
    save_file(held, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        found = tensors.read(tmp_path / name, "weights")
        assert found.keys() == held.keys()
        assert all(torch.equal(found[key], held[key]) for key in held)


def test_a_pickle_that_calls_something_is_refused(tmp_path, capsys):
    torch.save({"a": Trap()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="something else"):
        tensors.read(tmp_path / "a.pth", "weights")
    assert "must not" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_damaged_files_are_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r'weights ".*expected a file of tensors'):
        tensors.read(tmp_path / name, "weights")


def test_other_content_missing_files_and_lists_are_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="SHA-256 00"):
        tensors.read(tmp_path / "a.pth", "weights", "00")
    assert tensors.read(tmp_path / "a.pth", "weights", tensors.digest(tmp_path / "a.pth"))
    with pytest.raises(UserError, match="names with tensors, got list"):
        tensors.read(tmp_path / "list.pth", "weights")
    with pytest.raises(UserError, match="nothing there"):
        tensors.read(tmp_path / "none.pth", "weights")
