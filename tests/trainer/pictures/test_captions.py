import random
from collections import Counter

import pytest

from trainer.pictures import captions
from trainer.pictures.captions import Caption, Rules


def drawn(text, count=200, seed=0, epoch=0, step=None, steps=100, **rules):
    """The texts of many views of one caption."""
    lines = (text,) if isinstance(text, str) else tuple(text)
    caption = Caption(lines, Rules(**rules))
    return [caption.draw(seed, number if step is None else step, number, epoch, steps) for number in range(count)]


def plain(text, **rules):
    return Caption((text,) if isinstance(text, str) else tuple(text), Rules(**rules)).plain()


@pytest.mark.parametrize("mark", ["{trigger}", "[trigger]"])
def test_trigger_is_filled_in(mark):
    assert captions.has_trigger(f"a photo of {mark} dog")
    assert captions.fill_trigger(f"a photo of {mark} dog", "sks") == "a photo of sks dog"


def test_other_braces_stay():
    assert not captions.has_trigger("a {dog} [cat]")
    assert captions.fill_trigger("a {dog} [cat]", "sks") == "a {dog} [cat]"


def test_without_rules_a_caption_is_what_was_written_in_one_line():
    caption = Caption(("a  dog,cat\t{x|y} {{z}}",))
    assert caption.plain() == "a dog,cat {x|y} {{z}}"
    assert not caption.varies
    assert set(drawn("a  dog,cat\t{x|y} {{z}}")) == {"a dog,cat {x|y} {{z}}"}


def test_prefix_and_suffix_are_put_on_with_a_blank():
    assert plain("a dog", caption_prefix="photo of", caption_suffix="on grass") == "photo of a dog on grass"


def test_shuffling_leaves_the_first_tags_and_reaches_every_order():
    views = drawn("a, b ,c,d", count=600, shuffle_caption=True, keep_tokens=1)
    counts = Counter(views)
    assert set(counts) == {f"a, {x}, {y}, {z}" for x, y, z in ("bcd", "bdc", "cbd", "cdb", "dbc", "dcb")}
    assert min(counts.values()) > 60  # 100 each, in the mean
    assert plain("a, b ,c,d", shuffle_caption=True, keep_tokens=1) == "a, b, c, d"


def test_kohyas_example_of_keep_tokens_separator():
    text = "1girl, hatsune miku, vocaloid ||| stage, microphone, smile ||| best quality, rating: general"
    rules = {"keep_tokens_separator": "|||", "shuffle_caption": True, "keep_tokens": 1}
    for view in drawn(text, **rules):
        tags = view.split(", ")
        assert tags[:3] == ["1girl", "hatsune miku", "vocaloid"]
        assert sorted(tags[3:6]) == ["microphone", "smile", "stage"]
        assert tags[6:] == ["best quality", "rating: general"]
    assert plain(text, keep_tokens_separator="|||").startswith("1girl, hatsune miku, vocaloid, stage, ")


def test_keep_tokens_separator_in_the_prefix_and_the_suffix():
    rules = {
        "keep_tokens_separator": "|||", "shuffle_caption": True, "caption_prefix": "1girl, hatsune miku |||",
        "caption_suffix": ", anime screencap ||| masterpiece",
    }  # fmt: skip
    assert set(drawn("smile", **rules)) == {
        "1girl, hatsune miku, smile, anime screencap, masterpiece",
        "1girl, hatsune miku, anime screencap, smile, masterpiece",
    }


def test_kohyas_example_of_secondary_separator():
    rules = {"secondary_separator": ";;;", "shuffle_caption": True}
    views = drawn("1girl, sky;;;cloud;;;day", **rules)
    assert set(views) == {"1girl, sky,cloud,day", "sky,cloud,day, 1girl"}
    assert plain("1girl, sky;;;cloud", secondary_separator=";;;") == "1girl, sky,cloud"
    dropped = set(drawn("1girl, sky;;;cloud;;;day", secondary_separator=";;;", caption_tag_dropout_rate=0.5))
    assert dropped == {"", "1girl", "sky,cloud,day", "1girl, sky,cloud,day"}


