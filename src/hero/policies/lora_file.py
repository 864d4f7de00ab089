"""A LoRA as a file in diffusers' layout, written so that every reader applies it alike.

Two things differ between readers. Some know alpha from the adapter's metadata, some only from tensors, and some take it
for the rank: so files have alpha = rank, whatever the run's alpha, and the factor is in B. And of the two sets of names
that diffusers reads for a UNet, ComfyUI and Forge know only the older one: so UNets get that. Sources: docs/export.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.nn import functional

from hero.errors import RunError

__all__ = ["LORA_NAME", "LoraFile", "encoder_parts", "read_lora_file", "scaled", "write_lora_file", "write_sorted"]

LORA_NAME = "pytorch_lora_weights.safetensors"
"""What diffusers looks for in a folder."""

_METADATA = "lora_adapter_metadata"
_UNET = "unet"
_ENCODER = "text_encoder"
_SIDES = {"A": "down", "B": "up"}
_NEW = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")
_OLD = re.compile(r"(?P<layer>.+)[._]lora\.(?P<side>down|up)\.weight")
_ATTENTION = re.compile(r"(?P<block>.+)\.(?P<part>to_[qkv]|to_out)(?:\.0)?")


@dataclass(frozen=True)
class LoraFile:
    """A LoRA as it is applied: the update of a layer's weight is B·A.

    Attributes:
        component: the part of the pipeline that it belongs to, `unet` or `transformer`.
        lora: `<layer>.lora_A.weight` (r, in, ...) and `<layer>.lora_B.weight` (out, r, ...), fp32, PEFT's names.
        about: PEFT's configuration of the adapter.
        encoders: text encoder → the same on its layers, where the LoRA has such parts; each with a rank of its own.
    """

    component: str
    lora: dict[str, torch.Tensor]
    about: dict[str, Any]
    encoders: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """That of every layer, and its alpha."""
        return int(self.about["r"])


def encoder_parts(pairs: Mapping[str, Mapping[str, tuple[torch.Tensor, torch.Tensor]]]) -> dict[str, Any]:
    """`LoraFile.encoders` from A and B by text encoder and layer; A and B of lower rank than others are padded with 0.

    Layers of CLIP have the name with `text_model`, which older versions of transformers and other programs know.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for component, layers in pairs.items():
        rank = max(len(down) for down, _ in layers.values())
        for layer, (down, up) in layers.items():
            lacking = rank - len(down)
            name = f"text_model.{layer}" if layer.startswith("encoder.layers.") else layer
            parts.setdefault(component, {})[f"{name}.lora_A.weight"] = functional.pad(down, (0, 0, 0, lacking))
            parts[component][f"{name}.lora_B.weight"] = functional.pad(up, (0, lacking))
    return parts


def _about_encoder(part: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What loaders need to know of a text encoder's part; the layers are told by the ends of their names."""
    rank = next(len(value) for key, value in part.items() if ".lora_A." in key)
    endings = {key.rsplit(".lora_", 1)[0].rpartition(".")[2] for key in part}
    return {"r": rank, "lora_alpha": rank, "target_modules": sorted(endings)}


def scaled(lora: Mapping[str, torch.Tensor], factor: float) -> dict[str, torch.Tensor]:
    """The LoRA with `factor` times its update: B·factor; the same tensors for a factor of 1."""
    return {key: value * factor if ".lora_B." in key and factor != 1 else value for key, value in lora.items()}


def write_lora_file(content: LoraFile, file: Path) -> None:
    """Writes `file`; equal contents give equal bytes.

    Raises:
        OSError: it cannot be written.
    """
    about = content.about | {"lora_alpha": content.rank}
    named = {f"{content.component}.{key}": value for key, value in about.items()}
    rename = _older_name if content.component == _UNET else str
    tensors = {f"{content.component}.{rename(key)}": value for key, value in content.lora.items()}
    for encoder, part in content.encoders.items():
        named |= {f"{encoder}.{key}": value for key, value in _about_encoder(part).items()}
        tensors |= {f"{encoder}.{key}": value for key, value in part.items()}
    write_sorted(tensors, file, {"format": "pt", _METADATA: json.dumps(named, indent=2, sort_keys=True)})


def read_lora_file(file: Path) -> LoraFile:
    """The inverse of `write_lora_file`; also reads files of either set of names in which alpha is not the rank.

    Raises:
        RunError: it cannot be read, or is no LoRA of one component with its metadata.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads(opened.metadata()[_METADATA])
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        components = {key.partition(".")[0] for key in tensors}
        (component,) = (name for name in components if not name.startswith(_ENCODER))
        encoders = {
            name: {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
            for name in sorted(components - {component})
        }
        tensors = {key: value for key, value in tensors.items() if key.startswith(f"{component}.")}
        own = {k.removeprefix(f"{component}."): v for k, v in about.items() if k.startswith(f"{component}.")}
        lora = {_newer_name(key.removeprefix(f"{component}.")): value for key, value in tensors.items()}
        return LoraFile(component, scaled(lora, float(own["lora_alpha"]) / int(own["r"])), own, encoders)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"cannot read {file}: {error}") from None


def write_sorted(tensors: Mapping[str, torch.Tensor], file: Path, metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file with its metadata sorted, which the format's own writer leaves in random order.

    Raises:
        OSError: it cannot be written.
    """
    data = save({key: value.contiguous() for key, value in tensors.items()})
    end = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(data[8:end])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:  # its permissions are those that the umask allows
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.write(data[end:])


def _older_name(key: str) -> str:
    """`<layer>.lora_A.weight` → `<layer>.lora.down.weight`; in attention `<block>.processor.to_q_lora.down.weight`."""
    found = _NEW.fullmatch(key)
    assert found is not None, key
    side = _SIDES[found["side"]]
    attention = _ATTENTION.fullmatch(found["layer"])
    if attention is not None:
        return f"{attention['block']}.processor.{attention['part']}_lora.{side}.weight"
    return f"{found['layer']}.lora.{side}.weight"


def _newer_name(key: str) -> str:
    """The inverse of `_older_name`; a name that is new stays."""
    found = _OLD.fullmatch(key)
    if found is None:
        return key
    side = {old: new for new, old in _SIDES.items()}[found["side"]]
    layer = found["layer"].replace(".processor.", ".")
    if layer.endswith(".to_out"):
        layer += ".0"
    return f"{layer}.lora_{side}.weight"
