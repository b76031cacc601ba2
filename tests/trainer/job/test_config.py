from pathlib import Path

import pytest

from trainer.job import config
from trainer.system.errors import UserError

BASE = '[model]\npretrained_model_name_or_path = "base"\n'
DATA = '[[datasets]]\n[[datasets.subsets]]\nimage_dir = "dog"\n'


def faults(path, *overrides):
    with pytest.raises(UserError) as raised:
        config.load(path, overrides)
    return raised.value.problems


def test_the_shortest_job_has_the_papers_recipe(write_job):
    job = config.load(write_job(BASE + DATA))
    assert (job.network.coefficients, job.network.scaling, job.network.wavelet) == (2592, 25.0, "db1")
    assert (job.optimizer.optimizer_type, job.optimizer.learning_rate, job.optimizer.lr_scheduler) == (
        "AdamW", 1e-4, "constant",
    )  # fmt: skip
    assert (job.train.max_train_steps, job.train.gradient_accumulation_steps) == (500, 4)


def test_paths_are_relative_to_the_jobs_folder(write_job, tmp_path, monkeypatch):
    path = write_job(BASE + DATA)
    monkeypatch.chdir("/")
    job = config.load(path, ["save.output_dir=../out"])
    assert job.model.pretrained_model_name_or_path == str(tmp_path / "base")
    assert job.datasets[0].subsets[0].image_dir == str(tmp_path / "dog")
    assert job.save.output_dir == str(tmp_path.parent / "out")
    assert job.model.vae == ""


def test_a_hub_id_stays_where_downloads_are_allowed(write_job, tmp_path):
    text = BASE.replace("base", "someone/sdxl") + "allow_download = true\n" + DATA
    assert config.load(write_job(text)).model.pretrained_model_name_or_path == "someone/sdxl"
    (tmp_path / "someone" / "sdxl").mkdir(parents=True)
    local = config.load(write_job(text)).model.pretrained_model_name_or_path
    assert local == str(tmp_path / "someone" / "sdxl")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[optimizer]\nlearing_rate = 1", "[optimizer] learing_rate: unknown key. Did you mean learning_rate?"),
        ("[optimizer]\nseed = 3", "[optimizer] seed: this key belongs in [train]"),
        ("[train]\nresolution = 3", "[train] resolution: this key belongs in [general] or [[datasets]]."),
        ("[network]\nnetwork_dim = 4", "[network] network_dim: a key of method lora, loha, lokr or vera; the job's"),
        ("[network]\nnetwork_alpha = 4", "network_alpha: a key of method lora, loha, lokr or adalora"),
        ("[trian]\nseed = 3", "trian: unknown section. Did you mean train?"),
        ("[optimizer]\nlearning_rate = '1e-4'", "[optimizer] learning_rate: expected a number, got '1e-4'."),
        ("[optimizer]\nlearning_rate = nan", "[optimizer] learning_rate: expected a finite number, got nan."),
        ("[optimizer]\noptimizer_type = 'Lyon'", "expected one of AdamW, AdamW8bit, PagedAdamW"),
        ("[optimizer]\nlr_warmup_steps = 5", "lr_warmup_steps: lr_scheduler \"constant\" has no warm-up"),
        ("[optimizer]\noptimizer_args = ['weight_decay']", "expected a table or a list of \"key=value\" texts"),
        ("[train]\nmax_train_steps = 0", "[train] max_train_steps: expected at least 1, got 0."),
        ("[train]\nmax_train_steps = true", "[train] max_train_steps: expected a whole number, got True."),
        ("[train]\ngradient_checkpointing = 1", "expected 'auto', true or false, got 1"),
        ("[network]\nwavelet = 'haar'", "Write 'db1', which is the same"),
        ("[network]\nwavelet = 'db39'", "expected db1 to db38"),
        ("[network]\nlocations = 'random'", "expected uniform:SEED, peft:SEED or gradient:SEED"),
        ("[network]\nscaling = 0", "[network] scaling: expected a number other than 0"),
        ("[network]\ntargets = []", "[network] targets: expected a list of path endings"),
        ("[network]\ntargets = ['to_q', 3]", "[network] targets: expected a list of path endings"),
        ("[network]\ntargets = 'to_('", "regular expression, got 'to_(' (missing ), unterminated subpattern"),
        ("[network]\nwavelet = 'identity'\nmode = 'zero'", "[network] mode: expected 'periodization' with wavelet"),
        ("[network]\nlocations = 'peft:9223372036854775808'", "expected a seed of at most 9223372036854775807"),
        ("[network]\nlocations = 'uniform:00000000000000000001'", "expected a seed of at most"),
        ("[network]\nlocations = 'uniform:-1'", "expected uniform:SEED, peft:SEED or gradient:SEED"),
        ('[network]\nlocations = "uniform:1\\n"', "expected uniform:SEED, peft:SEED or gradient:SEED"),
        ("[train]\nseed = -1", "[train] seed: expected at least 0, got -1."),
        ("[train]\nseed = 9223372036854775808", "[train] seed: expected at most 9223372036854775807, got"),
        ("[sample]\nprompts = [{prompt = 'y', seed = 9223372036854775808}]", "seed: expected at most 922337203685477"),
        (
            "[train]\nmax_train_steps = 5\n[optimizer]\nlr_scheduler = 'linear'\nlr_warmup_steps = 5",
            "job.toml: [optimizer] lr_warmup_steps: expected less than max_train_steps = 5, got 5.",
        ),
        ("[save]\noutput_name = 'a/b'", "[save] output_name: expected the start of a file name, without folder"),
        ("[save]\noutput_name = '..'", "[save] output_name: expected the start of a file name, without folder"),
        ("[sample]\nprompts = [{prompt = 'y', promt = 'x'}]", "promt: unknown key. Did you mean prompt?"),
        ("[sample]\nprompts = [3]", "[sample] prompts 1: expected a table, got 3."),
        ("[general]\ncaption_dropout_rate = 2", "[general] caption_dropout_rate: expected at most 1, got 2"),
        ("[general]\ncache_info = true", "what is encoded is kept by content. Remove it."),
    ],
)  # fmt: skip
def test_a_fault_says_where_what_and_the_remedy(write_job, text, fault):
    found = faults(write_job(f"{BASE}{text}\n{DATA}"))
    assert len(found) == 1
    assert fault in found[0]


