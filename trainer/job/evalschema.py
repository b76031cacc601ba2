"""What is drawn and measured of a finished run: [evaluation] of a job. Torch is not imported."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from .section import Section
from .values import LARGEST_SEED, Choice, PathText

# What the WaveFT paper measures, where it says it: `preset = "paper"` writes these where the job says nothing else.
PRESETS: dict[str, dict[str, Any]] = {
    "": {},
    "paper": {
        "reference": "mean",
        "clip_embedding": "pooled",
        "prompt_text": "full",
        "interval": "images",
    },
}


class Evaluation(Section):
    """What `waveft evaluate` and `waveft compare` draw and measure; the training itself needs none of it."""

    preset: Annotated[Literal["", "paper"], Choice] = Field(
        "", description="`paper` = the WaveFT paper's definitions for the keys below that are not given"
    )
    subject_prompts: list[str] = Field(
        [],
        description="of the subject, with `{trigger}`; [] = eight of our own, or the captions of a job without trigger",
    )
    plain_prompts: list[str] = Field(
        [], description="without the trigger: what should stay as the base draws it; [] = six of our own"
    )
    class_word: str = Field(
        "",
        description='what the subject is without the trigger, such as "dog"; "" = the trigger without its first word',
    )
    images_per_prompt: int = Field(4, ge=1, description="pictures of each prompt, with seeds counted up")
    first_seed: int = Field(42, ge=0, le=LARGEST_SEED, description="of each prompt's first picture")
    image_model: PathText = Field(
        "",
        description="network that sees the subject: folder of a DINOv2, DINO, ViT or CLIP, or a hub id (needs "
        '`--allow-download`); "" = EfficientNet-Lite0 of the extra `eval`',
    )
    clip_model: PathText = Field(
        "", description='folder or hub id of a CLIP, which reads prompts; "" = no prompt score'
    )
    lpips_backbone: PathText = Field("", description='VGG16 as torchvision\'s file, for LPIPS; "" = none')
    lpips_heads: PathText = Field("", description="LPIPS's `vgg.pth`, which the packages lpips and torchmetrics carry")
    cmmd_reference: PathText = Field(
        "", description='folder of pictures that drawn ones are held against by the CLIP (CMMD); "" = none'
    )
    reference: Annotated[Literal["mean", "pairwise"], Choice] = Field(
        "mean", description="fidelity: cosine to the `mean` of the photos' embeddings, or mean of the `pairwise` ones"
    )
    normalise_before_mean: bool = Field(True, description="for `mean`: each photo weighs the same")
    clip_embedding: Annotated[Literal["projected", "pooled"], Choice] = Field(
        "projected", description="of pictures for CLIP's own fidelity: after the projection, or before it"
    )
    prompt_text: Annotated[Literal["class", "without_trigger", "full"], Choice] = Field(
        "class", description="what CLIP reads for the trigger: the class word, nothing, or the trigger itself"
    )
    interval: Annotated[Literal["prompts", "images"], Choice] = Field(
        "prompts",
        description="what intervals are drawn over: whole prompts (subjects, in `compare`), or single pictures",
    )

    @model_validator(mode="before")
    @classmethod
    def preset_fills_in(cls, table: Any) -> Any:
        """Fills in what the preset says and the job does not."""
        if not isinstance(table, dict):
            return table
        preset = table.get("preset", "")
        return {**PRESETS.get(preset.lower() if isinstance(preset, str) else "", {}), **table}

    @model_validator(mode="after")
    def parts_belong_together(self) -> Evaluation:
        """Refuses half of what LPIPS or CMMD needs, and plain prompts that are none."""
        if bool(self.lpips_backbone) != bool(self.lpips_heads):
            raise ValueError("lpips_backbone: LPIPS needs lpips_heads too. Give both, or none")
        if self.cmmd_reference and not self.clip_model:
            raise ValueError("cmmd_reference: CMMD sees by a CLIP. Give clip_model too")
        for prompt in self.plain_prompts:
            if "{trigger}" in prompt or "[trigger]" in prompt:
                raise ValueError(f"plain_prompts: expected prompts without the trigger, got {prompt!r}")
        return self
