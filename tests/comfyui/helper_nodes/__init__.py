"""Nodes for the tests alone: conditioning without text encoders, and the weights that ComfyUI really merged."""

import fnmatch

import comfy.model_management
import comfy.utils
import folder_paths
import torch


class RandomConditioning:
    """SDXL-shaped conditioning from a seed."""

    CATEGORY, FUNCTION, RETURN_TYPES = "harness", "make", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0}), "tokens": ("INT", {"default": 77, "min": 1})}}

    def make(self, seed, tokens):
        generator = torch.Generator().manual_seed(seed)
        crossed = torch.randn(1, tokens, 2048, generator=generator)
        return ([[crossed, {"pooled_output": torch.randn(1, 1280, generator=generator)}]],)


class DumpWeights:
    """Has ComfyUI merge the patches as it does for sampling, and saves the weights that match one of the patterns."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "harness", "dump", (), True

    @classmethod
    def INPUT_TYPES(cls):
        sockets = {"model": ("MODEL",), "clip": ("CLIP",)}
        return {"required": {"patterns": ("STRING", {"default": "*attn?.to_*.weight"})}, "optional": sockets}

    @classmethod
    def IS_CHANGED(cls, **_inputs):
        return float("nan")  # always again: who asks wants to know what the weights are now

    def dump(self, patterns, model=None, clip=None):
        found = {}
        if model is not None:
            comfy.model_management.load_models_gpu([model], force_patch_weights=True)
            found |= model.model_state_dict("diffusion_model.")
        if clip is not None:
            clip.load_model()
            found |= clip.cond_stage_model.state_dict()
        wanted = [pattern.strip() for pattern in patterns.split(",")]
        found = {
            key: weight.detach().cpu().clone()
            for key, weight in found.items()
            if any(fnmatch.fnmatch(key, pattern) for pattern in wanted)
        }
        folder, name, number, inner, _ = folder_paths.get_save_image_path(
            "weights", folder_paths.get_output_directory()
        )
        file = f"{name}_{number:05}_.safetensors"
        comfy.utils.save_torch_file(found, f"{folder}/{file}")
        return {"ui": {"weights": [{"filename": file, "subfolder": inner, "type": "output"}]}}


NODE_CLASS_MAPPINGS = {"HarnessRandomConditioning": RandomConditioning, "HarnessDumpWeights": DumpWeights}
