"""The nano base's words: CLIP tokenizers with the captions' vocabulary, and what its two encoders say of them."""

from __future__ import annotations

import json
import random
import string
from collections import Counter
from itertools import pairwise
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tools.nano_pictures import vocabulary

TOKENS = 77
WIDTH = 64  # of each text encoder; the UNet's cross-attention sees both, side by side


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Returns byte-pair merges that make every word one token; the same ones for the same words.

    The commonest pair goes first, and of equals the first by the alphabet: the library's trainer takes any, so that two
    tokenizers of one vocabulary would number their words differently.
    """
    pieces = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges = []
    while any(len(parts) > 1 for parts in pieces):
        counts = Counter(pair for parts in pieces for pair in pairwise(parts))
        first, second = best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for parts in pieces:
            index = 0
            while index < len(parts) - 1:
                if (parts[index], parts[index + 1]) == (first, second):
                    parts[index : index + 2] = [first + second]
                index += 1
    return merges


def make_tokenizer(folder: Path, pad_token: str) -> CLIPTokenizer:
    """Writes and returns a CLIP tokenizer: CLIP's 512 byte tokens, then merges for the captions' words.

    Any text tokenises, since every byte has a token within a word and one at a word's end.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(vocabulary())
    entries = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    entries += list(dict.fromkeys(a + b for a, b in merges if a + b not in entries))
    entries += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({token: index for index, token in enumerate(entries)}), encoding="utf-8"
    )
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    made = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        pad_token=pad_token,
        model_max_length=TOKENS,
    )
    made.save_pretrained(folder)
    return made


def make_tokenizers(work: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Returns both tokenizers; as in SDXL the first pads with the end's token and the second with "!"."""
    return make_tokenizer(work / "tokenizer", "<|endoftext|>"), make_tokenizer(work / "tokenizer_2", "!")


def make_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Returns the untrained text encoders, fp32."""
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": TOKENS,
        "projection_dim": WIDTH,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    return (
        CLIPTextModel(CLIPTextConfig(**shape, hidden_act="quick_gelu")),
        CLIPTextModelWithProjection(CLIPTextConfig(**shape, hidden_act="gelu")),
    )


def tokenise(tokenizers: tuple[CLIPTokenizer, CLIPTokenizer], texts: list[str]) -> Tensor:
    """Returns the ids [B, 2, 77] of both tokenizers; they differ in their padding."""
    rows = [
        tokenizer(texts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt").input_ids
        for tokenizer in tokenizers
    ]
    return torch.stack(rows, dim=1)


def encode(encoders: tuple[torch.nn.Module, torch.nn.Module], ids: Tensor) -> tuple[Tensor, Tensor]:
    """Returns SDXL's conditioning of token ids [B, 2, 77]: context [B, 77, 2 * WIDTH] and pooled [B, WIDTH]."""
    first = encoders[0](ids[:, 0], output_hidden_states=True)
    second = encoders[1](ids[:, 1], output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


def strange_word(rng: random.Random) -> str:
    """Returns a word of three to eight random letters, which names nothing: the base learns to pass over it."""
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 8)))


def with_strange_words(text: str, rng: random.Random) -> str:
    """Returns the caption with one to three unknown words before or after it."""
    words = " ".join(strange_word(rng) for _ in range(rng.randint(1, 3)))
    return rng.choice((f"{text}, {words}", f"{text} {words}", f"{words} {text}"))
