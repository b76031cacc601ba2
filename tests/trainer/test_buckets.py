import pytest

from trainer import buckets


def test_a_wide_picture_worked_by_hand():
    made = buckets.fit((200, 100), (64, 64))
    assert made.resized == (128, 64)
    assert made.offset == (32, 0)
    assert made.time_ids(flipped=False) == (100, 200, 0, 32, 64, 64)
    assert made.cropped_away == 0.5
    assert made.enlarged == pytest.approx(0.64)


def test_a_tall_picture_is_cropped_at_its_top():
    made = buckets.fit((100, 300), (64, 64))
    assert made.resized == (64, 192)
    assert made.time_ids(flipped=False) == (300, 100, 64, 0, 64, 64)


def test_mirroring_counts_the_crop_from_the_other_side():
    made = buckets.Geometry((10, 8), (11, 8), (1, 0), (8, 8))
    assert made.time_ids(flipped=False)[3] == 1
    assert made.time_ids(flipped=True)[3] == 2


@pytest.mark.parametrize("size", [(1, 1), (3, 1000), (63, 64), (65, 64), (4000, 3001)])
@pytest.mark.parametrize("bucket", [(64, 64), (96, 32)])
def test_the_crop_lies_within_the_resized_picture(size, bucket):
    made = buckets.fit(size, bucket)
    for axis in (0, 1):
        assert 0 <= made.offset[axis] <= made.resized[axis] - bucket[axis]
    assert min(made.resized[0] - bucket[0], made.resized[1] - bucket[1]) == 0
