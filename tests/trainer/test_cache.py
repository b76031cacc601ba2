import errno
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread
from types import SimpleNamespace

import pytest
import torch

from trainer import buckets, cache
from trainer.captions import Caption
from trainer.errors import UserError
from trainer.filling import fill
from trainer.picture import Picture


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


@pytest.mark.parametrize("broken_one", [0, 1])
def test_what_one_process_cannot_make_stops_all(broken_one):
    """Two threads meet at every exchange, as two processes do."""
    meeting, shelf, told = Barrier(2, timeout=20), {}, {}

    def world(rank):
        def gather(items):
            shelf[rank] = items
            meeting.wait()
            found = [*shelf[0], *shelf[1]]
            meeting.wait()
            return found

        return SimpleNamespace(rank=rank, size=2, gather=gather)

    def broken():
        raise UserError("image x")

    def process(rank):
        makers = {f"{number}": broken if number == broken_one else lambda: entry(1) for number in range(4)}
        try:
            fill(cache.Store(), makers, world(rank))
        except UserError as error:
            told[rank] = error.problems

    threads = [Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == {0: ["image x"], 1: ["image x"]}


def test_progress_counts_what_is_there(tmp_path):
    cache.Store(tmp_path).put("aa", entry(1))
    calls = []
    fill(
        cache.Store(tmp_path),
        {name: lambda: entry(1) for name in ("aa", "bb", "cc")},
        None,
        lambda *at: calls.append(at),
    )
    assert calls == [(2, 3), (3, 3)]


def test_what_is_there_is_counted_and_measured(tmp_path):
    store = cache.Store(tmp_path)
    store.put("aa", entry(1))
    assert store.count(["aa", "bb", "bb"]) == (1, 1)
    assert store.size() == (tmp_path / "aa" / "aa.safetensors").stat().st_size
    memory = cache.Store()
    memory.put("aa", entry(1))
    assert memory.size() == 2 * 3 * 4 + 8
    assert cache.Store(tmp_path / "none").count(["aa"]) == (0, 1)
    assert cache.Store(tmp_path / "none").size() == 0


def test_a_folder_that_is_a_file_is_a_notice_too(tmp_path):
    (tmp_path / "cache").write_text("")
    store = cache.Store(tmp_path / "cache")
    store.put("aa", entry(1))
    store.put("bb", entry(2))
    assert same(store.get("bb"), entry(2))
    assert len(store.notices()) == 1


def test_latents_follow_from_the_picture_the_view_and_the_vae():
    geometry = buckets.fit((20, 16), (16, 16))
    one = Picture(Path("a.png"), "digest", Caption(("x",)), geometry, 0)
    rest = {"flipped": False, "identity": "vae", "dtype": "float32", "posterior": False}
    changes = [
        {"digest": "other"},
        {"geometry": replace(geometry, resized=(21, 16))},
        {"geometry": replace(geometry, offset=(1, 0))},
        {"geometry": buckets.fit((20, 16), (8, 8))},
        {"background": "black"},
        {"interpolation": "lanczos"},
    ]
    names = [cache.latents_key(one, **rest)]
    names += [cache.latents_key(replace(one, **change), **rest) for change in changes]
    others = ({"flipped": True}, {"identity": "other"}, {"dtype": "float16"}, {"posterior": True})
    names += [cache.latents_key(one, **{**rest, **change}) for change in others]
    assert len(set(names)) == 11
    moved = replace(one, path=Path("elsewhere/b.png"), caption=Caption(("y",)), dataset=3, repeats=5)
    assert cache.latents_key(moved, **rest) == names[0]


def test_only_views_that_stay_alike_are_kept():
    one = Picture(Path("a.png"), "digest", Caption(("x",)), buckets.fit((20, 16), (16, 16)), 0)
    assert cache.fixed_flips(one) == (False,)
    assert cache.fixed_flips(replace(one, flip=True)) == (False, True)
    assert (
        cache.fixed_flips(replace(one, flip=True, color=True))
        == cache.fixed_flips(replace(one, random_crop=True))
        == ()
    )


def test_entries_are_counted_without_torch(in_process, tmp_path):
    cache.Store(tmp_path).put(cache.text_key("a", "b", "float32"), entry(1))
    code = f"""
import sys
from pathlib import Path
from trainer import buckets, cache
from trainer.captions import Caption
print(cache.Store(Path({str(tmp_path)!r})).count([cache.text_key(text, "b", "float32") for text in "ac"]))
print({{"torch", "numpy", "safetensors"}} & set(sys.modules))
"""
    done = in_process("-c", code)
    assert done.stdout.split("\n")[:2] == ["(1, 1)", "set()"], done.stderr


def test_a_name_follows_from_everything():
    base = {"text": "a", "identity": "one", "dtype": "float32"}
    keys = [
        cache.text_key(**{**base, **change})
        for change in ({}, {"text": "b"}, {"identity": "two"}, {"dtype": "float16"})
    ]
    assert len(set(keys)) == 4
    assert cache.text_key(**base) == keys[0]
