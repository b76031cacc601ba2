import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from trainer.base import precision
from trainer.job import networks, schema
from trainer.pictures import buckets, captions
from trainer.result import report, runfacts
from trainer.samples.prompts import Shot
from trainer.samples.sampling import Drawn

NASTY = "<script>alert(\"x\")</script> & 'y'"


def picture(path, colour, size, repeats=1, is_reg=False):
    Image.new("RGB", size, colour).save(path)
    said = captions.Caption((f"a {colour} thing",), captions.Rules())
    return SimpleNamespace(
        path=path, caption=said, geometry=buckets.fit(size, (24, 16) if size[0] > size[1] else (16, 16)),
        repeats=repeats, is_reg=is_reg, background="white", interpolation="auto", digest="",
    )  # fmt: skip


@pytest.fixture
def parts(tmp_path):
    table = {
        "model": {"pretrained_model_name_or_path": str(tmp_path / "secret" / "tiny-sdxl")},
        "metadata": {"trigger_phrase": NASTY, "metadata_title": "Robot <1>"},
        "datasets": [{"subsets": [{"image_dir": str(tmp_path)}]}],
    }
    ready = SimpleNamespace(
        job=schema.Job.model_validate(table),
        pictures=(
            picture(tmp_path / "a.png", "red", (24, 16), repeats=3),
            picture(tmp_path / "b.png", "blue", (20, 20)),
            picture(tmp_path / "c.png", "lime", (20, 20), is_reg=True),
        ),
        validation=(1, 2), resolution=(16, 16), steps=6, pictures_per_step=4, epoch_length=8,
    )  # fmt: skip

    class Tuning:
        numel = 1234

        def __len__(self):
            return 7

    place = precision.Precision(torch.device("cpu"), torch.float32)
    base = SimpleNamespace(unet=SimpleNamespace(config={}))
    return SimpleNamespace(
        ready=ready, forward=SimpleNamespace(place=place, base=base), tuning=Tuning(), notices=[NASTY]
    )


def drawn(colour, prompt="sks", size=(200, 100), seed=7):
    return Drawn(Shot(prompt, "blur", seed, *size, 2, 6.0, "euler_a"), Image.new("RGB", size, colour))


@pytest.fixture
def run(tmp_path):
    file = tmp_path / "waveft.safetensors"
    file.write_bytes(b"x" * 2000)
    return report.Run(
        losses=[0.5, 0.25, 0.125], rates=[1e-4] * 3, validation=[(0, 0.5), (2, 0.3), (3, 0.4)],
        samples={
            "before": [drawn("red")], "step00000002": [drawn("lime")], "after": [drawn("blue"), drawn("blue", NASTY)],
        },
        resumed_at=[1], files=[file, tmp_path / "gone"], warning=NASTY, seconds=61, peak_memory=3 * 2**29,
    )  # fmt: skip


class Page(HTMLParser):
    """Where a page's pictures and links lead, its tags, and its text."""

    def __init__(self, html):
        super().__init__()
        self.sources, self.tags, self.words, self.open = [], [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset", "data")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_and_needs_nothing_beside_it(parts, run, tmp_path):
    html = report.page(parts, run)
    page = Page(html)
    assert not page.open
    assert page.sources
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)'\"]*)", html))
    assert str(tmp_path) not in html
    assert "secret" not in html


def test_texts_are_escaped(parts, run):
    html = report.page(parts, run)
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &#x27;y&#x27;") >= 4
    assert "<title>Robot &lt;1&gt; - WaveFT</title>" in html


