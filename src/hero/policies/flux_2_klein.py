"""FLUX.2 klein: a transformer over normalised 2×2 patches of the VAE's latents, with a language model's features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch.nn import functional

from hero.config import SamplingConfig
from hero.policies.conditioning import Conditioning
from hero.policies.family import (
    ClassifierFree,
    ImageSize,
    Rows,
    image_tokens,
    later_blocks,
    linear_sigmas,
    patch_positions,
)
from hero.policies.lora import JOINT_ATTENTION
from hero.policies.prompts import chat_prefix
from hero.policies.steps import FlowSteps, flow_scheduler

__all__ = ["Flux2Klein"]

LAYERS: dict[str, tuple[str, ...]] = {
    "attention": (*JOINT_ATTENTION, "to_qkv_mlp_proj"),
    "feed-forward": ("ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out"),
}


class Flux2Klein:
    """`Flux2KleinPipeline` as a `hero.policies.family.Family`; (C, h, w) are the patches."""

    denoiser = "transformer"
    text_encoders = ("text_encoder",)
    layers = LAYERS
    true_cfg = False
    takes = ()

    def __init__(self, pipeline: Any, sampling: SamplingConfig, device: torch.device) -> None:
        self.pipeline = pipeline
        self.device = device
        self.feature_layers = later_blocks(pipeline.transformer, "transformer_blocks", "single_transformer_blocks")
        factor = pipeline.vae_scale_factor
        self.size = ImageSize.of(sampling, pipeline.default_sample_size * factor, 2 * factor)
        self.latent_shape = self.size.latent_shape(pipeline.transformer.config.in_channels)
        rows, columns = self.latent_shape[1:]
        self.positions = patch_positions(rows, columns, 4, device)
        scheduler = flow_scheduler(pipeline.scheduler)
        sigmas = None if scheduler.config.get("use_flow_sigmas") else linear_sigmas(sampling.num_steps)
        mu = compute_empirical_mu(image_seq_len=rows * columns, num_steps=sampling.num_steps)
        scheduler.set_timesteps(sampling.num_steps, sigmas=sigmas, mu=mu)
        self.steps = FlowSteps(scheduler, sampling.eta, device)
        self.scale = sampling.guidance_scale
        self.guidance = None if pipeline.config.is_distilled else ClassifierFree.above_one(self.scale)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Keys: `embeddings` (P, L, D)."""
        embeddings, _ = self.pipeline.encode_prompt([*prompts, ""], device=self.device)
        return Conditioning({"embeddings": embeddings[:-1]}, {"embeddings": embeddings[-1:]})

    def token_limits(self) -> Mapping[str, int]:
        return {"tokenizer": 512 - chat_prefix(self.pipeline.tokenizer)}

    def predict(self, latents: torch.Tensor, times: torch.Tensor, rows: Rows) -> torch.Tensor:
        embeddings = rows["embeddings"]
        text_positions = torch.zeros(embeddings.shape[1], 4, device=self.device)
        text_positions[:, 3] = torch.arange(embeddings.shape[1], device=self.device)
        tokens: torch.Tensor = self.pipeline.transformer(
            hidden_states=latents.flatten(2).transpose(1, 2),
            timestep=times.to(latents.dtype) / 1000,  # rounded as in the pipeline
            guidance=None,
            encoder_hidden_states=embeddings,
            txt_ids=text_positions,
            img_ids=self.positions,
            return_dict=False,
        )[0]
        return tokens.transpose(1, 2).reshape(len(latents), *self.latent_shape)

    def by_position(self, output: Any) -> torch.Tensor:
        return image_tokens(output, self.latent_shape[1:])

    def _mean_and_std(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, C, 1, 1) each, of the VAE's patches."""
        vae = self.pipeline.vae
        std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
        return vae.bn.running_mean.view(1, -1, 1, 1).to(like), std.view(1, -1, 1, 1).to(like)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._mean_and_std(latents)
        pixels: torch.Tensor = self.pipeline.vae.decode(
            functional.pixel_shuffle(latents * std + mean, 2), return_dict=False
        )[0]
        return pixels

    def library_arguments(self, noise: torch.Tensor) -> dict[str, Any]:
        return {"latents": noise, "guidance_scale": self.scale}

    def from_library(self, latents: torch.Tensor) -> torch.Tensor:
        mean, std = self._mean_and_std(latents)
        return (functional.pixel_unshuffle(latents, 2) - mean) / std