def test_all_faults_come_together(write_job):
    found = faults(write_job("learning_rate = 1\n[model]\n[train]\nsede = 1\nthreads = -1\n"), "save.nme=1", "nonsense")
    text = "\n".join(found)
    for part in (
        "--set nonsense: expected section.key=value",
        "learning_rate: this key belongs in [optimizer].",
        "[model] pretrained_model_name_or_path: required",
        "[train] sede: unknown key. Did you mean seed?",
        "[train] threads: expected at least 0, got -1.",
        "[save] nme: unknown key.",
        "[[datasets]]: required",
    ):
        assert part in text
    assert len(found) == 7


def test_a_fault_in_a_subset_names_the_subset(write_job):
    found = faults(write_job(f"{BASE}{DATA}[[datasets.subsets]]\nimage_dir = 'cat'\nnum_repeat = 2\n"))
    assert found == ["job.toml: [[datasets.subsets]] 1.2 num_repeat: unknown key. Did you mean num_repeats?"]


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ('output_dir = "C:\\Users"', "In a path write / for"),
        ("overwrite = True", "Write true."),
        ("output_name = dog", 'Put the text in quotes: "dog".'),
    ],
)
def test_a_syntax_error_has_its_line_and_a_remedy(write_job, line, remedy):
    (found,) = faults(write_job(f"[save]\n{line}\n"))
    assert "line 2" in found
    assert remedy in found


def test_a_file_that_is_not_there_or_not_text(tmp_path):
    assert "not found" in faults(tmp_path / "none.toml")[0]
    (tmp_path / "latin.toml").write_bytes(b"# \xe4")
    assert "expected a text in UTF-8" in faults(tmp_path / "latin.toml")[0]


def test_a_byte_order_mark_is_no_fault(tmp_path):
    path = tmp_path / "job.toml"
    path.write_text(BASE + DATA, encoding="utf-8-sig")
    assert config.load(path).train.seed == 42


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("train.seed=7", lambda job: job.train.seed == 7),
        ("save.output_name=dog two", lambda job: job.save.output_name == "dog two"),
        ('sample.prompts=["a", "b"]', lambda job: [p.prompt for p in job.sample.prompts] == ["a", "b"]),
        ("datasets.0.subsets.0.num_repeats=3", lambda job: job.datasets[0].subsets[0].num_repeats == 3),
        ("optimizer.optimizer_args.eps=1e-6", lambda job: job.optimizer.optimizer_args == {"eps": 1e-6}),
        ("metadata.metadata_title=a=b", lambda job: job.metadata.metadata_title == "a=b"),
    ],
)
def test_set_changes_one_key(write_job, text, read):
    assert read(config.load(write_job(BASE + DATA), [text]))


@pytest.mark.parametrize("text", ["datasets.4.subsets.0.num_repeats=3", "datasets.x=3", "a..b=1", "=1"])
def test_set_of_a_place_that_is_not_there(write_job, text):
    assert any(f"--set {text}" in fault for fault in faults(write_job(BASE + DATA), text))


