"""Other tools' adapter files: PEFT's WaveFT folders, LoRA and its kin, and full weight differences."""
