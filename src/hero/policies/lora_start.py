"""A LoRA that somebody else made, as a run starts from it: any layout, for the layers of one pipeline.

What a file calls a layer is looked up among the names that the denoiser's layers have in diffusers and in the original
model, so that one reader knows diffusers' layouts, PEFT's, kohya's and ComfyUI's. A file of which any part cannot be
used is refused; nothing of it is left out.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from hero.errors import ConfigError, ModelError
from hero.policies.original import ORIGINAL, Place, swapped_rows

__all__ = ["Pairs", "StartLora", "read_start"]

Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Layer → A (r, in, ...) and B (out, r, ...), fp32."""


@dataclass(frozen=True)
class StartLora:
    """A LoRA for one pipeline: the update of a layer's weight is `ratio`·B·A.

    Attributes:
        denoiser: of the denoiser's layers; ranks may differ.
        encoders: text encoder → of its layers, with a ratio of 1.
        ratio: alpha / rank as the file has it where that is the same for all of the denoiser's layers; else 1, and the
            factor is in B.
    """

    denoiser: Pairs
    encoders: dict[str, Pairs]
    ratio: float

    @property
    def rank(self) -> int:
        """The largest rank of the denoiser's layers."""
        return max(len(down) for down, _ in self.denoiser.values())


@dataclass
class _Layer:
    """One layer of the file."""

    name: str
    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    factor: float = 1.0
    alpha: float | None = None
    about: dict[str, Any] = field(default_factory=dict)


_SIDES = re.compile(
    r"(?P<name>.+?)(?:\.lora_(?P<kohya>down|up)(?:\.default)?\.weight|\.lora_(?P<peft>[AB])(?:\.default)?\.weight"
    r"|[._]lora\.(?P<old>down|up)\.weight|\.lora_linear_layer\.(?P<older>down|up)\.weight|\.(?P<alpha>alpha))"
)
_KINDS = {
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "lora_mid": "a LoRA in Tucker form",
    "oft_": "OFT",
    "diff": "full differences of weights",
    "on_input": "IA³",
    "a1.weight": "GLoRA",
    "bias": "a LoRA with biases",
}
"""Part of a tensor's name → what such a file holds instead of a plain LoRA."""

_DENOISER = ("lora_unet_", "lora_transformer_", "unet.", "transformer.", "model.diffusion_model.", "diffusion_model.")
_PEFT = "base_model.model."
_ENCODERS = {
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
}
_SHOWN = 3


def read_start(file: Path, pipeline: Any, denoiser: str) -> StartLora:
    """The LoRA in `file` for `pipeline`, whose component `denoiser` is trained.

    Args:
        file: a safetensors file in diffusers' (either set of names), PEFT's, kohya's or ComfyUI's layout.

    Raises:
        ModelError: it cannot be read, is of another kind than LoRA, or is for another model: a layer or a size does not
            fit.
    """
    layers = _read(file)
    names = {"": _denoiser_names(pipeline, denoiser)}
    found: dict[str, Pairs] = {}
    factors: dict[str, dict[str, float]] = {}
    strangers = []
    for key, layer in layers.items():
        component, name = _component_of(key)
        if component == "text_encoder_3" and getattr(pipeline, "text_encoder_3", None) is None:
            component = "text_encoder_2"  # kohya's scripts number FLUX.1's T5 as that of Stable Diffusion 3
        if component not in names:
            names[component] = _module_names(getattr(pipeline, component, None))
        places = names[component].get(_flat(name)) or names[component].get(_flat(f"text_model.{name}"))
        if places is None:
            strangers.append(key)
            continue
        if layer.down is None or layer.up is None:
            raise ModelError(f"{file} has only half of the LoRA of {key}; download it again")
        module = getattr(pipeline, component or denoiser)
        for own, place in places:
            pair = _part(layer.down, layer.up, place)
            if pair is None:
                continue
            found.setdefault(component, {})[own] = _fitted(file, key, pair, module.get_submodule(own).weight)
            factors.setdefault(component, {})[own] = layer.factor
    if strangers or not found.get(""):
        shown = ", ".join(strangers[:_SHOWN]) or "none of the denoiser"
        raise ModelError(
            f"{file} is a LoRA for another model than {type(pipeline).__name__}: {len(strangers)} of its layers do not "
            f"exist there ({shown}{', …' if len(strangers) > _SHOWN else ''})"
        )
    ratios = set(factors[""].values())
    ratio = ratios.pop() if len(ratios) == 1 else 1.0
    scaled = {
        component: {
            own: (down, up if (factor := factors[component][own]) == (1.0 if component else ratio) else up * factor)
            for own, (down, up) in pairs.items()
        }
        for component, pairs in found.items()
    }
    return StartLora(scaled.pop(""), scaled, ratio)


