"""Which programs load a LoRA of a family in which layout, as far as it was run; versions are in docs/export.md.

A program that is not here either refuses the file, applies a part of it, or was not tried. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["READERS"]

_UNET = {"diffusers": ("diffusers", "ComfyUI", "Forge")}
_UNET_KOHYA = {"kohya": ("ComfyUI", "Forge", "A1111", "sd-scripts", "diffusers")}

READERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "StableDiffusionPipeline": {**_UNET, **_UNET_KOHYA},
    "StableDiffusionXLPipeline": {**_UNET, **_UNET_KOHYA},
    "StableDiffusion3Pipeline": {"diffusers": ("diffusers", "ComfyUI"), "kohya": ("ComfyUI", "Forge", "sd-scripts")},
    "FluxPipeline": {
        "diffusers": ("diffusers", "ComfyUI", "Forge"),
        "kohya": ("ComfyUI", "Forge", "sd-scripts", "diffusers"),
    },
    "QwenImagePipeline": {"diffusers": ("diffusers", "ComfyUI"), "kohya": ("ComfyUI", "diffusers")},
    "ZImagePipeline": {"diffusers": ("diffusers", "ComfyUI from 0.8"), "kohya": ("ComfyUI from 0.8",)},
    "Flux2KleinPipeline": {
        "diffusers": ("diffusers", "ComfyUI from 0.12"),
        "kohya": ("ComfyUI from 0.8", "diffusers"),
    },
}
"""Pipeline class → layout → programs that load the whole of it."""
