import pytest
import torch

from waveft_core import load, save
from waveft_core.cli.writing import write_adapter
from waveft_core.format.hashes import tensors_sha256
from waveft_core.format.hub import hub_metadata, is_sdxl

Q = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
K = "lora_unet_output_blocks_1_1_transformer_blocks_3_attn2_to_k"
SDXL = {Q: (640, 640), K: (1280, 2048)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_hash_is_that_of_the_files_tensors(make_adapter, tmp_path, dtype):
    adapter = make_adapter({Q: (8, 8), K: (4, 6)}, coefficients=5)
    save(adapter, tmp_path / "a.safetensors", dtype=dtype)
    assert hub_metadata(adapter, dtype)["sshs_model_hash"] == tensors_sha256(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (SDXL, True),
        ({K: (1280, 2048)}, True),
        ({K: (1280, 320)}, False),  # a small model of SDXL's kind
        ({K: (640, 768)}, False),  # SD 1.5
        ({Q: (640, 640)}, False),  # SD 1.5 has that too
        ({Q.replace("_blocks_0_attn", "_blocks_1_attn"): (640, 640)}, True),
        ({"lora_te2_text_model_encoder_layers_0_self_attn_q_proj": (1280, 1280)}, True),
        ({"lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (768, 768)}, False),
        ({"lora_layers_0": (1280, 2048)}, False),
    ],
)
def test_sdxl_is_known_by_names_and_shapes_together(make_adapter, shapes, told):
    adapter = make_adapter(shapes)
    assert is_sdxl(adapter.layers) == told
    assert ("ss_base_model_version" in hub_metadata(adapter)) == told


def test_what_the_file_says_itself_stays(make_adapter):
    adapter = make_adapter(SDXL, metadata={"modelspec.architecture": "pony/waveft", "sshs_model_hash": "old"})
    found = hub_metadata(adapter)
    assert found["modelspec.architecture"] == "pony/waveft"
    assert found["ss_base_model_version"] == "sdxl_base_v1-0"
    assert found["sshs_model_hash"] != "old"


def test_the_command_lines_files_have_it_and_no_stale_hash(make_adapter, tmp_path, capsys):
    stale = {"sshs_model_hash": "0", "sshs_legacy_hash": "0", "modelspec.hash_sha256": "0x0", "ss_output_name": "dog"}
    out = tmp_path / "out.safetensors"
    write_adapter(make_adapter(SDXL, metadata=stale), out, torch.float16)
    said, digest = load(out).metadata, tensors_sha256(out)
    assert said["sshs_model_hash"] == digest and said["modelspec.hash_sha256"] == f"0x{digest}"
    assert said["sshs_legacy_hash"] == digest[:8]
    assert said["ss_base_model_version"] == "sdxl_base_v1-0" and said["ss_output_name"] == "dog"
