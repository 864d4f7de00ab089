"""What a model family declares about its pipeline, and the parts that families are built from.

A family adapts one pipeline class to the common interface: latents (N, C, h, w), conditioning as named rows, one
denoiser output. Everything that does not depend on the family is in `policies/pipeline.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch.nn import functional

from hero.config import SamplingConfig
from hero.errors import ModelError
from hero.policies.conditioning import Conditioning
from hero.policies.steps import Steps

__all__ = [
    "ClassifierFree",
    "Family",
    "Guidance",
    "ImageSize",
    "Prompting",
    "Rows",
    "decode_kl",
    "encode_kl",
    "image_tokens",
    "later_blocks",
    "linear_sigmas",
    "pack",
    "patch_positions",
    "prompting",
    "shift_of",
    "unpack",
]

Rows = Mapping[str, torch.Tensor]


class Guidance(Protocol):
    """How the outputs with and without the prompt are combined."""

    def combine(self, conditional: torch.Tensor, unconditional: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w) fp32 each."""
        ...


@dataclass(frozen=True)
class ClassifierFree:
    """unconditional + scale·(conditional − unconditional)."""

    scale: float

    @classmethod
    def above_one(cls, scale: float) -> Self | None:
        """Guidance of that scale; None (off) for a scale of at most 1."""
        return cls(scale) if scale > 1 else None

    def combine(self, conditional: torch.Tensor, unconditional: torch.Tensor) -> torch.Tensor:
        return unconditional + self.scale * (conditional - unconditional)


@dataclass(frozen=True)
class Prompting:
    """Arguments of a pipeline's own prompt encoding that differ from its defaults."""

    negative: str
    clip_skip: int | None

    def for_each(self, of: Sized) -> dict[str, Any]:
        """The arguments for as many prompts as `of` is long."""
        arguments: dict[str, Any] = {"negative_prompt": [self.negative] * len(of)} if self.negative else {}
        return arguments if self.clip_skip is None else {**arguments, "clip_skip": self.clip_skip}


def prompting(sampling: SamplingConfig) -> Prompting:
    """Those that `sampling` asks for; none by default."""
    return Prompting(sampling.negative_prompt, sampling.clip_skip)


