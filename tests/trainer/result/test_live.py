from itertools import pairwise

import pytest

from trainer import loop
from trainer.job import config
from trainer.preflight import preflight
from trainer.result import live

# of diffusers' schedulers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def watched(job, write_job, tmp_path, monkeypatch):
    """Runs the job and returns every page that it wrote on the way, and the one that it left."""
    job["sample"] = {"prompts": ["sks robot"], "sample_steps": 1, "guidance_scale": 1.0, "sample_every_n_steps": 1}
    monkeypatch.setattr(live, "AT_LEAST_S", 0.0)
    monkeypatch.setattr(live, "SHARE", 1e9)
    pages = []
    write = live.write_atomically
    monkeypatch.setattr(live, "write_atomically", lambda path, text: pages.append(text) or write(path, text))

    def run():
        outcome = loop.run(preflight.check(config.load(write_job(job))))
        return outcome, pages, (tmp_path / "out" / "waveft-report.html").read_text(encoding="utf-8")

    return run


def test_the_report_is_there_from_the_first_sample_on_and_grows(watched, capsys):
    outcome, pages, left = watched()
    assert outcome.exit_status == 0
    assert len(pages) >= 4, "before, two steps with a sample each, after"
    assert "step 0 of 3" in pages[0] and "before" in pages[0]
    assert "step 2 of 3" in pages[2] or "step 2 of 3" in pages[3]
    pictures = [page.count("<img") for page in pages]
    assert pictures == sorted(pictures) and pictures[-1] > pictures[0]
    assert all('http-equiv="refresh"' in page for page in pages)
    assert 'http-equiv="refresh"' not in left and "<progress" not in left
    assert "watch       " in capsys.readouterr().out


def test_a_page_that_cannot_be_written_is_said_once_and_ends_no_training(watched, monkeypatch, capsys):
    def full(path, text):
        raise OSError(28, "No space left on device")

    run = watched
    monkeypatch.setattr(live, "write_atomically", full)
    outcome, _, left = run()
    assert outcome.exit_status == 0
    assert capsys.readouterr().out.count("the report cannot be written on the way") == 1
    assert "<h1>" in left


@pytest.mark.parametrize(("takes", "every"), [(0.0, 10), (0.5, 25), (30.0, 60)])
def test_pages_take_little_of_the_time_and_none_is_old(monkeypatch, takes, every):
    class Page(live.LiveReport):
        def __init__(self):
            self.due, self.said, self._figures, self._stale = 0.0, True, object(), False
            self.parts = self.log = type("Log", (), {"ready": None, "folder": None})()
            self.parts.ready = self.parts
            self.parts.folder = type("Folder", (), {"report": "x"})()

        def _run(self):
            clock[0] += takes

        def _now(self):
            return None

    clock, written = [100.0], []
    monkeypatch.setattr(live.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(live, "write_atomically", lambda path, text: written.append(clock[0]))
    monkeypatch.setattr(live.report, "page", lambda *_: "")
    page = Page()
    for _ in range(300):
        clock[0] += 1
        page.step()
    spans = {round(later - earlier - takes) for earlier, later in pairwise(written)}
    assert len(written) > 3
    assert spans <= {every, every + 1}, "steps end once a second"
