"""Which pipeline a model is, from its model_index.json alone: no torch, so that settings are resolved quickly."""

from __future__ import annotations

import json
from pathlib import Path

from hero.errors import ModelError

__all__ = ["is_folder", "missing_folder", "pipeline_class"]


def is_folder(model: str) -> bool:
    """Whether `model` means a folder rather than a hub id: it looks like a path, or there is one of that name."""
    return model.startswith((".", "/", "~")) or Path(model).exists()


def missing_folder(path: str) -> ModelError:
    """The error for a model's folder that does not exist."""
    return ModelError(
        f"there is no model folder {path}; if a run's model was moved, `hero resume RUN --set model.path=NEW` says "
        "where it is now"
    )


def pipeline_class(model: str, revision: str | None = None, *, fetch: bool = True) -> str | None:
    """The pipeline's class name, e.g. "FluxPipeline"; for a hub id the index comes from the cache or is fetched.

    None where it cannot be found out; loading the model then reports why.
    """
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
