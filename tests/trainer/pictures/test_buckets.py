import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from trainer.pictures import buckets
from trainer.pictures.buckets import View

PLAIN = View()


def settled(base=(1024, 1024), multiple=32, **keys):
    """Buckets and faults of a dataset that says these keys."""
    names = ("resolution", "bucket_reso_steps", "min_bucket_reso", "max_bucket_reso")
    given = {**dict.fromkeys(names), "enable_bucket": True, "bucket_no_upscale": False, **keys}
    return buckets.settle(given, base, multiple, lambda key: "[general]")


def good(*arguments, **keys):
    made, problems = settled(*arguments, **keys)
    assert not problems
    return made


SDXL = good()
NANO = good((64, 64), 16)
SEVERAL = [SDXL, NANO, good((64, 64), 8), good((512, 768)), good((1000, 1000), 8), good((16, 16), 4)]
SEVERAL.append(good(min_bucket_reso=256, max_bucket_reso=1024))  # kohya's own bounds


def test_a_wide_picture_worked_by_hand():
    made = buckets.fit((200, 100), (64, 64))
    assert made.resized == (128, 64)
    assert made.offset == (32, 0)
    assert made.time_ids(PLAIN) == (100, 200, 0, 32, 64, 64)
    assert made.cropped_away == 0.5
    assert made.enlarged == pytest.approx(0.64)


def test_a_tall_picture_is_cropped_at_its_top():
    made = buckets.fit((100, 300), (64, 64))
    assert made.resized == (64, 192)
    assert made.time_ids(PLAIN) == (300, 100, 64, 0, 64, 64)


def test_the_crop_that_is_said_is_the_one_that_kohya_gets_wrong():
    made = buckets.fit((1000, 1100), (1024, 1024))
    assert made.resized == (1024, 1126)
    assert made.time_ids(PLAIN)[2:4] == (51, 0)  # top, left: kohya trims these and says (0, 46)


def test_mirroring_counts_the_crop_from_the_other_side():
    made = buckets.Geometry((10, 8), (11, 8), (1, 0), (8, 8))
    assert made.time_ids(PLAIN)[3] == 1
    assert made.time_ids(View(flipped=True))[3] == 2


def test_a_crop_drawn_anywhere_is_the_one_that_is_said():
    made = buckets.fit((200, 100), (64, 64))
    assert made.time_ids(View(offset=(60, 0))) == (100, 200, 0, 60, 64, 64)
    assert made.time_ids(View(flipped=True, offset=(60, 0))) == (100, 200, 0, 4, 64, 64)
    assert made.time_ids(View(offset=(0, 0)))[3] == 0


@pytest.mark.parametrize("size", [(1, 1), (3, 1000), (63, 64), (65, 64), (4000, 3001)])
@pytest.mark.parametrize("bucket", [(64, 64), (96, 32)])
def test_the_crop_lies_within_the_resized_picture(size, bucket):
    made = buckets.fit(size, bucket)
    for axis in (0, 1):
        assert 0 <= made.offset[axis] <= made.resized[axis] - bucket[axis]
    assert min(made.resized[0] - bucket[0], made.resized[1] - bucket[1]) == 0


def test_sdxls_buckets_are_the_known_ones():
    # those of SDXL's report, Appendix I, that are largest for their width; kohya's list has the same
    wide = [(1024, 1024), (1088, 960), (1152, 896), (1216, 832), (1280, 768), (1344, 768), (1408, 704), (1472, 704),
            (1536, 640), (1600, 640), (1664, 576), (1728, 576), (1792, 576), (1856, 512), (1920, 512), (1984, 512),
            (2048, 512)]  # fmt: skip
    assert buckets.sizes(SDXL) == (*(size[::-1] for size in reversed(wide[1:])), *wide)


