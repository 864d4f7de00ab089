"""Outputs of a denoiser's layers for final latents: captured by position in a forward pass, then pooled per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from hero.seeding import Stage, generator, normal

__all__ = ["Pooling", "captured", "channel_statistics", "level_noise"]

Pooling = Callable[[torch.Tensor], torch.Tensor]
"""From one layer's outputs by position, (N, C, h, w) fp32, to K numbers per image, (N, K) fp32."""


def channel_statistics(maps: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) → (N, 3C): of each channel the mean over positions, then the maximum, then the standard deviation.

    The standard deviation is that of the positions themselves (divided by their number), so it is 0 for a single one.
    """
    values = maps.flatten(2)
    return torch.cat([values.mean(2), values.amax(2), values.std(2, correction=0)], dim=1)


def level_noise(shape: tuple[int, int, int], seed: int, level: float) -> torch.Tensor:
    """(C, h, w) fp32 on the CPU: the noise that every image gets at `level`, a function of `seed` and `level` alone.

    Levels less than a thousandth apart may share it.
    """
    return normal(shape, generator(seed, Stage.FEATURE_NOISE, index=round(1000 * level)))


@contextmanager
def captured(denoiser: torch.nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """Within it, the latest output of each of the modules `names` of `denoiser`, as the module returns it."""
    outputs: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: outputs.__setitem__(name, output)

    with ExitStack() as stack:
        for name in names:
            module = denoiser.get_submodule(name)
            stack.enter_context(_uncompiled(module))
            stack.callback(module.register_forward_hook(keep(name)).remove)
        yield outputs


@contextmanager
def _uncompiled(module: Any) -> Iterator[None]:
    """Compiled code ignores hooks that were added later, so these few modules run uncompiled."""
    compiled = module._compiled_call_impl
    module._compiled_call_impl = None
    try:
        yield
    finally:
        module._compiled_call_impl = compiled
