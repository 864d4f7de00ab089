"""FLUX.1: a transformer over packed latents that takes the guidance scale as an input instead of being called twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hero.config import SamplingConfig
from hero.policies.conditioning import Conditioning
from hero.policies.family import (
    ClassifierFree,
    ImageSize,
    Rows,
    decode_kl,
    image_tokens,
    later_blocks,
    linear_sigmas,
    pack,
    patch_positions,
    shift_of,
    unpack,
)
from hero.policies.lora import JOINT_ATTENTION, JOINT_FEED_FORWARD
from hero.policies.steps import FlowSteps, flow_scheduler

__all__ = ["Flux"]

LAYERS: dict[str, tuple[str, ...]] = {"attention": JOINT_ATTENTION, "feed-forward": (*JOINT_FEED_FORWARD, "proj_mlp")}


class Flux:
    """`FluxPipeline` as a `hero.policies.family.Family`: latents are packed only for the call of the transformer."""

    denoiser = "transformer"
    text_encoders = ("text_encoder", "text_encoder_2")
    layers = LAYERS
    true_cfg = True
    takes = ("negative_prompt",)

    def __init__(self, pipeline: Any, sampling: SamplingConfig, device: torch.device) -> None:
        self.pipeline = pipeline
        self.device = device
        self.feature_layers = later_blocks(pipeline.transformer, "transformer_blocks", "single_transformer_blocks")
        factor = pipeline.vae_scale_factor
        self.size = ImageSize.of(sampling, pipeline.default_sample_size * factor, factor, patch=2)
        self.latent_shape = self.size.latent_shape(pipeline.transformer.config.in_channels // 4)
        self.patches = rows, columns = self.latent_shape[1] // 2, self.latent_shape[2] // 2
        self.positions = patch_positions(rows, columns, 3, device)
        scheduler = flow_scheduler(pipeline.scheduler)
        sigmas = None if scheduler.config.get("use_flow_sigmas") else linear_sigmas(sampling.num_steps)
        scheduler.set_timesteps(sampling.num_steps, sigmas=sigmas, mu=shift_of(scheduler, rows * columns))
        self.steps = FlowSteps(scheduler, sampling.eta, device)
        self.embedded_scale = sampling.guidance_scale
        self.true_scale = sampling.true_cfg_scale
        self.guidance = ClassifierFree.above_one(self.true_scale)
        self.negative = sampling.negative_prompt

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Keys: `embeddings` (P, L, D), T5's, and `pooled` (P, D'), CLIP's."""
        embeddings, pooled, _ = self.pipeline.encode_prompt([*prompts, self.negative], device=self.device)
        return Conditioning(
            {"embeddings": embeddings[:-1], "pooled": pooled[:-1]},
            {"embeddings": embeddings[-1:], "pooled": pooled[-1:]},
        )

    def token_limits(self) -> Mapping[str, int]:
        return {"tokenizer": self.pipeline.tokenizer_max_length, "tokenizer_2": 512}

    def predict(self, latents: torch.Tensor, times: torch.Tensor, rows: Rows) -> torch.Tensor:
        embeds = self.pipeline.transformer.config.guidance_embeds
        tokens: torch.Tensor = self.pipeline.transformer(
            hidden_states=pack(latents),
            timestep=times.to(latents.dtype) / 1000,  # rounded as in the pipeline
            guidance=torch.full((len(latents),), self.embedded_scale, device=self.device) if embeds else None,
            pooled_projections=rows["pooled"],
            encoder_hidden_states=rows["embeddings"],
            txt_ids=torch.zeros(rows["embeddings"].shape[1], 3, device=self.device),
            img_ids=self.positions,
            return_dict=False,
        )[0]
        return unpack(tokens, self.latent_shape)

    def by_position(self, output: Any) -> torch.Tensor:
        return image_tokens(output, self.patches)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return decode_kl(self.pipeline.vae, latents)

    def library_arguments(self, noise: torch.Tensor) -> dict[str, Any]:
        arguments: dict[str, Any] = {"latents": pack(noise), "guidance_scale": self.embedded_scale}
        if self.guidance is not None:
            arguments |= {"true_cfg_scale": self.true_scale, "negative_prompt": [self.negative] * len(noise)}
        return arguments

    def from_library(self, latents: torch.Tensor) -> torch.Tensor:
        return unpack(latents, self.latent_shape)
