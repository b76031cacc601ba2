"""Which method to take: best settings, settings that others chose, the ranking, and the sentence that heads a page."""

import pytest

from tests.trainer.comparison.test_summary import point, record
from trainer.comparison import choice, summary, verdict


def results(scores, subjects=("dog", "cup", "hat"), seeds=1, rates=(1e-4, 1e-3), failed=()):
    """Results whose trainings are worth what `scores(method, subject, seed, rate)` says: no drift, no prompt lost."""
    methods = list(scores)
    records = {
        f"{subject}-{method}-{rate}-{seed}": record(
            method, rate, seed, [point(100, 0.3 + scores[method](subject, seed, rate), 0.0)], subject,
            "failed" if (method, subject) in failed or (method, "all") in failed else "done",
        )
        for subject in subjects for seed in range(seeds) for rate in rates for method in methods
    }  # fmt: skip
    return summary.gather(records, methods)


def always(value):
    return lambda subject, seed, rate: value


def of_subject(**values):
    return lambda subject, seed, rate: values[subject]


def test_a_rate_that_failed_somewhere_is_no_rival_of_one_that_went_through():
    records = {
        f"{subject} {rate}": record("waveft", rate, 0, [point(100, fidelity, 0.0)], subject, status)
        for subject, rate, fidelity, status in (
            ("dog", 1e-4, 0.5, "done"), ("cup", 1e-4, 0.4, "done"),
            ("dog", 1e-3, 0.6, "done"), ("cup", 1e-3, 0.0, "failed"),
        )
    }  # fmt: skip
    assert choice.best(summary.gather(records, ["waveft"]), "waveft").rate == 1e-4


def test_a_subject_is_scored_at_the_rate_that_the_others_chose():
    gains = {("dog", 1): 0.3, ("dog", 2): 0.1, ("cup", 1): 0.1, ("cup", 2): 0.2, ("hat", 1): 0.1, ("hat", 2): 0.15}
    made = results({"waveft": lambda subject, seed, rate: gains[subject, rate]}, rates=(1, 2))
    found = choice.unseen(made, "waveft")
    # dog: cup and hat want 2; cup: dog and hat want 1 by 0.2 to 0.125; hat: dog and cup want 1 by 0.2 to 0.15
    assert {pair[0]: setting for pair, (setting, _) in found.items()} == {
        "dog": (2, 100),
        "cup": (1, 100),
        "hat": (1, 100),
    }
    assert [value for _, value in found.values()] == pytest.approx([0.1, 0.1, 0.1])
    best = choice.best(made, "waveft")
    assert (best.rate, best.worth) == (1, pytest.approx(0.5 / 3)), "flattered by its own choice"


def test_of_one_subject_the_other_seeds_choose():
    lucky = {(0, 1): 0.9, (0, 2): 0.2, (1, 1): 0.1, (1, 2): 0.2, (2, 1): 0.1, (2, 2): 0.2}
    made = results({"waveft": lambda subject, seed, rate: lucky[seed, rate]}, ["dog"], 3, rates=(1, 2))
    assert [value for _, value in choice.unseen(made, "waveft").values()] == pytest.approx([0.2, 0.1, 0.1])


def test_one_pair_alone_chooses_for_itself():
    made = results({"waveft": lambda subject, seed, rate: rate / 10}, ["dog"], rates=(1, 2))
    assert choice.unseen(made, "waveft") == {("dog", 0): ((2, 100), pytest.approx(0.2))}


def test_the_ranking_is_paired():
    """Subjects differ by ten times what the methods do: within each the first is ahead by the same."""
    hard = {"dog": 0.5, "cup": 0.1, "hat": 0.3}
    made = results({"shira": lambda s, *_: hard[s], "waveft": lambda s, *_: hard[s] + 0.02})
    first, second = choice.ranking(made)
    assert (first.method, second.method) == ("waveft", "shira")
    assert (first.score.mean, first.behind.mean) == pytest.approx((0.32, 0))
    assert (second.behind.mean, second.behind.low, second.behind.high) == pytest.approx((-0.02, -0.02, -0.02))
    assert first.is_level and not second.is_level