def test_kohyas_list_of_arguments_and_spellings(write_job):
    text = '[optimizer]\noptimizer_type = "ADAMW"\noptimizer_args = ["weight_decay=0.01", "betas=(0.9, 0.95)"]\n'
    job = config.load(write_job(BASE + text + DATA))
    assert job.optimizer.optimizer_type == "AdamW"
    assert job.optimizer.optimizer_args == {"weight_decay": 0.01, "betas": [0.9, 0.95]}


def test_a_subset_takes_what_it_leaves_open_from_above(write_job):
    text = (
        '[general]\ncaption_prefix = "g"\ncaption_suffix = "g"\nflip_aug = true\n'
        '[[datasets]]\ncaption_prefix = "d"\n[[datasets.subsets]]\nimage_dir = "a"\nflip_aug = false\n'
    )
    (subset,) = config.load(write_job(BASE + text)).subsets()
    assert (subset.caption_prefix, subset.caption_suffix, subset.flip_aug) == ("d", "g", False)
    assert subset.caption_extension == ".txt"


def test_what_was_given_stays_known_when_paths_are_made_absolute(write_job):
    job = config.load(write_job(BASE + "[save]\noutput_name = 'a'\n" + DATA))
    assert job.save.model_fields_set == {"output_name"}
    assert job.datasets[0].subsets[0].model_fields_set == {"image_dir"}
    assert "network" not in job.model_fields_set


@pytest.mark.parametrize("key", ["pretrained_model_name_or_path", "vae"])
@pytest.mark.parametrize("allow", [True, False])
def test_hub_ids_stay_as_they_are_where_downloads_are_allowed(write_job, tmp_path, key, allow):
    text = "[model]\n" + ("" if key != "vae" else "pretrained_model_name_or_path = 'base'\n")
    text += f"{key} = 'someone/thing'\nallow_download = {str(allow).lower()}\n" + DATA
    found = getattr(config.load(write_job(text)).model, key)
    assert found == ("someone/thing" if allow else str(tmp_path / "someone" / "thing"))


def test_paths_of_every_section_are_made_absolute(write_job, tmp_path):
    text = (
        BASE + "tokenizer = 'tok'\n[network]\nnetwork_weights = 'w.safetensors'\n[cache]\ncache_dir = 'c'\n"
        "[sample]\nsample_prompts = '~/p.txt'\n" + DATA + "metadata_file = 'm.json'\n"
    )
    job = config.load(write_job(text))
    assert job.model.tokenizer == str(tmp_path / "tok")
    assert job.network.network_weights == str(tmp_path / "w.safetensors")
    assert job.cache.cache_dir == str(tmp_path / "c")
    assert job.datasets[0].subsets[0].metadata_file == str(tmp_path / "m.json")
    assert job.sample.sample_prompts == str(Path.home() / "p.txt")


def test_a_dataset_file_of_kohyas_takes_the_place_of_the_jobs_own(write_job, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set.toml").write_text(
        "[general]\nshuffle_caption = true\n[[datasets]]\nbatch_size = 2\n[[datasets.subsets]]\nimage_dir = 'dog'\n"
    )
    job = config.load(write_job("dataset_config = 'data/set.toml'\n" + BASE))
    (subset,) = job.subsets()
    assert subset.image_dir == str(tmp_path / "data" / "dog"), "relative to the dataset file"
    assert subset.shuffle_caption
    assert job.datasets[0].batch_size == 2


@pytest.mark.parametrize(
    ("key", "more", "fault"),
    [
        ("'none.toml'", "", 'none.toml": not found'),
        ("3", "", "dataset_config: expected the path of a dataset file in quotes, got 3."),
        ("'set.toml'", DATA, "the job has [[datasets]] itself. Remove the one or the other."),
        ("'set.toml'", "[general]\n" + DATA, "the job has [general] and [[datasets]] itself."),
    ],
)
def test_a_dataset_file_that_does_not_fit(write_job, tmp_path, key, more, fault):
    (tmp_path / "set.toml").write_text(DATA)
    (found,) = faults(write_job(f"dataset_config = {key}\n{BASE}{more}"))
    assert fault in found


def test_a_faulty_job_is_still_read_without_what_is_faulty(write_job):
    job, problems = config.read(write_job(BASE + "[train]\nsede = 1\nseed = 5\nthreads = -1\n" + DATA))
    assert len(problems) == 2
    assert (job.train.seed, job.train.threads) == (5, 0)


@pytest.mark.parametrize(
    "text", ["[train]\nsede = 1\n" + DATA, BASE, BASE + "[optimizer]\ntext_encoder_lr = 1e-4\n" + DATA]
)
def test_a_job_with_too_little_left_is_none(write_job, text):
    job, problems = config.read(write_job(text))
    assert job is None
    assert problems
