import pytest

from trainer.job import kohyarun
from trainer.job.schema import Job
from trainer.system.errors import UserError

FLAT = r"""
[model_arguments]
pretrained_model_name_or_path = "/models/sdxl.safetensors"
[additional_network_arguments]
network_module = "networks.lora"
network_dim = 16
network_alpha = 8
[anything]
train_data_dir = "D:\\pictures"
reg_data_dir = "class"
resolution = "1024,1024"
train_batch_size = 2
learning_rate = 4e-4
unet_lr = 4e-4
optimizer_type = "AdamW"
optimizer_args = ["weight_decay=0.05", "betas=(0.9,0.99)"]
lr_scheduler = "cosine"
max_train_epochs = 10
mixed_precision = "bf16"
save_model_as = "safetensors"
min_snr_gamma = 5
caption_extension = ".txt"
xformers = true
clip_skip = 2
enable_bucket = true
output_dir = "out"
output_name = "dog"
seed = 7
"""
LINE = r"""
# trained in spring
accelerate launch --num_cpu_threads_per_process=4 "./sdxl_train_network.py" \
  --pretrained_model_name_or_path="C:\my models\sdxl.safetensors" ^
  --train_data_dir pictures --network_dim=32 --resolution=1024,768 `
  --optimizer_args "weight_decay=0.1" "eps=1e-6" --use_8bit_adam --max_train_steps 3000 --min_timestep -5
"""


@pytest.fixture
def made(tmp_path):
    """The function that converts a text, written into a file."""

    def convert(text, name="kohya.toml"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return kohyarun.convert(kohyarun.read(tmp_path / name))

    return convert


def test_a_flat_config_becomes_the_jobs_tables(made):
    found = made(FLAT)
    tables = found.tables
    Job.model_validate(tables)
    assert tables["model"] == {"pretrained_model_name_or_path": "/models/sdxl.safetensors"}
    assert tables["general"]["batch_size"] == 2
    assert tables["general"]["resolution"] == 1024
    assert tables["optimizer"]["optimizer_args"]["weight_decay"] == 0.05
    assert tables["optimizer"]["lr_scheduler"] == "cosine"
    assert tables["train"]["max_train_epochs"] == 10
    assert "max_train_steps" not in tables["train"], "epochs and steps exclude each other"
    assert tables["train"]["gradient_accumulation_steps"] == 1, "kohya's default, which is not ours"
    assert tables["train"]["attention"] == "xformers"
    assert tables["loss"] == {"min_snr_gamma": 5}
    assert tables["datasets"] == [{"subsets": [{"image_dir": "D:\\pictures"}, {"image_dir": "class", "is_reg": True}]}]
    assert tables["save"] == {"output_dir": "out", "output_name": "dog"}
    assert found.rank == 16


def test_what_is_not_taken_over_is_said_with_its_reason(made):
    notes = "\n".join(made(FLAT).notes)
    assert "network_dim = 16: WaveFT has coefficients instead." in notes
    assert "unet_lr = 0.0004: a LoRA's rate" in notes
    assert "clip_skip = 2: SDXL always takes the last layer but one" in notes
    assert "save_model_as" not in notes, "adapters are safetensors anyway"
    assert "learning_rate" not in made(FLAT).tables["optimizer"]


def test_a_command_line_of_three_shells_is_read(made):
    found = made(LINE, "train.sh")
    Job.model_validate(found.tables)
    assert found.tables["model"]["pretrained_model_name_or_path"] == r"C:\my models\sdxl.safetensors"
    assert list(found.tables["general"]["resolution"]) == [1024, 768]
    assert found.tables["optimizer"]["optimizer_type"] == "AdamW8bit"
    assert found.tables["optimizer"]["optimizer_args"] == {"weight_decay": 0.1, "eps": 1e-6}
    assert found.tables["train"]["max_train_steps"] == 3000
    assert any("min_timestep" in note and "-5" in note for note in found.notes), "a number below zero is no option"
    assert found.rank == 32
    assert "threads" not in found.tables["train"], "accelerate's own options, before the script, are not the trainer's"


def test_a_config_file_that_a_line_names_is_read_and_the_line_wins(made, tmp_path):
    (tmp_path / "base.toml").write_text('seed = 1\noutput_name = "a"\ntrain_data_dir = "p"\n')
    found = made("python sdxl_train_network.py --config_file base.toml --seed=2", "run.bat")
    assert found.tables["train"]["seed"] == 2
    assert found.tables["save"]["output_name"] == "a"


def test_a_value_that_no_job_takes_is_noted_and_left_out(made):
    found = made('optimizer_type = "AdamW"\nlr_scheduler = "wobbly"\ntrain_data_dir = "p"\nseed = 3\n')
    Job.model_validate(found.tables)
    assert "lr_scheduler" not in found.tables["optimizer"]
    assert any("lr_scheduler" in note and "wobbly" in note for note in found.notes)
    assert found.tables["train"]["seed"] == 3


def test_a_dataset_config_is_named_as_it_is(made):
    found = made('dataset_config = "dataset.toml"\nseed = 3\n')
    assert found.tables["dataset_config"] == "dataset.toml"
    assert "datasets" not in found.tables
    assert "caption_extension" not in found.tables.get("general", {}), "the dataset file says it"


@pytest.mark.parametrize(("name", "text"), [("a.toml", "= no"), ("a.txt", "nothing at all"), ("a.sh", "x --a 'b")])
def test_what_is_neither_is_refused(made, name, text):
    with pytest.raises(UserError):
        made(text, name)
