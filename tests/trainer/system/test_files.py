import os
import stat

import pytest

from trainer.system import files


def test_writes_text_and_bytes_and_makes_the_folder(tmp_path):
    assert files.write_atomically(tmp_path / "a" / "b.txt", "ä").read_bytes() == "ä".encode()
    assert files.write_atomically(tmp_path / "c", b"\0").read_bytes() == b"\0"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = files.write_atomically(tmp_path / "a.txt", "old")

    def full(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="FIFOs are POSIX's")
def test_what_is_no_file_is_not_written_over(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(OSError, match="expected a file or none there, got a FIFO"):
        files.write_atomically(tmp_path / "a.txt", "x")
    assert stat.S_ISFIFO((tmp_path / "a.txt").stat().st_mode)


def test_a_lock_is_had_once(tmp_path):
    path = tmp_path / "lock"
    first, held = files.locked(path)
    assert held
    with pytest.raises(files.InUse, match=f"process {os.getpid()} on "):
        files.locked(path)
    with first:
        pass
    assert not path.exists()
    with files.locked(path)[0]:
        assert path.exists()


def test_a_lock_whose_holder_is_not_named(tmp_path):
    path = tmp_path / "lock"
    with files.locked(path)[0]:
        path.write_text("")
        with pytest.raises(files.InUse, match="an unknown process"):
            files.locked(path)


def test_free_name_counts_up(tmp_path):
    path = tmp_path / "a.b.txt"
    assert files.free_name(path) == path
    path.touch()
    (tmp_path / "a.b-2.txt").touch()
    assert files.free_name(path).name == "a.b-3.txt"


@pytest.mark.parametrize(("size", "words"), [(999, "999 bytes"), (1500, "2 kB"), (2_345_678, "2.3 MB")])
def test_sizes_in_words(tmp_path, size, words):
    path = tmp_path / "file"
    path.write_bytes(b"\0" * size)
    assert files.readable_size(path) == words
