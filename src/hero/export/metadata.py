"""The metadata of a kohya file: `modelspec.*` (Stability AI's Model Metadata Standard 1.0.0) and `ss_*` keys.

ComfyUI, A1111 and model browsers show them. Everything is a function of the run, so that equal runs give equal bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save

from hero.export.result import ModelFacts, RunResult
from hero.turns import prompt_indices

__all__ = ["checkpoint_metadata", "description", "is_sd2", "kohya_metadata"]

_THUMBNAIL = 256
_SD2_TEXT_WIDTH = 1024


def kohya_metadata(
    result: RunResult, facts: ModelFacts, tensors: Mapping[str, torch.Tensor], name: str
) -> dict[str, str]:
    """The header of a kohya file with the stem `name`, sorted by key; a figure that is not known has no key."""
    digest = _sha256_of_tensors(tensors)
    picture = base64.b64encode(_thumbnail(result.best)).decode("ascii") if result.best else None
    values = {
        **{f"modelspec.{key}": value for key, value in _modelspec(result, facts, digest).items()},
        "modelspec.thumbnail": f"data:image/jpeg;base64,{picture}" if picture else None,
        "ssmd_cover_images": json.dumps([picture]) if picture else None,
        **{f"ss_{key}": value for key, value in _ss(result, facts, name).items()},
        "sshs_model_hash": digest,
    }
    return {key: value for key, value in sorted(values.items()) if value is not None}


def checkpoint_metadata(result: RunResult, facts: ModelFacts) -> dict[str, str]:
    """The header of a whole model in one file that has the LoRA in its weights."""
    values = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": _architecture(facts),
        "modelspec.title": f"{Path(result.config.model.path).stem} with {result.name}",
        "modelspec.description": description(result),
        "modelspec.date": result.date.isoformat() if result.date else None,
    }
    return {key: value for key, value in values.items() if value is not None}


def _modelspec(result: RunResult, facts: ModelFacts, digest: str) -> dict[str, str | None]:
    prompts = result.config.task.prompts
    prediction = {"epsilon": "epsilon", "v_prediction": "v"}.get(facts.scheduler.get("prediction_type", ""))
    return {
        "sai_model_spec": "1.0.0",
        "architecture": _architecture(facts) + "/lora",
        "implementation": _IMPLEMENTATION.get(facts.family, "diffusers"),
        "title": result.name,
        "description": description(result),
        "date": result.date.isoformat() if result.date else None,
        "hash_sha256": f"0x{digest}",
        "resolution": f"{result.best.width}x{result.best.height}" if result.best else None,
        "prediction_type": prediction,
        "trigger_phrase": prompts[0] if len(prompts) == 1 else None,
        "usage_hint": "Prompts: " + "; ".join(prompts),
    }


def is_sd2(facts: ModelFacts) -> bool:
    """Whether it is Stable Diffusion 2.x."""
    return _architecture(facts).startswith("stable-diffusion-v2")


def _ss(result: RunResult, facts: ModelFacts, name: str) -> dict[str, str | None]:
    config, best = result.config, result.best
    rank = str(result.lora.rank)  # and alpha
    convolutions = any(tensor.ndim == 4 and tensor.shape[-1] > 1 for tensor in result.lora.lora.values())
    counts = _labels_by_prompt(result)
    images = {"n_repeats": 1, "img_count": result.labels}
    bucket = {"resolution": best.size, "count": result.labels} if best else None
    return {
        "network_module": _NETWORK_MODULE.get(facts.family, "networks.lora"),
        "network_dim": rank,
        "network_alpha": rank,
        "network_args": json.dumps({"conv_dim": rank, "conv_alpha": rank}) if convolutions else None,
        "base_model_version": _BASE_MODEL_VERSION.get(facts.family, "sd_v2" if is_sd2(facts) else "sd_v1"),
        "v2": str(is_sd2(facts)),
        "sd_model_name": Path(config.model.path).name,
        "output_name": name,
        "resolution": str(best.size) if best else None,
        "seed": str(config.seed),
        "epoch": str(len(result.history)),
        "steps": str(sum(line["steps"] for line in result.history)),
        "num_train_images": str(result.labels),
        "dataset_dirs": json.dumps({config.task.name: images}),
        "bucket_info": json.dumps({"buckets": {"0": bucket}}) if bucket else None,
        "learning_rate": f"{config.update.learning_rate:g}",
        "optimizer": _OPTIMIZER.get(config.update.optimizer, config.update.optimizer),
        "max_grad_norm": f"{config.update.max_grad_norm:g}",
        "tag_frequency": json.dumps({config.task.name: counts}),
        "training_comment": description(result),
        "training_started_at": f"{result.started.timestamp():.0f}" if result.started else None,
        "training_finished_at": f"{result.date.timestamp():.0f}" if result.date else None,
    }


def _labels_by_prompt(result: RunResult) -> dict[str, int]:
    """How many labels each prompt had; an equal share where every round has all prompts."""
    config = result.config
    if config.task.prompts_per_round is None:
        return dict.fromkeys(config.task.prompts, result.labels // len(config.task.prompts))
    drawn = [k for line in result.history for k in prompt_indices(config, line["round"], line["images"])]
    counts = Counter(config.task.prompts[k] for k in drawn)
    return {prompt: counts[prompt] for prompt in config.task.prompts}


_OPTIMIZER = {"adamw": "torch.optim.adamw.AdamW", "adamw-8bit": "bitsandbytes.optim.adamw.AdamW8bit"}
_IMPLEMENTATION = {
    "StableDiffusionXLPipeline": "https://github.com/Stability-AI/generative-models",
    "StableDiffusion3Pipeline": "https://github.com/Stability-AI/generative-models",
    "FluxPipeline": "https://github.com/black-forest-labs/flux",
    "QwenImagePipeline": "https://github.com/QwenLM/Qwen-Image",
    "ZImagePipeline": "https://github.com/Tongyi-MAI/Z-Image",
    "Flux2KleinPipeline": "https://github.com/black-forest-labs/flux2",
}
"""As kohya's trainers write it: browsers tell FLUX by it."""
_NETWORK_MODULE = {
    "StableDiffusion3Pipeline": "networks.lora_sd3",
    "FluxPipeline": "networks.lora_flux",
    "QwenImagePipeline": "networks.lora_qwen_image",
    "ZImagePipeline": "networks.lora_zimage",
    "Flux2KleinPipeline": "networks.lora_flux_2",
}
_BASE_MODEL_VERSION = {
    "StableDiffusionXLPipeline": "sdxl_base_v1-0",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux1",
    "QwenImagePipeline": "qwen_image",
    "ZImagePipeline": "z_image",
    "Flux2KleinPipeline": "flux_2_klein",
}
_KLEIN_4B_BLOCKS = 20


