"""Mistakes that people make, and what they are told: enough to go on without asking anyone."""

import json

import pytest
from PIL import Image

from trainer import cli
from trainer.preflight import preflight
from trainer.system.errors import UserError

INPAINTING = '{"_class_name": "StableDiffusionXLInpaintPipeline"}'


def tensors_file(path, *names, shape=(2, 2)):
    """Writes a safetensors file of zeros."""
    size = 4 * shape[0] * shape[1]
    header = {
        name: {"dtype": "F32", "shape": list(shape), "data_offsets": [size * at, size * (at + 1)]}
        for at, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(size * len(names)))
    return str(path)


def section(name, **keys):
    """Returns a change: keys of a section."""
    return lambda job, folder: job.setdefault(name, {}).update(keys)


def subset(**keys):
    """Returns a change: keys of the only subset."""
    return lambda job, folder: job["datasets"][0]["subsets"][0].update(keys)


def base(path):
    """Returns a change: another base, made by a function of the folder."""
    return lambda job, folder: job["model"].update(pretrained_model_name_or_path=path(folder))


def pictures(change):
    """Returns a change: something is done to the folder of pictures."""
    return lambda job, folder: change(folder / "pictures")


def cut_short(folder):
    path = folder / "cut.safetensors"
    tensors_file(path, "a", "b")
    path.write_bytes(path.read_bytes()[:-3])
    return str(path)


def no_captions(job, folder):
    del job["datasets"][0]["subsets"][0]["class_tokens"]


def one_folder_too_high(job, folder):
    (folder / "up" / "dog").mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(folder / "up" / "dog" / "a.png")
    job["datasets"][0]["subsets"][0]["image_dir"] = str(folder / "up")


def wrong_case(job, folder):
    job["datasets"][0]["subsets"][0]["image_dir"] = str(folder / "Pictures")


def an_image_as_folder(job, folder):
    job["datasets"][0]["subsets"][0]["image_dir"] = str(folder / "pictures" / "00.png")


def caption_in_latin(job, folder):
    (folder / "pictures" / "00.txt").write_bytes("é".encode("latin-1"))


def caption_as_bytes(content):
    return pictures(lambda at: (at / "00.txt").write_bytes(content))


def prompt_file(text):
    def change(job, folder):
        (folder / "prompts.txt").write_text(text)
        job["sample"] = {"sample_prompts": "prompts.txt"}

    return change


def adapter_that_exists(job, folder):
    (folder / "out").mkdir()
    (folder / "out" / "waveft.safetensors").touch()