def test_another_separator():
    assert set(drawn("a|b", caption_separator="|", shuffle_caption=True)) == {"a, b", "b, a"}


def test_kohyas_examples_of_wildcards():
    assert Counter(drawn("{simple|white} background", enable_wildcard=True)).keys() == {
        "simple background",
        "white background",
    }
    assert plain("{simple|white} background", enable_wildcard=True) == "simple background"
    assert set(drawn("vocaloid, {{retro style}}", enable_wildcard=True)) == {"vocaloid, {retro style}"}
    assert not Caption(("vocaloid, {{a|b}}, {c}",), Rules(enable_wildcard=True)).varies


def test_wildcards_are_drawn_independently_and_may_hold_tags():
    views = set(drawn("{a|b} {a|b}", enable_wildcard=True))
    assert views == {"a a", "a b", "b a", "b b"}
    rules = {"enable_wildcard": True, "shuffle_caption": True, "caption_prefix": "{x|y},"}
    assert set(drawn("{a,b|c}", count=400, **rules)) >= {"x, a, b", "b, y, a", "c, x", "y, c"}


def test_one_line_of_several_gets_prefix_and_suffix():
    rules = {"enable_wildcard": True, "caption_prefix": "photo of", "caption_suffix": "."}
    assert set(drawn(["a dog", "a cat"], **rules)) == {"photo of a dog .", "photo of a cat ."}
    assert plain(["a dog", "a cat"], **rules) == "photo of a dog ."


def test_captions_are_dropped_at_their_rate():
    views = drawn("a dog", count=4000, caption_dropout_rate=0.25)
    assert abs(views.count("") / 4000 - 0.25) < 0.03
    assert set(views) == {"", "a dog"}
    assert set(drawn("a dog", caption_dropout_rate=1.0)) == {""}


def test_every_nth_epoch_is_without_captions():
    caption = Caption(("a dog",), Rules(caption_dropout_every_n_epochs=3))
    assert [caption.draw(0, 0, 0, epoch, 10) for epoch in range(6)] == ["a dog", "a dog", "", "a dog", "a dog", ""]


def test_tags_are_dropped_one_by_one_and_kept_ones_never():
    views = drawn("a, b, c", count=4000, caption_tag_dropout_rate=0.25, keep_tokens=1)
    assert all(view.startswith("a") for view in views)
    for tag in "bc":
        assert abs(sum(tag in view for view in views) / 4000 - 0.75) < 0.03
    assert abs(views.count("a") / 4000 - 0.25**2) < 0.015


@pytest.mark.parametrize("warmup", [10, 0.1])
def test_warmup_shows_more_tags_step_by_step(warmup):
    caption = Caption(("k, a, b, c, d, e",), Rules(token_warmup_step=warmup, token_warmup_min=1, keep_tokens=1))
    # floor(step * (5 - 1) / 10) + 1 of the five loose ones, in 100 steps
    counts = [len(caption.draw(0, step, 0, 0, 100).split(", ")) - 1 for step in range(12)]
    assert counts == [1, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 5]
    assert caption.draw(0, 0, 0, 0, 100) == "k, a"
    assert caption.plain() == "k, a, b, c, d, e"


def test_warmup_of_fewer_tags_than_its_least():
    caption = Caption(("a, b",), Rules(token_warmup_step=10, token_warmup_min=5))
    assert {caption.draw(0, step, 0, 0, 100) for step in range(12)} == {"a, b"}
    assert not caption.varies


