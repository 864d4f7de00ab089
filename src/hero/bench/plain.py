"""Images of a LoRA file in the library's own pipeline, as somebody without this package draws them: η = 0."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from hero.config import Config
from hero.evaluation import HELD_OUT
from hero.noise import fresh_noise
from hero.policies import family_of, load_pipeline, resolve_device

__all__ = ["draw_plain"]


@torch.no_grad()
def draw_plain(config: Config, lora: Path | None, prompts: Sequence[str]) -> list[Image.Image]:
    """One image per prompt from the held-out initial noises, by the pipeline's own call, without stochasticity.

    Steps and guidance are those of `config`, as the snippets of reports and model cards set them.

    Args:
        lora: the file, read by the pipeline's own loader; None: the base model.

    Raises:
        ModelError: the model cannot be loaded.
    """
    pipeline, device = load_pipeline(config.model), resolve_device(config.model.device)
    pipeline.set_progress_bar_config(disable=True)
    family = family_of(type(pipeline).__name__)(pipeline, config.sampling, device)
    if lora is not None:
        pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
    pipeline.to(device)
    noise = fresh_noise(len(prompts), family.latent_shape, seed=config.evaluation.seed, stage=HELD_OUT[0])
    noise = noise.to(device, getattr(torch, config.model.dtype))
    images: list[Image.Image] = []
    for start in range(0, len(prompts), config.sampling.micro_batch):
        rows = slice(start, start + config.sampling.micro_batch)
        images += pipeline(
            prompt=list(prompts[rows]),
            height=family.size.height,
            width=family.size.width,
            num_inference_steps=config.sampling.num_steps,
            **family.library_arguments(noise[rows]),
        ).images
    return images