REFUSED = {
    # keys
    "a misspelt key": (
        section("optimizer", learing_rate=1e-4),
        "[optimizer] learing_rate",
        "Did you mean learning_rate?",
    ),
    "a key in the wrong section": (section("model", seed=3), "[model] seed: this key belongs in [train]"),
    "kohya's epoch": (section("train", epoch=10), "[train] epoch: write max_train_epochs in [train]"),
    "a rank": (
        section("network", network_dim=16, network_alpha=8),
        "network_dim: a key of method lora, loha, lokr or vera",
    ),
    "a number in quotes": (
        section("optimizer", learning_rate="1e-4"),
        "expected a number",
        "Write 1e-4 without quotes.",
    ),
    "a precision that is none": (section("train", mixed_precision="bf61"), "'bf16'", "Did you mean bf16?"),
    "fp32, as a precision of what is saved": (
        section("save", save_precision="fp32"),
        "[save] save_precision: expected 'float', 'fp16' or 'bf16', got 'fp32'. Write \"float\", which is fp32.",
    ),
    "fp32, as a precision of what is computed": (
        section("train", mixed_precision="fp32"),
        "got 'fp32'. Write \"no\", which is fp32.",
    ),
    "two lengths": (section("train", max_train_epochs=3, max_train_steps=7), "got max_train_steps too", "Remove one"),
    "a warm-up longer than the run": (
        section("optimizer", lr_scheduler="cosine", lr_warmup_steps=50),
        "expected less than",
        "3",
        "got 50",
    ),
    "a warm-up that does nothing": (
        section("optimizer", lr_warmup_steps=1),
        'lr_scheduler "constant" has no warm-up',
        'Write "constant_with_warmup"',
    ),
    "Prodigy at AdamW's rate": (
        section("optimizer", optimizer_type="prodigy"),
        "expects about 1.0, got 0.0001",
        "Write 1.0",
    ),
    "two kinds of noise": (
        section("loss", noise_offset=0.1, multires_noise_iterations=6),
        "expected it or multires_noise_iterations",
        "Remove one",
    ),
    "samples without prompts": (
        section("sample", sample_every_n_steps=5),
        "there are no prompts",
        "Give [sample] prompts",
    ),
    "scaling 0": (section("network", scaling=0), "nothing would be trained"),
    "a resume key": (section("save", resume="latest"), "start the run with `--resume latest`", "Remove it"),
    "8-bit base by kohya's name": (section("train", fp8_base=True), 'write base_dtype = "fp8" in [model]'),
    "the hub while training": (section("save", huggingface_repo_id="a/b"), "python -m trainer.publish"),
    # TOML
    "a path of Windows": ('output_dir = "C:\\Users\\me"', "line", "write / for \\", "'single quotes'"),
    "a path of Windows whose backslashes TOML takes": (
        subset(image_dir="D:\train\new"),
        r"""got 'D:\train\new' with '\t' in it, which TOML makes of a backslash in "double quotes".""",
        r"Write / for \, or put it in 'single quotes'.",
    ),
    "True": ("overwrite = True", "Write true."),
    "a text without quotes": ("output_name = dog", 'Put the text in quotes: "dog".'),
    # the base
    "a base that is not there": (
        base(lambda folder: "nowhere"),
        'nothing at "',
        "relative to the folder of the job file",
    ),
    "a hub id without leave": (base(lambda folder: "someone/sdxl"), "To download a hub id set allow_download = true."),
    "a LoRA as base": (
        base(lambda folder: tensors_file(folder / "a.safetensors", "lora_unet_x.lora_down.weight")),
        "looks like a LoRA",
    ),
    "SD 1.5": (
        base(lambda folder: tensors_file(folder / "a.safetensors", "cond_stage_model.transformer.x")),
        "looks like SD 1.5",
    ),
    "Flux": (base(lambda folder: tensors_file(folder / "a.safetensors", "double_blocks.0.x")), "looks like Flux"),
    "a file cut short": (base(cut_short), "was cut short: expected", "Fetch it again."),
    "a pickled checkpoint": (base(lambda folder: str(folder / "job.toml")), "expected a .safetensors file, got .toml"),
    "a VAE that is none": (
        lambda job, folder: job["model"].update(vae=tensors_file(folder / "v.safetensors", "lora_x")),
        "[model] vae",
    ),
    "terminal SNR on a base that predicts noise": (
        section("model", zero_terminal_snr=True),
        "[model] zero_terminal_snr",
        "Set v_parameterization = true",
    ),
    # pictures and captions
    "a folder one level too high": (one_folder_too_high, 'no images in it, but in "dog" inside', "Name that folder"),
    "a folder in another case": (wrong_case, 'holds "pictures": write that, in the same case'),
    "an image instead of its folder": (an_image_as_folder, "expected a folder, got a file", "Name its folder"),
    "no caption at all": (no_captions, "expected a caption in", "00.txt", "class_tokens"),
    "an empty caption": (pictures(lambda at: (at / "00.txt").touch()), "00.txt", "got an empty file"),
    "a caption in Latin-1": (caption_in_latin, "00.txt", "Save it as UTF-8"),
    "a caption in UTF-16": (caption_as_bytes("sks dog".encode("utf-16")), "00.txt", "UTF-16", "Save it as UTF-8"),
    "a caption in UTF-16 without a mark": (
        caption_as_bytes("sks dog".encode("utf-16-le")),
        "00.txt",
        r"got a NUL character (\x00), as a text saved as UTF-16 has it. Save it as UTF-8.",
    ),
    "an image that is none": (pictures(lambda at: (at / "01.png").write_bytes(b"x")), "01.png", "Replace or remove it"),
    "an image of 0 bytes": (pictures(lambda at: (at / "01.png").write_bytes(b"")), "01.png", "0 bytes"),
    "a Git LFS pointer": (
        pictures(lambda at: (at / "01.png").write_text("version https://git-lfs.github.com/spec/v1")),
        "git lfs pull",
    ),
    "a trigger without phrase": (
        subset(class_tokens="a [trigger]"),
        "asks for the trigger",
        "trigger_phrase is empty. Set it.",
    ),
    "masks that are nowhere": (section("loss", masked_loss=True), "no folder has masks", "Set alpha_mask"),
    "class pictures that are not": (subset(num_class_images=5), "only regularisation pictures", "Set is_reg = true"),
    # sizes
    "a resolution between sizes": (section("general", resolution=30), "expected a multiple of 8 px, got 30. Write 32."),
    "a step of buckets between sizes": (section("general", bucket_reso_steps=12), "multiple of 8 px", "Write"),
    "the least above the resolution": (
        section("general", min_bucket_reso=64),
        "at most the resolution's 16 px",
        "Lower it",
    ),
    "a sample between sizes": (section("sample", prompts=["a"], width=17), "[sample] width", "Write 16."),
    # the rest
    "an option of prompts that is none": (prompt_file("a dog --zz 3\n"), "prompts.txt", "--zz"),
    "an adapter in the way": (adapter_that_exists, "exists. Choose another name", "set overwrite = true"),
    "weights to start from that are none": (
        lambda job, folder: job["network"].clear() or job["network"].update(network_weights="x.safetensors"),
        "[network] network_weights",
        "expected a WaveFT file, got nothing there",
    ),
    "a validation of nothing": (section("validation", validate_every_n_steps=2), "validation_split is 0. Set it"),
}


