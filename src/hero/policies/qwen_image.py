"""Qwen-Image: a transformer over packed latents and a language model's features, with rescaled guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hero.config import SamplingConfig
from hero.errors import ModelError
from hero.policies.conditioning import Conditioning
from hero.policies.family import (
    ClassifierFree,
    ImageSize,
    Rows,
    image_tokens,
    later_blocks,
    linear_sigmas,
    pack,
    shift_of,
    unpack,
)
from hero.policies.lora import JOINT_ATTENTION
from hero.policies.steps import FlowSteps, flow_scheduler

__all__ = ["QwenImage", "RescaledGuidance"]

_TOKENS = 512
"""Tokens of a prompt that its embeddings are cut to."""

LAYERS: dict[str, tuple[str, ...]] = {
    "attention": JOINT_ATTENTION,
    "feed-forward": ("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
}


@dataclass(frozen=True)
class RescaledGuidance:
    """Classifier-free guidance in which every 2×2 patch keeps the norm of the conditional output."""

    plain: ClassifierFree

    def combine(self, conditional: torch.Tensor, unconditional: torch.Tensor) -> torch.Tensor:
        guided = self.plain.combine(conditional, unconditional)
        norms = [pack(x).norm(dim=-1, keepdim=True) for x in (conditional, guided)]
        n, c, h, w = guided.shape
        return unpack(pack(guided) * (norms[0] / norms[1]), (c, h, w)).view(n, c, h, w)


class QwenImage:
    """`QwenImagePipeline` as a `hero.policies.family.Family`; `guidance_scale` is its `true_cfg_scale`."""

    denoiser = "transformer"
    text_encoders = ("text_encoder",)
    layers = LAYERS
    true_cfg = False
    takes = ("negative_prompt",)

    def __init__(self, pipeline: Any, sampling: SamplingConfig, device: torch.device) -> None:
        if pipeline.transformer.config.guidance_embeds:
            raise ModelError("Qwen-Image models that take the guidance scale as an input are not supported")
        self.pipeline = pipeline
        self.device = device
        self.feature_layers = later_blocks(pipeline.transformer, "transformer_blocks")
        factor = pipeline.vae_scale_factor
        self.size = ImageSize.of(sampling, pipeline.default_sample_size * factor, factor, patch=2)
        self.latent_shape = self.size.latent_shape(pipeline.transformer.config.in_channels // 4)
        self.patches = (self.latent_shape[1] // 2, self.latent_shape[2] // 2)
        scheduler = flow_scheduler(pipeline.scheduler)
        mu = shift_of(scheduler, self.patches[0] * self.patches[1])
        scheduler.set_timesteps(sampling.num_steps, sigmas=linear_sigmas(sampling.num_steps), mu=mu)
        self.steps = FlowSteps(scheduler, sampling.eta, device)
        self.scale = sampling.guidance_scale
        plain = ClassifierFree.above_one(self.scale)
        self.guidance = RescaledGuidance(plain) if plain else None
        self.negative = sampling.negative_prompt

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Keys: `embeddings` (P, L, D), as long as the longest prompt, and `mask` (P, L) bool."""
        embeddings, mask = self.pipeline.encode_prompt(
            [*prompts, self.negative], device=self.device, max_sequence_length=_TOKENS
        )
        mask = torch.ones(embeddings.shape[:2], device=self.device) if mask is None else mask
        rows = {"embeddings": embeddings, "mask": mask.bool()}
        return Conditioning({k: v[:-1] for k, v in rows.items()}, {k: v[-1:] for k, v in rows.items()})

    def token_limits(self) -> Mapping[str, int]:
        return {"tokenizer": _TOKENS}

    def predict(self, latents: torch.Tensor, times: torch.Tensor, rows: Rows) -> torch.Tensor:
        tokens: torch.Tensor = self.pipeline.transformer(
            hidden_states=pack(latents),
            timestep=times.to(latents.dtype) / 1000,  # rounded as in the pipeline
            encoder_hidden_states=rows["embeddings"],
            encoder_hidden_states_mask=rows["mask"],
            img_shapes=[[(1, *self.patches)]] * len(latents),
            return_dict=False,
        )[0]
        return unpack(tokens, self.latent_shape)

    def by_position(self, output: Any) -> torch.Tensor:
        return image_tokens(output, self.patches)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        vae = self.pipeline.vae
        mean, std = (torch.tensor(vae.config[k]).view(1, -1, 1, 1).to(latents) for k in ("latents_mean", "latents_std"))
        pixels: torch.Tensor = vae.decode((latents * std + mean).unsqueeze(2), return_dict=False)[0]
        return pixels[:, :, 0]

    def library_arguments(self, noise: torch.Tensor) -> dict[str, Any]:
        guided = {"true_cfg_scale": self.scale, "negative_prompt": [self.negative] * len(noise)}
        return {"latents": pack(noise), **(guided if self.guidance else {"true_cfg_scale": 1.0})}

    def from_library(self, latents: torch.Tensor) -> torch.Tensor:
        return unpack(latents, self.latent_shape)
