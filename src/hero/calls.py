"""How to call each family's own pipeline so that it draws as in training: sampler, guidance, latents. No torch.

A family's `library_arguments` says the same with tensors; a test keeps the two in agreement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hero.config import SamplingConfig

__all__ = ["CALLS", "PipelineCall"]


def _scale(sampling: SamplingConfig) -> dict[str, Any]:
    return {"guidance_scale": sampling.guidance_scale}


def _scale_and_negative(sampling: SamplingConfig) -> dict[str, Any]:
    """With what the text encoders are asked for beside the prompt, where that is not their default."""
    negative = {"negative_prompt": sampling.negative_prompt} if sampling.negative_prompt else {}
    return {**_scale(sampling), **negative, **({} if sampling.clip_skip is None else {"clip_skip": sampling.clip_skip})}


def _true_cfg(scale: float, negative: str) -> dict[str, Any]:
    """Classifier-free guidance, where `guidance_scale` means something else; off without a negative prompt."""
    return {"true_cfg_scale": scale, "negative_prompt": negative} if scale > 1 else {}


def _embedded_guidance(sampling: SamplingConfig) -> dict[str, Any]:
    return {**_scale(sampling), **_true_cfg(sampling.true_cfg_scale, sampling.negative_prompt)}


def _only_true_cfg(sampling: SamplingConfig) -> dict[str, Any]:
    return _true_cfg(sampling.guidance_scale, sampling.negative_prompt) or {"true_cfg_scale": 1.0}


@dataclass(frozen=True)
class PipelineCall:
    """How a pipeline is called.

    Attributes:
        guidance: settings → the arguments that guide as the policy does.
        ddim: whether it samples by DDIM, which takes the settings' eta; the samplers of the others add no noise.
        packed: whether `latents` hold one token per 2×2 patch.
        fp32_latents: whether `latents` are fp32 whatever the pipeline's dtype.
    """

    guidance: Callable[[SamplingConfig], dict[str, Any]] = _scale
    ddim: bool = False
    packed: bool = False
    fp32_latents: bool = False


CALLS: dict[str, PipelineCall] = {
    "StableDiffusionPipeline": PipelineCall(_scale_and_negative, ddim=True),
    "StableDiffusionXLPipeline": PipelineCall(_scale_and_negative, ddim=True),
    "StableDiffusion3Pipeline": PipelineCall(_scale_and_negative),
    "FluxPipeline": PipelineCall(_embedded_guidance, packed=True),
    "QwenImagePipeline": PipelineCall(_only_true_cfg, packed=True),
    "ZImagePipeline": PipelineCall(_scale_and_negative, fp32_latents=True),
    "Flux2KleinPipeline": PipelineCall(),
}
"""Pipeline class (as in model_index.json) → how it is called."""
