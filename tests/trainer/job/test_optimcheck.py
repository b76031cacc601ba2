import pytest
from pydantic import ValidationError

from trainer.job import optimcheck, schema
from trainer.job.values import OPTIMIZERS, SCHEDULERS


def test_every_name_is_known():
    assert set(optimcheck.CLASSES) == set(OPTIMIZERS)
    assert set(optimcheck.NEEDED) | set(optimcheck.NO_ARGUMENTS) <= set(SCHEDULERS)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"optimizer_args": {"lr": 0.1}}, "optimizer_args: lr is a key of its own. Write learning_rate."),
        ({"lr_scheduler_args": {"num_cycles": 2}}, 'lr_scheduler_args: "constant" takes none, got num_cycles.'),
        ({"lr_scheduler": "cosine_with_min_lr"}, '"cosine_with_min_lr" needs min_lr_rate or min_lr. Write {'),
        ({"lr_scheduler": "warmup_stable_decay"}, '"warmup_stable_decay" needs num_decay_steps. Write {'),
        ({"lr_scheduler": "piecewise_constant"}, '"piecewise_constant" needs step_rules. Write {'),
        (
            {"lr_scheduler": "linear", "lr_scheduler_args": {"num_warmup_steps": 2}},
            "num_warmup_steps is a key of its own. Write lr_warmup_steps.",
        ),
        (
            {
                "lr_scheduler": "cosine_with_restarts",
                "lr_scheduler_num_cycles": 2,
                "lr_scheduler_args": {"num_cycles": 3},
            },
            "num_cycles is lr_scheduler_num_cycles, which is given too. Remove one of them.",
        ),
        (
            {"lr_scheduler": "torch.optim.lr_scheduler.StepLR", "lr_warmup_steps": 2},
            'lr_warmup_steps: "torch.optim.lr_scheduler.StepLR" knows of no warm-up.',
        ),
        ({"lr_scheduler": "linear", "lr_warmup_steps": 10}, "lr_warmup_steps: expected less than the run's 10 steps"),
        (
            {"lr_scheduler": "warmup_stable_decay", "lr_warmup_steps": 4, "lr_scheduler_args": {"num_decay_steps": 7}},
            "num_decay_steps: expected at most 6 of the run's 10 steps, after a warm-up of 4, got 7.",
        ),
        (
            {"lr_scheduler": "warmup_stable_decay", "lr_scheduler_args": {"num_decay_steps": "all"}},
            "num_decay_steps: expected steps or a part below 1, got 'all'.",
        ),
        (
            {"optimizer_type": "Adafactor", "optimizer_args": {"warmup_init": True}},
            "optimizer_args: Adafactor's warmup_init needs relative_step = true.",
        ),
        (
            {"optimizer_type": "Adafactor", "optimizer_args": {"relative_step": True}, "learning_rate": 1e-3},
            "learning_rate: Adafactor's relative_step = true finds the rate itself.",
        ),
        (
            {"optimizer_type": "Adafactor", "optimizer_args": {"relative_step": True}, "lr_scheduler": "cosine"},
            "lr_scheduler: Adafactor's relative_step = true finds the rate itself.",
        ),
    ],
)
def test_faults_known_without_torch(settings, text):
    (fault,) = optimcheck.check(schema.Optimizer(**settings), 10)
    assert fault.startswith("[optimizer] ") and text in fault


def test_prodigy_has_one_rate(monkeypatch):
    monkeypatch.setattr(optimcheck, "find_spec", lambda _: True)
    settings = schema.Optimizer(
        optimizer_type="prodigy", learning_rate=1.0, text_encoder_lr=0.5, learning_rate_pattern={"^mid": 0.5}
    )
    assert optimcheck.check(settings) == [
        f"[optimizer] {key}: Prodigy finds one rate for all layers. Remove it."
        for key in ("learning_rate_pattern", "text_encoder_lr")
    ]
    with pytest.raises(ValidationError, match=r"Prodigy finds the step size itself and expects about 1.0, got 0.0001"):
        schema.Optimizer(optimizer_type="Prodigy")


def test_a_job_with_every_default_written_out_has_no_faults():
    for settings in ({}, {"optimizer_type": "Adafactor", "optimizer_args": {"relative_step": True}}):
        section = schema.Optimizer(**settings)
        assert optimcheck.check(schema.Optimizer.model_validate(section.model_dump()), 10) == []


def test_switches_in_kohyas_list_may_be_written_as_in_toml():
    settings = schema.Optimizer(optimizer_type="adafactor", optimizer_args=["relative_step=false", "warmup_init=True"])
    assert settings.optimizer_args == {"relative_step": False, "warmup_init": True}


@pytest.mark.parametrize("key", ["optimizer_type", "lr_scheduler"])
@pytest.mark.parametrize("value", ["AdamWW", "torch.", ".AdamW", "a b.C", "cosine_"])
def test_names_that_nobody_knows(key, value):
    with pytest.raises(ValidationError, match=r"expected one of .*, or the dotted path of a class, got"):
        schema.Optimizer(**{key: value})


def test_what_8_bit_and_paging_gain():
    for name in OPTIMIZERS:
        found = "".join(optimcheck.notices(schema.Optimizer(optimizer_type=name, learning_rate=1.0)))
        assert ("4,096 values in 32 bit" in found) == ("8bit" in name)
        assert ("100,000 values" in found) == ("Paged" in name)


def test_a_part_of_the_run_is_at_least_a_step():
    assert [optimcheck.whole_steps(given, 100) for given in (0, 7, 0.29, 0.001, 1)] == [0, 7, 29, 1, 1]


def test_checks_import_no_torch(in_process):
    code = (
        "import sys; from trainer.job import optim, optimcheck, schema;"
        "optimcheck.check(schema.Optimizer(optimizer_type='torch.optim.NAdam', lr_scheduler='cosine'), 10);"
        "optimcheck.notices(schema.Optimizer(optimizer_type='AdamW8bit'));"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = in_process("-c", code)
    assert done.returncode == 0, done.stderr
