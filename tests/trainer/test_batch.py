import dataclasses
from pathlib import Path

import pytest
import torch

from trainer import batch, buckets, losses, precision, schema
from trainer.dataset import Picture
from trainer.encode import Text

PLACE = precision.Precision(torch.device("cpu"), torch.float32)


@pytest.fixture
def cache():
    geometry = buckets.Geometry((40, 20), (33, 16), (8, 0), (16, 16))
    pictures = tuple(Picture(Path(f"{n}.png"), f"caption {n}", geometry, 0.3, True, 1) for n in range(5))
    latents = {
        (picture, flipped): torch.full((4, 2, 2), n + 0.5 * flipped)
        for n, picture in enumerate(pictures)
        for flipped in (False, True)
    }
    texts = {
        p.caption: Text(torch.full((77, 6), float(n)), torch.full((3,), float(n)), 5) for n, p in enumerate(pictures)
    }
    return batch.Cache(pictures, latents, {**texts, "": Text(torch.full((77, 6), -1.0), torch.full((3,), -1.0), 2)})


@pytest.fixture
def noising():
    from diffusers import DDPMScheduler

    return losses.Noising(DDPMScheduler(), torch.device("cpu"))


def job(size, accumulation):
    return schema.Job.model_validate(
        {
            "model": {"pretrained_model_name_or_path": "x"},
            "train": {"gradient_accumulation_steps": accumulation},
            "general": {"batch_size": size},
            "datasets": [{"subsets": [{"image_dir": "x"}]}],
        }
    )


def tensors(cache, noising, size, accumulation, step):
    made = [batch.make(cache, job(size, accumulation), noising, PLACE, step, micro) for micro in range(accumulation)]
    fields = [field.name for field in dataclasses.fields(batch.Batch) if field.name != "pictures"]
    return {name: torch.cat([getattr(one, name) for one in made]) for name in fields}


@pytest.mark.parametrize("split", [(2, 2), (4, 1)])
def test_a_step_sees_the_same_however_its_batch_is_split(cache, noising, split):
    for step in (0, 3):
        whole, parts = tensors(cache, noising, 1, 4, step), tensors(cache, noising, *split, step)
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_steps_differ(cache, noising):
    first, second = tensors(cache, noising, 2, 2, 0), tensors(cache, noising, 2, 2, 1)
    assert not torch.equal(first["noise"], second["noise"])
    assert not torch.equal(first["timesteps"], second["timesteps"])


def test_captions_latents_and_sizes_belong_together(cache, noising):
    dropped = flipped = 0
    for step in range(60):
        one = batch.make(cache, job(1, 1), noising, PLACE, step, 0)
        number, mirrored = divmod(one.latents[0, 0, 0, 0].item(), 1)
        assert one.pictures == [cache.epoch[int(number)]]
        assert one.context[0, 0, 0].item() in (number, -1)
        assert one.pooled[0, 0].item() == one.context[0, 0, 0].item()
        # the resized picture is 33 wide: 8 are cut on the left and 9 on the right
        assert one.time_ids[0].tolist() == [20, 40, 0, 9 if mirrored else 8, 16, 16]
        dropped += one.context[0, 0, 0].item() == -1
        flipped += bool(mirrored)
    assert 6 < dropped < 32
    assert 18 < flipped < 42


def test_every_epoch_sees_every_picture(cache, noising):
    seen = [batch.make(cache, job(1, 1), noising, PLACE, step, 0).pictures[0] for step in range(10)]
    assert set(seen[:5]) == set(seen[5:]) == set(cache.epoch)


def test_nobody_waits_for_a_copy_to_a_gpu():
    calls = []

    class Made(torch.Tensor):
        def pin_memory(self):
            calls.append("pinned")
            return self

        def to(self, device, non_blocking=False):
            calls.append((device.type, non_blocking))
            return self

    for kind in ("cuda", "cpu"):
        batch.move(torch.zeros(1).as_subclass(Made), torch.device(kind))
    assert calls == ["pinned", ("cuda", True), ("cpu", False)]
