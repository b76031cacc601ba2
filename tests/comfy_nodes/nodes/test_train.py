"""WaveFT Train on stand-ins for ComfyUI: with a quick trainer that fails as it is told, and the real one."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from trainer.preflight import preflight
from waveft_core import load, save

REPOSITORY = Path(__file__).resolve().parents[3]
WIDGETS = {
    "checkpoint_name": "diffusers/nano",
    "image_folder": "robot",
    "trigger": "sks robot",
    "steps": 4,
    "name": "robot",
    "resolution_px": 64,
    "coefficients": 64,
    "learning_rate": 1e-3,
    "scaling": 25.0,
    "batch_size": 1,
    "seed": 42,
    "sample_prompt": "",
    "python": "",
    "resume": True,
}


# Writes what the real one writes and obeys Ctrl-C as it does. Its prompt tells it how to behave.
TRAINER = """
import json, shutil, sys, time, tomllib
from pathlib import Path

path = Path(sys.argv[sys.argv.index("--config") + 1])
job, folder, name = tomllib.loads(path.read_text()), path.parent, path.stem
prompts, steps = job.get("sample", {}).get("prompts", []), job["train"]["max_train_steps"]
mode = prompts[0] if prompts else ""
if mode == "refused":
    print("The job cannot be run, 1 fault:", file=sys.stderr)
    print("  robot.toml: [network] coefficients: expected less. Lower it, or set overwrite = true.", file=sys.stderr)
    sys.exit(2)
if mode == "other":
    print("The job cannot be run, 1 fault:\\n  [train] seed: expected 1 as in the saved run, got 2.", file=sys.stderr)
    sys.exit(2)
(folder / "arguments.json").write_text(json.dumps(sys.argv[1:]))
print("loading the base", flush=True)
if mode == "no base":
    sys.exit("no such base")
def wait_for(what):
    while mode == "watched" and not (folder.parents[3] / what).exists():
        time.sleep(0.01)
wait_for("loading the base")
while mode == "preparing":
    time.sleep(0.01)
states = sorted(folder.glob("*.state"))
step = int(states[-1].stem[-8:]) if states and "--resume" in sys.argv else 0
(folder / "samples").mkdir(exist_ok=True)
with (folder / f"{name}-metrics.jsonl").open("a" if step else "w", buffering=1) as log:
    try:
        while step < steps:
            step += 1
            log.write(json.dumps({"step": step, "loss": 1 / step, "seconds": step / 10}) + "\\n")
            if step == 2 and prompts:
                shutil.copy(folder.parents[3] / "sample.png", folder / "samples" / f"{name}-step00000002-01-seed42.png")
            if mode == "crashed" and step == 3:
                raise SystemExit("no memory left")
            if step == 8:
                wait_for("step 8 of 10")
            while mode == "waiting" and step == 3 and not states:
                time.sleep(0.01)
            time.sleep(0.05 if mode in ("slow", "deaf") else 0)
    except KeyboardInterrupt:
        while mode == "deaf":
            time.sleep(0.05)
        (folder / f"{name}-step{step:08d}.state").touch()
        sys.exit(130)
for number in range(1, len(prompts) + 1):
    shutil.copy(folder.parents[3] / "sample.png", folder / "samples" / f"{name}-after-{number:02d}-seed42.png")
shutil.copy(folder.parents[3] / "made.safetensors", folder / f"{name}.safetensors")
"""


class Interrupted(Exception):
    pass


class Comfy:
    """Stands in for ComfyUI's progress bar, Cancel button and memory."""

    def __init__(self):
        self.bar, self.previews, self.total, self.freed = [], [], 0, 0
        self.cancelled = False
        self.when = lambda: False  # the user cancels

    def processing_interrupted(self):
        return self.cancelled

    def throw_exception_if_processing_interrupted(self):
        if self.cancelled or self.when():
            self.cancelled = False
            raise Interrupted

    def unload_all_models(self):
        self.freed += 1

    def soft_empty_cache(self):
        pass

    def ProgressBar(self, total):
        self.total = total
        return self

    def update_absolute(self, value, preview=None):
        self.throw_exception_if_processing_interrupted()
        self.bar.append(value)
        if preview is not None:
            self.previews.append(preview)


