"""Two processes over gloo train what one does."""

import os
import socket
from pathlib import Path

import pytest
import toml
import torch

from tests.processes import ended, prepared
from trainer.methods import shipped
from trainer.system.distributed import World


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def work(job, log, rank, size, port):
    """Runs the trainer as one of several processes that a launcher started."""
    descriptor = os.open(f"{log}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    from trainer import cli

    raise SystemExit(cli.main(["--config", job]))


@pytest.fixture
def train(job, pictures_in, tmp_path):
    """The function that trains the job in so many processes; returns the adapter and what the main process said."""
    wide = tmp_path / "wide"
    pictures_in(wide, 2, (40, 20))
    job["general"] = {
        "resolution": 32, "bucket_reso_steps": 16, "min_bucket_reso": 16, "max_bucket_reso": 64,
        "caption_dropout_rate": 0.3, "flip_aug": True,
    }  # fmt: skip
    job["datasets"][0]["subsets"].append({"image_dir": str(wide), "class_tokens": "a wide robot"})

    def run(size, accumulation, **sections):
        table = {**job, **{name: job.get(name, {}) | section for name, section in sections.items()}}
        folder = tmp_path / f"world-{size}"
        folder.mkdir()
        table["train"] = {**table["train"], "gradient_accumulation_steps": accumulation, "threads": 1}
        table["save"] = {"output_dir": str(folder)}
        path, log, port = folder / "job.toml", folder / "log", free_port()
        path.write_text(toml.dumps(table), encoding="utf-8")
        started = [prepared().Process(target=work, args=(str(path), str(log), r, size, port)) for r in range(size)]
        for process in started:
            process.start()
        statuses = [ended(process) for process in started]
        logs = [Path(f"{log}.{rank}").read_text() for rank in range(size)]
        assert statuses == [0] * size, "\n".join(logs)
        return shipped.load(folder / "waveft.safetensors"), logs

    return run


def values(adapter):
    return torch.cat([layer.values for layer in adapter.layers.values()])


def test_two_processes_train_what_one_does_with_twice_the_accumulation(train):
    settings = {"train": {"max_train_steps": 10}, "optimizer": {"learning_rate": 3e-4}}
    one, _ = train(1, 2, **settings)
    two, logs = train(2, 1, **settings)
    largest = values(one).abs().max()
    assert largest > 1e-3
    assert (values(one) - values(two)).abs().max() <= 0.01 * largest
    assert "steps" in logs[0]
    assert not logs[1].strip()  # one voice


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "adalora", "bitfit"])
def test_two_processes_train_other_methods_alike(train, job, name):
    schedule = {"tinit": 2, "tfinal": 2, "deltaT": 2} if name == "adalora" else {}
    job["network"] = {"method": name, **schedule}
    settings = {"train": {"max_train_steps": 8}, "optimizer": {"learning_rate": 1e-2}}
    one, two = (train(size, 2 // size, **settings)[0].tensors for size in (1, 2))
    assert one.keys() == two.keys()
    assert all(one[key].shape == two[key].shape for key in one)  # the same ranks, too
    largest = max(float(held.abs().max()) for key, held in one.items() if not key.endswith("alpha"))
    # a gradient near 0 may round to either sign, and AdamW moves by the rate all the same
    apart = torch.cat([(one[key] - two[key]).flatten().abs() for key in one])
    assert float((apart > 0.05 * largest).float().mean()) < 0.01


def test_two_processes_place_by_the_same_gradient(train):
    settings = {"network": {"locations": "gradient:1", "location_batches": 3}, "train": {"max_train_steps": 2}}
    one, _ = train(1, 2, **settings)
    two, _ = train(2, 1, **settings)
    same = [torch.equal(one.layers[name].indices, two.layers[name].indices) for name in one.layers]
    assert sum(same) >= len(same) - 2  # a near tie may fall either way: sums differ by rounding


def test_alone_there_is_nothing_to_wait_for():
    world = World()
    tensor = torch.ones(2)
    assert world.is_main
    assert world.sum_(tensor) is tensor
    assert world.gather([1, 2]) == [1, 2]
    world.wait()
