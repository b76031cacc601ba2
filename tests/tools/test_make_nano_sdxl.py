"""The recipe of the nano base, at sizes that take seconds: what each stage promises the next one."""

import random

import pytest
import torch

from tools import draw_mushroom
from tools.nano import grid, judge, likeness, obedience, precision, text, unet, vae
from tools.nano.optimizer import Optimizer
from tools.nano.state import cosine
from tools.nano_pictures import SIZE_PX, draw, random_picture, vocabulary

NAMES = ("text_encoder", "text_encoder_2")


def drawn(count):
    rngs = [random.Random(f"test {index}") for index in range(count)]
    return vae.to_pixels([draw(random_picture(rng), rng) for rng in rngs])


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    return text.make_tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="module")
def go_on(tokenizers):
    """The function that trains new networks in a folder, from the state there on, for those rounds."""
    pool = {"latents": torch.randn(6, 4, 16, 16).half(), "captions": [["a red circle"] * 4] * 6}
    train = unet.train_unet
    return lambda folder, *rounds: train(folder, pool, tokenizers, unet.untrained(tokenizers[0]), rounds, 2)


@pytest.fixture(scope="module")
def trained(go_on, tmp_path_factory):
    """One round, then another: the averages after each, and the step that was saved."""
    folder = tmp_path_factory.mktemp("rounds")
    # the first step moves the zeros that hide the rest
    averages = [go_on(folder, (2, 1e-3)), go_on(folder, (2, 1e-3), (2, 1e-3))]
    return *averages, torch.load(folder / "unet.pt")["step"]


class TestAutoencoder:
    def test_before_training_it_is_nearly_the_means_of_four_by_four_pixels(self):
        torch.manual_seed(0)
        untrained, clean = vae.make_vae().eval(), vae.normalised(drawn(8))
        with torch.no_grad():
            decoded = untrained.decode(untrained.encode(clean).latent_dist.mean).sample
        means = torch.nn.functional.avg_pool2d(clean, 4)
        found = torch.nn.functional.avg_pool2d(decoded, 4)
        assert (found - means).abs().mean() < 0.15  # of a range of two; random weights are 0.5 off
        assert torch.corrcoef(torch.stack([found.flatten(), means.flatten()]))[0, 1] > 0.95

    def test_folding_gives_unit_covariance_and_leaves_the_pictures(self):
        torch.manual_seed(0)
        untrained, pixels = vae.make_vae().eval().requires_grad_(False), drawn(16)
        folded = vae.folded(untrained, pixels)
        clean = vae.normalised(pixels)
        posterior = folded.encode(clean).latent_dist
        points = (folded.config["scaling_factor"] * posterior.mean).permute(1, 0, 2, 3).flatten(1)
        assert torch.allclose(torch.cov(points), torch.eye(4), atol=1e-3)
        assert points.mean(dim=1).abs().max() < 1e-3
        spread = folded.config["scaling_factor"] * posterior.std
        assert torch.allclose(spread, torch.full_like(spread, vae.SPREAD), rtol=1e-3)
        before = untrained.decode(untrained.encode(clean).latent_dist.mean).sample
        assert (folded.decode(posterior.mean).sample - before).abs().max() < 1e-3

    def test_it_goes_on_where_it_stopped(self, tmp_path):
        pixels = drawn(8)
        once, twice = tmp_path / "once", tmp_path / "twice"
        once.mkdir()
        twice.mkdir()
        through = vae.train_vae(once, pixels, 2, batch=2)
        with pytest.MonkeyPatch.context() as patch:  # as if stopped: the rate's course is of two steps
            patch.setattr(vae, "cosine", lambda step, steps, warmup: cosine(step, 2, warmup))
            vae.train_vae(twice, pixels, 1, batch=2)
            assert torch.load(twice / "vae.pt")["step"] == 1
            resumed = vae.train_vae(twice, pixels, 2, batch=2)
        for name, value in through.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), name


class TestWords:
    def test_every_word_of_the_captions_is_one_token_with_one_number_in_both(self, tokenizers):
        for word in vocabulary():
            assert [t.tokenize(word) for t in tokenizers] == [[f"{word}</w>"]] * 2
            ids = text.tokenise(tokenizers, [word])[0]
            assert torch.equal(ids[0, :3], ids[1, :3])

    def test_they_pad_as_sdxls_do(self, tokenizers):
        ids = text.tokenise(tokenizers, ["a red circle"])[0]
        assert set(ids[0, 5:].tolist()) == {tokenizers[0].eos_token_id}
        assert set(ids[1, 5:].tolist()) == {tokenizers[1].convert_tokens_to_ids("!")}

    def test_merges_do_not_depend_on_the_order_of_hashing(self):
        words = vocabulary()
        assert text.learn_merges(words) == text.learn_merges(list(words))
        assert text.learn_merges(["ab", "cb"]) == [("a", "b</w>"), ("c", "b</w>")]

    def test_strange_words_leave_the_caption_in_it(self):
        rng = random.Random(0)
        for _ in range(20):
            assert "a red circle" in text.with_strange_words("a red circle", rng)


