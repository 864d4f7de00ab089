"""A model in one file, in the layout of its makers, as a diffusers pipeline; and that file with a LoRA in its weights.

The file has weights alone. What it lacks, configurations and tokenizers and, with some models, text encoders, comes
from a pipeline folder or the hub (`model.config`).
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hero.config import ModelConfig
from hero.errors import ConfigError, ModelError
from hero.model_index import check_single_file, is_folder, missing_folder, read_header
from hero.policies.fusing import DTYPES, FusedPrecision, FusedSums
from hero.policies.original import ORIGINAL, Place, swapped_rows

__all__ = ["fuse_file", "load_single_file", "original_keys"]

_T5 = "text_encoders.t5xxl."
_PREFIXES = ("model.diffusion_model.", "")


def load_single_file(config: ModelConfig, dtype: torch.dtype) -> Any:
    """The pipeline in the file `config.path`, through diffusers' own `from_single_file`.

    Raises:
        ModelError: see `check_single_file`; or there is no configuration for it, or a component is missing.
    """
    import diffusers

    file = Path(config.path).expanduser()
    family = getattr(diffusers, check_single_file(file))
    described = config.config
    if described is not None and is_folder(described):
        if not Path(described).expanduser().is_dir():
            raise missing_folder(described)
        described = str(Path(described).expanduser())
    given = _elsewhere(file, family, described, dtype)
    try:
        pipeline = family.from_single_file(str(file), config=described, dtype=dtype, **given)
    except Exception as error:  # diffusers, the hub client and the file formats each raise their own
        raise ModelError(f"cannot load {file}: {_first_line(error)}; {_remedy(described)}") from error
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # diffusers leaves a T5 as it is for training, with dropout
    return pipeline


_PARTS = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "text_encoders.clip_g."),
    "text_encoder_3": (_T5,),
}
"""Component → what the names of its weights begin with in any layout."""


def _elsewhere(file: Path, family: Any, described: str | None, dtype: torch.dtype) -> dict[str, Any]:
    """The components that `file` lacks, from the pipeline that describes it.

    Raises:
        ModelError: they are not there either.
    """
    names, given, lacking = read_header(file).keys(), dict[str, Any](), []
    expected, _ = family._get_signature_keys(family)
    for component, starts in _PARTS.items():
        starts = (_T5,) if component == "text_encoder_2" and family.__name__ == "FluxPipeline" else starts
        if component not in expected or any(name.startswith(starts) for name in names):
            continue
        if found := _component(described, component, family, dtype):
            given[component] = found
        elif component == "text_encoder_3":  # Stable Diffusion 3 does without
            given |= {"text_encoder_3": None, "tokenizer_3": None}
        else:
            lacking.append(component)
    if lacking:
        raise ModelError(
            f"{file} does not hold all of the model: it lacks {' and '.join(lacking)}; set model.config to a pipeline "
            "of the same family that has the rest, e.g. --set model.config=./folder"
        )
    return given


def _component(described: str | None, component: str, family: Any, dtype: torch.dtype) -> Any:
    """A component of the pipeline `described`, a folder or hub id; None if there are no weights of it."""
    import diffusers
    import transformers

    if described is None or (is_folder(described) and not any((Path(described) / component).glob("*.safetensors"))):
        return None
    library, name = family.load_config(described)[component]
    kind = getattr(diffusers if library == "diffusers" else transformers, name)
    return kind.from_pretrained(described, subfolder=component, dtype=dtype)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _remedy(described: str | None) -> str:
    if described is not None and is_folder(described):
        return f"is {described} the pipeline folder of such a model?"
    return (
        "its configuration and tokenizers come from the hub; without a network, set model.config to a pipeline folder "
        "of the same family (of which only the small files are needed), e.g. --set model.config=./folder"
    )


# ---------------------------------------------------------------------------------------------- and back


_OPEN_CLIP = {
    **{f"self_attn.{x}_proj": Place("attn.in_proj", i, (1, 1, 1)) for i, x in enumerate("qkv")},
    "self_attn.out_proj": Place("attn.out_proj"),
    "mlp.fc1": Place("mlp.c_fc"),
    "mlp.fc2": Place("mlp.c_proj"),
}
_CLIPS = {
    "text_encoder": (
        "cond_stage_model.transformer.",
        "conditioner.embedders.0.transformer.",
        "text_encoders.clip_l.transformer.",
    ),
    "text_encoder_2": ("text_encoders.clip_g.transformer.",),
}
_OPEN_CLIPS = {
    "text_encoder": "cond_stage_model.model.transformer.resblocks.",
    "text_encoder_2": "conditioner.embedders.1.model.transformer.resblocks.",
}


def original_keys(
    lora: Mapping[str, Mapping[str, torch.Tensor]], family: str, config: Mapping[str, Any], keys: Mapping[str, Any]
) -> dict[str, tuple[str, Place]]:
    """Where the layers of a LoRA lie in a one-file model.

    Args:
        lora: component ("" for the denoiser) → its matrices, as in `hero.policies.lora_file.LoraFile`.
        family: the pipeline's class.
        config: the denoiser's configuration.
        keys: the names of the file's tensors.

    Returns:
        `<component>.<layer>` → the name of the weight in the file, and its place there.

    Raises:
        ConfigError: the file has no such weight.
    """
    found = {}
    for component, matrices in lora.items():
        for layer in sorted({key.rsplit(".lora_", 1)[0] for key in matrices}):
            places = _denoiser_places(layer, family, config) if not component else _encoder_places(component, layer)
            match = next(((key, place) for key, place in places if key in keys), None)
            if match is None:
                raise ConfigError(f"the model's file has no weights of {component or 'the denoiser'}'s layer {layer}")
            found[f"{component}.{layer}"] = match
    return found


def _denoiser_places(layer: str, family: str, config: Mapping[str, Any]) -> list[tuple[str, Place]]:
    place = ORIGINAL[family](layer, config)
    return [(f"{prefix}{place.name}.weight", place) for prefix in _PREFIXES]


def _encoder_places(component: str, layer: str) -> list[tuple[str, Place]]:
    plain = layer.removeprefix("text_model.")
    names = [f"{prefix}text_model.{plain}.weight" for prefix in _CLIPS.get(component, ())]
    names += [f"{_T5}transformer.{plain}.weight"]
    places = [(name, Place(layer)) for name in names]
    number, _, rest = plain.removeprefix("encoder.layers.").partition(".")
    if rest in _OPEN_CLIP and component in _OPEN_CLIPS:
        place = _OPEN_CLIP[rest]
        joined = "attn.in_proj_weight" if len(place.shares) > 1 else f"{place.name}.weight"
        places.append((f"{_OPEN_CLIPS[component]}{number}.{joined}", place))
    return places


def fuse_file(
    source: Path,
    out: Path,
    lora: Mapping[str, Mapping[str, torch.Tensor]],
    family: str,
    config: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> FusedPrecision:
    """Writes `source` with B·A added to its weights, summed in fp32 and stored in the file's own precision.

    Everything else is as it was, byte for byte, but for the header's metadata, which are `metadata`.

    Args:
        lora, family, config: see `original_keys`; the factor is in B.

    Raises:
        ConfigError: the file lacks a weight that the LoRA is on.
        OSError: a file cannot be read or written.
    """
    header = read_header(source)
    header.pop("__metadata__", None)
    changes: defaultdict[str, list[tuple[Place, torch.Tensor]]] = defaultdict(list)
    for name, (key, place) in original_keys(lora, family, config, header).items():
        component, _, layer = name.partition(".")
        down, up = (lora[component][f"{layer}.lora_{side}.weight"].float().flatten(1) for side in "AB")
        changes[key].append((place, swapped_rows(up @ down, place)))
    text = json.dumps({"__metadata__": dict(sorted(metadata.items())), **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    sums = FusedSums()
    with source.open("rb") as old_file, out.open("wb") as new_file:
        begin = 8 + int.from_bytes(old_file.read(8), "little")
        old_file.seek(begin)
        new_file.write(len(text).to_bytes(8, "little") + text)
        shutil.copyfileobj(old_file, new_file, 2**24)
        for key, deltas in sorted(changes.items()):
            about = header[key]
            first, last = about["data_offsets"]
            old_file.seek(begin + first)
            weight = torch.frombuffer(bytearray(old_file.read(last - first)), dtype=_dtype(about, key))
            rows = weight.view(about["shape"][0], -1)
            delta = torch.zeros(rows.shape)
            for place, part in deltas:
                unit = len(rows) // sum(place.shares)
                start = unit * sum(place.shares[: place.part])
                delta[start : start + len(part)] = part
            stored = sums.add(rows, delta)
            new_file.seek(8 + len(text) + first)
            new_file.write(stored.contiguous().view(torch.uint8).numpy().tobytes())
    return sums.precision(next((_dtype(header[key], key) for key in sorted(changes)), torch.float32))


def _dtype(about: Mapping[str, Any], key: str) -> torch.dtype:
    if about["dtype"] not in DTYPES:
        raise ConfigError(f"the model's file has {key} in {about['dtype']}, to which nothing can be added")
    return DTYPES[about["dtype"]]
