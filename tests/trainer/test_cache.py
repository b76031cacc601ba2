import errno
from types import SimpleNamespace

import pytest
import torch

from trainer import cache
from trainer.errors import UserError
from trainer.filling import fill


def entry(value):
    return {"mean": torch.full((2, 3), float(value)), "count": torch.tensor(7)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_what_is_kept_comes_back_in_another_process_too(tmp_path):
    cache.Store(tmp_path).put("ab12", entry(1))
    assert (tmp_path / "ab" / "ab12.safetensors").is_file()
    assert same(cache.Store(tmp_path).get("ab12"), entry(1))
    assert cache.Store(tmp_path).get("ab13") is None
    memory = cache.Store()
    memory.put("ab12", entry(1))
    assert same(memory.get("ab12"), entry(1))
    assert cache.Store().get("ab12") is None


@pytest.mark.parametrize("where", [-1, -20, 30])
def test_a_flipped_bit_is_noticed_and_made_anew(tmp_path, where):
    cache.Store(tmp_path).put("ab12", entry(1))
    path = tmp_path / "ab" / "ab12.safetensors"
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    store = cache.Store(tmp_path)
    assert store.get("ab12") is None
    assert store.damaged == 1
    assert not path.exists()
    assert "1 damaged file was dropped" in store.notices()[0]


def test_a_file_cut_short_or_of_another_name_is_dropped(tmp_path):
    store = cache.Store(tmp_path)
    store.put("ab12", entry(1))
    path = tmp_path / "ab" / "ab12.safetensors"
    other = tmp_path / "ab" / "ab99.safetensors"
    other.write_bytes(path.read_bytes())
    path.write_bytes(path.read_bytes()[:-5])
    again = cache.Store(tmp_path)
    assert again.get("ab12") is None and again.get("ab99") is None
    assert again.damaged == 2


def test_a_full_disk_is_a_notice_and_memory_goes_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "write_atomically", full)
    store = cache.Store(tmp_path)
    store.put("ab12", entry(1))
    assert same(store.get("ab12"), entry(1))
    [notice] = store.notices()
    assert "No space left on device" in notice and "cache_dir" in notice


def test_only_what_lacks_is_made(tmp_path):
    cache.Store(tmp_path).put("aa", entry(1))
    made = []

    def maker(name):
        return lambda: made.append(name) or entry(2)

    store = cache.Store(tmp_path)
    fill(store, {name: maker(name) for name in ("aa", "bb", "cc")})
    assert made == ["bb", "cc"]
    assert (store.hits, store.misses) == (1, 2)
    assert same(cache.Store(tmp_path).get("cc"), entry(2))


def test_processes_share_the_work_and_exchange_it():
    made = {0: [], 1: []}

    def world(rank, others):
        return SimpleNamespace(
            rank=rank, size=2, is_main=rank == 0, gather=lambda items: items + others(items), wait=lambda: None
        )

    names = [f"{number:02d}" for number in range(6)]

    def maker(rank, name):
        return lambda: made[rank].append(name) or entry(int(name))

    # the other process's answer, of which this one knows what it would be: the entries that are not its own
    def others(items):
        if items and isinstance(items[0], tuple):
            own = {name for name, _ in items}
            return [(name, entry(int(name))) for name in names if name not in own]
        return items if items and isinstance(items[0], str) and items[0] in names else []

    store = cache.Store()
    fill(store, {name: maker(0, name) for name in names}, world(0, others))
    assert made[0] == ["00", "02", "04"]
    assert all(same(store.get(name), entry(int(name))) for name in names)


def test_what_cannot_be_made_is_told(tmp_path):
    def broken():
        raise UserError("image x")

    with pytest.raises(UserError, match="image x"):
        fill(cache.Store(tmp_path), {"aa": broken, "bb": lambda: entry(1)})


def test_a_name_follows_from_everything():
    base = {"text": "a", "identity": "one", "dtype": "float32"}
    keys = [
        cache.text_key(**{**base, **change})
        for change in ({}, {"text": "b"}, {"identity": "two"}, {"dtype": "float16"})
    ]
    assert len(set(keys)) == 4
    assert cache.text_key(**base) == keys[0]
