"""Several LoRAs on one denoiser: the one that is trained, an older one of the same shape, and none at all.

The older one exists only if a method asks for it. It is never trained or written into LoRA files; it follows the
trained one by `blend`, and a method's checkpoints keep it. Where a run trains on a LoRA that it started from, the base
model has that LoRA as it was, in an adapter that nothing changes. Implemented with PEFT.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch

__all__ = [
    "ADAPTER",
    "Adapter",
    "LoraAdapter",
    "add_adapter",
    "blend",
    "lora_parameters",
    "merged",
    "peft_name",
    "switch",
]

ADAPTER = "default"
"""PEFT's name for the trained adapter, as it appears in LoRA files."""

LoraAdapter = Literal["current", "old"]
"""The adapters that have weights."""

Adapter = Literal["current", "old", "base"]
"""`current` is trained, `old` follows it, `base` is the model without a LoRA, or with the one that the run began on."""

_Kept = Literal["old", "start"]
_Named = Literal["current", "old", "start"]
_START: Literal["start"] = "start"
_PEFT_NAMES: dict[str, str] = {"current": ADAPTER, "old": "old", _START: _START}

_LAYERS: WeakKeyDictionary[torch.nn.Module, list[Any]] = WeakKeyDictionary()


def peft_name(denoiser: Any, adapter: _Named) -> str:
    """PEFT's name for `adapter`.

    Raises:
        ValueError: there is no such adapter, or it was not added.
    """
    if adapter not in _PEFT_NAMES:
        raise ValueError(f"there is no adapter {adapter!r}; known: {', '.join(_PEFT_NAMES)}")
    if _PEFT_NAMES[adapter] not in denoiser.peft_config:
        raise ValueError(f"the policy has no adapter {adapter!r} yet; call add_adapter({adapter!r}) first")
    return _PEFT_NAMES[adapter]


def _lora_layers(denoiser: Any) -> list[Any]:
    """The layers that have a LoRA; found once, since adapters are switched several times a step."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # slow to import, and needed only where there is a model

    found = _LAYERS.get(denoiser)
    if not found:
        found = _LAYERS[denoiser] = [layer for layer in denoiser.modules() if isinstance(layer, BaseTunerLayer)]
    return found


def lora_parameters(denoiser: Any, adapter: _Named) -> list[torch.nn.Parameter]:
    """The weights of `adapter`, sorted by name, whichever adapter is in use."""
    name = peft_name(denoiser, adapter)
    found = [(k, p) for k, p in denoiser.named_parameters() if ".lora_" in k and k.split(".")[-2] == name]
    return [parameter for _, parameter in sorted(found, key=lambda pair: pair[0])]


def switch(denoiser: Any, adapter: Adapter) -> None:
    """Makes `denoiser` compute with `adapter`; only the current one's weights get gradients, and only while in use."""
    chosen: _Named = _START if adapter == "base" else adapter
    plain = adapter == "base" and _PEFT_NAMES[chosen] not in denoiser.peft_config
    name = None if plain else peft_name(denoiser, chosen)
    for layer in _lora_layers(denoiser):
        if layer.disable_adapters != (name is None):
            layer.enable_adapters(name is not None)
        if name is not None:
            layer.set_adapter(name)
            if adapter != "current":  # PEFT assumes that the adapter in use is the one to train
                layer.requires_grad_(False)


@contextmanager
def merged(denoiser: Any) -> Iterator[None]:
    """Within it the adapter in use is a part of the weights, so that drawing costs what it does without a LoRA.

    Outputs are the same but for rounding, and nothing can be trained. Afterwards the weights are what they were, bit by
    bit. Does nothing where the sum would round the LoRA away or is not to be had: weights that are not plain fp32.
    """
    layers = _lora_layers(denoiser)
    bases = [layer.get_base_layer() for layer in layers]
    plain = all(
        type(base) in (torch.nn.Linear, torch.nn.Conv2d) and base.weight.dtype == torch.float32 for base in bases
    )
    if not plain or any(layer.disable_adapters for layer in layers):
        yield
        return
    kept = [base.weight.data for base in bases]
    try:
        for layer in layers:
            layer.merge(safe_merge=True)  # "safe": into a copy of the weights
        yield
    finally:
        for layer, base, weight in zip(layers, bases, kept, strict=True):
            base.weight.data = weight
            layer.merged_adapters.clear()


def add_adapter(denoiser: Any, adapter: _Kept, in_use: Adapter) -> None:
    """Adds `adapter` as an fp32 copy of the current one, keeping `in_use` active; does nothing if it exists already.

    The states of the global random generators do not change.
    """
    name = _PEFT_NAMES[adapter]
    if name in denoiser.peft_config:
        return
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT draws weights, which the copy then replaces, and warns that there is an adapter already.
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        denoiser.add_adapter(deepcopy(denoiser.peft_config[ADAPTER]), adapter_name=name)
    switch(denoiser, in_use)
    pairs = zip(lora_parameters(denoiser, adapter), lora_parameters(denoiser, "current"), strict=True)
    for copy, parameter in pairs:
        copy.data = parameter.detach().clone()


@torch.no_grad()
def blend(denoiser: Any, adapter: Literal["old"], towards: LoraAdapter, decay: float) -> None:
    """θ ← decay·θ + (1 − decay)·θ' for each weight θ of `adapter` and θ' of `towards`.

    Exact where the result is known: `decay` 1 changes nothing, 0 copies, and equal weights stay as they are.

    Raises:
        ValueError: `decay` is not in [0, 1], or an adapter was not added.
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay is {decay}, which is not in [0, 1]")
    pairs = zip(lora_parameters(denoiser, adapter), lora_parameters(denoiser, towards), strict=True)
    for weight, target in pairs:
        weight.lerp_(target, 1 - decay)
