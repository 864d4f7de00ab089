"""The LoRA on a denoiser: where it is placed, how it is initialised, how it is written. Implemented with PEFT."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from hero.config import LoraConfig
from hero.errors import ModelError
from hero.policies.adapters import ADAPTER
from hero.policies.lora_file import LORA_NAME, LoraFile, encoder_parts, scaled, write_lora_file
from hero.policies.lora_start import Pairs
from hero.seeding import Stage, derive_seed

__all__ = [
    "UNET_LAYERS",
    "adapter_metadata",
    "add_lora",
    "load_lora_state_dict",
    "lora_state_dict",
    "save_lora",
]

UNET_LAYERS: dict[str, tuple[str, ...]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "feed-forward": ("ff.net.0.proj", "ff.net.2"),
    "resnet": ("conv1", "conv2", "conv_shortcut"),
    "projection": ("proj_in", "proj_out"),
}
"""Kind of layer (`lora.layers`) → module name endings in a UNet2DConditionModel."""

JOINT_ATTENTION = (*UNET_LAYERS["attention"], "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
"""Attention over image and text together, each with its own projections."""

JOINT_FEED_FORWARD = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")


def add_lora(
    denoiser: Any,
    config: LoraConfig,
    layers: Mapping[str, tuple[str, ...]],
    seed: int,
    start: Mapping[str, tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> None:
    """Freezes `denoiser` and adds an fp32 LoRA that changes nothing at first, or starts as `start`.

    The A matrices are a function of `seed` alone. Target names are sorted, so that files are reproducible.

    Args:
        start: layer → A (r, in, ...) and B (out, r, ...) with r ≤ `config.rank`; the LoRA is on these alone. Where r
            is less, the other columns of B are zero and the rows of A as in a LoRA that changes nothing.

    Raises:
        ModelError: the denoiser has no layer of the requested kinds.
    """
    denoiser.requires_grad_(False)
    targets = _endings(denoiser, config, layers) if start is None else _names(denoiser, start)
    peft_config = PeftLoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=targets, init_lora_weights="gaussian"
    )
    with torch.random.fork_rng(devices=[]):  # PEFT draws its A matrices from the global generator
        torch.manual_seed(derive_seed(seed, Stage.LORA))
        denoiser.add_adapter(peft_config, adapter_name=ADAPTER)
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if start is not None:
        state = lora_state_dict(denoiser)
        for layer, (down, up) in start.items():
            state[f"{layer}.lora_A.weight"][: len(down)] = down
            state[f"{layer}.lora_B.weight"][:, : up.shape[1]] = up
        load_lora_state_dict(denoiser, state)


def _names(denoiser: Any, layers: Iterable[str]) -> list[str] | str:
    """PEFT's way to say exactly these layers: their names, unless one is the end of another's; then a pattern."""
    wanted = sorted(layers)
    inexact = {n for n, _ in denoiser.named_modules() for name in wanted if n.endswith(f".{name}")}
    return f"({'|'.join(map(re.escape, wanted))})" if inexact - set(wanted) else wanted


def _endings(denoiser: Any, config: LoraConfig, layers: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The ends of the names of the layers of the kinds in `config`."""
    unknown = [kind for kind in config.layers if kind not in layers]
    if unknown:
        raise ModelError(
            f"lora.layers: {type(denoiser).__name__} has no {' or '.join(unknown)} layers; known: {', '.join(layers)}"
        )
    endings = sorted(ending for kind in config.layers for ending in layers[kind])
    names = [name for name, _ in denoiser.named_modules()]
    present = [e for e in endings if any(n == e or n.endswith(f".{e}") for n in names)]
    if not present:
        raise ModelError(f"the denoiser has no layer named {', '.join(endings)}; choose other lora.layers")
    return present


def lora_state_dict(denoiser: Any, adapter: str = ADAPTER) -> dict[str, torch.Tensor]:
    """The LoRA weights under PEFT's names without the adapter's, detached, on the CPU, sorted by name."""
    state = get_peft_model_state_dict(denoiser, adapter_name=adapter)
    return {key: state[key].detach().cpu().clone() for key in sorted(state)}


def load_lora_state_dict(denoiser: Any, state: Mapping[str, torch.Tensor], adapter: str = ADAPTER) -> None:
    """The inverse of `lora_state_dict`.

    Raises:
        ModelError: names or shapes are not those of this LoRA.
    """
    expected = lora_state_dict(denoiser, adapter)
    if {k: v.shape for k, v in expected.items()} != {k: v.shape for k, v in state.items()}:
        raise ModelError("the LoRA weights do not fit this model and these lora settings")
    set_peft_model_state_dict(denoiser, dict(state), adapter_name=adapter)


def adapter_metadata(denoiser: Any) -> dict[str, Any]:
    """PEFT's configuration of the adapter, with sets as sorted lists: what loaders need for alpha and rank."""
    values = denoiser.peft_config[ADAPTER].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}


def save_lora(denoiser: Any, folder: Path, encoders: Mapping[str, Pairs] | None = None) -> Path:
    """Writes pytorch_lora_weights.safetensors into `folder`, which it makes; returns the file.

    Equal weights give equal bytes. The file's alpha is its rank, whatever that of the adapter. `encoders` are the parts
    on text encoders of a LoRA that the run started from and trains on; they go into the file as they are.
    """
    part = "unet" if isinstance(denoiser, UNet2DConditionModel) else "transformer"
    about = adapter_metadata(denoiser)
    lora = scaled(lora_state_dict(denoiser), about["lora_alpha"] / about["r"])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LORA_NAME
    write_lora_file(LoraFile(part, lora, about, encoder_parts(encoders or {})), file)
    return file
