"""Z-Image: a single-stream transformer whose time runs from noise at 0 to data at 1, called with lists."""

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
    shift_of,
)
from hero.policies.lora import UNET_LAYERS
from hero.policies.prompts import chat_prefix
from hero.policies.steps import FlowSteps, flow_scheduler

__all__ = ["ZImage"]

_NATIVE = 1024

LAYERS: dict[str, tuple[str, ...]] = {
    "attention": UNET_LAYERS["attention"],
    "feed-forward": ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
}


class ZImage:
    """`ZImagePipeline` as a `hero.policies.family.Family`.

    Its guidance scale s means conditional + s·(conditional − unconditional), and 0 is off.
    """

    denoiser = "transformer"
    text_encoders = ("text_encoder",)
    layers = LAYERS
    true_cfg = False
    takes = ("negative_prompt",)

    def __init__(self, pipeline: Any, sampling: SamplingConfig, device: torch.device) -> None:
        self.pipeline = pipeline
        self.device = device
        self.feature_layers = later_blocks(pipeline.transformer, "layers")
        self.size = ImageSize.of(sampling, _NATIVE, pipeline.vae_scale_factor, patch=2)
        self.latent_shape = self.size.latent_shape(pipeline.transformer.in_channels)
        scheduler = flow_scheduler(pipeline.scheduler)
        mu = shift_of(scheduler, self.latent_shape[1] * self.latent_shape[2] // 4)
        scheduler.set_timesteps(sampling.num_steps, sigmas=linear_sigmas(sampling.num_steps), mu=mu)
        self.steps = FlowSteps(scheduler, sampling.eta, device)
        self.scale = sampling.guidance_scale
        self.guidance = ClassifierFree(1 + self.scale) if self.scale > 0 else None
        self.negative = sampling.negative_prompt

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Keys: `embeddings` (P, L, D), padded to the longest prompt, and `length` (P,)."""
        listed, _ = self.pipeline.encode_prompt(
            [*prompts, self.negative], self.device, do_classifier_free_guidance=False
        )
        lengths = torch.tensor([len(row) for row in listed], device=self.device)
        rows = {"embeddings": torch.nn.utils.rnn.pad_sequence(listed, batch_first=True), "length": lengths}
        return Conditioning({k: v[:-1] for k, v in rows.items()}, {k: v[-1:] for k, v in rows.items()})

    def token_limits(self) -> Mapping[str, int]:
        return {"tokenizer": 512 - chat_prefix(self.pipeline.tokenizer)}

    def predict(self, latents: torch.Tensor, times: torch.Tensor, rows: Rows) -> torch.Tensor:
        lengths = rows["length"].tolist()
        output: list[torch.Tensor] = self.pipeline.transformer(
            list(latents.unsqueeze(2)),
            (1000 - times) / 1000,
            [row[:length] for row, length in zip(rows["embeddings"], lengths, strict=True)],
            return_dict=False,
        )[0]
        return -torch.stack(output).squeeze(2)

    def by_position(self, output: Any) -> torch.Tensor:
        return image_tokens(output, (self.latent_shape[1] // 2, self.latent_shape[2] // 2), first=True)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return decode_kl(self.pipeline.vae, latents)

    def library_arguments(self, noise: torch.Tensor) -> dict[str, Any]:
        more = {"negative_prompt": [self.negative] * len(noise)} if self.negative else {}
        return {"latents": noise.float(), "guidance_scale": self.scale, **more}

    def from_library(self, latents: torch.Tensor) -> torch.Tensor:
        return latents