@pytest.fixture
def fake(comfy, monkeypatch, models):
    """ComfyUI with the nano base in models/diffusers and the robot's pictures in its input folder."""
    made = Comfy()
    for name in ("utils", "model_management"):
        monkeypatch.setitem(sys.modules, f"comfy.{name}", made)
        monkeypatch.setattr(sys.modules["comfy"], name, made, raising=False)
    paths = sys.modules["folder_paths"]
    for name in ("checkpoints", "diffusers"):
        (models / name).mkdir(exist_ok=True)
    (models / "diffusers/nano").symlink_to(REPOSITORY / "models/nano-sdxl")
    shutil.copytree(
        REPOSITORY / "jobs/robot", models.parent / "input/robot", ignore=shutil.ignore_patterns("*.txt")
    )  # the trigger is the caption
    paths.folder_names_and_paths["checkpoints"] = ([str(models / "checkpoints")], {".safetensors", ".ckpt"})
    paths.get_folder_paths = lambda kind: [str(models / kind)]
    paths.get_input_directory = lambda: str(models.parent / "input")
    paths.__file__ = str(models.parent / "comfyui/folder_paths.py")
    monkeypatch.setenv("WAVEFT_PYTHON", sys.executable)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made.output = models.parent / "output/waveft/training"
    return made


@pytest.fixture
def train(comfy, fake, monkeypatch):
    """Returns a function that runs the node: train(widget=value); `train.shown` is what the node showed meanwhile."""
    comfy("folders").register()
    shown = []
    monkeypatch.setattr(comfy("messages"), "show", lambda _, text: shown.append(text))
    node = comfy("nodes.train").WaveFTTrain
    node.hidden = SimpleNamespace(unique_id="1")

    def run(**changed):
        return node.execute(**{**WIDGETS, **changed})

    run.shown = shown
    return run


