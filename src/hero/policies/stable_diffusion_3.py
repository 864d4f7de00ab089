"""Stable Diffusion 3 and 3.5: a transformer over image and text together, stepped by stochastic flow matching."""

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
    prompting,
    shift_of,
)
from hero.policies.lora import JOINT_ATTENTION, JOINT_FEED_FORWARD
from hero.policies.steps import FlowSteps, flow_scheduler

__all__ = ["StableDiffusion3"]

LAYERS: dict[str, tuple[str, ...]] = {"attention": JOINT_ATTENTION, "feed-forward": JOINT_FEED_FORWARD}


class StableDiffusion3:
    """`StableDiffusion3Pipeline` as a `hero.policies.family.Family`; the T5 encoder may be missing."""

    denoiser = "transformer"
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    layers = LAYERS
    true_cfg = False
    takes = ("negative_prompt", "clip_skip")

    def __init__(self, pipeline: Any, sampling: SamplingConfig, device: torch.device) -> None:
        self.pipeline = pipeline
        self.device = device
        self.feature_layers = later_blocks(pipeline.transformer, "transformer_blocks")
        factor, patch = pipeline.vae_scale_factor, pipeline.patch_size
        self.size = ImageSize.of(sampling, pipeline.default_sample_size * factor, factor, patch)
        self.latent_shape = self.size.latent_shape(pipeline.transformer.config.in_channels)
        scheduler = flow_scheduler(pipeline.scheduler)
        self.patches = (self.latent_shape[1] // patch, self.latent_shape[2] // patch)
        tokens = self.patches[0] * self.patches[1]
        shift = {"mu": shift_of(scheduler, tokens, 1.16)} if scheduler.config.use_dynamic_shifting else {}
        scheduler.set_timesteps(sampling.num_steps, **shift)
        self.steps = FlowSteps(scheduler, sampling.eta, device)
        self.scale = sampling.guidance_scale
        self.guidance = ClassifierFree.above_one(self.scale)
        self.prompting = prompting(sampling)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Keys: `embeddings` (P, L, D), CLIP's and T5's concatenated, and `pooled` (P, D')."""
        embeddings, negative, pooled, negative_pooled = self.pipeline.encode_prompt(
            list(prompts),
            None,
            None,
            device=self.device,
            do_classifier_free_guidance=True,
            **self.prompting.for_each(prompts),
        )
        return Conditioning(
            {"embeddings": embeddings, "pooled": pooled},
            {"embeddings": negative[:1], "pooled": negative_pooled[:1]},
        )

    def token_limits(self) -> Mapping[str, int]:
        clip = self.pipeline.tokenizer_max_length
        return {"tokenizer": clip, "tokenizer_2": clip, "tokenizer_3": 256}

    def predict(self, latents: torch.Tensor, times: torch.Tensor, rows: Rows) -> torch.Tensor:
        output: torch.Tensor = self.pipeline.transformer(
            hidden_states=latents,
            timestep=times,
            encoder_hidden_states=rows["embeddings"],
            pooled_projections=rows["pooled"],
            return_dict=False,
        )[0]
        return output

    def by_position(self, output: Any) -> torch.Tensor:
        return image_tokens(output, self.patches)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return decode_kl(self.pipeline.vae, latents)

    def library_arguments(self, noise: torch.Tensor) -> dict[str, Any]:
        return {"latents": noise, "guidance_scale": self.scale, **self.prompting.for_each(noise)}

    def from_library(self, latents: torch.Tensor) -> torch.Tensor:
        return latents
