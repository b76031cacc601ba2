"""Regular expressions by the core's own engine: what `re` finds, and never in more time than the text is long."""

import random
import re

import pytest

from waveft_core import WaveFTError, pattern
from waveft_core.pattern import LONGEST, MOST_STATES, compile_pattern

NAMES = [
    f"lora_unet_{side}_blocks_{block}_1_transformer_blocks_{depth}_attn{kind}_to_{part}"
    for side in ("input", "output")
    for block in range(7)
    for depth in range(5)
    for kind in (1, 2)
    for part in ("q", "k", "v", "out_0")
]
ATOMS = [
    *("a", "b", "_", "1", " ", ".", r"\w", r"\d", r"\s", r"\W", r"\D", r"\S", r"\b", r"\B", "^", "$", r"\A", r"\Z"),
    *("[ab]", "[^a]", "[a-c]", r"[^\d]", r"[\w.]", r"[^\W_]", r"\.", "(?:ab|b)", "(a|)", "()", "(?P<n>a)"),
    *(
        "(?=a)",
        "(?!b)",
        "(?<=a)",
        "(?<!ab)",
        "(?i:A)",
        "(?i:[B-C])",
        "(?s:.)",
        "(?m:^)",
        "(?m:$)",
        r"(?a:\w)",
        "(?-i:b)",
    ),
]
REPEATS = ["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?", "{,2}", "{2,}"]


def expression(draw, depth=0):
    """Returns a random regular expression, which need not be a valid one."""
    parts = []
    for _ in range(draw.randint(1, 4)):
        nested = depth < 3 and draw.random() < 0.3
        choices = [expression(draw, depth + 1) for _ in range(draw.randint(1, 2))] if nested else []
        part = f"({'|'.join(choices)})" if nested else draw.choice(ATOMS)
        parts.append(part + (draw.choice(REPEATS) if draw.random() < 0.4 else ""))
    return ("(?i)" if depth == 0 and draw.random() < 0.1 else "") + "".join(parts)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("seed", range(4))
def test_it_finds_what_the_standard_library_finds(seed):
    draw, tried = random.Random(seed), 0
    while tried < 250:
        written = expression(draw)
        try:
            theirs = re.compile(written)
        except re.error:
            continue
        ours, tried = compile_pattern(written, "x"), tried + 1
        for _ in range(6):
            text = "".join(draw.choice("abcABC_1 .é\n") for _ in range(draw.randint(1, 7)))
            assert ours.search(text) == bool(theirs.search(text)), (written, text)
            assert ours.fullmatch(text) == bool(theirs.fullmatch(text)), (written, text)
            assert ours.matches_at(text, 1) == bool(theirs.match(text, 1)) or "^" in written or "(?<" in written


@pytest.mark.parametrize(
    "written",
    [
        r"\w?" * 22 + "!",  # 2 to 8 s a name by `re`, and twice that for each further one
        "(.*)*z!",  # hours
        r"(\w|_)*(\w|[a-z])*!",
        "(a|a|b|_)+" * 8 + "!",
        r"(\w{1,20}){1,20}!",
        r"((?!(\w?){9}!)\w)*!",
    ],
)
def test_what_keeps_pythons_engine_busy_is_done_in_work_that_is_counted(written):
    found = compile_pattern.__wrapped__(written, "only_layers")
    assert not any(found.search(name) for name in NAMES)
    assert found._work[0] < 3_000_000  # states looked at: below a second


def test_a_usual_one_costs_little():
    found = compile_pattern.__wrapped__(r"attn1.*to_[qk]$", "only_layers")
    assert sum(found.search(name) for name in NAMES) == len(NAMES) // 4
    assert found._work[0] < 100_000


def test_one_that_can_go_on_in_too_many_ways_stops_by_itself(monkeypatch):
    monkeypatch.setattr(pattern, "MOST_WORK", 500_000)  # as at ten millions, sooner
    draw = random.Random(0)
    names = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz0123456789_", k=60)) for _ in range(2000)]
    found = compile_pattern.__wrapped__(r"(?=\w)" + r"\w?" * 300 + "!", "only_layers")
    with pytest.raises(WaveFTError, match=r"^only_layers .*quickly searched for.*too many ways"):
        for name in names:
            found.search(name)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("(", r"broken at character 1 \(missing \), unterminated subpattern\)"),
        ("a**", "multiple repeat"),
        (r"(a)\1", "got groupref"),
        ("(a)?(?(1)b|c)", "got groupref exists"),
        ("a" * (LONGEST + 1), f"at most {LONGEST} letters"),
        ("a{3000}", f"at most {MOST_STATES} places"),
        ("((a{99}){99}){99}", f"at most {MOST_STATES} places"),
        ("(" * 1500 + "a" + ")" * 1500, "nested"),
        ("(?=a(?=b))", "within another"),
    ],
)
def test_what_cannot_be_searched_in_bounded_time_is_refused(written, words):
    with pytest.raises(WaveFTError, match=rf"^only_layers .*expected .*{words}"):
        compile_pattern(written, "only_layers")


@pytest.mark.skipif("not hasattr(re, 'NOFLAG')", reason="this Python has no possessive repeats")
@pytest.mark.parametrize("written", ["a++b", "(?>a|b)c"])
def test_what_gives_nothing_back_is_refused(written):
    with pytest.raises(WaveFTError, match=r"got (possessive repeat|atomic group)"):
        compile_pattern(written, "x")
