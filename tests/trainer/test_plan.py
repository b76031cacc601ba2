from trainer import plan


def test_every_epoch_holds_each_picture_once():
    for epoch in range(5):
        assert sorted(plan.picture(7, epoch * 6 + place, 6) for place in range(6)) == list(range(6))


def test_epochs_and_seeds_differ():
    orders = {plan.epoch_order(seed, epoch, 12) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4


def test_the_order_is_the_same_in_every_process():
    assert plan.epoch_order(42, 0, 8) == (0, 5, 1, 7, 2, 3, 4, 6)


def test_a_position_needs_no_history():
    plan.epoch_order.cache_clear()
    late = plan.picture(3, 1000, 7)
    assert [plan.picture(3, position, 7) for position in range(1001)][-1] == late


def test_a_step_sees_the_same_pictures_however_it_is_split():
    whole = plan.micro_batch(3, 5, 0, 6, 1, 7)
    assert [place for place, _ in whole] == list(range(6))
    assert [number for _, number in whole] == [plan.picture(3, 30 + place, 7) for place in range(6)]
    assert [one for micro in range(3) for one in plan.micro_batch(3, 5, micro, 2, 3, 7)] == whole