class TestUNet:
    def test_its_attention_is_of_sdxls_pattern(self):
        made = unet.make_unet()
        linears = [
            name
            for name, module in made.named_modules()
            if isinstance(module, torch.nn.Linear) and (".attn1." in name or ".attn2." in name)
        ]
        assert len(linears) == 88
        assert not any(name.startswith(("down_blocks.0", "up_blocks.2")) for name in linears)

    def test_a_step_names_its_batch_and_timesteps_are_spread(self, tokenizers):
        latents = torch.randn(5, 4, 16, 16).half()
        ids = text.tokenise(tokenizers, ["a red circle"] * 20).view(5, 4, 2, 77)
        empty = text.tokenise(tokenizers, [""])[0]
        one, same, other = (unet.make_batch(latents, ids, empty, 20, step) for step in (3, 3, 4))
        assert torch.equal(one.noise, same.noise)
        assert not torch.equal(one.noise, other.noise)
        assert (one.timesteps.diff() > 0).all()  # one in each slice
        assert one.timesteps.max() >= 950
        assert (one.timesteps > 500).sum() > 10  # more of them at high noise

    def test_the_empty_text_and_zeros_stand_in_for_some_captions(self, tokenizers):
        ids = text.tokenise(tokenizers, ["a red circle"] * 4).view(1, 4, 2, 77)
        empty = text.tokenise(tokenizers, [""])[0]
        made = unet.make_batch(torch.zeros(1, 4, 16, 16).half(), ids, empty, 4000, 0)
        is_empty = (made.ids == empty).all(dim=(1, 2))
        assert 0.03 < made.dropped.float().mean() < 0.07
        assert 0.03 < is_empty.float().mean() < 0.07
        assert not (is_empty & made.dropped).any()

    def test_high_noise_weighs_more_than_low(self):
        alphas = unet.make_scheduler().alphas_cumprod
        weights = unet.loss_weight(alphas)
        assert weights[-1] == 20
        assert weights[0] < weights[300] < weights[-1]

    def test_training_moves_unet_and_both_encoders_and_goes_on_where_it_stopped(self, tokenizers, trained):
        made, (_, averages, step) = unet.untrained(tokenizers[0]), trained
        assert step == 4
        pairs = [(made["unet"].conv_in, averages["unet"].conv_in)]
        pairs += [(made[name].get_input_embeddings(), averages[name].get_input_embeddings()) for name in NAMES]
        for before, after in pairs:
            assert not torch.equal(before.weight, after.weight)

    def test_a_round_begins_from_the_averages_of_the_one_before(self, go_on, trained, tmp_path):
        first, second, _ = trained
        torch.save({"nets": first.state_dict(), "averages": first.state_dict(), "step": 2,
                    "optimizer": unet.make_optimizer(first).state_dict()}, tmp_path / "unet.pt")  # fmt: skip
        made = go_on(tmp_path, (2, 1e-3), (2, 1e-3))
        pairs = zip(made.state_dict().values(), second.state_dict().values(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    def test_each_round_has_a_rise_and_a_cosine(self):
        rounds = [(2000, 2.0), (1500, 1.0)]
        rates = [unet.rate_at(step, rounds) for step in range(3500)]
        assert max(rates[:2000]) == pytest.approx(2, rel=0.1)
        assert max(rates[2000:]) == pytest.approx(1, rel=0.1)
        assert rates[1999] < 0.05 > rates[2000]
        assert [rates.index(max(rates)), 2000 + rates[2000:].index(max(rates[2000:]))] == [199, 2199]
        with pytest.raises(ValueError, match="expected one of the 3500 steps"):
            unet.rate_at(3500, rounds)

    def test_it_begins_by_predicting_no_noise(self, tokenizers):
        torch.manual_seed(0)
        encoders, made = text.make_encoders(tokenizers[0]), unet.make_unet()
        ids = text.tokenise(tokenizers, ["a red circle"] * 4).view(1, 4, 2, 77)
        drawn = unet.make_batch(torch.randn(1, 4, 16, 16).half(), ids, ids[0, 0], 8, 0)
        alphas = unet.make_scheduler().alphas_cumprod
        loss = unet.batch_loss(made, encoders, alphas, drawn)
        expected = unet.loss_weight(alphas[drawn.timesteps]) * drawn.noise.square().mean(dim=(1, 2, 3))
        assert torch.allclose(loss, expected.mean(), rtol=1e-2)


@pytest.mark.parametrize("found", [{"amx_bf16": False, "avx512_bf16": True}, {"neon": True, "bf16": False}, {}])
def test_bf16_is_taken_where_the_cpu_computes_in_it(monkeypatch, found):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    with precision.autocast():
        made = torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2))
    assert made.dtype == (torch.bfloat16 if "avx512_bf16" in found else torch.float32)


