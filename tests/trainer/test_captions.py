import pytest

from trainer import captions


@pytest.mark.parametrize("mark", ["{trigger}", "[trigger]"])
def test_trigger_is_filled_in(mark):
    assert captions.has_trigger(f"a photo of {mark} dog")
    assert captions.fill_trigger(f"a photo of {mark} dog", "sks") == "a photo of sks dog"


def test_other_braces_stay():
    assert not captions.has_trigger("a {dog} [cat]")
    assert captions.fill_trigger("a {dog} [cat]", "sks") == "a {dog} [cat]"


def test_compose_joins_as_written_and_makes_one_line():
    assert (
        captions.compose("a  dog\r\non grass\n", "photo of ", ", {trigger}", "sks") == "photo of a dog on grass , sks"
    )