def kohya_list(area, low, high, steps):
    """Kohya's list of buckets, restated."""
    square = math.isqrt(area) // steps * steps
    found = {(square, square)}
    for width in range(low, high + 1, steps):
        height = min(high, area // width // steps * steps)
        if height >= low:
            found |= {(width, height), (height, width)}
    return found


@pytest.mark.parametrize("bounds", [(256, 1024), (512, 2048), (256, 2048)])
def test_at_sdxls_size_the_list_is_kohyas(bounds):
    made = good(min_bucket_reso=bounds[0], max_bucket_reso=bounds[1])
    theirs = kohya_list(1024**2, *bounds, 64)
    assert set(buckets.sizes(made)) <= theirs
    ratios = {buckets.ratio(size) for size in buckets.sizes(made)}
    assert ratios == {buckets.ratio(size) for size in theirs}  # of one ratio only the largest is reachable


@pytest.mark.parametrize("made", SEVERAL)
def test_buckets_fit_the_grid_the_bounds_and_the_area(made):
    sizes = buckets.sizes(made)
    assert made.resolution in sizes
    assert {size[::-1] for size in sizes} == set(sizes)
    for size in sizes:
        assert math.prod(size) <= made.area
        assert size in (made.resolution, made.resolution[::-1]) or all(side % made.steps == 0 for side in size)
        assert all(made.min_reso <= side <= made.max_reso for side in size)
    assert buckets.ratio(sizes[-1]) > 2.9


@pytest.mark.parametrize("made", SEVERAL)
def test_every_bucket_is_reachable(made):
    for size in buckets.sizes(made):
        assert buckets.choose(size, made) == size
        assert buckets.choose((3 * size[0], 3 * size[1]), made) == size


@pytest.mark.parametrize("made", SEVERAL)
@given(width=some.integers(1, 5000), height=some.integers(1, 5000))
@settings(deadline=None, max_examples=60)
def test_a_picture_is_cropped_little(made, width, height):
    sizes = buckets.sizes(made)
    chosen = buckets.choose((width, height), made)
    ratio, widest = width / height, buckets.ratio(sizes[-1])
    kept = 1 / buckets.apart(ratio, buckets.ratio(chosen))
    assert all(1 / buckets.apart(ratio, buckets.ratio(size)) <= kept for size in sizes)  # none would keep more
    if 1 / widest <= ratio <= widest:
        gap = max(buckets.apart(*pair) for pair in itertools.pairwise(map(buckets.ratio, sizes)))
        assert gap < 1.36
        assert 1 - kept <= 1 - 1 / math.sqrt(gap) + 1e-9


def test_how_much_is_cropped_at_the_worst():
    def worst(made):
        ratios = map(buckets.ratio, buckets.sizes(made))
        return 1 - 1 / math.sqrt(max(buckets.apart(*pair) for pair in itertools.pairwise(ratios)))

    assert worst(SDXL) < 0.08
    assert worst(NANO) < 0.14


def test_a_coarse_grid_gets_smaller_buckets_where_ratios_are_far_apart():
    assert (64, 48) in buckets.sizes(NANO)  # else nothing lay between 1 and 80 / 48
    assert (1024, 960) not in buckets.sizes(SDXL)


def test_without_buckets_there_is_one():
    made = good(enable_bucket=False, resolution=(768, 512))
    assert {buckets.choose(size, made) for size in ((10, 10), (100, 10), (10, 100))} == {(768, 512)}


def test_no_upscale_keeps_small_pictures_small():
    made = good(bucket_no_upscale=True)
    assert buckets.choose((700, 500), made) == (640, 448)
    assert buckets.choose((2000, 2000), made) == (1024, 1024)
    assert buckets.choose((3072, 3000), made) == (1024, 1024)  # kohya: 960 x 960
    assert buckets.choose((4000, 200), made) == (2048, 64)  # the longest side holds
    assert buckets.choose((1024, 1000), made) == (1024, 960)
    assert buckets.choose((20, 20), made) == (64, 64)  # no smaller size is on the grid


@given(width=some.integers(64, 4000), height=some.integers(64, 4000))
@settings(deadline=None, max_examples=200)
def test_no_upscale_never_enlarges(width, height):
    made = good(bucket_no_upscale=True)
    chosen = buckets.choose((width, height), made)
    assert math.prod(chosen) <= made.area
    assert all(side % 64 == 0 for side in chosen)
    scale = min(1, 2048 / max(width, height))
    if min(width, height) * scale >= 64:
        assert buckets.fit((width, height), chosen).enlarged <= 1 + 1e-9


@pytest.mark.parametrize(
    ("resolution", "multiple", "steps", "least", "most"),
    [
        ((1024, 1024), 32, 64, 512, 2048),
        ((1024, 1024), 8, 64, 512, 2048),
        ((64, 64), 16, 16, 32, 128),
        ((64, 64), 8, 8, 32, 128),
        ((512, 512), 32, 32, 256, 1024),
        ((768, 768), 32, 32, 384, 1536),
        ((2048, 2048), 32, 64, 1024, 4096),
        ((512, 2048), 32, 64, 512, 2048),
        ((256, 4096), 32, 64, 256, 4096),
    ],
)
def test_what_is_not_said_follows_from_the_resolution(resolution, multiple, steps, least, most):
    made = good(resolution, multiple)
    assert (made.resolution, made.steps, made.min_reso, made.max_reso) == (resolution, steps, least, most)


def test_keys_that_the_base_cannot_have():
    made, problems = settled(
        resolution=1000, bucket_reso_steps=50, min_bucket_reso=500, max_bucket_reso=2040, multiple=32
    )
    assert problems == [
        "[general] resolution: expected a multiple of 32 px, got 1000. Write 992.",
        "[general] bucket_reso_steps: expected a multiple of 32 px, got 50. Write 64.",
        "[general] min_bucket_reso: expected a multiple of 32 px, got 500. Write 512.",
        "[general] max_bucket_reso: expected a multiple of 32 px, got 2040. Write 2048.",
    ]
    assert made == buckets.Settings((992, 992), True, 512, 2048, 64, False)  # so that the pictures can be checked


def test_bounds_that_leave_no_room_for_the_resolution():
    assert settled(min_bucket_reso=1280)[1] == [
        "[general] min_bucket_reso: expected at most the resolution's 1024 px, got 1280. Lower it, or raise resolution."
    ]
    assert (
        "expected at least the resolution's 1280 px, got 1024" in settled(resolution=1280, max_bucket_reso=1024)[1][0]
    )
    assert not settled(resolution=1280, max_bucket_reso=1024, enable_bucket=False)[1]
