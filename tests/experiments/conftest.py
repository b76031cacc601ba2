"""Tiny random models of transformers' own classes, as folders, and data for them."""

import numpy as np
import pytest
import torch
from PIL import Image

WORDS = ("good", "bad", "film", "the", "a", "is", "very", "plot")


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("vit")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8,
            patch_size=4, initializer_range=0.2,
        )  # fmt: skip
        ViTForImageClassification(config).save_pretrained(folder)
    size = {"height": 8, "width": 8}
    ViTImageProcessorPil(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def roberta_folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaForSequenceClassification

    folder = tmp_path_factory.mktemp("roberta")
    vocabulary = {word: number for number, word in enumerate(("<pad>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = RobertaConfig(
            vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, pad_token_id=0, max_position_embeddings=64,
        )  # fmt: skip
        RobertaForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Two classes, bright and dark, six pictures to train on and four to score."""
    folder = tmp_path_factory.mktemp("images") / "shades"
    for part, count in (("train", 6), ("test", 4)):
        for name, level in (("bright", 200), ("dark", 50)):
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = np.random.default_rng(number).integers(-40, 40, (10, 12, 3))
                Image.fromarray((level + noise).astype(np.uint8)).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def glue_folder(tmp_path_factory):
    """The six tasks' files in GLUE's columns: "good" is class 1 of two, or 5 of 5, "bad" the other."""
    folder = tmp_path_factory.mktemp("glue")
    rows = [
        (f"the film is {'very ' * (number % 3)}{word}", word == "good") for number in range(6) for word in WORDS[:2]
    ]
    nli = {True: "not_entailment", False: "entailment"}
    forms = {
        "SST-2": ("sentence\tlabel", lambda text, good: f"{text}\t{int(good)}"),
        "MRPC": (
            "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            lambda text, good: f"{int(good)}\t1\t2\t{text}\ta plot",
        ),
        "CoLA": (None, lambda text, good: f"gj04\t{int(good)}\t\t{text}"),
        "QNLI": ("index\tquestion\tsentence\tlabel", lambda text, good: f"0\ta plot\t{text}\t{nli[good]}"),
        "RTE": ("index\tsentence1\tsentence2\tlabel", lambda text, good: f"0\t{text}\ta plot\t{nli[good]}"),
        "STS-B": (
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
            lambda text, good: f"0\t\t\t\t0\t\t\t{text}\ta plot\t{5.0 if good else 1.0}",
        ),
    }
    for name, (head, line) in forms.items():
        (folder / name).mkdir()
        text = "\n".join([*([head] if head else []), *(line(*row) for row in rows)]) + "\n"
        for part in ("train", "dev"):
            (folder / name / f"{part}.tsv").write_text(text, encoding="utf-8")
    return folder
