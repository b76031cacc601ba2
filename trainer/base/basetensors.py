"""Which tensors of a base's files are read, which may be left, and which may not: those would train without a word.

A base whose scales nobody applies, or whose layers nobody knows, is another model than the one that its file holds. The
names that the model libraries take are written out here as rules, so that a job is checked before torch is imported;
`modelfiles` counts the numbers of the loaded model against them, and a test loads a base and looks for each tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..system.plaintext import shown

FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
WIDE = FLOATS[:4]
METADATA = "_quantization_metadata"  # where ComfyUI's newer files name their quantised layers
NAMED = 3  # tensors in a message
QUANTISED = re.compile(r"scale|quant|absmax|zero_point|qweight|nested_")  # in the names of what belongs to such weights
LEAF = r"\.(weight|bias)"
TRANSFORMER = (
    r"(norm|proj_in|proj_out|transformer_blocks\.\d+\."
    r"(attn[12]\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2)|norm[123]))"
)
RESNET = r"(norm[12]|conv[12]|time_emb_proj|conv_shortcut)"
ORIGINAL_RESNET = r"(in_layers\.[02]|emb_layers\.1|out_layers\.[03]|skip_connection)"
LAYERS = r"encoder\.layers\.\d+\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12]|layer_norm[12])"
RESBLOCKS = r"transformer\.resblocks\.\d+\.(ln_[12]|attn\.out_proj|mlp\.c_(fc|proj))"
VAE_ATTENTION = r"(group_norm|to_[qkv]|to_out\.0|query|key|value|proj_attn)"  # the last four of old files

READ = {  # component -> names in diffusers' layout, or in the original one
    "unet": (
        rf"((conv_in|conv_out|conv_norm_out|(time|add)_embedding\.(linear_[12]|cond_proj)"
        rf"|((down|up)_blocks\.\d+|mid_block)\.(resnets\.\d+\.{RESNET}|attentions\.\d+\.{TRANSFORMER}"
        rf"|(down|up)samplers\.0\.conv)){LEAF})"
        rf"|((time_embed\.[02]|label_emb\.0\.[02]|out\.[02]"
        rf"|((input|output)_blocks\.\d+\.\d+|middle_block\.\d+)(\.({ORIGINAL_RESNET}|{TRANSFORMER}|op|conv))?){LEAF})"
    ),
    "vae": (
        rf"((encoder|decoder)\.(conv_in|conv_out|conv_norm_out|norm_out"
        rf"|((down|up)_blocks\.\d+|mid_block)\.(resnets\.\d+\.{RESNET}|attentions\.\d+\.{VAE_ATTENTION}"
        rf"|(down|up)samplers\.0\.conv)"
        rf"|mid\.(block_[12]\.(norm[12]|conv[12])|attn_1\.(norm|[qkv]|proj_out))"
        rf"|(down|up)\.\d+\.(block\.\d+\.(norm[12]|conv[12]|nin_shortcut)|attn\.\d+\.(norm|[qkv]|proj_out)"
        rf"|(down|up)sample\.conv))|(post_)?quant_conv){LEAF}"
    ),
    "text": (
        rf"(text_model\.)?(embeddings\.(token|position)_embedding\.weight|({LAYERS}|final_layer_norm){LEAF})"
        rf"|text_projection(\.weight)?|token_embedding\.weight|positional_embedding"
        rf"|({RESBLOCKS}|ln_final){LEAF}|transformer\.resblocks\.\d+\.attn\.in_proj_(weight|bias)"
    ),
}
# What the libraries leave and nothing is missed of: buffers that follow from the config, a logit that only contrasts.
LEFT = {
    "unet": r"v_pred|ztsnr",
    "vae": r"loss\..*|model_ema\..*",
    "text": r"((text_model\.)?embeddings\.)?position_ids|attn_mask|logit_scale|.*\.embeddings\.position_ids",
}
# The same of a whole checkpoint, outside of its components: copies of averages, and schedules that the config has.
LEFT_OUTSIDE = (
    r"model_ema\..*|denoiser\.sigmas|betas|sigmas|\w*alphas_cumprod(_prev)?|posterior_\w+|logvar|scale_factor"
    r"|v_pred|ztsnr|conditioner\.embedders\.0\.logit_scale"
)


def is_left(name: str, component: str = "") -> bool:
    """Returns whether a tensor is known to be of no use, by its name in its component, or in any."""
    return re.fullmatch(LEFT[component] if component else "|".join(LEFT.values()), name) is not None


def faults(component: str, tensors: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns what is wrong with the tensors of a component: "unet", "vae" or "text".

    Args:
        component: by whose rule.
        tensors: name in the component -> its entry in a file's header.
    """
    unknown = [name for name in tensors if not re.fullmatch(READ[component], name) and not is_left(name, component)]
    coarse = [
        name for name in tensors if tensors[name]["dtype"] not in FLOATS and name not in unknown
        and not is_left(name, component)
    ]  # fmt: skip
    return [*unread(unknown), *([stored(coarse, tensors)] if coarse else [])]


def scaled(tensors: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, str]) -> list[str]:
    """Returns the fault of weights that are not the numbers that the files hold for them, by the core's own rule.

    Torch is imported for it only where there are weights in fewer than 16 bits, or metadata that speak of some.
    """
    dtypes = {name: entry["dtype"] for name, entry in tensors.items()}
    if METADATA not in metadata and set(dtypes.values()) <= {*WIDE, "I64", "I32"}:
        return []
    from waveft_core.format.quantised import quantised

    found = quantised(dtypes, metadata).weights
    if not found:
        return []
    name, mark = next(iter(found.items()))
    return [
        f'expected weights as they are, got ones stored with scales of their own ("{shown(name)}" by '
        f'"{shown(mark)}"). Name the same model in fp16, bf16 or plain fp8.'
    ]


def outside(names: Iterable[str], prefixes: Iterable[str]) -> list[str]:
    """Returns what is wrong with the tensors of a checkpoint that lie in none of its components."""
    prefixes = tuple(prefixes)
    return unread([name for name in names if not name.startswith(prefixes) and not re.fullmatch(LEFT_OUTSIDE, name)])


def unread(names: list[str]) -> list[str]:
    """Returns the fault of tensors that nothing would read, in a list, or an empty one where there are none."""
    if not names:
        return []
    if marks := [name for name in names if QUANTISED.search(name)]:
        return [
            f"expected weights as they are, got ones stored with scales of their own ({listed(marks)}), as scaled fp8 "
            "and other quantised files are. Name the same model in fp16, bf16 or plain fp8."
        ]
    return [
        f"holds tensors that nothing here reads ({listed(names)}): what they do to the model would be missing. Name a "
        "base without them."
    ]


def stored(names: list[str], tensors: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the fault of weights that are stored in something that is no plain number."""
    kinds = ", ".join(sorted({tensors[name]["dtype"] for name in names}))
    return (
        f"expected weights in {', '.join(FLOATS)}, got {kinds} ({listed(names)}): a quantised file. Name the same "
        "model in fp16 or bf16."
    )


def listed(names: list[str]) -> str:
    """Returns the first names in quotes, and how many more there are."""
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(f'"{shown(name)}"' for name in names[:NAMED]) + rest