def _read(file: Path) -> dict[str, _Layer]:
    """The layers of a file by the file's own names for them."""
    if file.suffix in (".ckpt", ".pt", ".pth", ".bin"):
        raise ModelError(f"{file} may run code when it is opened; convert it to .safetensors first (docs/models.md)")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in sorted(opened.keys())}
        about = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"cannot read the LoRA {file}: {error}") from None
    layers: defaultdict[str, _Layer] = defaultdict(lambda: _Layer(""))
    for key, tensor in tensors.items():
        found = _SIDES.fullmatch(key)
        if found is None:
            kind = next((kind for part, kind in _KINDS.items() if part in key), "no LoRA that is known here")
            raise ModelError(f"{file} holds {kind} ({key}); a run starts from a plain LoRA")
        layer = layers[found["name"]]
        side = found["kohya"] or found["peft"] or found["old"] or found["older"]
        if found["alpha"]:
            layer.alpha = float(tensor)
        elif side in ("down", "A"):
            layer.down = tensor.float()
        else:
            layer.up = tensor.float()
    for name, layer in layers.items():
        if layer.down is not None:
            layer.factor = _factor(name, layer, about)
    return dict(layers)


def _factor(name: str, layer: _Layer, about: Mapping[str, Any]) -> float:
    """alpha / rank of one layer: kohya's tensor, or diffusers' metadata, or 1."""
    assert layer.down is not None
    rank = len(layer.down)
    if layer.alpha is not None:
        return layer.alpha / rank
    component = name.partition(".")[0]
    own = {key.removeprefix(f"{component}."): value for key, value in about.items() if key.startswith(f"{component}.")}
    if own.get("use_dora"):
        raise ModelError("the LoRA's metadata says DoRA; a run starts from a plain LoRA")
    alpha = own.get("lora_alpha", rank)
    for pattern, value in (own.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", name.removeprefix(f"{component}.")):
            alpha = value
    return float(alpha) / (rank**0.5 if own.get("use_rslora") else rank)


def _component_of(key: str) -> tuple[str, str]:
    """The text encoder that a layer of a file belongs to ("" for the denoiser), and the rest of its name."""
    key = key.removeprefix(_PEFT)
    for prefix, component in _ENCODERS.items():
        if key.startswith(prefix):
            return component, key.removeprefix(prefix)
    for prefix in _DENOISER:
        if key.startswith(prefix):
            return "", key.removeprefix(prefix)
    return "", key


def _flat(name: str) -> str:
    return name.replace(".processor.", ".").replace(".", "_")


_Names = dict[str, list[tuple[str, Place]]]
"""A name in a file, with `_` for `.` → the module, or the modules that are its parts."""


def _module_names(module: Any) -> _Names:
    """Of a text encoder; those of the outer `text_model` that newer versions of transformers lack are known, too."""
    names: _Names = {}
    for name in _weighted(module):
        for known in (name, f"text_model.{name}", name.removeprefix("text_model.")):
            names.setdefault(_flat(known), [(name, Place(name))])
    return names


def _denoiser_names(pipeline: Any, component: str) -> _Names:
    module = getattr(pipeline, component)
    original = ORIGINAL.get(type(pipeline).__name__)
    own: _Names = {}
    theirs: defaultdict[str, list[tuple[str, Place]]] = defaultdict(list)
    for name in _weighted(module):
        own[_flat(name)] = [(name, Place(name))]
    for name in _weighted(module):
        if name.endswith(".to_out.0"):
            own.setdefault(_flat(name.removesuffix(".0")), [(name, Place(name))])
        try:
            place = original(name, module.config) if original else None
        except ConfigError:  # it has no name there
            continue
        if place is not None:
            theirs[_flat(place.name)].append((name, place))
    return {**theirs, **own}


def _weighted(module: Any) -> Iterator[str]:
    """Names of the layers that a LoRA can be on."""
    for name, each in module.named_modules() if module is not None else ():
        if isinstance(each, torch.nn.Linear | torch.nn.Conv2d):
            yield name


def _part(down: torch.Tensor, up: torch.Tensor, place: Place) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A and B of the part of an original layer that is a layer of its own in diffusers; None where it has none.

    Where the file's LoRA is made of one for each part, in block-diagonal form, this is the part's own again.
    """
    up = swapped_rows(up, place)
    if place.shares == (1,):
        return down, up
    unit = up.shape[0] // sum(place.shares)
    first = unit * sum(place.shares[: place.part])
    rows = up[first : first + unit * place.shares[place.part]]
    used = rows.flatten(2).any(2).any(0) if rows.ndim > 2 else rows.any(0)
    if not used.any():
        return None
    return down[used].clone(), rows[:, used].clone()


def _fitted(
    file: Path, key: str, pair: tuple[torch.Tensor, torch.Tensor], weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B with as many axes as `weight`: those of 1×1 convolutions may have two or four.

    Raises:
        ModelError: the sizes are those of another layer.
    """
    down, up = pair
    outside = (up.shape[0], *down.shape[1:])
    if up.flatten(1).shape[1] != len(down) or _without_ones(outside) != _without_ones(weight.shape):
        raise ModelError(
            f"{file} is a LoRA for another model: {key} is for a layer {outside}, not {tuple(weight.shape)}"
        )
    ones = (1,) * (weight.ndim - 2)
    return down.reshape(len(down), *weight.shape[1:]), up.reshape(len(up), len(down), *ones)


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """A layer's sizes without those of a 1×1 kernel."""
    return (*shape[:2], *(size for size in shape[2:] if size != 1))