def test_the_runs_values_are_on_it(parts, run):
    text = " ".join("".join(Page(report.page(parts, run)).words).split())
    for told in (
        "tiny-sdxl, trained at 16 x 16 px",
        "2, an epoch sees 8",
        "class pictures1",
        "2 pictures never trained",
        "3 of 6, each of 4 pictures: 12 in all, 1.5 epochs",
        "after step 1",
        "1234 coefficients in 7 layers, db1, scaling 25",
        "0.1250 (mean of the last 1 step)",
        "0.4000 after step 3, 0.5000 after step 0, least 0.3000 after step 2",
        "1:01",
        "1.50 GiB",
        "“a red thing”; “a blue thing”",
        "16 x 16 px22",
        "24 x 16 px13",
        "waveft.safetensors2 kB",
        "learning_rate = 0.0001",
    ):
        assert told in text, told
    assert "“a lime thing”" not in text  # a class picture is not what is taught
    assert "gone" not in text


def test_samples_are_a_row_for_each_prompt_and_a_column_for_each_moment(parts, run):
    html = report.samples(run.samples)
    first, second = re.findall(r"<tr>(.*?)</tr>", html)
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in (first, second)]
    assert [len(row) for row in cells] == [3, 3]
    assert re.findall(r"<figcaption>(.*?)</figcaption>", first) == ["before", "step 2", "after"]
    assert [bool(cell) for cell in cells[1]] == [False, False, True]
    shown = [re.search(r"base64,([^\"]+)", cell)[1] for cell in cells[0]]
    colours = [Image.open(BytesIO(base64.b64decode(one))).getpixel((5, 5)) for one in shown]
    assert [max(range(3), key=colour.__getitem__) for colour in colours] == [0, 1, 2]  # red, green, blue
    assert "(seed 7, without “blur”)" in html


def test_small_pictures_are_kept_exact(parts):
    assert 'class="small"' in report.samples({"after": [drawn("red", size=(64, 64))]})
    assert 'class="small"' not in report.samples({"after": [drawn("red")]})


def test_a_run_of_nothing(parts):
    page = Page(report.page(parts, report.Run([])))
    assert "No step was done." in "".join(page.words)
    assert "Samples" not in page.words


def test_the_steps_of_earlier_processes_count(parts):
    run = report.Run([0.5], first_step=3)
    assert run.steps == 3
    assert runfacts.facts(parts, run)["steps"].startswith("3 of 6")


def test_an_adapter_that_goes_on_from_a_file(parts):
    network = networks.Waveft(network_weights="/secret/dog.safetensors")
    parts.ready.job = parts.ready.job.model_copy(update={"network": network})
    told = runfacts.facts(parts, report.Run([0.5]))["adapter"]
    assert told == "1234 coefficients in 7 layers, begun with those of dog.safetensors"


def test_validation_in_words():
    assert runfacts.validation_words([]) == ""
    assert runfacts.validation_words([(4, 0.25)]) == "0.2500 after step 4"
    assert runfacts.validation_words([(0, 0.5), (4, 0.25)]) == "0.2500 after step 4, 0.5000 after step 0"


def test_many_pictures_are_cut_short(parts, monkeypatch):
    monkeypatch.setattr(report, "MOST_THUMBNAILS", 1)
    html = report.thumbnails(parts.ready)
    assert html.count("<figure>") == 1
    assert "and 2 more" in html


def test_thumbnails_show_what_is_trained(parts):
    [source] = re.findall(r'src="data:image/png;base64,([^"]+)"', report.thumbnails(parts.ready))[:1]
    shown = Image.open(BytesIO(base64.b64decode(source)))
    assert shown.size == (24, 16)
    assert shown.getpixel((3, 3)) == (255, 0, 0)
    assert isinstance(parts.ready.pictures[0].path, Path)


def test_where_it_is_used_follows_the_base(parts):
    from trainer.result import kohyakeys

    assert "ComfyUI cannot use it" in report.use(parts)
    assert "tiny-sdxl alone" in report.use(parts)
    parts.forward.base.unet.config = kohyakeys.SDXL_UNET
    assert "models/loras" in report.use(parts)


def test_a_picture_that_was_replaced_costs_its_thumbnail_alone(parts, tmp_path):
    parts.ready.pictures[0].digest = "another"
    page = report.thumbnails(parts.ready)
    assert "a.png: no longer the file that was trained" in page
    assert page.count("<img") == 2
