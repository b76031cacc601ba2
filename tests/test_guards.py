"""One place for each thing that has gone wrong in many: who opens images and files, who prints, who counts."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from annotated_types import Le, Lt

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("trainer", "comfy_nodes", "waveft_core", "waveft_webui")

# Who opens an image, with why it may: each names the formats that are tried.
OPENS_IMAGES = {
    "trainer/pictures/formats.py": "of every folder, mask and sample",
    "comfy_nodes/training/train.py": "samples that the run has just drawn",
    "comfy_nodes/training/watch.py": "samples that the run has just drawn",
    "waveft_webui/describing.py": "the energy picture that the core has just drawn",
}
# Who of the trainer reads a file other than through `system.reading`, which opens plain files of a bounded size alone.
READS_FILES = {
    "trainer/system/reading.py": "the one place",
    "trainer/system/files.py": "locks, which it has made itself",
    "trainer/run/metrics.py": "the log, to append to",
    "trainer/system/console.py": "where a stream goes that nobody reads",
    "trainer/comparison/workers.py": "a worker's log, to write",
    "trainer/evaluation/embedding.py": "pictures by their own way of being opened, `formats`",
}
NOUNS = [
    "batches", "captions", "coefficients", "entries", "epochs", "faults", "files", "images",
    "layers", "masks", "pictures", "processes", "prompts", "samples", "steps",
    "tensors", "tokens", "views",
]  # fmt: skip


def modules(*packages: str) -> Iterator[tuple[str, ast.Module]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), parsed(path)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def calls(tree: ast.Module, name: str) -> list[ast.Call]:
    """The calls of a function by its whole dotted name, or of a method by ".name"."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    if name.startswith("."):
        return [node for node in found if isinstance(node.func, ast.Attribute) and node.func.attr == name[1:]]
    last = name.rpartition(".")[2]
    alike = [node for node in found if last in (getattr(node.func, "attr", ""), getattr(node.func, "id", ""))]
    return [node for node in alike if ast.unparse(node.func) == name]


def test_images_are_opened_where_it_is_known_with_formats_named():
    found = {path: made for path, tree in modules(*PRODUCT) if (made := calls(tree, "Image.open"))}
    assert found.keys() == OPENS_IMAGES.keys()
    bare = [
        path for path, made in found.items() for call in made if "formats" not in {key.arg for key in call.keywords}
    ]
    assert not bare, "Pillow would try every decoder that it has, Ghostscript among them"


def reading_calls(tree: ast.Module) -> list[int]:
    """The lines that read a file: the builtin `open`, `.open` of a path, `.read_text` and `.read_bytes`."""
    made = [*calls(tree, "open"), *calls(tree, "os.open"), *calls(tree, ".read_text"), *calls(tree, ".read_bytes")]
    made += [call for call in calls(tree, ".open") if ast.unparse(call.func) not in ("Image.open", "os.open")]
    return [call.lineno for call in made]


def test_files_are_read_in_one_place():
    found = {path for path, tree in modules("trainer") if reading_calls(tree)}
    assert found <= READS_FILES.keys()


def test_json_is_parsed_in_one_place():
    found = {path for path, tree in modules("trainer") for name in ("json.loads", "json.load") if calls(tree, name)}
    # the second one reads links of a card that is about to be uploaded, and catches what they raise
    assert found == {"trainer/system/reading.py", "trainer/result/publish.py"}


def test_the_console_alone_prints():
    found = {path for path, tree in modules("trainer") if calls(tree, "print")}
    assert found == {"trainer/system/console.py", "trainer/keys.py"}  # and the page of keys, which is the project's own


def slips(tree: ast.Module) -> list[str]:
    """The f-strings in which a bare number stands before a plural: of one there is only one."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        for number, text in zip(node.values, node.values[1:], strict=False):
            if not isinstance(number, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            word = re.match(r" ([a-z]+)\b", str(text.value))
            fraction = number.format_spec is not None  # "1.0 epochs"
            constant = isinstance(number.value, ast.Name) and number.value.id.isupper()
            if word and word[1] in NOUNS and not fraction and not constant:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_numbers_and_their_nouns_agree():
    found = {path: lines for path, tree in modules("trainer") if (lines := slips(tree))}
    # what is always several: "64 to 128 coefficients", tokens beyond 77, a vocabulary's words, bytes of a disk
    several = {
        "trainer/methods/sparse.py": 1,
        "trainer/preflight/trial.py": 1,
        "trainer/base/vocabulary.py": 1,
        "trainer/job/optimcheck.py": 1,  # "steps, after a warm-up" of a part of the run
        "trainer/pictures/captionfiles.py": 1,  # ".txt files"
        "trainer/pictures/folders.py": 1,  # ".png, .jpg files"
    }
    assert {path: len(lines) for path, lines in found.items()} == several, found


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ('f"{n} pictures"', 1),
        ('f"{len(x)} steps in all"', 1),
        ("f\"{counted(n, 'picture')} in all\"", 0),
        ('f"{n:.1f} epochs"', 0),
        ('f"the {name} of pictures"', 0),
    ],
)
def test_a_slip_is_found(source, count):
    assert len(slips(ast.parse(source))) == count


def test_every_number_of_a_job_has_an_upper_bound():
    from trainer.job import keys, tables

    held_elsewhere = {"resolution"}  # by `values.sides`
    unbounded = [
        f"{title} {key}"
        for title, model in tables.tables().items()
        for key, field in model.model_fields.items()
        if re.search(r"\b(int|float)\b(?!')", str(field.annotation))
        and not any(isinstance(one, Le | Lt) for one in keys.checks(field.annotation, field.metadata))
        and key not in held_elsewhere | {"save_precision"}
    ]
    assert not unbounded


def test_nobody_is_told_to_trust_a_strangers_code():
    found = {path for path, tree in modules(*PRODUCT) if "trust_remote_code" in ast.unparse(tree)}
    assert found == {"trainer/base/modelfiles.py"}, "the name alone, of the libraries' own advice that is left out"