@pytest.fixture
def clone(comfy, fake, monkeypatch, small):
    """A clone whose trainer is `TRAINER`: what it makes is `small`."""
    folder = fake.output.parents[2]
    for name in ("trainer", "comfy_nodes/training"):
        (folder / "clone" / name).mkdir(parents=True)
    (folder / "clone/trainer/__main__.py").write_text(TRAINER)
    shutil.copy(REPOSITORY / "comfy_nodes/training/child.py", folder / "clone/comfy_nodes/training")
    save(small, folder / "made.safetensors")
    Image.new("RGB", (64, 48), "#336699").save(folder / "sample.png")
    run = comfy("training.run")
    monkeypatch.setattr(run, "CHILD", folder / "clone/comfy_nodes/training/child.py")
    monkeypatch.setattr(run, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(comfy("training.python"), "check", lambda python: None)
    return folder / "clone"


def arguments(fake, name="robot"):
    return json.loads((fake.output / name / "arguments.json").read_text())


def cancel_after(fake, steps):
    log = fake.output / "robot/robot-metrics.jsonl"
    fake.when = lambda: log.exists() and log.read_bytes().count(b"\n") >= steps


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def waited(there, limit_s=1200):
    until = time.monotonic() + limit_s
    while not there():
        assert time.monotonic() < until
        time.sleep(0.05)


class TestAQuickTrainer:
    """The node around the trainer."""

    @pytest.fixture(autouse=True)
    def stage(self, clone):
        pass

    def test_the_adapter_comes_back_with_its_report_and_samples(self, train, fake, small, comfy):
        carried, report, samples = train(sample_prompt="quick", steps=50)
        assert set(carried.adapter.layers) == set(small.layers)
        assert (carried.title, carried.origin["trained"]["steps"]) == ("robot.safetensors", 50)
        assert samples.shape == (1, 48, 64, 3)
        first, second, *_, last = report.splitlines()  # a node shows two lines
        assert first == "adapter: waveft/training/robot/robot.safetensors"
        assert second.startswith("50 steps in 0:0")
        assert last == f"by Python {sys.executable} (of WAVEFT_PYTHON)"
        assert "loss 0.1799 in the first 20 steps, 0.0252 in the last" in report
        assert "training/robot/robot.safetensors" in comfy("folders").choices()
        assert (fake.total, fake.freed) == (50, 1)
        assert comfy("adapters.recipe").lines(carried.origin)[0].startswith("trained: steps 50")

    def test_step_loss_and_samples_are_shown_meanwhile(self, train, fake, comfy, monkeypatch):
        def show(_, text):  # the trainer waits until it has been seen, however slow that is
            train.shown.append(text)
            for what in ("loading the base", "step 8/10"):
                if what in text:
                    (fake.output.parents[2] / what.replace("/", " of ")).touch()

        monkeypatch.setattr(comfy("messages"), "show", show)
        train(sample_prompt="watched", steps=10)
        assert "preparing: loading the base" in train.shown
        assert any("step 8/10, loss 0.33" in text and "0.1 s a step, 0:00 left" in text for text in train.shown)
        assert fake.bar == sorted(fake.bar)
        assert fake.previews[0][0] == "JPEG"
        assert fake.previews[0][1].size == (64, 48)

    def test_cancelling_saves_and_the_next_run_goes_on(self, train, fake):
        cancel_after(fake, 3)
        with pytest.raises(Interrupted):
            train(sample_prompt="waiting", steps=40)
        (state,) = (fake.output / "robot").glob("*.state")
        step = int(state.stem[-8:])
        assert train.shown[-2].startswith("stopping")
        assert train.shown[-1] == f"stopped after step {step}, state saved; run it again with `resume` on to go on"
        fake.when = lambda: False
        report = train(sample_prompt="waiting", steps=40)[1]
        assert "(went on with an earlier run)" in report
        assert arguments(fake)[-2:] == ["--resume", "latest"]
        rows = (fake.output / "robot/robot-metrics.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == list(range(1, 41))
        assert step == 3

    def test_one_that_does_not_end_is_killed(self, train, fake, comfy, monkeypatch):
        monkeypatch.setattr(comfy("training.run"), "STOP_WITHIN_S", 0.3)
        cancel_after(fake, 2)
        with pytest.raises(Interrupted):
            train(sample_prompt="deaf", steps=1000)
        assert not list((fake.output / "robot").glob("*.state"))
        assert train.shown[-1] == "stopped; no step was saved"
        (fake.output / "robot/robot-step00000001.state").touch()
        with pytest.raises(Interrupted):
            train(sample_prompt="deaf", steps=1000)
        assert train.shown[-1] == "stopped; nothing was added to the state of step 1, which was there"

    def test_cancelling_twice_does_not_wait(self, train, fake, comfy, monkeypatch):
        cancel_after(fake, 2)
        monkeypatch.setattr(comfy("messages"), "show", lambda _, text: vars(fake).update(cancelled="stopping" in text))
        patient_s = 3600
        monkeypatch.setattr(comfy("training.run"), "STOP_WITHIN_S", patient_s)
        began = time.monotonic()
        with pytest.raises(Interrupted):
            train(sample_prompt="deaf", steps=1000)
        assert time.monotonic() - began < patient_s

    def test_a_finished_run_of_the_same_settings_is_loaded(self, train, fake, models):
        first = train(sample_prompt="quick")
        (fake.output / "robot/arguments.json").unlink()
        again = train(sample_prompt="quick")
        assert again[1].splitlines()[1].startswith("nothing was trained: it was there")
        assert again[0].origin == first[0].origin
        assert torch.equal(again[2], first[2])
        assert (fake.freed, (fake.output / "robot/arguments.json").exists()) == (1, False)

        (models.parent / "input/robot/00.txt").write_text("a caption")
        for changed in ({}, {"steps": 5}):
            train(sample_prompt="quick", **changed)
            assert arguments(fake)[-2:] == ["--resume", "latest"]
            (fake.output / "robot/arguments.json").unlink()
        train(sample_prompt="quick", steps=5, resume=False)
        assert arguments(fake)[-2:] == ["--set", "save.overwrite=true"]

    def test_only_samples_of_its_own_prompts_come_out(self, train, fake):
        assert len(train(sample_prompt="quick\nanother")[2]) == 2
        again = train(sample_prompt="another")
        assert (fake.output / "robot/samples/robot-after-02-seed42.png").exists(), "the earlier prompt's"
        assert (len(again[2]), "4 steps" in again[1]) == (1, True)
        loaded = train(sample_prompt="another")
        assert (len(loaded[2]), "nothing was trained" in loaded[1]) == (1, True)
        assert "samples: none, as there is no sample_prompt" in train()[1]

    def test_samples_that_another_run_drew_over_are_not_taken(self, train, fake):
        train(sample_prompt="quick")
        (sample,) = (fake.output / "robot/samples").glob("*-after-*")
        os.utime(sample, (1, 1))
        assert "4 steps in" in train(sample_prompt="quick")[1]
        sample.unlink()
        (fake.output / "robot/samples/robot-step00000002-01-seed42.png").unlink()
        loaded = train(sample_prompt="quick")[1]
        assert "nothing was trained" in loaded and "samples: none are there" in loaded

    def test_an_adapter_that_someone_changed_is_not_taken_for_the_runs(self, train, fake, make_adapter):
        train(sample_prompt="quick")
        save(make_adapter({"lora_unet_x": (8, 8)}), fake.output / "robot/robot.safetensors")
        assert "4 steps in" in train(sample_prompt="quick")[1]

    def test_a_refusal_is_told_in_the_widgets_names(self, train, comfy):
        with pytest.raises(comfy("core").WaveFTError) as caught:
            train(sample_prompt="refused")
        assert str(caught.value).endswith(
            ": expected settings and files that can be trained, got:\n  robot.toml: coefficients: expected less. "
            "Lower it, or turn `resume` off to begin anew."
        )

    def test_a_refusal_changes_nothing(self, train, fake, comfy):
        for mode in ("refused", "other"):
            with pytest.raises(comfy("core").WaveFTError):
                train(sample_prompt=mode)
            assert not fake.output.exists()
        train(sample_prompt="quick")
        before = contents(fake.output)
        with pytest.raises(comfy("core").WaveFTError):
            train(sample_prompt="refused", trigger="another")
        assert contents(fake.output) == before
        assert "nothing was trained" in train(sample_prompt="quick")[1]

    def test_nor_does_cancelling_before_the_first_step(self, train, fake):
        train(sample_prompt="quick")
        job, log = (fake.output / "robot" / name for name in ("robot.toml", "robot-console.txt"))
        before = job.read_bytes(), log.read_bytes()
        fake.when = lambda: log.read_bytes() != before[1]
        with pytest.raises(Interrupted):
            train(sample_prompt="preparing")
        assert (job.read_bytes(), log.read_bytes()) == before

    def test_what_broke_down_before_it_leaves_its_words_alone(self, train, fake, comfy):
        train(sample_prompt="quick")
        job, log = (fake.output / "robot" / name for name in ("robot.toml", "robot-console.txt"))
        before = job.read_bytes()
        with pytest.raises(comfy("core").WaveFTError, match="no such base"):
            train(sample_prompt="no base")
        assert job.read_bytes() == before
        assert "no such base" in log.read_text()

    def test_another_training_of_the_name_is_told_how_to_begin_anew(self, train, comfy):
        with pytest.raises(comfy("core").WaveFTError, match=r"seed: expected 1 as in the saved run.*\n.*`resume` off"):
            train(sample_prompt="other")

    def test_a_failure_is_told_with_what_to_do(self, train, fake, comfy):
        with pytest.raises(comfy("core").WaveFTError, match=r"got status 1.*\n.*\nno memory left$"):
            train(sample_prompt="crashed")
        (fake.output / "robot/robot-step00000002.state").touch()
        with pytest.raises(comfy("core").WaveFTError, match="run it again with `resume` on"):
            train(sample_prompt="crashed")

    @pytest.mark.skipif(os.name == "nt", reason="signals are POSIX's")
    def test_when_comfyui_dies_the_state_is_saved(self, fake, clone, job):
        """Also where SIGINT is ignored, as in a shell's background."""
        run = job(sample_prompt="slow", steps=10000)
        command = [sys.executable, str(clone / "comfy_nodes/training/child.py"), "--config", str(run.job)]
        code = "import signal, subprocess, time; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        code += f"subprocess.Popen({command!r}, stdin=subprocess.PIPE, start_new_session=True); time.sleep(3600)"
        with subprocess.Popen([sys.executable, "-c", code]) as parent:
            waited(lambda: run.metrics.exists() and run.metrics.stat().st_size)
            parent.send_signal(signal.SIGKILL)
        waited(run.states)


class TestTheRealTrainer:
    def test_it_trains_the_nano_base(self, train, fake, comfy, models):
        carried, report, samples = train(steps=2)
        made = load(fake.output / "robot/robot.safetensors")
        assert len(carried.adapter.layers) == len(made.layers) == 88
        assert any(layer.values.any() for layer in made.layers.values())
        assert made.metadata["modelspec.trigger_phrase"] == "sks robot"
        assert "88 layers, 5,632 coefficients" in report and "samples: none" in report
        assert samples.shape == (1, 64, 64, 3)
        assert fake.bar[-1] == 2
        card = (fake.output / "robot/robot-README.md").read_text()
        assert "alone" in card and "ComfyUI" not in card

        before = contents(fake.output)
        Image.new("RGB", (64, 64)).save(models.parent / "input/robot/99.png")
        with pytest.raises(comfy("core").WaveFTError) as caught:
            train(steps=2, trigger="another")
        assert (
            "as in the saved run, got 1 more (99.png), other captions (of `trigger`, or in text files) of 6 (00.png, "
            "01.png, 02.png, ...). Set it back, or begin a new run under another name."
        ) in str(caught.value)
        assert contents(fake.output) == before

    @pytest.mark.slow
    def test_one_that_was_cancelled_ends_as_if_it_had_not_been(self, train, fake):
        settings = {"steps": 16, "sample_prompt": "{trigger}\na red circle"}
        whole, _, samples = train(**settings, name="whole")
        assert samples.shape == (2, 64, 64, 3)
        assert len(fake.previews) >= 3
        cancel_after(fake, 3)
        with pytest.raises(Interrupted):
            train(**settings)
        fake.when = lambda: False
        again, report, _ = train(**settings)
        assert "went on with an earlier run" in report
        for name, layer in whole.adapter.layers.items():
            assert torch.equal(again.adapter.layers[name].values, layer.values)

    def test_its_refusal_is_shown(self, train, comfy, fake):
        with pytest.raises(
            comfy("core").WaveFTError, match=r"got:\n  resolution_px: expected a multiple of 16 px, got 65. Write 64."
        ):
            train(resolution_px=65)
        assert not fake.output.exists()


@pytest.fixture
def job(comfy, fake):
    """Returns a function that writes a job: job(widget=value) gives the run's files."""
    module, place = comfy("training.job"), comfy("training.paths").run("robot")
    wanted = {name: value for name, value in WIDGETS.items() if name not in ("python", "resume")}

    def make(**changed):
        module.write(place, module.text(module.Wanted(**{**wanted, **changed})))
        return place

    return make


class TestTheJob:
    def test_it_says_what_the_widgets_say(self, job, fake, models):
        made = preflight.read(job(seed=7, batch_size=3, sample_prompt=" a {trigger}\n\nb ", scaling=20).job)
        assert made.model.pretrained_model_name_or_path == str(models / "diffusers/nano")
        assert made.model.tokenizer == ""
        assert (made.network.coefficients, made.network.scaling) == (64, 20.0)
        assert (made.train.max_train_steps, made.train.seed, made.optimizer.learning_rate) == (4, 7, 1e-3)
        assert (Path(made.save.output_dir), made.save.output_name) == (fake.output / "robot", "robot")
        assert [one.prompt for one in made.sample.prompts] == ["a {trigger}", "b"]
        assert made.sample.sample_every_n_steps == 1
        assert (made.general.resolution, made.general.batch_size) == (64, 3)
        (subset,) = made.subsets()
        assert (subset.image_dir, subset.class_tokens) == (str(models.parent / "input/robot"), "{trigger}")
        assert made.metadata.trigger_phrase == "sks robot"

    def test_what_is_left_open_is_the_papers(self, job):
        made = preflight.read(job(trigger="").job)
        assert made.subsets()[0].class_tokens is None
        assert (made.train.gradient_accumulation_steps, made.network.wavelet) == (4, "db1")
        assert made.optimizer.optimizer_type == "AdamW"

    @pytest.mark.parametrize("text", ['a "dog"\\ #', "smile \U0001f600 é", "tab\there", "{trigger", "'''"])
    def test_any_text_is_kept(self, job, text):
        assert preflight.read(job(trigger=text).job).metadata.trigger_phrase == text

    @pytest.mark.parametrize("widget", ["trigger", "sample_prompt"])
    def test_half_of_a_surrogate_pair_is_refused(self, job, comfy, widget):
        with pytest.raises(comfy("core").WaveFTError, match=rf"^{widget}: expected letters that UTF-8 .* as letter 5"):
            job(**{widget: "dog \ud83d"})

    def test_a_single_file_is_given_comfyuis_vocabulary(self, comfy, fake, models):
        root = Path(sys.modules["folder_paths"].__file__).parent
        (root / "comfy/sd1_tokenizer").mkdir(parents=True)
        places = comfy("training.paths")
        assert places.vocabulary(models / "checkpoints/a.safetensors") == root
        assert places.vocabulary(models / "diffusers/nano") is None
        (models / "checkpoints/tokenizer").mkdir()
        assert places.vocabulary(models / "checkpoints/a.safetensors") is None


class TestBeforeItRuns:
    @pytest.fixture
    def valid(self, train, comfy):
        return comfy("nodes.train").WaveFTTrain.validate_inputs

    def test_bases_are_single_files_and_diffusers_folders(self, comfy, fake, models):
        (models / "checkpoints/xl").mkdir()
        for name in ("xl/a.safetensors", "b.safetensors", "c.ckpt"):
            (models / "checkpoints" / name).touch()
        places = comfy("training.paths")
        assert places.bases() == ["b.safetensors", "xl/a.safetensors", "diffusers/nano"]
        assert places.base("xl/a.safetensors") == models / "checkpoints/xl/a.safetensors"
        assert places.base("diffusers/nano") == models / "diffusers/nano"
        with pytest.raises(comfy("core").WaveFTError, match="models/diffusers, got nothing"):
            places.base("diffusers/other")

    @pytest.mark.parametrize("leads", ["diffusers/../../elsewhere", "diffusers/{elsewhere}", "diffusers//{elsewhere}"])
    def test_a_base_outside_comfyuis_folders_is_refused(self, comfy, fake, models, tmp_path, leads):
        # ComfyUI holds a widget to its list, and cannot where the input is linked
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "model_index.json").write_text("{}")
        with pytest.raises(comfy("core").WaveFTError, match="models/diffusers, got nothing of that name"):
            comfy("training.paths").base(leads.format(elsewhere=elsewhere))

    def test_a_folder_that_is_a_link_is_the_users_own(self, comfy, fake, models, tmp_path):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "model_index.json").write_text("{}")
        (models / "diffusers/linked").symlink_to(elsewhere)
        assert comfy("training.paths").base("diffusers/linked") == models / "diffusers/linked"

    @pytest.mark.parametrize("name", ["", "a b", "../a", "-a", "a/b", "dog-step00000100", "a" * 101, "ä"])
    def test_a_name_that_is_none_is_refused(self, train, comfy, fake, name):
        with pytest.raises(comfy("core").WaveFTError, match=r"letters \(a to z\), digits"):
            train(name=name)
        assert not fake.output.exists()

    def test_a_folder_is_found_by_both_its_names(self, valid, models):
        assert valid(image_folder="robot") is True
        assert valid(image_folder=str(models.parent / "input/robot")) is True
        assert "got nothing at" in valid(image_folder="cat")
        assert "got no name" in valid(image_folder=" ")

    def test_what_is_linked_is_not_looked_at(self, valid):
        assert valid() is True

    def test_one_mistake_is_told_once(self, valid):
        """ComfyUI repeats it for every input that the method names."""
        assert list(inspect.signature(valid).parameters) == ["image_folder"]

    def test_a_workflow_cannot_name_a_program(self, train, comfy, fake, monkeypatch, tmp_path):
        choose = comfy("training.python").choose
        assert choose(sys.executable).path == sys.executable
        for path in ("/bin/sh", str(tmp_path / "python"), "python"):
            with pytest.raises(comfy("core").WaveFTError, match="must not start programs of its choice"):
                train(python=path)
        assert not fake.output.exists()
        monkeypatch.setenv("WAVEFT_PYTHON", os.pathsep.join((sys.executable, str(tmp_path / "python"))))
        assert choose(str(tmp_path / "python")).path == str(tmp_path / "python")

    def test_a_changed_picture_or_caption_is_another_training(self, train, comfy, models):
        node = comfy("nodes.train").WaveFTTrain
        seen = [node.fingerprint_inputs(**WIDGETS)]
        for change in ("00.txt", "01.png", "3_sks dog/02.png"):
            path = models.parent / "input/robot" / change
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"new")
            seen.append(node.fingerprint_inputs(**WIDGETS))
        assert len(set(seen)) == 4
        assert seen[-1] == node.fingerprint_inputs(**WIDGETS)
        assert node.fingerprint_inputs(checkpoint_name="diffusers/nano") != node.fingerprint_inputs()
