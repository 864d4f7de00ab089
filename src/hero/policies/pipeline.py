"""A diffusers pipeline as a policy: what all model families share. What differs is in each family's own file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch.distributed.device_mesh import DeviceMesh

from hero.config import Config, LoraConfig, ModelConfig, SamplingConfig
from hero.errors import ModelError
from hero.policies.adapters import (
    Adapter,
    LoraAdapter,
    add_adapter,
    blend,
    lora_parameters,
    merged,
    peft_name,
    switch,
)
from hero.policies.conditioning import Conditioning
from hero.policies.family import Family, Rows, encode_kl
from hero.policies.fusing import by_name, fuse
from hero.policies.layers import Pooling, captured, channel_statistics, level_noise
from hero.policies.lora import add_lora, load_lora_state_dict, lora_state_dict, save_lora
from hero.policies.lora_start import Pairs, read_start
from hero.policies.prompts import CutPrompt, cut_prompts
from hero.policies.sharding import shard_frozen
from hero.policies.steps import check_noise_left
from hero.transitions import Transition

__all__ = ["PipelinePolicy", "repeated_blocks"]

_CPU = torch.device("cpu")


def repeated_blocks(denoiser: Any) -> list[torch.nn.Module]:
    """The blocks that gradient checkpointing computes twice and that `torch.compile` compiles once per kind."""
    named = getattr(denoiser, "_repeated_blocks", None) or getattr(denoiser, "_no_split_modules", None) or ()
    kinds = {"ResnetBlock2D", *named}
    return [module for module in denoiser.modules() if type(module).__name__ in kinds]


class PipelinePolicy:
    """`pipeline`, as `family` describes it, behind the interface `hero.policies.Policy`."""

    def __init__(
        self, pipeline: Any, family: Family, config: Config, *, device: torch.device, mesh: DeviceMesh | None = None
    ) -> None:
        if config.sampling.true_cfg_scale > 1 and not family.true_cfg:
            raise ModelError(
                f"sampling.true_cfg_scale is for guidance-distilled models; {type(pipeline).__name__} is guided by "
                "sampling.guidance_scale"
            )
        _check_prompting(pipeline, family, config.sampling)
        _check_channels(pipeline, family)
        check_noise_left(family.steps)
        self.pipeline = pipeline
        self.pipeline.set_progress_bar_config(disable=True)
        self.family = family
        self.device = device
        self.denoiser = getattr(pipeline, family.denoiser).eval()
        self.storage_dtype: torch.dtype = self.denoiser.dtype
        self.latent_shape = family.latent_shape
        self.image_size = (family.size.height, family.size.width)
        self.steps = family.steps
        self.num_steps = family.steps.num_steps
        self.trainable_steps = family.steps.trainable
        encoders = [getattr(pipeline, name) for name in family.text_encoders]
        self._parts = {"text-encoders": [e for e in encoders if e is not None], "vae": [pipeline.vae]}
        self._offload = config.model.offload
        for name, modules in self._parts.items():
            for module in modules:
                _move(module.requires_grad_(False), _CPU if name in self._offload else device)
        self._sharded = mesh is not None
        self._compiled = config.model.compile
        self.lora = config.lora
        self._negative = config.sampling.negative_prompt
        start = self._begin_with(config.lora)
        if mesh is None:
            _move(self.denoiser, device)
        add_lora(self.denoiser, self.lora, family.layers, config.seed, start)
        self._adapter: Adapter = "current"
        self._seed = config.seed
        self._apply(config.model)
        if mesh is not None:  # from the CPU, block by block: the device never holds all of it
            shard_frozen(self.denoiser, repeated_blocks(self.denoiser), mesh, device)
        if start is not None:
            add_adapter(self.denoiser, "start", self._adapter)

    def _begin_with(self, config: LoraConfig) -> Pairs | None:
        """Reads `lora.start`: what of it is frozen goes into the weights; the rest is where the trained LoRA starts."""
        self._encoders: dict[str, Pairs] = {}
        self.starts: tuple[str, ...] = ()
        if config.start is None:
            return None
        start = read_start(Path(config.start).expanduser(), self.pipeline, self.family.denoiser)
        for name, pairs in start.encoders.items():
            fuse(getattr(self.pipeline, name), by_name(pairs), 1.0)
        beside = f", and {name_list} stays as it is there" if (name_list := " and ".join(start.encoders)) else ""
        if config.merge_start:
            cost = fuse(self.denoiser, by_name(start.denoiser), start.ratio)
            lost = f"; {cost.lost:.0%} of it is lost to rounding in {cost.dtype}" if cost.lost >= 0.005 else ""
            self.starts = (f"{config.start} is part of the base model{lost}",)
            return None
        self.lora = config.model_copy(update={"rank": start.rank, "alpha": start.ratio * start.rank})
        about = f"rank {self.lora.rank}, alpha {self.lora.alpha:g}, {len(start.denoiser)} layers"
        self.starts = (f"{config.start} is trained on: {about}{beside}",)
        self._encoders = start.encoders
        return start.denoiser

    def _apply(self, options: ModelConfig) -> None:
        """The options that trade time for memory, or a slow start for speed."""
        vae = self.pipeline.vae
        if vae.dtype == torch.float16 and vae.config.get("force_upcast"):
            vae.float()  # it overflows in fp16
        for asked, part, method in (
            (options.gradient_checkpointing, self.denoiser, "enable_gradient_checkpointing"),
            (options.vae_slicing, vae, "enable_slicing"),
            (options.vae_tiling, vae, "enable_tiling"),
        ):
            if asked:
                getattr(part, method)()
        if options.compile:
            for block in repeated_blocks(self.denoiser):
                block.compile()

    @contextmanager
    def _present(self, name: str) -> Iterator[None]:
        """Within it that part is on the device, even if offloaded; offloaded text encoders replace a whole denoiser."""
        if name not in self._offload:
            yield
            return
        away = [self.denoiser] if name == "text-encoders" and not self._sharded else []
        for modules, place in ((away, _CPU), (self._parts[name], self.device)):
            for module in modules:
                module.to(place)
        try:
            yield
        finally:
            for modules, place in ((self._parts[name], _CPU), (away, self.device)):
                for module in modules:
                    module.to(place)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        with self._present("text-encoders"):
            return self.family.encode(list(prompts))

    def cut(self, prompts: Sequence[str]) -> list[CutPrompt]:
        negative = [self._negative] if self._negative else []
        return cut_prompts(self.pipeline, self.family.token_limits(), [*prompts, *negative])

    def transition(self, latents: torch.Tensor, steps: torch.Tensor, conditioning: Conditioning) -> Transition:
        steps = steps.to(self.device)
        output = self._predict(latents, self.steps.times[steps], conditioning)
        return self.steps.transition(output, latents, steps)

    def predict(
        self, latents: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, *, guided: bool
    ) -> torch.Tensor:
        return self._predict(latents, self.steps.times_at(t), conditioning, guided=guided).float()

    def _predict(
        self, latents: torch.Tensor, times: torch.Tensor, conditioning: Conditioning, *, guided: bool = True
    ) -> torch.Tensor:
        """The model's output; with guidance, the conditional and unconditional branches are one doubled batch."""
        positive, guidance = conditioning.positive, self.family.guidance if guided else None
        latents = latents.to(self.storage_dtype)
        half = self.storage_dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.storage_dtype, enabled=half):
            if guidance is None:
                return self.family.predict(latents, times, positive)
            both: Rows = {key: torch.cat([conditioning.negative[key], positive[key]]) for key in positive}
            output = self.family.predict(torch.cat([latents, latents]), torch.cat([times, times]), both)
        unconditional, conditional = output.float().chunk(2)
        return guidance.combine(conditional, unconditional)

    @torch.no_grad()
    def features(
        self,
        latents: torch.Tensor,
        conditioning: Conditioning,
        *,
        levels: Sequence[float] | None = None,
        pooling: Pooling = channel_statistics,
    ) -> torch.Tensor:
        layers = self.family.feature_layers
        latents = latents.to(self.device, torch.float32)
        by_level = []
        with self.using("base"), captured(self.denoiser, layers) as outputs:
            for level in self.steps.feature_levels if levels is None else levels:
                t = torch.full((len(latents),), level)
                noise = level_noise(self.latent_shape, self._seed, level).to(self.device)
                self.predict(self.steps.noised(latents, noise, t), t, conditioning, guided=False)
                maps = [self.family.by_position(outputs[name]).float() for name in layers]
                by_level.append(torch.cat([pooling(m) for m in maps], dim=1))
        return torch.stack(by_level).mean(0).cpu()

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        vae = self.pipeline.vae
        with self._present("vae"):
            pixels = self.family.decode(latents.to(self.device, vae.dtype))
        images: list[Image.Image] = self.pipeline.image_processor.postprocess(pixels.float(), output_type="pil")
        return images

    @torch.no_grad()
    def latents_of(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Final latents (N, C, h, w) fp32 on the CPU that decode to `images`, nearly.

        Raises:
            ModelError: the VAE's latents are not this model's final latents.
        """
        vae = self.pipeline.vae
        if not isinstance(vae, AutoencoderKL):
            raise ModelError(f"{type(vae).__name__} cannot encode images into latents; import into another model")
        pixels = self.pipeline.image_processor.preprocess(list(images))
        with self._present("vae"):
            return encode_kl(vae, pixels.to(self.device, vae.dtype)).float().cpu()

    @torch.no_grad()
    def library_latents(self, prompts: Sequence[str], noise: torch.Tensor) -> torch.Tensor:
        """Final latents (N, C, h, w) on the CPU of the pipeline's own call from `noise`, without stochasticity."""
        noise = noise.to(self.device, self.storage_dtype)
        self.pipeline.to(self.device)
        latents = self.pipeline(
            prompt=list(prompts),
            height=self.family.size.height,
            width=self.family.size.width,
            num_inference_steps=self.num_steps,
            output_type="latent",
            **self.family.library_arguments(noise),
        ).images
        for name in self._offload:
            for module in self._parts[name]:
                module.to(_CPU)
        return self.family.from_library(latents).cpu()

    def add_adapter(self, adapter: Literal["old"]) -> None:
        add_adapter(self.denoiser, adapter, self._adapter)

    @contextmanager
    def using(self, adapter: Adapter) -> Iterator[None]:
        before = self._adapter
        self._use(adapter)
        try:
            yield
        finally:
            self._use(before)

    def _use(self, adapter: Adapter) -> None:
        if adapter == self._adapter:
            return
        switch(self.denoiser, adapter)
        self._adapter = adapter

    def merged(self) -> AbstractContextManager[None]:
        if self._sharded or self._compiled:  # no whole weights to add to; every change would be compiled again
            return nullcontext()
        return merged(self.denoiser)

    def frozen(self) -> AbstractContextManager[None]:
        return self.using("base")

    def blend(self, adapter: Literal["old"], *, towards: LoraAdapter, decay: float) -> None:
        blend(self.denoiser, adapter, towards, decay)

    def parameters(self, adapter: LoraAdapter = "current") -> list[torch.nn.Parameter]:
        return lora_parameters(self.denoiser, adapter)

    def state_dict(self, adapter: LoraAdapter = "current") -> dict[str, torch.Tensor]:
        return lora_state_dict(self.denoiser, peft_name(self.denoiser, adapter))

    def load_state_dict(self, state: Mapping[str, torch.Tensor], adapter: LoraAdapter = "current") -> None:
        load_lora_state_dict(self.denoiser, state, peft_name(self.denoiser, adapter))

    def save_lora(self, folder: Path) -> Path:
        return save_lora(self.denoiser, folder, self._encoders)


def _check_prompting(pipeline: Any, family: Family, sampling: SamplingConfig) -> None:
    """Raises ModelError if a setting about prompts would have no effect."""
    name, takes = type(pipeline).__name__, getattr(family, "takes", ())
    if sampling.clip_skip is not None and "clip_skip" not in takes:
        raise ModelError(f"sampling.clip_skip is for models with CLIP embeddings, and {name} has none; leave it out")
    if not sampling.negative_prompt:
        return
    if "negative_prompt" not in takes:
        raise ModelError(f"sampling.negative_prompt: {name} takes no negative prompt; leave it out")
    if family.guidance is None:
        scale = "true_cfg_scale" if family.true_cfg else "guidance_scale"
        raise ModelError(
            f"sampling.negative_prompt has no effect on {name} without classifier-free guidance; raise "
            f"sampling.{scale} (it is {getattr(sampling, scale):g}), or leave it out"
        )


def _check_channels(pipeline: Any, family: Family) -> None:
    """Raises ModelError if the denoiser takes more than the VAE's latents, as those for inpainting do."""
    own = pipeline.vae.config.get("latent_channels") or pipeline.vae.config.get("z_dim")
    patch = family.size.factor // pipeline.vae_scale_factor  # latents per side of what the family calls one
    if own is not None and family.latent_shape[0] != own * patch**2:
        raise ModelError(
            f"the {type(getattr(pipeline, family.denoiser)).__name__} takes {family.latent_shape[0]} channels where "
            f"the VAE's latents have {own * patch**2}: it is no plain text-to-image model, but one for "
            "inpainting, say"
        )


def _move(module: torch.nn.Module, device: torch.device) -> None:
    """Tensors with a shape but no memory (for estimates) cannot be moved, not even to the device they are on."""
    if next(module.parameters()).device != device:
        module.to(device)