def kohya_tags(text, rules, step, steps):
    """Kohya's treatment of the tags restated, for what no draw decides: parts and warm-up."""
    sep, keep = rules.caption_separator, rules.keep_tokens_separator
    if keep and keep in text:
        parts = [[tag.strip() for tag in part.split(sep) if tag.strip()] for part in text.split(keep, 2)]
        fixed, loose, last = (*parts, [])[:3]
    else:
        tags = [tag.strip() for tag in text.split(sep)]
        fixed, loose, last = tags[: rules.keep_tokens], tags[rules.keep_tokens :], []
    over = rules.token_warmup_step if rules.token_warmup_step >= 1 else int(rules.token_warmup_step * steps)
    if over and step < over:
        loose = loose[: int(step * ((len(loose) - rules.token_warmup_min) / over)) + rules.token_warmup_min]
    return fixed, loose, last


def test_the_parts_are_kohyas():
    chance = random.Random(0)
    for number in range(300):
        tags = [f"t{index}" for index in range(chance.randint(1, 8))]
        marks = sorted(chance.sample(range(len(tags) + 1), min(len(tags) + 1, chance.randint(0, 2))), reverse=True)
        for mark in marks:
            tags[mark:mark] = ["|||"]
        text = ", ".join(tags).replace(", |||", " |||").replace("|||,", "|||")
        rules = Rules(
            shuffle_caption=True, keep_tokens=chance.randint(0, 3), keep_tokens_separator=chance.choice(["", "|||"]),
            token_warmup_min=1, token_warmup_step=chance.choice([0, 20, 0.5]),
        )  # fmt: skip
        step = chance.randint(0, 40)
        fixed, loose, last = kohya_tags(text, rules, step, 60)
        view = Caption((text,), rules).draw(0, step, number, 0, 60).split(", ")
        assert view[: len(fixed)] == fixed
        assert view[len(view) - len(last) :] == last
        assert sorted(view[len(fixed) : len(view) - len(last)]) == sorted(loose)


ALL = {
    "shuffle_caption": True, "caption_dropout_rate": 0.1, "caption_tag_dropout_rate": 0.2, "enable_wildcard": True,
    "keep_tokens": 1, "token_warmup_step": 5, "caption_prefix": "p,",
}  # fmt: skip


def test_a_draw_depends_on_its_arguments_alone():
    caption = Caption(("a, {b|c}, d, e, f", "g, h, i, j, k"), Rules(**ALL))
    state = random.getstate()
    whole = [caption.draw(3, step, index, 0, 50) for step in range(20) for index in range(4)]
    assert whole == [caption.draw(3, step, index, 0, 50) for step in range(20) for index in range(4)]
    assert caption.draw(3, 19, 3, 0, 50) == whole[-1]
    assert random.getstate() == state
    assert whole != [caption.draw(4, step, index, 0, 50) for step in range(20) for index in range(4)]
    assert len(set(whole)) > 30


@pytest.mark.parametrize(
    ("rules", "varies"),
    [
        ({}, False),
        ({"shuffle_caption": True}, True),
        ({"shuffle_caption": True, "keep_tokens": 2}, False),
        ({"caption_dropout_rate": 0.1}, True),
        ({"caption_dropout_every_n_epochs": 2}, True),
        ({"caption_tag_dropout_rate": 0.5}, True),
        ({"caption_tag_dropout_rate": 0.5, "keep_tokens": 3}, False),
        ({"token_warmup_step": 8}, True),
        ({"token_warmup_step": 8, "token_warmup_min": 3}, False),
        ({"enable_wildcard": True}, False),
        ({"enable_wildcard": True, "caption_prefix": "{x|y}"}, True),
        ({"keep_tokens_separator": "|||", "secondary_separator": ";;;"}, False),
    ],
)
def test_varies_says_whether_a_draw_can_differ_from_plain(rules, varies):
    caption = Caption(("a, b, c",), Rules(**rules))
    assert caption.varies is varies
    seen = {caption.draw(0, step, 0, step, 50) for step in range(50)}
    assert (seen != {caption.plain()}) is caption.varies


def test_an_empty_caption_cannot_be_dropped():
    assert not Caption(("",), Rules(caption_dropout_rate=0.5)).varies
    assert Caption(("",), Rules(caption_dropout_rate=0.5)).plain() == ""