class TestOptimizer:
    def test_it_moves_what_may_move_and_averages_it(self):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 4))
        model[0].bias.requires_grad_(False)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = Optimizer(model, 1e-2, 1e-2)
        model(torch.randn(2, 3, 3, 3)).square().sum().backward()
        optimizer.step(1.0, decay=0.5)
        after = {name: value.clone() for name, value in model.state_dict().items()}
        assert [name for name in before if torch.equal(before[name], after[name])] == ["0.bias"]
        optimizer.put_averages()
        for name, value in model.state_dict().items():
            assert torch.allclose(value, (before[name] + after[name]) / 2), name


class Oracle(torch.nn.Module):
    """Knows the truth, and takes every colour for the one of the picture before."""

    def __init__(self, truth):
        super().__init__()
        self.truth = truth

    def forward(self, pixels):
        logits = {
            name: torch.nn.functional.one_hot(index, len(obedience.ANSWERS[name])) for name, index in self.truth.items()
        }
        return {**logits, "color": logits["color"].roll(1, dims=0)}


class TestJudge:
    def test_truth_and_answers_go_by_the_same_names(self):
        pictures = list(grid.PROMPTS.values())
        truth = obedience.truth_of(pictures)
        for name, names in obedience.ANSWERS.items():
            assert [names[index] for index in truth[name]] == [getattr(picture, name) for picture in pictures]

    def test_all_is_right_only_where_everything_is(self):
        pictures = list(grid.PROMPTS.values())[:3]  # red, blue, yellow: each of another colour than the last
        truth = obedience.truth_of(pictures)
        found = judge.right(Oracle(truth), judge.Examples(drawn(3), truth))
        assert found["shape"].all()
        assert found["ground"].all()
        assert not found["color"].any()
        assert not found["all"].any()

    def test_it_learns_and_is_kept(self, tmp_path):
        answers = {"brightness": ("dark", "light")}
        pixels = torch.randint(0, 80, (64, 3, 64, 64), dtype=torch.uint8)
        truth = torch.arange(64) % 2
        pixels[truth == 1] += 150
        examples = judge.Examples(pixels, {"brightness": truth})
        made = judge.trained(answers, lambda: examples, tmp_path / "state.pt", steps=12, batch=16)
        assert judge.right(made, examples)["all"].float().mean() > 0.9
        again = judge.trained(answers, lambda: pytest.fail("it is kept"), tmp_path / "state.pt", steps=12)
        assert torch.equal(made.heads["brightness"].weight, again.heads["brightness"].weight)

    def test_the_mushrooms_parts_are_drawn_where_it_is_said_to_have_them(self):
        view = likeness.random_view(random.Random(0))
        whole = draw_mushroom.draw_view(view, 0)
        for part in draw_mushroom.PARTS:
            others = [each for each in draw_mushroom.PARTS if each != part]
            assert draw_mushroom.draw_view(view, 0, others).tobytes() != whole.tobytes()
        assert draw_mushroom.draw_view(view, 0, draw_mushroom.PARTS).tobytes() == whole.tobytes()

    def test_half_of_the_likeness_examples_are_the_mushroom(self):
        truth = likeness.examples(40, "test").truth
        assert truth["subject"].sum() == 20
        for part in draw_mushroom.PARTS:
            assert 0 < truth[part].sum() < 20
            assert not truth[part][truth["subject"] == 0].any()

    def test_prompts_say_what_their_picture_holds(self):
        for prompt, picture in grid.PROMPTS.items():
            for word in (picture.shape, picture.color, picture.ground, picture.size, picture.position):
                assert word in prompt
            assert picture.texture == "plain" or picture.texture in prompt

    def test_the_sheet_has_two_prompts_a_row(self):
        from PIL import Image

        rows = [[Image.new("RGB", (SIZE_PX, SIZE_PX), (shade, 0, 0))] * 3 for shade in (10, 20, 30)]
        made = grid.sheet(rows)
        assert made.size == (2 * 3 * SIZE_PX * 2, 2 * SIZE_PX * 2)
        assert made.getpixel((made.width - 1, 0)) == (20, 0, 0)
        assert made.getpixel((0, made.height - 1)) == (30, 0, 0)
