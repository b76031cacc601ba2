from pathlib import Path

import pytest

from trainer.job import keys, tables
from trainer.job.other_trainers import FOREIGN

ROOT = Path(__file__).parents[3]


def test_the_page_is_what_the_schema_says():
    page = (ROOT / "docs" / "job.md").read_text(encoding="utf-8")
    assert page == keys.page() + "\n", "run `python -m trainer.keys > docs/job.md`"


@pytest.mark.parametrize("title", tables.tables())
def test_every_key_is_described(title):
    for key, field in tables.tables()[title].model_fields.items():
        assert field.description, key
        assert f"`{key}`" in keys.page()


def test_a_cell_holds_no_bar_that_would_end_it():
    rows = [line for line in keys.page().splitlines() if line.startswith("| ")]
    assert len(rows) > 120
    assert all(line.replace("\\|", "").count("|") == 4 for line in rows)


def test_defaults_are_those_of_the_schema_and_of_what_a_subset_leaves_open():
    page = keys.page()
    assert "| `coefficients` | `2592` |" in page
    assert "| `batch_size` | `1` |" in page
    assert '| `targets` | `["to_q", "to_k", "to_v", "to_out.0"]` |' in page
    assert "| `image_dir` | required |" in page
    assert "| `resolution` |  |" in page


def test_no_key_is_both_known_and_foreign():
    assert not set(FOREIGN) & set(tables.all_keys())
    assert len(FOREIGN) > 100
    assert all(text and not text.endswith(".") for text in FOREIGN.values())


@pytest.mark.parametrize(
    ("table", "key", "between"),
    [
        ("[train]", "max_train_steps", "1 to 10,000,000"),
        ("[train]", "seed", "0 to 2^63 - 1"),
        ("[train]", "ema_decay", "0 to below 1"),
        ("[optimizer]", "learning_rate", "above 0, to 10,000"),
        ("[optimizer]", "learning_rate_pattern", "above 0, to 10,000"),
        ("[loss]", "ip_noise_gamma", "0 to 100"),
        ('[network] method = "waveft"', "coefficients", "1 to 2^27"),
        ('[network] method = "waveft"', "scaling", "-1,000,000 to 1,000,000"),
        ("[train]", "torch_compile", ""),
        ("[model]", "vae", ""),
    ],
)
def test_the_page_says_what_a_number_lies_between(table, key, between):
    assert keys.limits(tables.tables()[table].model_fields[key]) == between