TIE = {"waveft": of_subject(dog=0.1, cup=0.2, hat=0.1), "shira": of_subject(dog=0.2, cup=0.1, hat=0.1)}
WIDE = {
    "waveft": of_subject(dog=0.1, cup=0.2, hat=0.1, pot=0.15, can=0.15),
    "shira": of_subject(dog=0.2, cup=0.1, hat=0.1, pot=0.15, can=0.15),
}
AHEAD = {"waveft": always(0.2), "shira": always(0.1), "lora:1": always(0.05)}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (results(AHEAD),
         "Take waveft: it learns the most of the subject for what it spoils, by more than chance, on 3 subjects "
         "(score 0.200; the next is shira with 0.100)."),
        (results(TIE),
         "waveft and shira cannot be told apart: what each learns, weighed against what it spoils, differs by no more "
         "than chance, on 3 subjects. Take whichever is easiest to use."),
        (results(WIDE | {"lora:1": always(0.0)}, ["dog", "cup", "hat", "pot", "can"]),
         "waveft and shira cannot be told apart: what each learns, weighed against what it spoils, differs by no more "
         "than chance, on 5 subjects. Take whichever is easiest to use. lora:1 is behind."),
        (results(AHEAD, ["dog"], seeds=3),
         "Take waveft: it learns the most of the subject for what it spoils, by more than chance, on 3 seeds of "
         "one subject (score 0.200; the next is shira with 0.100)."),
        (results(AHEAD, rates=(1e-4,)),
         "Too little is done to say which method to take: of waveft, shira and lora:1 one learning rate alone was "
         "tried."),
        (results(AHEAD, ["dog", "cup"], seeds=3),
         "Too little is done to say which method to take: 2 subjects. Three of them are the least."),
        (results(AHEAD, ["dog"]),
         "Too little is done to say which method to take: 1 seed of one subject. Three of them are the least."),
        (results({"waveft": always(0.1)}),
         "waveft was tried alone: there is nothing to choose between. Give --methods two or more."),
        (results({"waveft": always(-0.1), "shira": always(-0.2)}),
         "Take none of them yet: none learned anything of 3 subjects that it did not pay for elsewhere."),
        (results(AHEAD, failed=[("waveft", "all")]),
         "Take shira: it learns the most of the subject for what it spoils, by more than chance, on 3 subjects "
         "(score 0.100; the next is lora:1 with 0.050). Of waveft no training is done."),
        (results({"waveft": always(0.1), "shira": always(0.2)}, failed=[("shira", "all")]),
         "waveft is trained alone: there is nothing to choose between yet. Of shira no training is done."),
        (results(AHEAD, ["dog", "cup", "hat", "pot"], failed=[("shira", "pot")]),
         "Take waveft: it learns the most of the subject for what it spoils, by more than chance, on 3 subjects "
         "(score 0.200; the next is shira with 0.100)."),
        (results(AHEAD, ["dog"], failed=[("waveft", "dog"), ("shira", "dog"), ("lora:1", "dog")]),
         "Nothing can be said yet: no training is done."),
        (results({"waveft": always(0.1), "shira": always(0.1)}, ["dog", "cup"],
                 failed=[("waveft", "dog"), ("shira", "cup")]),
         "Nothing can be said yet: the methods have no subject and seed in common."),
    ],
    ids=["winner", "tie", "tie and one behind", "winner of seeds", "one rate", "two subjects", "one seed", "one method",
         "nothing", "a method failed", "all but one failed", "a cell failed", "all failed", "no pair in common"],
)  # fmt: skip
def test_the_headline_says_which_to_take(made, expected):
    assert verdict.headline(made) == expected


def test_the_headline_of_what_is_not_done_says_so():
    made = results(AHEAD)
    made.missing.append("hat--waveft")
    assert verdict.headline(made).startswith("So far, with cells to come: Take waveft: it learns")
