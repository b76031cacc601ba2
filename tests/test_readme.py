import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
SKIPPED = {".venv", ".git", "node_modules", ".pytest_cache", "runs", "output", "build"}
PAGES = sorted(page for page in ROOT.rglob("*.md") if not SKIPPED & set(page.relative_to(ROOT).parts))


def section(text: str, heading: str) -> str:
    """The text below `## heading` up to the next heading of its rank; headings inside fences are not headings."""
    parts: list[str] = []
    inside = fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if not fenced and re.match(r"##? ", line):
            inside = line.strip() == f"## {heading}"
        elif inside:
            parts.append(line)
    return "\n".join(parts)


def blocks_of(language: str, text: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    fences = re.findall(r"^```([^\n]*)\n(.*?)^```[ ]*$", text + "\n", re.MULTILINE | re.DOTALL)
    return [body for named, body in fences if named.strip() == language]


def command(text: str, heading: str) -> str:
    """The one command line of the one fenced `sh` block below `## heading`."""
    blocks = blocks_of("sh", section(text, heading))
    assert len(blocks) == 1, f"## {heading}: expected one fenced sh block, got {len(blocks)}"
    lines = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(lines) == 1, f"## {heading}: expected one command line, got {lines}"
    assert not lines[0].lstrip().startswith(("#", "$")), f"## {heading}: expected a command, got {lines[0]}"
    return lines[0]


def missing_links(text: str, folder: Path) -> list[str]:
    """Relative links and pictures of a page that lead nowhere."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "", text)
    links = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"""(?:src|href|srcset)=["']([^"'\s]+)""", text)
    here = [link.partition("#")[0] for link in links if not re.match(r"[a-z][a-z+.-]*:|#|//", link)]
    return [link for link in here if link and not (folder / unquote(link)).exists()]


def test_the_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_a_picture_stands_on_top():
    head = "\n".join(README.read_text(encoding="utf-8").splitlines()[:15])
    assert re.search(r"!\[[^\]]+\]\(|<img ", head)


@pytest.mark.parametrize("heading", ["Quick start", "Tests"])
def test_there_is_one_command_and_what_it_names_exists(heading):
    line = command(README.read_text(encoding="utf-8"), heading)
    words = shlex.split(line)
    assert "start.py" in words
    named = [word for word in words if word.endswith((".py", ".toml"))]
    assert [word for word in named if not (ROOT / word).is_file()] == []


@pytest.mark.skipif(os.name == "nt", reason="a bash script")
def test_the_ci_runs_the_readmes_own_test_command():
    said = subprocess.run(["bash", ROOT / ".ci" / "run", "--print"], capture_output=True, text=True, check=True).stdout
    assert said.strip() == command(README.read_text(encoding="utf-8"), "Tests")


def test_the_python_example_trains_saves_merges_and_leaves_the_base_as_it_was(tmp_path, monkeypatch):
    import torch

    from waveft_core import load

    (example,) = blocks_of("python", README.read_text(encoding="utf-8"))
    torch.manual_seed(0)
    unet = attention_layers()
    x = torch.randn(3, WIDTH)
    weights, output = {key: value.clone() for key, value in unet.state_dict().items()}, unet(x)
    monkeypatch.chdir(tmp_path)
    names = {"unet": unet, "loss_of": lambda model: model(x).square().mean()}
    exec(compile(example, str(README), "exec"), names)

    adapter = load("dog.safetensors")
    assert len(adapter.layers) == len(names["merged"].layers) == 2 * 4
    assert all(bool(layer.values.any()) for layer in adapter.layers.values()), "the step trained every layer"
    assert torch.equal(unet(x), output), "the base again"
    assert {key for key, value in unet.state_dict().items() if not torch.equal(value, weights[key])} == set()

    p = {len(layer.values) for layer in adapter.layers.values()}
    layers, values = re.search(r"# (\d+) layers of SDXL: ([\d,]+) fp32 values", example).groups()
    assert {int(layers) * count for count in p} == {int(values.replace(",", ""))}


WIDTH = 64  # 64 x 64 coefficients, more than the example trains


def attention_layers():
    """A model with the two attentions of one of SDXL's transformer blocks, named as diffusers names them."""
    import torch

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.to_q, self.to_k, self.to_v = (torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
            self.to_out = torch.nn.ModuleList([torch.nn.Linear(WIDTH, WIDTH), torch.nn.Dropout(0.0)])

        def forward(self, x):
            return x + self.to_out[0](self.to_q(x) * self.to_k(x) + self.to_v(x))

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn1, self.attn2 = Attention(), Attention()
            self.proj_out = torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.proj_out(self.attn2(self.attn1(x)))

    return Block()


@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
def test_every_job_that_a_page_shows_is_a_job(page):
    from trainer.job.schema import Job

    jobs = [job for job in blocks_of("toml", (ROOT / page).read_text(encoding="utf-8")) if "[model]" in job]
    assert jobs
    for job in jobs:
        Job.model_validate(tomllib.loads(job))


def test_the_readmes_own_job_passes_the_check_of_a_new_one(tmp_path):
    """With the nano base in the place of one that is not here."""
    from trainer.preflight import newjob

    (job,) = blocks_of("toml", section(README.read_text(encoding="utf-8"), "Your own photos"))
    shutil.copytree(ROOT / "jobs" / "robot", tmp_path / "photos")
    base = (ROOT / "models" / "nano-sdxl").as_posix()
    text, count = re.subn(r'(pretrained_model_name_or_path = )"[^"]+"', rf'\1"{base}"', job)
    assert count == 1
    newjob.check(text, tmp_path)
    with pytest.raises(ValueError, match="image_dir"):
        newjob.check(text.replace('"photos"', '"none"'), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_relative_link_leads_somewhere(page):
    assert missing_links(page.read_text(encoding="utf-8"), page.parent) == []


GOOD = (
    "# A\n## Tests\nSay\n```sh\npython3 start.py test\n```\n"
    "or\n```text\n# not this\n## nor this\n```\n## Next\n```sh\nls\n```\n"
)


def test_the_command_is_read_from_its_own_section():
    assert command(GOOD, "Tests") == "python3 start.py test"


@pytest.mark.parametrize(
    "bad",
    [
        GOOD.replace("## Tests", "## Other"),
        GOOD.replace("```text", "```sh"),
        GOOD.replace("start.py test\n", "start.py test\nls\n"),
        GOOD.replace("python3 start.py test", "# python3 start.py test"),
    ],
)
def test_a_section_without_exactly_one_command_is_refused(bad):
    with pytest.raises(AssertionError):
        command(bad, "Tests")


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "a b.md").write_text("")
    text = (
        "[one](a%20b.md#part) ![two](gone.png 'title') <img src='lost.svg'> [far](https://x.y/z) [here](#part)\n"
        "`[code](no.md)`\n```\n[fenced](no.md)\n```\n"
    )
    assert missing_links(text, tmp_path) == ["gone.png", "lost.svg"]
