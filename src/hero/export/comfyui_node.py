"""A ComfyUI node: initial noise near a run's refined noise, as the NOISE of *SamplerCustomAdvanced*.

`hero export --format comfyui` writes this file as `__init__.py` of a folder for ComfyUI's `custom_nodes`, beside
`refined_noise.safetensors` and `prompts.json`. It needs torch and safetensors, which ComfyUI has, and nothing of hero.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

_FOLDER = Path(__file__).parent


def _about() -> dict[str, Any]:
    """`near`, and `prompts`: index in the run → prompt, of those that have a best image."""
    about: dict[str, Any] = json.loads((_FOLDER / "prompts.json").read_text(encoding="utf-8"))
    return about


class NoiseNearBest:
    """√(1 − near²)·best + near·ε, with standard normal ε drawn from `seed`: what ComfyUI calls a NOISE.

    Args:
        best: (C, h, w), the initial noise of the best image.
        near: in [0, 1]; 0 is that noise itself, 1 is fresh noise.
    """

    def __init__(self, best: torch.Tensor, near: float, seed: int) -> None:
        self.best, self.near, self.seed = best, near, seed

    def generate_noise(self, input_latent: dict[str, torch.Tensor]) -> torch.Tensor:
        """Noise of the shape of `input_latent["samples"]`: (B, C, h, w), or (B, C, 1, h, w) for Qwen-Image.

        Raises:
            ValueError: the latent is of another size or model.
        """
        shape = input_latent["samples"].shape
        best = self.best.float()
        if len(shape) == best.ndim + 2:
            best = best.unsqueeze(1)
        if tuple(shape[1:]) != tuple(best.shape):
            raise ValueError(
                f"the refined noise is for latents of {tuple(self.best.shape)}, and this one has {tuple(shape[1:])}: "
                "use the model of the run and an empty latent of the size of training"
            )
        source = torch.Generator().manual_seed(self.seed)
        noise: torch.Tensor = (1 - self.near**2) ** 0.5 * best + self.near * torch.randn(shape, generator=source)
        return noise


class RefinedNoise:
    """The node: one of the run's prompts, how near, and a seed → NOISE."""

    RETURN_TYPES = ("NOISE",)
    FUNCTION = "make"
    CATEGORY = "sampling/custom_sampling/noise"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        """ComfyUI's description of the inputs."""
        about = _about()
        near = {"default": about["near"], "min": 0.0, "max": 1.0, "step": 0.01}
        seed = {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}
        return {
            "required": {
                "prompt": (list(about["prompts"].values()),),
                "near": ("FLOAT", near),
                "noise_seed": ("INT", seed),
            }
        }

    def make(self, prompt: str, near: float, noise_seed: int) -> tuple[NoiseNearBest]:
        """The noise of `prompt`'s best image, as the one output."""
        (index,) = (index for index, known in _about()["prompts"].items() if known == prompt)
        best = load_file(_FOLDER / "refined_noise.safetensors")[f"best.{index}"]
        return (NoiseNearBest(best, near, noise_seed),)


NODE_CLASS_MAPPINGS = {f"RefinedNoise {_FOLDER.name}": RefinedNoise}
NODE_DISPLAY_NAME_MAPPINGS = {f"RefinedNoise {_FOLDER.name}": f"Refined noise: {_FOLDER.name}"}
