import json

import pytest
import torch

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
TEXT = "lora_te1_text_model_encoder_layers_0_self_attn_q_proj"
DOG = {"file": "dog.safetensors", "sha256": "0123456789abcdef" * 4}


@pytest.fixture
def recipe(comfy):
    return comfy("adapters.recipe")


@pytest.fixture
def apply(comfy):
    """Returns a function that applies adapters to a model: (carried, strength), ..."""
    patch = comfy("patching.patch")
    return lambda model, *parts: patch.apply(model, None, [patch.Part(*part, 0.0) for part in parts])[0]


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


class TestTotal:
    def test_it_is_what_the_patches_merge_to(self, comfy, recipe, apply, unet, carry, small, make_adapter):
        other = carry(make_adapter({Q: (8, 8)}, seed=5, scaling=3.0), "b")
        model = apply(unet, (carry(small, "a"), 0.5), (other, -2.0))
        made = comfy("patching.carrying").total(comfy("patching.applied").applied(model))
        close(made.adapter.delta(Q), 0.5 * small.delta(Q) - 2 * other.adapter.delta(Q))
        close(made.adapter.delta(K), 0.5 * small.delta(K))
        assert made.title == "0.5 * a + -2 * b"
        assert [part["weight"] for part in made.origin["combined"]] == [0.5, -2.0]

    def test_one_alone_at_1_is_itself(self, comfy, recipe, apply, unet, carry, small):
        carried = carry(small)
        assert (
            comfy("patching.carrying").total(comfy("patching.applied").applied(apply(unet, (carried, 1.0)))) is carried
        )

    def test_strengths_that_differ_by_layer_are_folded_in(self, comfy, recipe, apply, unet, carry, small):
        """Models merged block by block: each layer has its own strength."""
        first, second = apply(unet, (carry(small, "a"), 1.0)), unet.clone()
        for key, ratio in zip(list(first.patches), (0.75, 0.25), strict=True):
            first.add_patches({key: second.get_key_patches()[key]}, 1.0 - ratio, ratio)
        found = comfy("patching.applied").applied(first)
        made = comfy("patching.carrying").total(found)
        close(made.adapter.delta(Q), 0.75 * small.delta(Q))
        close(made.adapter.delta(K), 0.25 * small.delta(K))
        assert made.origin["applied"] == {"strength_by_layer": {Q: 0.75, K: 0.25}}
        assert comfy("patching.carrying").strength_text(found[0]) == "0.25 to 0.75"

    def test_layers_that_are_not_the_models_are_left_out_and_said(
        self, comfy, recipe, apply, unet, carry, make_adapter
    ):
        both = make_adapter({Q: (8, 8), TEXT: (6, 6)})
        made = comfy("patching.carrying").total(comfy("patching.applied").applied(apply(unet, (carry(both), 2.0))))
        assert list(made.adapter.layers) == [Q]
        close(made.adapter.delta(Q), 2 * both.delta(Q))
        assert recipe.lines(made.origin) == ["2 times", "  applied: layers 1 of 2", "    a.safetensors"]

    def test_nothing_applied_is_said(self, comfy, recipe, unet):
        with pytest.raises(comfy("core").WaveFTError, match="expected one that WaveFT adapters are applied to"):
            comfy("patching.carrying").total(comfy("patching.applied").applied(unet))

    def test_different_wavelets_are_refused(self, comfy, recipe, apply, unet, carry, small, make_adapter):
        other = carry(make_adapter({Q: (8, 8)}, wavelet="db2"), "b")
        with pytest.raises(comfy("core").WaveFTError, match=r"Combine WaveFT, and connect .* to `adapter`") as refused:
            comfy("patching.carrying").total(
                comfy("patching.applied").applied(apply(unet, (carry(small), 1.0), (other, 1.0)))
            )
        assert "other_basis" not in str(refused.value)  # a widget of another node


class TestLines:
    def test_the_tree_names_files_hashes_weights_and_filters(self, recipe):
        origin = {
            "combined": [
                {"weight": 0.8, "of": DOG},
                {"weight": -0.5, "of": {"filtered": {"attn1": 0.0, "only_layers": "_1_"}, "of": {"file": "b"}}},
            ]
        }
        assert recipe.lines(origin) == [
            "sum of",
            "  0.8 * dog.safetensors (sha256 0123456789)",
            "  -0.5 * filtered: attn1 0, only_layers _1_",
            "    b",
        ]

    @pytest.mark.parametrize(
        ("origin", "line"),
        [
            ({"scaled": 0.5, "of": DOG}, "0.5 times"),
            ({"pruned": {"coefficients": 8}, "of": DOG}, "pruned: coefficients 8"),
            (
                {"reprojected": "db2 x -> db1 x", "relative_error": 0.0123, "of": DOG},
                "rewritten, db2 x -> db1 x, relative error 1.23%",
            ),
            ({"extracted": {"energy": 0.9, "from": "two models"}}, "extracted: energy 0.9, from two models"),
            ({"trained": {"steps": 500}}, "trained: steps 500"),
            ({"applied": {"strength_by_layer": {Q: 0.5, K: 1.0}}, "of": DOG}, "applied: strength_by_layer (2 values)"),
            ({"something": "else"}, "something: else"),
        ],
    )
    def test_every_way_has_its_words(self, recipe, origin, line):
        told = recipe.lines(origin)
        assert told[0] == line
        assert told[1:] == (["  dog.safetensors (sha256 0123456789)"] if "of" in origin else [])


def test_metadata_are_the_adapters_own_without_hashes_and_graphs_of_another_file(recipe, carry, make_adapter, comfy):
    said = {
        "modelspec.hash_sha256": "0x",
        "sshs_model_hash": "a",
        "prompt": "{}",
        "waveft.recipe": "{}",
        "ss_x": "kept",
    }
    adapter = make_adapter({Q: (8, 8)}, metadata=said)
    made = recipe.as_metadata(comfy("sockets").Carried(adapter, "dog", {"sha256": "1", "file": "dog"}))
    assert made == {"ss_x": "kept", "waveft.recipe": '{"file": "dog", "sha256": "1"}'}
    assert json.loads(made["waveft.recipe"])["file"] == "dog"
