"""Which pipeline a model is, from its model_index.json or a one-file model's header: no torch, so that it is quick."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hero.errors import ModelError

__all__ = ["check_single_file", "is_folder", "is_single_file", "missing_folder", "pipeline_class", "read_header"]

_PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_MAKERS = (
    (("joint_blocks.",), "StableDiffusion3Pipeline"),
    (("double_stream_modulation",), "FLUX.2"),
    (("distilled_guidance_layer.",), "Chroma"),
    (("double_blocks.",), "FluxPipeline"),
    (("cap_embedder.",), "Z-Image or Lumina"),
    (("txt_norm.", "img_in.", "transformer_blocks."), "Qwen-Image"),
    (("conditioner.embedders.1.",), "StableDiffusionXLPipeline"),
    (("conditioner.embedders.0.",), "the refiner of Stable Diffusion XL"),
    (("label_emb.", "input_blocks."), "StableDiffusionXLPipeline"),
    (("input_blocks.",), "StableDiffusionPipeline"),
)
"""Names that the tensors of an original model begin with (all of them) → its pipeline class, or what is not taken."""


def is_folder(model: str) -> bool:
    """Whether `model` means a folder or file rather than a hub id: it looks like a path, or there is one there."""
    return model.startswith((".", "/", "~")) or Path(model).exists()


def is_single_file(model: str) -> bool:
    """Whether `model` is a whole model in one file, by its name: `.safetensors`, or what is refused (`.ckpt`, …)."""
    return model.endswith((".safetensors", ".gguf", *_PICKLED)) and not Path(model).expanduser().is_dir()


def missing_folder(path: str) -> ModelError:
    """The error for a model's folder that does not exist."""
    what = "file" if is_single_file(path) else "folder"
    return ModelError(
        f"there is no model {what} {path}; if a run's model was moved, `hero resume RUN --set model.path=NEW` says "
        "where it is now"
    )


def read_header(file: Path) -> dict[str, Any]:
    """Tensors of a safetensors file: name → `dtype`, `shape` and `data_offsets`; and `__metadata__`, if there is any.

    Raises:
        OSError, ValueError: it cannot be read, or is no such file.
    """
    size = file.stat().st_size
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ValueError("its header is damaged")
        header: dict[str, Any] = json.loads(data.read(length))
        return header


def check_single_file(file: Path) -> str:
    """The pipeline class of a one-file model, by the names of its tensors.

    Raises:
        ModelError: it does not exist, is pickled, quantised or damaged, or is of a model that is not taken as one file.
    """
    if not file.exists():
        raise missing_folder(str(file))
    if file.suffix in _PICKLED:
        raise ModelError(
            f"{file} may run code when it is opened, and is not; convert it to .safetensors (docs/models.md says how), "
            "or take the .safetensors file of the same model"
        )
    if file.suffix == ".gguf":
        raise ModelError(f"{file} holds quantised weights, which cannot be trained on here; take the .safetensors file")
    try:
        names = read_header(file).keys() - {"__metadata__"}
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}); download it again") from None
    if any("scaled_fp8" in name or name.endswith(".scale_weight") for name in names):
        raise ModelError(
            f"{file} holds scaled 8-bit weights, which diffusers does not read; take the one in bf16 or fp16"
        )
    made = _maker(names)
    if made is None:
        raise ModelError(
            f"{file} is no whole model that is known here: give a file in the original layout of Stable Diffusion, "
            "SDXL, Stable Diffusion 3.5 or FLUX.1, or a pipeline folder (a LoRA goes to --lora)"
        )
    if not made.endswith("Pipeline"):
        raise ModelError(f"{file} is {made}, which is not taken as one file; give its pipeline folder or hub id")
    return made


def _maker(names: Collection[str]) -> str | None:
    plain = {name.removeprefix("model.").removeprefix("diffusion_model.") for name in names}
    for starts, made in _MAKERS:
        if all(any(name.startswith(start) for name in plain) for start in starts):
            return made
    return None


def pipeline_class(model: str, revision: str | None = None, *, fetch: bool = True) -> str | None:
    """The pipeline's class name, e.g. "FluxPipeline"; for a hub id the index comes from the cache or is fetched.

    None where it cannot be found out; loading the model then reports why.
    """
    if is_single_file(model):
        try:
            return check_single_file(Path(model).expanduser())
        except ModelError:
            return None
    if is_folder(model):
        index = Path(model).expanduser() / "model_index.json"
    else:
        from huggingface_hub import hf_hub_download

        try:
            index = Path(hf_hub_download(model, "model_index.json", revision=revision, local_files_only=not fetch))
        except Exception:  # no network, no such model, no access to it: each raises its own error
            return None
    try:
        name = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    except (OSError, ValueError, AttributeError):
        return None
    return name if isinstance(name, str) else None
