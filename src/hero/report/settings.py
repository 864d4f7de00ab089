"""The run's settings as rows of a table, and as the code that loads its LoRA."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from hero.config import Config
from hero.tinyworld import NAME as TINYWORLD

__all__ = ["Setting", "settings", "snippet"]


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings; `changed`: it differs from the field's own default."""

    key: str
    value: str
    meaning: str
    changed: bool


def settings(model: BaseModel, prefix: str = "") -> Iterator[Setting]:
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        key = f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from settings(value, f"{key}.")
        else:
            changed = not info.is_required() and value != info.get_default(call_default_factory=True)
            yield Setting(key, _shown(value), info.description or "", changed)


def _shown(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def snippet(config: Config) -> str:
    bundled = config.model.path == TINYWORLD
    source = "model_path()" if bundled else json.dumps(config.model.path)
    extras = "".join(
        f", {name}={json.dumps(value)}"
        for name, value in (("revision", config.model.revision), ("variant", config.model.variant))
        if value is not None and not bundled
    )
    if config.model.dtype != "float32":
        extras += f", torch_dtype=torch.{config.model.dtype}"
    imports = ["import torch"] if config.model.dtype != "float32" else []
    imports += ["from diffusers import DDIMScheduler, DiffusionPipeline"]
    imports += ["", "from hero.tinyworld import model_path"] if bundled else []
    sampling = config.sampling
    return "\n".join(
        [
            *imports,
            "",
            f"pipeline = DiffusionPipeline.from_pretrained({source}{extras})",
            "pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)",
            'pipeline.load_lora_weights("lora")  # the folder beside this report',
            "image = pipeline(",
            f"    {json.dumps(config.task.prompts[0], ensure_ascii=False)},",
            f"    num_inference_steps={sampling.num_steps},",
            f"    guidance_scale={sampling.guidance_scale:g},",
            f"    eta={sampling.eta:g},",
            *(f"    {side}={getattr(sampling, side)}," for side in ("height", "width") if getattr(sampling, side)),
            ").images[0]",
        ]
    )
