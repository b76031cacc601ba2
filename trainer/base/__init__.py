"""The frozen SDXL: found, checked, loaded, and its encodings kept."""
