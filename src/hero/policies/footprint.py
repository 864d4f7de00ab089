"""How much memory a configuration needs, part by part, and which options make it fit.

What the update keeps for its backward pass is measured on one transition of the model itself; the rest is computed.
It is an estimate: allocators round up, libraries keep workspaces, and decoding follows a rule of thumb.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hero.config import Config, merge, validate
from hero.policies import Conditioning, Policy
from hero.policies.pipeline import repeated_blocks
from hero.reward.protocol import Reward
from hero.update.protocol import Update

__all__ = ["Costs", "Footprint", "device_memory", "estimate", "gibibytes", "measure_costs", "options_that_fit"]

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("model.offload", ("text-encoders",)),
    ("model.vae_slicing", True),
    ("model.gradient_checkpointing", True),
    ("update.micro_batch", 1),
    ("sampling.micro_batch", 1),
    ("model.dtype", "bfloat16"),
    ("update.optimizer", "adamw-8bit"),
    ("model.offload", ("text-encoders", "vae")),
)
"""From the option that costs the least time to the one that costs the most."""


@dataclass(frozen=True)
class Costs:
    """What one model costs under one LoRA and image size.

    Attributes:
        denoiser, text_encoders, vae, lora: numbers of parameters.
        kept, checkpointed: fp32 bytes that the backward pass of one guided transition keeps, without gradient
            checkpointing and with it.
        pixels: in one image.
        decoder_channels: channels of the VAE's decoder at full resolution.
        latent_shape: (C, h, w).
    """

    denoiser: int
    text_encoders: int
    vae: int
    lora: int
    kept: int
    checkpointed: int
    pixels: int
    decoder_channels: int
    latent_shape: tuple[int, int, int]


@dataclass(frozen=True)
class Footprint:
    """Bytes on the device in each phase of a round, and in main memory.

    Attributes:
        phases: `encoding`, `sampling`, `decoding`, `updating`.
        weights: bytes of the parts on the device in sampling and updating, LoRA and optimizer state included.
        trajectories: bytes of one round's trajectories, kept in main memory.
    """

    phases: Mapping[str, int]
    weights: int
    trajectories: int

    @property
    def peak(self) -> int:
        """Bytes on the device in the largest phase."""
        return max(self.phases.values())

    def describe(self) -> str:
        """One line: the peak, its phase, and the trajectories."""
        phase = max(self.phases, key=lambda name: self.phases[name])
        return (
            f"about {gibibytes(self.peak)} while {phase} (weights {gibibytes(self.weights)}); trajectories of a round "
            f"{gibibytes(self.trajectories)} in main memory"
        )


def measure_costs(policy: Policy, config: Config, conditioning: Conditioning | None = None) -> Costs:
    """The costs of `policy`, whose denoiser runs once, with gradient; `conditioning` has one row, default: encoded."""
    row = (conditioning or policy.encode(["an image"])).rows(torch.zeros(1, dtype=torch.int64))
    pipeline = policy.pipeline
    lora = sum(p.numel() for p in policy.parameters())
    denoiser = _count([policy.denoiser]) - lora
    modules = {n: m for n, m in pipeline.components.items() if isinstance(m, nn.Module)}
    encoders = [m for n, m in modules.items() if n.startswith("text_encoder")]
    kept, checkpointed = _saved(policy, row, config)
    return Costs(
        denoiser=denoiser,
        text_encoders=_count(encoders),
        vae=_count([modules["vae"]]),
        lora=lora,
        kept=kept,
        checkpointed=checkpointed,
        pixels=policy.image_size[0] * policy.image_size[1],
        decoder_channels=2 * _first_channels(modules["vae"]),
        latent_shape=policy.latent_shape,
    )


def estimate(costs: Costs, config: Config) -> Footprint:
    """The memory that `config` needs with a model that costs `costs`."""
    size = _BYTES[config.model.dtype]
    offload = config.model.offload
    encoders, vae = size * costs.text_encoders, size * costs.vae
    optimizer = {"adamw": 8, "adamw-8bit": 2}[config.update.optimizer] if config.update.learns else 0
    weights = size * costs.denoiser + (4 * _loras(config) + optimizer) * costs.lora + _reward(costs, config)
    weights += (0 if "text-encoders" in offload else encoders) + (0 if "vae" in offload else vae)
    drawn = min(config.sampling.micro_batch, config.sampling.images_per_round)
    decoded = 1 if config.model.vae_slicing else drawn
    kept = (costs.checkpointed if config.model.gradient_checkpointing else costs.kept) * size // 4
    updating = 4 * costs.lora + kept * config.update.micro_batch
    alone = encoders + (0 if "vae" in offload else vae)  # offloaded text encoders take the denoiser's place
    phases = {
        "encoding": alone if "text-encoders" in offload else weights,
        # One block's activations at a time; those that remain under checkpointing are a good estimate of them.
        "sampling": weights + costs.checkpointed * size // 4 * drawn,
        "decoding": weights
        + (vae if "vae" in offload else 0)
        + 3 * size * costs.decoder_channels * costs.pixels * decoded,
        "updating": weights + (updating if config.update.learns else 0),
    }
    trajectories = (
        size * math.prod(costs.latent_shape) * (config.sampling.num_steps + 1) * config.sampling.images_per_round
    )
    return Footprint(phases, weights, trajectories)


def options_that_fit(costs: Costs, config: Config, limit: int) -> dict[str, Any] | None:
    """The cheapest settings, by name, under which `config` stays below `limit` bytes.

    An empty dict if it does already; None if no combination of options is enough.
    """
    chosen: dict[str, Any] = {}
    if _fits(costs, config, chosen, limit):
        return chosen
    for name, value in _OPTIONS:
        if name == "model.dtype" and config.model.dtype != "float32":
            continue
        chosen[name] = value
        if _fits(costs, config, chosen, limit):
            for needless in list(chosen):
                fewer = {k: v for k, v in chosen.items() if k != needless}
                if _fits(costs, config, fewer, limit):
                    chosen = fewer
            return chosen
    return None


def device_memory(device: torch.device) -> int:
    """Total memory of `device` in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def gibibytes(count: int) -> str:
    """E.g. "5.2 GiB"."""
    return f"{count / 2**30:.1f} GiB" if count >= 0.05 * 2**30 else f"{count / 2**20:.1f} MiB"


