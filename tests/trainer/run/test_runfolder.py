import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from trainer.job.schema import Save
from trainer.run.runfolder import RunFolder
from trainer.system import files
from trainer.system.errors import UserError

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from pathlib import Path
from trainer.run.runfolder import RunFolder
with RunFolder(Path(sys.argv[1]), "dog").lock():
    print("held", flush=True)
    time.sleep(3600)
"""


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "out", "dog")


def touch(run, *names):
    run.folder.mkdir(exist_ok=True)
    for name in names:
        (run.folder / name).parent.mkdir(exist_ok=True)
        (run.folder / name).touch()


def names(run):
    return sorted(path.name for path in run.folder.rglob("*") if path.is_file())


def test_names(run):
    assert run.adapter.name == "dog.safetensors"
    assert run.checkpoint(100).name == "dog-step00000100.safetensors"
    assert run.state(100).name == "dog-step00000100.state"
    assert (run.metrics.name, run.report.name) == ("dog-metrics.jsonl", "dog-report.html")
    assert run.output("-grid.png") == run.folder / "dog-grid.png"


def test_no_run_may_be_named_as_another_ones_checkpoint():
    assert Save(output_name="dog-step1").output_name == "dog-step1"
    with pytest.raises(ValidationError, match="does not end as checkpoints do"):
        Save(output_name="dog-step00000100")


def test_it_imports_no_torch(in_process, tmp_path):
    code = (
        "import sys, pathlib, trainer.run.runfolder, trainer.run.state, trainer.run.trackers, trainer.system.files; "
        "trainer.system.files.write_atomically(pathlib.Path(sys.argv[1]), 'x'); assert 'torch' not in sys.modules"
    )
    assert in_process("-c", code, str(tmp_path / "a.txt")).returncode == 0


def test_states_are_those_of_this_name_oldest_first(run):
    assert run.states() == []
    assert run.newest_state() is None
    touch(
        run,
        "dog-step00000100.state",
        "dog-step100000000.state",
        "dog-step00000009.state",
        "dog-step00000009.safetensors",
    )
    touch(
        run,
        "dog-2-step00000200.state",
        "adog-step00000200.state",
        ".dog-step00000300.state.0123abcd.tmp",
        "dog-step7.state",
    )
    assert [path.name for path in run.states()] == [
        "dog-step00000009.state", "dog-step00000100.state", "dog-step100000000.state",
    ]  # fmt: skip
    assert [path.name for path in run.checkpoints()] == ["dog-step00000009.safetensors"]
    assert run.newest_state().name == "dog-step100000000.state"


def test_a_name_is_no_pattern(tmp_path):
    run = RunFolder(tmp_path, "d.g+")
    touch(run, "dog+-step00000001.state", "d.gg-step00000001.state")
    assert run.states() == []
    touch(run, "d.g+-step00000001.state")
    assert run.states() == [run.state(1)]


def test_a_damaged_newest_state_is_passed_over_and_named(run):
    touch(run, "dog-step00000001.state", "dog-step00000002.state")
    told = []
    assert run.newest_state(lambda path: path == run.state(1), told.append) == run.state(1)
    [text] = told
    assert "dog-step00000002.state" in text
    assert run.newest_state(lambda _: False, told.append) is None


@pytest.mark.parametrize(("count", "left"), [(0, (2, 4, 6)), (1, (6,)), (2, (4, 6)), (9, (2, 4, 6))])
def test_keep_last_is_a_count_of_pairs(run, count, left):
    pairs = [f"dog-step{step:08d}{end}" for step in (2, 4, 6) for end in (".safetensors", ".state")]
    others = ["dog-2-step00000001.safetensors", "dog-2-step00000001.state", "dog.safetensors", "dog-metrics.jsonl"]
    touch(run, *pairs, *others)
    gone = run.keep_last(count)
    kept = [f"dog-step{step:08d}{end}" for step in left for end in (".safetensors", ".state")]
    assert names(run) == sorted([*kept, *others])
    assert sorted(path.name for path in gone) == sorted(set(pairs) - set(kept))


def test_a_state_at_the_end_counts_as_a_checkpoint(run):
    touch(run, "dog-step00000006.safetensors", "dog-step00000006.state", "dog-step00000008.safetensors")
    touch(run, "dog-step00000008.state", "dog-step00000009.state", "dog.safetensors")
    run.keep_last(2)
    assert [path.name for path in run.states()] == ["dog-step00000008.state", "dog-step00000009.state"]


def test_the_newest_state_stays_whatever_the_count(run):
    touch(run, "dog-step00000002.safetensors", "dog-step00000002.state", "dog-step00000004.safetensors")
    run.keep_last(1)
    assert names(run) == ["dog-step00000002.state", "dog-step00000004.safetensors"]


def test_checkpoints_of_later_steps_neither_count_nor_go(run):
    touch(run, *(f"dog-step{step:08d}.state" for step in (2, 4, 6, 8)))
    assert run.keep_last(1, step=4) == [run.state(2)]
    assert run.states() == [run.state(4), run.state(6), run.state(8)]


def test_what_is_open_elsewhere_stays_for_the_next_time(run, monkeypatch):
    touch(run, "dog-step00000002.state", "dog-step00000004.state")

    def in_use(*_, **__):
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", in_use)
        assert run.keep_last(1) == []
        with pytest.raises(UserError, match=r"of an earlier run.*Delete or move it"):
            run.clear()
    assert run.keep_last(1) == [run.state(2)]


def test_clear_leaves_only_what_is_replaced_anyway(run):
    touch(run, "dog-step00000002.safetensors", "dog-step00000002.state", "dog.safetensors", "dog-2-step00000002.state")
    run.clear()
    assert names(run) == ["dog-2-step00000002.state", "dog.safetensors"]


def test_sweep_takes_the_half_written_files_of_this_name_alone(run):
    mine = [
        ".dog.safetensors.0123abcd.tmp", ".dog.safetensors.tensors.tmp", "..dog.safetensors.tensors.tmp.0123abcd.tmp",
        ".dog-step00000010.safetensors.0123abcd.tmp", ".dog-step00000010.state.0123abcd.tmp",
        ".dog-step00000010.safetensors.tensors.tmp", ".dog-report.html.0123abcd.tmp", ".dog-README.md.0123abcd.tmp",
        ".dog-metrics.jsonl.0123abcd.tmp", ".dog-tensors-2.safetensors.0123abcd.tmp",
        "samples/.dog-before-01-seed42.png.0123abcd.tmp", "samples/.dog-step00000010-01-seed42.png.0123abcd.tmp",
    ]  # fmt: skip
    others = [
        ".dog-2.safetensors.0123abcd.tmp", ".dog-2-step00000010.state.0123abcd.tmp",
        ".dog-cat.safetensors.0123abcd.tmp",
        ".dog-cat-report.html.0123abcd.tmp", ".dog-cat.safetensors.tensors.tmp", ".dog.safetensors.tmp", "dog.tmp",
        "samples/.dog-2-before-01-seed42.png.0123abcd.tmp", ".dog.lock", "dog.safetensors",
        ".adog.safetensors.0123abcd.tmp",
    ]  # fmt: skip
    touch(run, *mine, *others)
    assert len(run.sweep()) == len(mine)
    assert names(run) == sorted(Path(name).name for name in others)


def test_sweep_finds_what_a_killed_writer_leaves(run, in_process):
    run.folder.mkdir()
    code = (
        "import os, sys; from pathlib import Path; "
        "from trainer.run import runfolder; from trainer.system import files; "
        "os.fsync = lambda _: os._exit(9); "
        "files.write_atomically(runfolder.RunFolder(Path(sys.argv[1]), 'dog').state(5), b'x')"
    )
    assert in_process("-c", code, str(run.folder)).returncode == 9
    assert len(names(run)) == 1
    assert run.states() == []
    run.sweep()
    assert names(run) == []


def test_the_lock_makes_the_folder_and_leaves_nothing(run):
    with run.lock():
        assert names(run) == [".dog.lock"]
        assert str(os.getpid()) in (run.folder / ".dog.lock").read_text()
        with RunFolder(run.folder, "cat").lock():
            pass
        with pytest.raises(UserError, match=rf'named "dog".*process {os.getpid()} on .*output_name'), run.lock():
            pass
        assert names(run) == [".dog.lock"]  # who is turned away leaves the lock alone
    assert names(run) == []
    with run.lock():
        pass


def test_the_lock_goes_with_the_process_that_is_killed(run):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", HOLD, run.folder], stdout=subprocess.PIPE, env=environment) as other:
        try:
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(UserError, match=f"process {other.pid} on "), run.lock():
                pass
        finally:
            other.send_signal(signal.SIGKILL)
            other.wait()
    assert names(run) == [".dog.lock"]
    with run.lock():
        assert str(os.getpid()) in (run.folder / ".dog.lock").read_text()


def test_a_lock_that_was_deleted_meanwhile_is_taken_anew(run, monkeypatch):
    path, tries, take = run.folder / ".dog.lock", [], files._lock

    def slow(descriptor):
        take(descriptor)
        if not tries:
            path.unlink()  # as the one who held it does, after we opened the file and before we had it
        tries.append(descriptor)

    monkeypatch.setattr(files, "_lock", slow)
    with run.lock():
        assert len(tries) == 2
        with path.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_disk_without_locks_is_told(run, monkeypatch, capsys):
    def unknown(_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(files, "_lock", unknown)
    with run.lock():
        assert "knows no locks" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_or_written(run, monkeypatch):
    run.folder.write_text("a file")
    with pytest.raises(UserError, match=r"expected one that can be written, got: .*output_dir"), run.lock():
        pass
    run.folder.unlink()

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with pytest.raises(UserError, match="got: Read-only file system"), run.lock():
            pass
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UserError, match="got: Permission denied"), run.lock():
        pass
