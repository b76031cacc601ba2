"""Methods, sizes and rates as a command line gives them."""

import pytest

from trainer.comparison import contestants
from trainer.comparison.contestants import parse
from trainer.system.errors import UserError


def test_names_and_sizes():
    found = parse("waveft, lora:4,shira:coefficients=64:scaling=10,lora", "1e-4", {}, 1e-4)
    assert [(one.label, one.method, dict(one.keys)) for one in found] == [
        ("waveft", "waveft", {}),
        ("lora:4", "lora", {"network_dim": 4}),
        ("shira:coefficients=64:scaling=10", "shira", {"coefficients": 64, "scaling": 10}),
        ("lora", "lora", {}),
    ]
    assert [one.rates for one in found] == [(1e-4,)] * 4
    assert found[2].name == "shira-coefficients-64-scaling-10"
    assert len(parse("lora:1,lora:1", "", {}, 1e-4)) == 1
    assert dict(parse("adalora:3", "", {}, 1e-4)[0].keys) == {"target_r": 3, "init_r": 6}


def test_rates_of_all_of_a_method_and_of_one_label():
    found = parse("waveft,lora:1,lora:4", "waveft=1e-4,3e-4;lora=1e-3;lora:4=2e-3", {}, 1e-4)
    assert [one.rates for one in found] == [(1e-4, 3e-4), (1e-3,), (2e-3,)]


def test_by_default_all_methods_reach_as_far():
    found = parse("waveft,shira,lora,vera,fourierft", "", {}, 1e-4)
    reach = {one.method: [rate * contestants.reach(one.method, one.keys, {}) for rate in one.rates] for one in found}
    assert all(len(values) == 3 for values in reach.values())
    for values in reach.values():
        assert values == pytest.approx(reach["waveft"], rel=0.06), "rates are rounded to two digits"
    assert found[0].rates == pytest.approx((3.2e-5, 1e-4, 3.2e-4))


def test_the_size_of_sparse_methods_counts():
    network = {"coefficients": 648, "scaling": 25.0}
    job, few = (parse(text, "", network, 1e-4)[0].rates[1] for text in ("waveft", "waveft:162"))
    assert job == pytest.approx(1e-4)
    assert few == pytest.approx(2e-4)
    assert parse("waveft:scaling=50", "", network, 1e-4)[0].rates[1] == pytest.approx(5e-5)


def test_everything_that_is_wrong_is_said_at_once():
    with pytest.raises(UserError) as raised:
        parse("dora,bitfit:3,lora,vera:few", "1e-4,much;loha=1e-3", {}, 1e-4)
    text = str(raised.value)
    assert "--methods dora: expected one of waveft, shira" in text
    assert "bitfit has no size" in text
    assert "--methods vera:few: expected a whole number or KEY=VALUE, got few" in text
    assert "--rates 1e-4,much: expected learning rates" in text
    assert "--rates loha=...: no such method is compared" in text
    with pytest.raises(UserError, match="got none"):
        parse(" , ", "", {}, 1e-4)


def test_what_is_tried_is_told():
    assert contestants.in_words(parse("lora:4,waveft", "1e-4", {}, 1e-4)) == [
        "lora:4: network_dim = 4; learning rates 0.0001",
        "waveft: as in the job; learning rates 0.0001",
    ]
