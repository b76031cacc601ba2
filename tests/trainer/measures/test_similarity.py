"""What identical, opposite and permuted embeddings measure, and cases worked by hand."""

import math

import pytest
import torch

from trainer.measures import similarity


def rows(count, width=7, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("reference", ["mean", "pairwise"])
@pytest.mark.parametrize("normalise", [True, False])
def test_copies_of_one_photo_are_1_and_its_opposite_is_minus_1(reference, normalise):
    photo = rows(1)
    found = similarity.fidelity(torch.cat([photo, 3 * photo, -photo]), photo.repeat(4, 1), reference, normalise)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


def test_the_order_of_photos_does_not_matter():
    pictures, photos = rows(5), rows(6, seed=1)
    mixed = photos[torch.tensor([3, 0, 5, 1, 4, 2])]
    for reference in ("mean", "pairwise"):
        torch.testing.assert_close(
            similarity.fidelity(pictures, photos, reference), similarity.fidelity(pictures, mixed, reference)
        )


def test_the_two_references_worked_by_hand():
    photos = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # at right angles, one twice as long
    picture = torch.tensor([[1.0, 0.0]])
    assert float(similarity.fidelity(picture, photos, "pairwise")) == pytest.approx(0.5)
    assert float(similarity.fidelity(picture, photos, "mean")) == pytest.approx(math.sqrt(0.5))
    found = similarity.fidelity(picture, photos, "mean", normalise_before_mean=False)  # the mean is (0.5, 1)
    assert float(found) == pytest.approx(1 / math.sqrt(5))


def test_no_photo_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        similarity.fidelity(rows(2), rows(0))


def test_the_ceiling_leaves_out_the_photo_itself():
    photos = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = similarity.leave_one_out(photos, "pairwise")
    torch.testing.assert_close(found, torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))
    assert len(similarity.leave_one_out(photos[:1])) == 0


def test_a_copied_photo_is_found_and_is_closer_than_any_two_photos():
    photos = rows(5, 30)
    scores, which = similarity.nearest(torch.cat([photos[3:4], rows(1, 30, seed=9)]), photos)
    assert float(scores[0]) == pytest.approx(1.0)
    assert int(which[0]) == 3
    assert float(scores[1]) < 0.9
    assert similarity.closest_pair(photos) < float(scores[0])
    assert similarity.closest_pair(photos[[0, 0, 1]]) == pytest.approx(1.0)
    assert math.isnan(similarity.closest_pair(photos[:1]))


def test_permuted_texts_agree_by_chance_alone():
    texts = torch.eye(6)
    assert similarity.agreement(texts, texts).tolist() == [1.0] * 6
    assert similarity.agreement(texts, texts.roll(1, 0)).tolist() == [0.0] * 6
    assert similarity.chance_agreement(texts, texts).tolist() == [0.0] * 6
    assert similarity.clip_score(texts, -texts).tolist() == [0.0] * 6
    assert similarity.clip_score(texts, 2 * texts).tolist() == [100.0] * 6


def test_chance_leaves_out_rows_of_the_same_text():
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    pictures = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert similarity.chance_agreement(pictures, texts).tolist() == [0.0, 0.0, 1.0]
    assert similarity.chance_agreement(pictures[:2], texts[:2]).isnan().all()


def test_drift_is_nothing_for_equal_pictures_and_2_for_opposite_ones():
    pictures = rows(4)
    torch.testing.assert_close(similarity.distance(pictures, 2 * pictures), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(similarity.distance(pictures, -pictures), torch.full((4,), 2.0, dtype=torch.float64))


def test_seeds_that_draw_the_same_are_at_no_distance():
    one = rows(1).repeat(4, 1)
    apart = torch.eye(4, 7)  # six pairs, each at right angles
    found = similarity.seed_distance(torch.stack([one, apart]))
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="2 seeds"):
        similarity.seed_distance(rows(3)[:, None])


def test_a_row_of_zeros_is_like_nothing():
    assert similarity.fidelity(torch.zeros(1, 7), rows(3)).tolist() == [0.0]
