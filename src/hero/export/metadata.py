"""The metadata of a kohya file: `modelspec.*` (Stability AI's Model Metadata Standard 1.0.0) and `ss_*` keys.

ComfyUI, A1111 and model browsers show them. Everything is a function of the run, so that equal runs give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save

from hero.export.result import ModelFacts, RunResult

__all__ = ["kohya_metadata"]

_THUMBNAIL = 256
_SGM = "https://github.com/Stability-AI/generative-models"
_SD2_TEXT_WIDTH = 1024


def kohya_metadata(result: RunResult, facts: ModelFacts, tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The header of a kohya file, sorted by key; a figure that is not known has no key."""
    digest = _sha256_of_tensors(tensors)
    values = {
        **{f"modelspec.{key}": value for key, value in _modelspec(result, facts, digest).items()},
        **{f"ss_{key}": value for key, value in _ss(result, facts).items()},
        "sshs_model_hash": digest,
    }
    return {key: value for key, value in sorted(values.items()) if value is not None}


def _modelspec(result: RunResult, facts: ModelFacts, digest: str) -> dict[str, str | None]:
    prompts = result.config.task.prompts
    prediction = {"epsilon": "epsilon", "v_prediction": "v"}.get(facts.scheduler.get("prediction_type", ""))
    return {
        "sai_model_spec": "1.0.0",
        "architecture": _architecture(facts) + "/lora",
        "implementation": _SGM if facts.family == "StableDiffusionXLPipeline" else "diffusers",
        "title": result.name,
        "description": _description(result),
        "date": result.date.isoformat() if result.date else None,
        "hash_sha256": f"0x{digest}",
        "resolution": f"{result.best.width}x{result.best.height}" if result.best else None,
        "prediction_type": prediction,
        "trigger_phrase": prompts[0] if len(prompts) == 1 else None,
        "usage_hint": "Prompts: " + "; ".join(prompts),
        "thumbnail": _thumbnail(result.best) if result.best else None,
    }


def _ss(result: RunResult, facts: ModelFacts) -> dict[str, str | None]:
    config, best = result.config, result.best
    rank, alpha = str(result.rank), f"{result.alpha:g}"
    convolutions = any(tensor.ndim == 4 and tensor.shape[-1] > 1 for tensor in result.lora.values())
    counts = dict.fromkeys(config.task.prompts, result.labels // len(config.task.prompts))
    is_sd2 = _architecture(facts).startswith("stable-diffusion-v2")
    return {
        "network_module": _NETWORK_MODULE.get(facts.family, "networks.lora"),
        "network_dim": rank,
        "network_alpha": alpha,
        "network_args": json.dumps({"conv_dim": rank, "conv_alpha": alpha}) if convolutions else None,
        "base_model_version": _BASE_MODEL_VERSION.get(facts.family, "sd_v2" if is_sd2 else "sd_v1"),
        "v2": str(is_sd2),
        "sd_model_name": Path(config.model.path).name,
        "output_name": result.name,
        "resolution": str(best.size) if best else None,
        "seed": str(config.seed),
        "epoch": str(len(result.history)),
        "steps": str(sum(line["steps"] for line in result.history)),
        "num_train_images": str(result.labels),
        "learning_rate": f"{config.update.learning_rate:g}",
        "optimizer": _OPTIMIZER.get(config.update.optimizer, config.update.optimizer),
        "max_grad_norm": f"{config.update.max_grad_norm:g}",
        "tag_frequency": json.dumps({config.task.name: counts}),
        "training_comment": _description(result),
        "training_finished_at": f"{result.date.timestamp():.0f}" if result.date else None,
    }


_OPTIMIZER = {"adamw": "torch.optim.adamw.AdamW", "adamw-8bit": "bitsandbytes.optim.adamw.AdamW8bit"}
_NETWORK_MODULE = {"StableDiffusion3Pipeline": "networks.lora_sd3", "FluxPipeline": "networks.lora_flux"}
_BASE_MODEL_VERSION = {
    "StableDiffusionXLPipeline": "sdxl_base_v1-0",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux1",
}


def _architecture(facts: ModelFacts) -> str:
    """The base model's name in the standard or, if it has none there, in kohya's scripts."""
    if facts.family == "StableDiffusionXLPipeline":
        return "stable-diffusion-xl-v1-base"
    if facts.family == "StableDiffusion3Pipeline":
        return "stable-diffusion-3"
    if facts.family == "FluxPipeline":
        return "flux-1-dev" if facts.denoiser.get("guidance_embeds") else "flux-1-schnell"
    if facts.denoiser.get("cross_attention_dim") == _SD2_TEXT_WIDTH:
        velocity = facts.scheduler.get("prediction_type") == "v_prediction"
        return "stable-diffusion-v2-768-v" if velocity else "stable-diffusion-v2-512"
    return "stable-diffusion-v1"


def _description(result: RunResult) -> str:
    config = result.config
    wanted = f" for: {config.task.criterion.rstrip('.')}" if config.task.criterion else ""
    return (
        f"Fine-tuned from feedback with hero (method {config.method}){wanted}. "
        f"{result.labels} labels in {len(result.history)} rounds."
    )


def _thumbnail(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    data = io.BytesIO()
    small.save(data, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def _sha256_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of everything after the file's header, as the standard and A1111 define it."""
    data = save(dict(tensors))
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
