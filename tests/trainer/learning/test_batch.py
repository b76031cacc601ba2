import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.base.precision import Precision
from trainer.job import schema
from trainer.learning import batch
from trainer.learning.noising import Noising
from trainer.pictures import buckets
from trainer.pictures.captions import Caption, Rules
from trainer.pictures.dataset import Picture
from trainer.pictures.plan import Plan, micro_batches

CPU = torch.device("cpu")
PLACE = Precision(CPU, torch.float32)


class Latents:
    """Each picture's number, and one half more where it is mirrored."""

    def __init__(self, pictures):
        self.numbers = {picture: number for number, picture in enumerate(pictures)}

    def get(self, picture, view, generator):
        return torch.full((4, 2, 2), self.numbers[picture] + 0.5 * view.flipped)


@pytest.fixture(scope="module")
def noising():
    from diffusers import DDPMScheduler

    return Noising(DDPMScheduler(), CPU, False, False)


def made(size=1, accumulation=1, loss=None, **changes):
    """A job's pictures, as far as a batch looks at them: 5 of their own, of which the last is a class picture."""
    pictures = tuple(
        Picture(f"{n}.png", f"{n}", Caption((f"p{n}",), Rules(caption_dropout_rate=0.3)),
                buckets.fit((40, 20), (16, 16)), 0, is_reg=n == 4, flip=True, **changes)
        for n in range(5)
    )  # fmt: skip
    job = schema.Job.model_validate(
        {
            "model": {"pretrained_model_name_or_path": "x"},
            "train": {"gradient_accumulation_steps": accumulation},
            "loss": loss or {},
            "datasets": [{"subsets": [{"image_dir": "x"}]}],
        }
    )
    plan = Plan(pictures, lambda _: size, 42)
    return SimpleNamespace(job=job, pictures=pictures, plan=plan, steps=100)


def batches(ready, noising, step):
    count = ready.job.train.gradient_accumulation_steps
    micros = micro_batches(ready.plan, step, count, 0, 1)
    return [batch.make(Latents(ready.pictures), ready, noising, PLACE, step, micro) for micro in micros]


def tensors(ready, noising, step):
    found = batches(ready, noising, step)
    names = [
        field.name for field in dataclasses.fields(batch.Batch) if field.name not in ("pictures", "captions", "masks")
    ]
    joined = {name: torch.cat([getattr(one, name) for one in found]) for name in names}
    return joined, [caption for one in found for caption in one.captions]


@pytest.mark.parametrize("split", [(2, 2), (4, 1)])
def test_a_step_sees_the_same_however_its_batch_is_split(noising, split):
    for step in (0, 3):
        whole, captions = tensors(made(1, 4), noising, step)
        parts, same = tensors(made(*split), noising, step)
        assert all(torch.equal(whole[name], parts[name]) for name in whole)
        assert captions == same


def test_steps_differ(noising):
    (first, _), (second, _) = tensors(made(2, 2), noising, 0), tensors(made(2, 2), noising, 1)
    assert not torch.equal(first["noise"], second["noise"])
    assert not torch.equal(first["timesteps"], second["timesteps"])


def test_captions_latents_and_sizes_belong_together(noising):
    ready, dropped, flipped = made(), 0, 0
    for step in range(60):
        [one] = batches(ready, noising, step)
        number, mirrored = divmod(one.latents[0, 0, 0, 0].item(), 1)
        assert one.pictures == [ready.pictures[int(number)]]
        assert one.captions in ([f"p{int(number)}"], [""])
        # the resized picture is 32 wide: 8 are cut on either side
        assert one.time_ids[0].tolist() == [20, 40, 0, 8, 16, 16]
        dropped += one.captions == [""]
        flipped += bool(mirrored)
    assert 6 < dropped < 32
    assert 18 < flipped < 42


def test_weights_are_shares_of_the_step_and_class_pictures_have_their_own(noising):
    ready = made(1, 4, loss={"prior_loss_weight": 0.25})
    for step in range(4):
        for one in batches(ready, noising, step):
            expected = 0.25 / 4 if one.pictures[0].is_reg else 1 / 4
            assert one.weights.tolist() == [expected]


def test_the_target_is_of_the_plain_noise_where_the_input_is_perturbed(noising):
    [plain], [perturbed] = batches(made(), noising, 0), batches(made(loss={"ip_noise_gamma": 0.5}), noising, 0)
    assert torch.equal(plain.noise, perturbed.noise)
    assert torch.equal(plain.noise, plain.mixed_in)
    assert not torch.equal(perturbed.noise, perturbed.mixed_in)


def test_masks_lie_on_the_latents(noising, tmp_path):
    pixels = np.zeros((20, 40, 4), np.uint8)
    pixels[:, :20, 3] = 255  # the left half is opaque
    ready = made(loss={"masked_loss": True}, alpha_mask=True, interpolation="nearest")
    ready.pictures = tuple(dataclasses.replace(one, path=tmp_path / one.path, digest="") for one in ready.pictures)
    for one in ready.pictures:
        Image.fromarray(pixels).save(one.path)
    for step in range(6):
        [one] = batches(ready, noising, step)
        mirrored = one.latents[0, 0, 0, 0].item() % 1
        row = [0.0, 1.0] if mirrored else [1.0, 0.0]
        assert one.masks.tolist() == [[row, row]]
    assert batches(made(), noising, 0)[0].masks is None


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
