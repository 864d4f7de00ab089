"""Stable Diffusion 1.x and 2.x (and the tiny world): a UNet with cross-attention, stepped by stochastic DDIM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from PIL import Image

from hero.config import LoraConfig, SamplingConfig
from hero.errors import ModelError
from hero.policies import Conditioning
from hero.policies.lora import UNET_LAYERS, add_lora, load_lora_state_dict, lora_state_dict, save_lora
from hero.transitions import Transition
from hero.transitions.ddim import ddim_std, ddim_transition

__all__ = ["StableDiffusionPolicy", "ddim_scheduler"]


def ddim_scheduler(scheduler: Any) -> DDIMScheduler:
    """A DDIM scheduler over the same noise schedule as `scheduler`.

    Raises:
        ModelError: `scheduler` has no discrete noise schedule, or clips or thresholds its samples, so that its
            steps are not Gaussian in the model's output.
    """
    config = dict(scheduler.config)
    if "beta_schedule" not in config:
        raise ModelError(f"the scheduler {type(scheduler).__name__} cannot be made stochastic: it has no betas")
    config.setdefault("clip_sample", False)  # others than DDIM and DDPM never clip
    if config["clip_sample"] or config.get("thresholding"):
        raise ModelError(
            f"the scheduler {type(scheduler).__name__} clips or thresholds its samples; "
            "set clip_sample and thresholding to false in scheduler_config.json"
        )
    return DDIMScheduler.from_config(config)


class StableDiffusionPolicy:
    """`StableDiffusionPipeline` behind the inner convention of `hero.policies.Policy`."""

    def __init__(
        self, pipeline: Any, sampling: SamplingConfig, lora: LoraConfig, *, seed: int, device: torch.device
    ) -> None:
        self.pipeline = pipeline
        self.pipeline.set_progress_bar_config(disable=True)
        self.device = device
        self.guidance_scale = sampling.guidance_scale
        self.eta = sampling.eta
        self.unet = pipeline.unet.eval()
        self.storage_dtype: torch.dtype = self.unet.dtype
        for module in (pipeline.vae, pipeline.text_encoder, self.unet):
            module.requires_grad_(False).to(device)
        self.latent_shape = self._latent_shape(sampling)
        self._set_schedule(ddim_scheduler(pipeline.scheduler), sampling.num_steps)
        add_lora(self.unet, lora, UNET_LAYERS, seed)

    def _latent_shape(self, sampling: SamplingConfig) -> tuple[int, int, int]:
        factor = self.pipeline.vae_scale_factor
        size = self.unet.config.sample_size
        default = (size, size) if isinstance(size, int) else tuple(size)
        sides = []
        for name, pixels, latent in zip(("height", "width"), (sampling.height, sampling.width), default, strict=True):
            if pixels is not None and pixels % factor:
                raise ModelError(f"sampling.{name} = {pixels} is not divisible by the VAE's factor {factor}")
            sides.append(latent if pixels is None else pixels // factor)
        return (self.unet.config.in_channels, sides[0], sides[1])

    def _set_schedule(self, scheduler: DDIMScheduler, num_steps: int) -> None:
        train_steps = scheduler.config.num_train_timesteps
        if num_steps > train_steps:
            raise ModelError(f"sampling.num_steps = {num_steps} is more than the model's {train_steps}")
        self.pipeline.scheduler = scheduler
        scheduler.set_timesteps(num_steps)
        self.num_steps = num_steps
        self.prediction = scheduler.config.prediction_type
        self.timesteps = scheduler.timesteps.to(self.device)
        following = scheduler.timesteps - train_steps // num_steps
        cumulative = scheduler.alphas_cumprod.float()
        final = scheduler.final_alpha_cumprod.float()
        alpha_bar_next = torch.where(following >= 0, cumulative[following.clamp(min=0)], final)
        alpha_bar = cumulative[scheduler.timesteps]
        self.trainable_steps = ddim_std(alpha_bar, alpha_bar_next, self.eta) > 0
        if self.eta > 0 and not self.trainable_steps.any():
            raise ModelError(
                f"sampling.num_steps = {num_steps}: with this scheduler no step has a density; use more steps"
            )
        self.alpha_bar = alpha_bar.to(self.device)
        self.alpha_bar_next = alpha_bar_next.to(self.device)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Keys: `embeddings` (P, L, D)."""
        positive, negative = self.pipeline.encode_prompt(
            list(prompts), self.device, num_images_per_prompt=1, do_classifier_free_guidance=True
        )
        return Conditioning({"embeddings": positive}, {"embeddings": negative[:1]})

    def transition(self, latents: torch.Tensor, steps: torch.Tensor, conditioning: Conditioning) -> Transition:
        steps = steps.to(self.device)
        return ddim_transition(
            self._predict(latents, self.timesteps[steps], conditioning),
            latents,
            self.alpha_bar[steps],
            self.alpha_bar_next[steps],
            self.eta,
            self.prediction,
        )

    def _predict(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The guided model output: conditional and unconditional branch as one doubled batch."""
        embeddings = conditioning.positive["embeddings"]
        half = self.storage_dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.storage_dtype, enabled=half):
            if self.guidance_scale <= 1:
                return self._unet(latents, timesteps, embeddings)
            both = torch.cat([conditioning.negative["embeddings"], embeddings])
            output = self._unet(torch.cat([latents, latents]), torch.cat([timesteps, timesteps]), both)
        unconditional, conditional = output.float().chunk(2)
        return unconditional + self.guidance_scale * (conditional - unconditional)

    def _unet(self, latents: torch.Tensor, timesteps: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.unet(
            latents.to(self.storage_dtype), timesteps, encoder_hidden_states=embeddings, return_dict=False
        )[0]
        return output

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        vae = self.pipeline.vae
        scaled = latents.to(self.device, vae.dtype) / vae.config.scaling_factor
        pixels = vae.decode(scaled, return_dict=False)[0]
        images: list[Image.Image] = self.pipeline.image_processor.postprocess(pixels.float(), output_type="pil")
        return images

    @torch.no_grad()
    def latents_of(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Final latents (N, C, h, w) under which the VAE decodes to `images`, nearly; fp32."""
        vae = self.pipeline.vae
        pixels = self.pipeline.image_processor.preprocess(list(images)).to(self.device, vae.dtype)
        latents: torch.Tensor = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        return latents.float()

    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for _, p in sorted(self.unet.named_parameters()) if p.requires_grad]

    def state_dict(self) -> dict[str, torch.Tensor]:
        return lora_state_dict(self.unet)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        load_lora_state_dict(self.unet, state)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        self.unet.disable_adapters()
        try:
            yield
        finally:
            self.unet.enable_adapters()

    def save_lora(self, folder: Path) -> Path:
        return save_lora(type(self.pipeline), self.unet, folder)