@dataclass(frozen=True)
class ImageSize:
    """Height and width in pixels, and how many pixels one latent spans per side."""

    height: int
    width: int
    factor: int

    @classmethod
    def of(cls, sampling: SamplingConfig, native: int | tuple[int, int], factor: int, patch: int = 1) -> Self:
        """The size in `sampling`, or else `native` pixels.

        Args:
            factor: the VAE's: pixels per latent.
            patch: latents per side of a patch of the denoiser.

        Raises:
            ModelError: a side is not a multiple of factor·patch.
        """
        sides = (native, native) if isinstance(native, int) else native
        multiple = factor * patch
        chosen = []
        for name, asked, own in zip(("height", "width"), (sampling.height, sampling.width), sides, strict=True):
            pixels = own if asked is None else asked
            if pixels % multiple:
                nearest = max(multiple, round(pixels / multiple) * multiple)
                raise ModelError(
                    f"sampling.{name} = {pixels} is not divisible by {multiple} (the VAE's factor {factor}"
                    + (f" times the patch size {patch}" if patch > 1 else "")
                    + f"); use {nearest}"
                )
            chosen.append(pixels)
        return cls(chosen[0], chosen[1], factor)

    def latent_shape(self, channels: int) -> tuple[int, int, int]:
        """(C, h, w)."""
        return (channels, self.height // self.factor, self.width // self.factor)


class Family(Protocol):
    """One pipeline class, adapted to the common interface. Made from (pipeline, sampling, device).

    Attributes:
        denoiser: name of the component that is trained.
        text_encoders: names of the components that `encode` uses.
        layers: kind of layer (`lora.layers`) → module name endings in the denoiser.
        size: of the images.
        latent_shape: (C, h, w).
        steps: the schedule.
        guidance: None: the denoiser is called once, with the prompt.
        true_cfg: whether it uses `sampling.true_cfg_scale`.
        takes: which of `negative_prompt` and `clip_skip` of the sampling settings it uses.
        feature_layers: names of the denoiser's modules that features are taken from; see `by_position`.
    """

    denoiser: str
    text_encoders: tuple[str, ...]
    layers: Mapping[str, tuple[str, ...]]
    size: ImageSize
    latent_shape: tuple[int, int, int]
    steps: Steps
    guidance: Guidance | None
    true_cfg: bool
    takes: tuple[str, ...]
    feature_layers: tuple[str, ...]

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Rows of P prompts and of the empty one, with the same shapes; the text encoders are on the device."""
        ...

    def token_limits(self) -> Mapping[str, int]:
        """Name of each tokenizer → most tokens that its text encoder is given; see `hero.policies.prompts`."""
        ...

    def predict(self, latents: torch.Tensor, times: torch.Tensor, rows: Rows) -> torch.Tensor:
        """The denoiser's output (N, C, h, w) for `latents` (N, C, h, w) at `times` (N,), one of `rows` each."""
        ...

    def by_position(self, output: Any) -> torch.Tensor:
        """The output of one of `feature_layers` as (N, D, h', w'): one vector per position of the image, no text."""
        ...

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels (N, 3, H, W) in [−1, 1] from latents in the VAE's dtype and on its device."""
        ...

    def library_arguments(self, noise: torch.Tensor) -> dict[str, Any]:
        """Arguments with which the pipeline's own call starts from `noise` (N, C, h, w) and adds no more."""
        ...

    def from_library(self, latents: torch.Tensor) -> torch.Tensor:
        """The latents that the pipeline's own call returns, as (N, C, h, w)."""
        ...


def decode_kl(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Pixels from an AutoencoderKL, after undoing the scale, shift, mean and standard deviation of its latents."""
    shift, mean, std = _latent_statistics(vae.config, latents)
    scaled = latents / vae.config.scaling_factor * std + mean + shift
    pixels: torch.Tensor = vae.decode(scaled, return_dict=False)[0]
    return pixels


def encode_kl(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The inverse of `decode_kl`, as far as the VAE has one: the mode of the posterior of `pixels` (N, 3, H, W)."""
    raw: torch.Tensor = vae.encode(pixels).latent_dist.mode()
    shift, mean, std = _latent_statistics(vae.config, raw)
    latents: torch.Tensor = (raw - shift - mean) / std * vae.config.scaling_factor
    return latents


def _latent_statistics(config: Any, latents: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Shift, and mean and standard deviation per channel, (1, C, 1, 1); 0, 0 and 1 where the VAE has none."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is None or std is None:
        mean, std = [0.0], [1.0]
    means, stds = (torch.tensor(values).view(1, -1, 1, 1).to(latents) for values in (mean, std))
    return config.get("shift_factor") or 0.0, means, stds


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) → (N, h/2·w/2, 4C): one token per 2×2 patch, channels first within it."""
    return functional.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def unpack(tokens: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """The inverse of `pack` for latents of `shape` (C, h, w): (N, h/2·w/2, 4C) → (N, C, h, w)."""
    n, _, c = tokens.shape
    patches = tokens.transpose(1, 2).reshape(n, c, shape[1] // 2, shape[2] // 2)
    return functional.pixel_shuffle(patches, 2)


def patch_positions(height: int, width: int, axes: int, device: torch.device) -> torch.Tensor:
    """(height·width, axes) fp32: row in axis 1 and column in axis 2 of each patch, 0 in the others."""
    positions = torch.zeros(height, width, axes, device=device)
    positions[..., 1] = torch.arange(height, device=device)[:, None]
    positions[..., 2] = torch.arange(width, device=device)[None, :]
    return positions.flatten(0, 1)


def later_blocks(denoiser: Any, *stacks: str) -> tuple[str, ...]:
    """Names of the blocks that complete half and three quarters of a transformer's blocks.

    Args:
        stacks: names of the denoiser's lists of blocks, in the order in which it computes them.
    """
    names = [f"{stack}.{k}" for stack in stacks for k in range(len(getattr(denoiser, stack)))]
    last = (math.ceil(len(names) * share) - 1 for share in (0.5, 0.75))
    return tuple(dict.fromkeys(names[k] for k in last))


def image_tokens(output: Any, grid: tuple[int, int], *, first: bool = False) -> torch.Tensor:
    """A transformer block's output as (N, D, rows, columns), without its text tokens.

    Args:
        output: (text, image) tokens, each (N, L, D), or one tensor with both concatenated.
        grid: (rows, columns) of patches.
        first: whether the image's tokens come before the text's in that tensor.
    """
    tokens: torch.Tensor = output[-1] if isinstance(output, tuple) else output
    count = grid[0] * grid[1]
    image = tokens[:, :count] if first else tokens[:, -count:]
    return image.transpose(1, 2).reshape(len(image), -1, *grid)


def linear_sigmas(num_steps: int) -> list[float]:
    """1 to 1/T in equal steps: what packed flow-matching pipelines give their scheduler."""
    sigmas: list[float] = np.linspace(1.0, 1 / num_steps, num_steps).tolist()
    return sigmas


def shift_of(scheduler: Any, tokens: int, max_shift: float = 1.15) -> float:
    """μ of the resolution-dependent timestep shift for images of `tokens` patches, as the pipelines compute it."""
    config = scheduler.config
    mu: float = calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", max_shift),
    )
    return mu
