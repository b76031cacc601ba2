"""The cells of a comparison: same draws, one method, size, rate and seed each."""

import pytest

from trainer.comparison import cells, contestants
from trainer.job import config
from trainer.system.errors import UserError


@pytest.fixture
def grid(light_job, write_job, tmp_path):
    """The function that returns the cells of a command line."""

    def make(methods, rates="1e-4", seeds=1, subjects=None, **sections):
        for name, values in sections.items():
            light_job.setdefault(name, {}).update(values)
        job = config.load(write_job(light_job))
        own = job.model_dump(exclude_none=True, exclude_unset=True).get("network", {})
        found = contestants.parse(methods, rates, own, job.optimizer.learning_rate)
        return cells.grid(job, found, seeds, subjects, tmp_path / "out", 2)

    return make


def test_every_method_rate_and_seed_once(grid):
    found = grid("waveft,shira", "1e-4,3e-4", 2)
    assert len(found) == 8
    assert len({cell.name for cell in found}) == 8
    assert [cell.seed for cell in found] == [42] * 4 + [43] * 4, "an early end leaves whole seeds"
    assert {cell.job.optimizer.learning_rate for cell in found} == {1e-4, 3e-4}
    first = found[0].job
    assert first.save.save_every_n_steps == 1
    assert not first.save.save_state
    assert first.save.output_dir.endswith(f"out/runs/{found[0].name}")


def test_draws_are_the_seed_s_and_positions_too(grid):
    one, other, *_ = grid("waveft", "1e-4", 2)
    assert (one.job.network.locations, other.job.network.locations) == ("uniform:777", "uniform:778")
    assert (one.job.train.seed, other.job.train.seed) == (42, 43)
    assert [cell.job.network.locations for cell in grid("waveft", network={"locations": "peft:5"})] == ["peft:5"]


def test_a_method_s_keys_are_its_own(grid):
    waveft, few = grid("waveft,waveft:coefficients=8:scaling=10", network={"coefficients": 64, "wavelet": "db2"})
    assert (waveft.job.network.coefficients, waveft.job.network.wavelet) == (64, "db2")
    assert (few.job.network.coefficients, few.job.network.scaling) == (8, 10)
    with pytest.raises(UserError, match="--methods waveft:nonsense=1"):
        grid("waveft:nonsense=1")


def test_a_cell_whose_job_changed_is_another(grid):
    (cell,), (same,), (longer,) = grid("waveft"), grid("waveft"), grid("waveft", train={"max_train_steps": 9})
    assert cell.digest == same.digest != longer.digest
    assert cell.name == longer.name


def test_a_folder_of_folders_is_a_subject_each(grid, pictures_in, tmp_path):
    for name in ("dog", "red_cartoon"):
        pictures_in(tmp_path / "subjects" / name, 2)
    found = grid("waveft", subjects=tmp_path / "subjects")
    assert [cell.subject for cell in found] == ["dog", "red_cartoon"]
    job = found[1].job
    assert job.metadata.trigger_phrase == "sks red cartoon"
    assert job.evaluation.class_word == "red cartoon"
    assert job.datasets[0].subsets[0].image_dir.endswith("red_cartoon")
    with pytest.raises(UserError, match="got pictures themselves"):
        grid("waveft", subjects=tmp_path / "subjects" / "dog")
    with pytest.raises(UserError, match="got nothing there"):
        grid("waveft", subjects=tmp_path / "nowhere")


def test_epochs_are_refused(light_job, write_job):
    light_job["train"] = {"max_train_epochs": 2}
    with pytest.raises(UserError, match="expected max_train_steps"):
        cells.read(write_job(light_job), [])
