"""The bundled tiny world: procedural scenes, their judges, and a real Stable Diffusion pipeline trained on them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["NAME", "model_path"]

NAME = "tinyworld"
"""What `--model` and the judges call the bundled model."""


def model_path() -> Path:
    """The folder of the bundled pipeline, for `diffusers.StableDiffusionPipeline.from_pretrained`."""
    return Path(__file__).parent / "model"
