import errno
import hashlib
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save

from trainer.base import cache
from trainer.base.fillcache import fill
from trainer.pictures import buckets
from trainer.pictures.captions import Caption
from trainer.pictures.picture import Picture
from trainer.system.errors import UserError


def entry(value):
    return {"mean": torch.full((2, 3), float(value)), "count": torch.tensor(7)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def in_two(process):
    """Returns what `process(world)` gave in two threads that meet at every exchange, as two processes do."""
    meeting, shelf, given = Barrier(2, timeout=900), {}, {}

    def run(rank):
        def gather(items):
            shelf[rank] = list(items)
            meeting.wait()
            found = [*shelf[0], *shelf[1]]
            meeting.wait()
            return found

        given[rank] = process(SimpleNamespace(rank=rank, size=2, gather=gather))

    threads = [Thread(target=run, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    return [given[rank] for rank in range(2)]


def numbered(count, made):
    """Returns makers of so many entries, each of which says in `made` that it was called."""

    def maker(number):
        return lambda: made.append(number) or entry(number)

    return {f"{number:03d}": maker(number) for number in range(count)}


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


def test_no_single_bit_passes_as_another_entry(tmp_path):
    cache.Store(tmp_path).put("ab12", entry(1))
    path = tmp_path / "ab" / "ab12.safetensors"
    whole = path.read_bytes()
    for where in range(len(whole)):
        content = bytearray(whole)
        content[where] ^= 1 << where % 8
        path.write_bytes(content)
        store = cache.Store(tmp_path)
        assert store.get("ab12") is None and store.damaged == 1, where


def test_what_was_damaged_is_made_and_written_anew(tmp_path):
    fill(cache.Store(tmp_path), numbered(3, []))
    path = tmp_path / "00" / "001.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    store, made = cache.Store(tmp_path), []
    fill(store, numbered(3, made))
    assert (made, store.hits, store.misses, store.damaged) == ([1], 2, 1, 1)
    assert path.read_bytes() == whole
    assert cache.Store(tmp_path).notices() == []


def test_another_programs_file_under_the_name_is_dropped(tmp_path):
    path = tmp_path / "ab" / "ab12.safetensors"
    path.parent.mkdir()
    for content in (b"", b"text", save(entry(1)), save(entry(1), {"format": "pt"})):
        path.write_bytes(content)
        store = cache.Store(tmp_path)
        assert store.get("ab12") is None and store.damaged == 1
        assert not path.exists()


def test_what_was_read_stays_in_memory(tmp_path):
    cache.Store(tmp_path).put("ab12", entry(1))
    store = cache.Store(tmp_path)
    store.get("ab12")
    (tmp_path / "ab" / "ab12.safetensors").unlink()
    assert same(store.get("ab12"), entry(1)) and store.contains("ab12")
    assert not cache.Store(tmp_path).contains("ab12")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_every_bit_comes_back(tmp_path, dtype):
    kept = {"a": torch.arange(12).reshape(3, 4).to(dtype), "none": torch.empty(0, 4, dtype=dtype)}
    cache.Store(tmp_path).put("ab12", kept)
    found = cache.Store(tmp_path).get("ab12")
    assert same(found, kept)
    assert all(found[key].dtype == dtype and found[key].shape == kept[key].shape for key in kept)


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
    tried = []

    def full(path, _):
        tried.append(path.stem)
        raise OSError(errno.ENOSPC, "No space left on device")

    cache.Store(tmp_path).put("000", entry(0))
    monkeypatch.setattr(cache, "write_atomically", full)
    store, made = cache.Store(tmp_path), []
    fill(store, numbered(4, made))
    assert (made, tried) == ([1, 2, 3], ["001"])  # a full disk is not asked again
    assert all(same(store.get(f"{number:03d}"), entry(number)) for number in range(4))
    assert store.count(["000", "001", "009"]) == (2, 1)
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
    def process(world):
        store, made, calls = cache.Store(), [], []
        fill(store, numbered(70, made), world, lambda *at: calls.append(at))
        assert all(same(store.get(f"{number:03d}"), entry(number)) for number in range(70))
        return made, calls

    rounds = [(64, 70), (70, 70)]  # 32 for each, then the rest
    assert in_two(process) == [(list(range(0, 70, 2)), rounds), (list(range(1, 70, 2)), rounds)]


def test_processes_with_folders_of_their_own_give_each_other_what_lacks(tmp_path):
    for number in (1, 2):
        cache.Store(tmp_path / "0").put(f"{number:03d}", entry(number))
    for rank in ("0", "1"):
        cache.Store(tmp_path / rank).put("004", entry(4))

    def process(world):
        store, made = cache.Store(tmp_path / str(world.rank)), []
        fill(store, numbered(5, made), world)
        return made, store.hits, store.misses

    # lacking somewhere: 0 1 2 3, of which the first process sees to 0 and 2, which it has, and the second to 1 and 3
    assert in_two(process) == [([0], 3, 2), ([1, 3], 1, 4)]
    for rank in ("0", "1"):
        kept = cache.Store(tmp_path / rank)
        assert all(same(kept.get(f"{number:03d}"), entry(number)) for number in range(5))


def test_processes_that_share_a_full_folder_make_nothing(tmp_path):
    fill(cache.Store(tmp_path), numbered(5, []))

    def process(world):
        store, made = cache.Store(tmp_path), []
        fill(store, numbered(5, made), world)
        return made, store.hits, store.misses

    assert in_two(process) == [([], 5, 0)] * 2


def test_what_cannot_be_made_is_told(tmp_path):
    def broken():
        raise UserError("image x")

    with pytest.raises(UserError, match="image x"):
        fill(cache.Store(tmp_path), {"aa": broken, "bb": lambda: entry(1)})


@pytest.mark.parametrize("broken_one", [0, 1])
def test_what_one_process_cannot_make_stops_all(broken_one):
    def broken():
        raise UserError("image x")

    def process(world):
        made = []
        makers = {**numbered(100, made), f"{broken_one:03d}": broken}
        with pytest.raises(UserError) as error:
            fill(cache.Store(), makers, world)
        return error.value.problems, len(made)

    given = in_two(process)
    assert [problems for problems, _ in given] == [["image x"]] * 2
    assert given[broken_one][1] == 0 and given[1 - broken_one][1] == 32  # the other one's first round, and no more


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
from trainer.base import cache
from trainer.pictures import buckets
from trainer.pictures.captions import Caption
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


def test_a_name_is_a_hash_of_plain_values_in_any_order():
    assert cache.key(b=(2, 3), a=1) == cache.key(a=1, b=[2, 3])
    assert cache.key(a=1) == hashlib.sha256(b'{"a": 1}').hexdigest()
    assert cache.key(a=1) != cache.key(a="1") != cache.key(b="1")
    with pytest.raises(ValueError):
        cache.key(a=float("nan"))


@pytest.mark.parametrize(("kind", "constant"), [("latents", "LATENTS_VERSION"), ("text", "TEXTS_VERSION")])
def test_a_new_version_has_new_names(monkeypatch, kind, constant):
    one = Picture(Path("a.png"), "digest", Caption(("x",)), buckets.fit((20, 16), (16, 16)), 0)

    def names():
        return {
            "latents": cache.latents_key(one, False, "vae", "float32", False),
            "text": cache.text_key("a", "b", "c"),
        }

    before = names()
    monkeypatch.setattr(cache, constant, 99)
    assert {name for name in before if names()[name] != before[name]} == {kind}