def _architecture(facts: ModelFacts) -> str:
    """The base model's name in the standard or, if it has none there, in kohya's scripts."""
    if facts.family == "StableDiffusionXLPipeline":
        return "stable-diffusion-xl-v1-base"
    if facts.family == "StableDiffusion3Pipeline":
        return "stable-diffusion-3"
    if facts.family == "FluxPipeline":
        return "flux-1-dev" if facts.denoiser.get("guidance_embeds") else "flux-1-schnell"
    if facts.family == "QwenImagePipeline":
        return "Qwen-Image"
    if facts.family == "ZImagePipeline":
        return "Z-Image"
    if facts.family == "Flux2KleinPipeline":
        return "Flux.2-klein-" + ("4b" if facts.denoiser.get("num_single_layers", 0) <= _KLEIN_4B_BLOCKS else "9b")
    if facts.denoiser.get("cross_attention_dim") == _SD2_TEXT_WIDTH:
        velocity = facts.scheduler.get("prediction_type") == "v_prediction"
        return "stable-diffusion-v2-768-v" if velocity else "stable-diffusion-v2-512"
    return "stable-diffusion-v1"


def description(result: RunResult) -> str:
    """What was trained, on what, in a line."""
    config = result.config
    wanted = f" for: {config.task.criterion.rstrip('.')}" if config.task.criterion else ""
    weaker = f" Written at {result.weight:g} of its strength." if result.weight != 1 else ""
    return (
        f"Fine-tuned from feedback with hero (method {config.method}){wanted}. "
        f"{result.labels} labels in {len(result.history)} rounds.{weaker}"
    )


def _thumbnail(image: Image.Image) -> bytes:
    """A JPEG file."""
    small = image.copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    data = io.BytesIO()
    small.save(data, format="JPEG", quality=85)
    return data.getvalue()


def _sha256_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """Of everything after the file's header, as the standard and A1111 define it."""
    data = save(dict(tensors))
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
