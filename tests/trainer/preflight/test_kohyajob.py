from trainer.job import config
from trainer.preflight import newjob, preflight


def test_a_kohya_config_becomes_a_job_that_passes_the_check(tmp_path, pictures_in, light_base, monkeypatch, capsys):
    pictures_in(tmp_path / "pictures" / "10_sks dog", 2)
    (tmp_path / "mine.toml").write_text(
        f'pretrained_model_name_or_path = "{light_base.as_posix()}"\ntrain_data_dir = "pictures"\nnetwork_dim = 8\n'
        'resolution = "16,16"\nmax_train_steps = 20\noutput_name = "dog"\ncache_latents = true\nmin_snr_gamma = 5.0\n'
    )
    monkeypatch.chdir(tmp_path)
    assert newjob.main(["--from-kohya", "mine.toml"]) == 0
    ready = preflight.check(config.load(tmp_path / "job.toml"))
    assert ready.steps == 20
    assert ready.epoch_length == 20
    assert ready.job.loss.min_snr_gamma == 5
    text = (tmp_path / "job.toml").read_text()
    assert "# A LoRA of rank 8 on SDXL's attention has as many numbers as 20736\n# coefficients a layer" in text
    assert "coefficients = 2592" in text
    assert "network_dim = 8: WaveFT has coefficients instead." in text
    assert "to mend" not in capsys.readouterr().out


def test_what_another_machine_had_is_said_and_the_job_is_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "run.sh").write_text("python sdxl_train_network.py --train_data_dir=/elsewhere --seed=3\n")
    monkeypatch.chdir(tmp_path)
    assert newjob.main(["--from-kohya", "run.sh", "--output", "new.toml"]) == 0
    said = capsys.readouterr().out
    assert "to mend     " in said and "image_dir" in said and "pretrained_model_name_or_path" in said
    assert "seed = 3" in (tmp_path / "new.toml").read_text()