def _fits(costs: Costs, config: Config, options: Mapping[str, Any], limit: int) -> bool:
    values: dict[str, Any] = config.model_dump()
    for name, value in options.items():
        stage, _, key = name.partition(".")
        values = merge(values, {stage: {key: value}})
    return estimate(costs, validate(values)).peak <= limit


def _count(modules: Iterable[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def _first_channels(vae: Any) -> int:
    channels = vae.config.get("block_out_channels")
    return int(channels[0] if channels else vae.config.base_dim)


def _loras(config: Config) -> int:
    kept = 1 if config.lora.continues else 0  # the LoRA as the run found it
    if not config.update.learns:
        return 1 + kept
    update: type[Update] = config.update.choice.load()  # type: ignore[assignment]
    return update.loras() + kept


def _reward(costs: Costs, config: Config) -> int:
    reward: type[Reward] = config.reward.choice.load()  # type: ignore[assignment]
    return reward.memory_needed(costs.latent_shape, config.reward.own)


def _saved(policy: Policy, row: Conditioning, config: Config) -> tuple[int, int]:
    """fp32 bytes that one transition keeps for the backward pass: all, and those beyond checkpointed blocks."""
    scale = 4 / _BYTES[config.model.dtype]
    ours = {p.untyped_storage()._cdata for part in _networks(policy) for p in part.parameters()}
    storages: dict[int, Any] = {}
    blocks: list[tuple[int, int]] = []
    depth = 0

    def total() -> int:
        return sum(s.nbytes() for s in storages.values())

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in ours:
            storages[storage._cdata] = storage
        return tensor

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            given = [x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor)]
            blocks.append((total(), sum(x.nbytes for x in given[:2])))

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            before, inputs = blocks[-1]
            blocks[-1] = (total() - before, inputs)

    hooks = []
    for block in repeated_blocks(policy.denoiser):
        hooks.append(block.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.append(block.register_forward_hook(leave))
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            _one_transition(policy, row)
    finally:
        for hook in hooks:
            hook.remove()
    everything = total()
    inside = sum(kept for kept, _ in blocks)
    largest = max((kept for kept, _ in blocks), default=0)
    checkpointed = everything - inside + largest + sum(inputs for _, inputs in blocks)
    return int(scale * everything), int(scale * min(everything, checkpointed))


def _networks(policy: Policy) -> list[nn.Module]:
    return [m for m in policy.pipeline.components.values() if isinstance(m, nn.Module)]


def _one_transition(policy: Policy, row: Conditioning) -> None:
    """One guided step of one image, with gradient, and without checkpointing."""
    latents = torch.zeros(1, *policy.latent_shape, device=policy.device, dtype=policy.storage_dtype)
    with _without_checkpointing(policy.denoiser), torch.enable_grad():
        policy.transition(latents, torch.zeros(1, dtype=torch.int64), row).log_prob(latents)


@contextmanager
def _without_checkpointing(denoiser: Any) -> Iterator[None]:
    was_on = bool(denoiser.is_gradient_checkpointing)
    if was_on:
        denoiser.disable_gradient_checkpointing()
    try:
        yield
    finally:
        if was_on:
            denoiser.enable_gradient_checkpointing()
