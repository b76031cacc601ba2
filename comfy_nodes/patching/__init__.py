"""How ComfyUI is handed an adapter: as patches, as hooks, through its own LoRA nodes."""
