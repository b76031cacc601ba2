from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer.pictures import plan
from trainer.pictures.plan import Plan, Seen, micro_batches


def picture(number, bucket=(64, 64), dataset=0, repeats=1, is_reg=False):
    """What a plan looks at."""
    return SimpleNamespace(
        path=Path(f"{number}.png"),
        geometry=SimpleNamespace(bucket=bucket),
        dataset=dataset,
        repeats=repeats,
        is_reg=is_reg,
    )


def made(pictures, size=1, seed=0):
    return Plan(pictures, (lambda _: size) if isinstance(size, int) else size.__getitem__, seed)


TWO_BUCKETS = [picture(0), picture(1), picture(2), picture(3, (96, 48)), picture(4, (96, 48))]


def test_one_bucket_is_every_picture_once_an_epoch_in_a_new_order():
    one = made([picture(number) for number in range(5)])
    orders = [[one.batch(5 * epoch + place)[0] for place in range(5)] for epoch in range(40)]
    assert all(sorted(seen.picture for seen in order) == [0, 1, 2, 3, 4] for order in orders)
    assert all(seen.epoch == epoch for epoch, order in enumerate(orders) for seen in order)
    assert len({tuple(seen.picture for seen in order) for order in orders}) > 25
    other = made([picture(number) for number in range(5)], seed=1)
    assert orders[0] != [other.batch(place)[0] for place in range(5)]


def test_a_batch_has_one_bucket_and_is_full():
    one = made(TWO_BUCKETS, size=2)
    for number in range(200):
        batch = one.batch(number)
        assert len(batch) == 2
        assert len({TWO_BUCKETS[seen.picture].geometry.bucket for seen in batch}) == 1


def test_who_waits_at_an_epochs_end_goes_first_in_the_next():
    one = made(TWO_BUCKETS, size=2)
    # 3 + 2 pictures: epoch 0 fills one batch of each bucket and leaves one square picture; epoch 1 then fills two
    assert [one.batches(epochs) for epochs in range(5)] == [0, 2, 5, 7, 10]
    mixed = [one.batch(number) for number in range(2, 5)]
    assert any({seen.epoch for seen in batch} == {0, 1} for batch in mixed)
    counts = Counter(seen.picture for number in range(10) for seen in one.batch(number))
    assert set(counts.values()) == {4}


def test_a_bucket_smaller_than_the_batch_is_filled_over_epochs():
    one = made([picture(0), picture(1, (96, 48))], size=4)
    assert one.batches(3) == 0
    assert one.batches(4) == 2
    assert [seen.epoch for seen in one.batch(0)] == [0, 1, 2, 3]


def test_epochs_are_counted_by_batches():
    one = made(TWO_BUCKETS, size=2)
    assert [one.epochs(batches) for batches in range(8)] == [0, 0, 1, 1, 1, 2, 2, 3]


def test_repeats_and_datasets_of_their_own_batch_size():
    pictures = [picture(0, repeats=3), picture(1, dataset=1), picture(2, dataset=1)]
    one = made(pictures, size={0: 1, 1: 2})
    assert one.views == 5
    batches = [one.batch(number) for number in range(one.batches(1))]
    assert sorted(len(batch) for batch in batches) == [1, 1, 1, 2]
    assert Counter(seen.picture for batch in batches for seen in batch) == {0: 3, 1: 1, 2: 1}


def test_regularisation_pictures_are_as_many_as_the_others_and_take_turns():
    few = [picture(0), picture(1), picture(2, is_reg=True)]
    one = made(few)
    assert (one.views, one.regular_views) == (4, 2)
    assert Counter(one.batch(number)[0].picture for number in range(4)) == {0: 1, 1: 1, 2: 2}

    many = [picture(0, repeats=2), *(picture(number, is_reg=True) for number in range(1, 8))]
    one = made(many)
    assert (one.views, one.regular_views) == (4, 2)
    counts = Counter(one.batch(number)[0].picture for number in range(4 * 7))  # 7 epochs of 2: each of the 7 twice
    assert counts == {0: 14, **dict.fromkeys(range(1, 8), 2)}


def test_a_step_planned_by_itself_is_the_one_of_the_whole_run():
    whole = [made(TWO_BUCKETS, size=2).batch(number) for number in range(50)]
    assert made(TWO_BUCKETS, size=2).batch(49) == whole[49]
    again = made(TWO_BUCKETS, size=2)
    assert [again.batch(number) for number in range(50)] == whole


@pytest.mark.parametrize(("accumulation", "world_size"), [(6, 1), (3, 2), (2, 3), (1, 6)])
def test_the_processes_share_the_same_batches(accumulation, world_size):
    one = made(TWO_BUCKETS, size=2)
    whole = micro_batches(one, 7, 6, 0, 1)
    shares = [micro_batches(one, 7, accumulation, rank, world_size) for rank in range(world_size)]
    assert sorted((micro for share in shares for micro in share), key=lambda micro: micro.first) == whole
    assert all(len(share) == accumulation for share in shares)
    assert [micro.first for micro in whole] == [0, 2, 4, 6, 8, 10]
    assert {micro.total for micro in whole} == {12}


def test_batch_and_accumulation_are_interchangeable_in_one_bucket():
    square = [picture(number) for number in range(5)]
    by_one = [micro.views[0] for micro in micro_batches(made(square), 3, 4, 0, 1)]
    [by_four] = micro_batches(made(square, size=4), 3, 1, 0, 1)
    assert list(by_four.views) == by_one


def test_shuffling_depends_on_all_its_arguments():
    items = list(range(20))
    orders = [plan.shuffled(*arguments, items) for arguments in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1))]
    assert all(sorted(order) == items for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert Seen(1, 2) == (1, 2)