def told(job, folder, write_job, change):
    """Returns everything that is said of a job after a change of it."""
    if isinstance(change, str):
        path = write_job(f"[save]\n{change}\n")
    else:
        write_job(job)  # so that a path may lead to it
        change(job, folder)
        path = write_job(job)
    try:
        return "\n".join(preflight.check(preflight.read(path)).notices), False
    except UserError as error:
        return "\n".join(error.problems), True


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_told_with_its_remedy(name, light_job, tmp_path, write_job):
    change, *words = REFUSED[name]
    said, refused = told(light_job, tmp_path, write_job, change)
    assert refused, "the job was taken as it is"
    for word in words:
        assert word in said, said


def trigger_in_no_caption(job, folder):
    job["metadata"] = {"trigger_phrase": "zzz"}
    for number in range(3):
        (folder / "pictures" / f"{number:02d}.txt").write_text("a dog")


def the_same_picture_twice(job, folder):
    first = folder / "pictures" / "00.png"
    (folder / "pictures" / "copy.png").write_bytes(first.read_bytes())


def one_wide_picture(job, folder):
    Image.new("RGB", (400, 40)).save(folder / "pictures" / "wide.png")


SURPRISING = {
    "the trigger is in no caption": (trigger_in_no_caption, '"zzz"'),
    "a picture twice": (the_same_picture_twice, "copy.png"),
    "a caption of commas": (caption_as_bytes(b" , ,,"), "captions of 00.png: hold separators alone, taken as none"),
    "a panorama": (one_wide_picture, "wide.png"),
    "augmentation with the cache on": (subset(random_crop=True), "random_crop: each view is another"),
    "masks that nobody asks for": (subset(alpha_mask=True), "masked_loss is false: they have no effect"),
    "checkpoints after the end": (section("save", save_every_n_steps=100), "more than the run's 3 steps"),
}


@pytest.mark.parametrize("name", SURPRISING)
def test_what_is_no_fault_but_may_surprise_is_told(name, light_job, tmp_path, write_job):
    change, word = SURPRISING[name]
    said, refused = told(light_job, tmp_path, write_job, change)
    assert not refused, said
    assert word in said


def a_file(name, text=""):
    """Returns a change: a file in the job's folder."""
    return lambda folder: (folder / name).write_text(text)


def nothing(folder):
    """Changes nothing."""


# On the command line: what is there beside the job, the words, what is told.
TYPED = {
    "the job without --config": (nothing, ["job.toml"], "write --config job.toml"),
    "kohya's --config_file": (
        nothing,
        ["--config_file", "job.toml"],
        "--config_file: write --config job.toml; a config file of kohya's becomes a job by `python -m waveft init "
        "--from-kohya FILE`",
    ),
    "a LoRA's rank as an option": (
        nothing,
        ["--config", "job.toml", "--network_dim=32"],
        "--network_dim: a key of the job. It is of method lora, loha, lokr or vera: write it in [network] with "
        'method = "lora", or --set network.method=lora --set network.network_dim=32. The size of waveft is [network] '
        "coefficients",
    ),
    "options with their values behind them": (
        nothing,
        ["--config", "job.toml", "--learning_rate", "1e-4", "--gradient_checkpointing", "--xformers"],
        "--set optimizer.learning_rate=1e-4; --gradient_checkpointing: a key of the job. Write gradient_checkpointing "
        'in [train], or --set train.gradient_checkpointing=true; --xformers: write attention in [train]: "sdpa"',
    ),
    "a folder of pictures as an option": (
        nothing,
        ["--config", "job.toml", "--image_dir", "dog"],
        "--image_dir: a key of the job. Write it in [[datasets.subsets]]",
    ),
    "a job in YAML": (
        a_file("job.yaml", "model:\n  name: x\n"),
        ["--config", "job.yaml"],
        'job file "job.yaml": expected a .toml file, got .yaml. A job is TOML: key = value below [section]. Begin with '
        "one that `python -m trainer init` writes",
    ),
    "YAML in a .toml": (
        a_file("other.toml", "model:\n  name: x\n"),
        ["--config", "other.toml"],
        "(at line 1, column 6). This looks like YAML, a job is TOML: write key = value below [section].",
    ),
    "an adapter to resume from": (
        a_file("dog.safetensors"),
        ["--config", "job.toml", "--resume", "dog.safetensors"],
        '--resume "dog.safetensors": expected a .state file, got an adapter, which holds the coefficients alone. Name '
        "its .state file, or --resume latest; or begin a new run from it with [network] network_weights.",
    ),
    "an adapter to resume from that is nowhere": (
        nothing,
        ["--config", "job.toml", "--resume", "dog.safetensors"],
        '--resume "dog.safetensors": expected a .state file, or latest, got nothing there. Correct the path.',
    ),
    "a subset by --set": (
        nothing,
        ["--config", "job.toml", "--set", "datasets.subsets.image_dir=x", "--dry-run"],
        "--set datasets.subsets.image_dir=x: the job has no such place",
    ),
}


@pytest.mark.parametrize("name", TYPED)
def test_what_is_typed_wrongly_is_told_with_its_remedy(name, light_job, tmp_path, write_job, monkeypatch, capsys):
    change, words, said = TYPED[name]
    write_job(light_job)
    change(tmp_path)
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(words)
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    assert said in capsys.readouterr().err


def test_there_are_thirty_and_more():
    assert len(REFUSED) + len(SURPRISING) + len(TYPED) >= 30
