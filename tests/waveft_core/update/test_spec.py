import pytest

from waveft_core import SDXL_ATTENTION, Spec, WaveFTError


def test_the_defaults_are_the_papers():
    spec = Spec()
    assert (spec.coefficients, spec.scaling, spec.wavelet, spec.mode) == (2592, 25.0, "db1", "periodization")
    assert spec.locations == "uniform:777"
    assert spec.targets == SDXL_ATTENTION == ("to_q", "to_k", "to_v", "to_out.0")


def test_targets_become_a_tuple_and_a_regex_stays():
    assert Spec(targets=["a", "b"]).targets == ("a", "b")
    assert Spec(targets=r".*\.a").targets == r".*\.a"
    assert hash(Spec(targets=["a"])) == hash(Spec(targets=("a",)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coefficients": 0}, "coefficients: expected a whole number of at least 1, got 0"),
        ({"coefficients": -5}, "coefficients: .* got -5"),
        ({"coefficients": 2.0}, r"coefficients: .* got 2\.0"),
        ({"coefficients": True}, "coefficients: .* got True"),
        ({"coefficients": "5"}, "coefficients: .* got '5'"),
        ({"scaling": 0}, "scaling: expected a finite number other than 0, got 0"),
        ({"scaling": float("nan")}, "scaling: .* got nan"),
        ({"scaling": float("inf")}, "scaling: .* got inf"),
        ({"scaling": True}, "scaling: .* got True"),
        ({"scaling": "25"}, "scaling: .* got '25'"),
        ({"scaling": None}, "scaling: .* got None"),
        ({"scaling": 10**400}, "scaling: expected a finite number"),
        ({"wavelet": "haar"}, 'wavelet: expected .* Use "db1"'),
        ({"wavelet": "dmey"}, "wavelet: expected"),
        ({"mode": "periodic"}, "mode: expected"),
        ({"wavelet": "identity", "mode": "zero"}, "mode: expected"),
        ({"locations": "random"}, "locations: expected"),
        ({"targets": ()}, r"targets: expected path suffixes or a regular expression, got \(\)"),
        ({"targets": ""}, "targets: expected path suffixes"),
        ({"targets": "to_("}, "targets"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(f"{k} {str(v)[:12]!r}" for k, v in value.items()),
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(WaveFTError, match=message):
        Spec(**change)
