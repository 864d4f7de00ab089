"""Python that uses a run's result in a plain diffusers pipeline, as reports and model cards print it.

Each snippet runs as printed, in the order load, draw, refined, in the folder that its file names refer to. No torch.
"""

from __future__ import annotations

import json
from typing import Any

from hero.calls import CALLS
from hero.config import Config
from hero.model_index import is_single_file, pipeline_class
from hero.run.directory import START_FILE
from hero.run.model import ModelRecord
from hero.tinyworld import NAME as TINYWORLD

__all__ = ["Snippets", "family_of_model", "refined_spread"]

_FAMILY_OF_PRESET = {
    "tinyworld": "StableDiffusionPipeline",
    "stable-diffusion": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}
_REFINED = 4
"""Images that the recipe for refined noise draws."""


def family_of_model(config: Config, model: ModelRecord | None = None) -> str:
    """The pipeline class of a run's model; if nothing on this machine says it, the one of the run's preset.

    Args:
        model: what the run wrote down of it.
    """
    if model is not None and model.family in CALLS:
        return model.family
    if config.model.path == TINYWORLD:
        return _FAMILY_OF_PRESET[TINYWORLD]
    known = pipeline_class(config.model.path, config.model.revision, fetch=False)
    return known if known in CALLS else _FAMILY_OF_PRESET.get(config.preset, "StableDiffusionPipeline")


def refined_spread(config: Config) -> float:
    """How far from a remembered noise a run that has refined noise draws, ε0 in [0, 1]."""
    # The file comes from a noise that draws near remembered ones; its table of settings says how near.
    return float(config.noise.model_dump()[config.noise.kind]["epsilon"])


class Snippets:
    """The snippets of a run with the settings `config`.

    Args:
        model: the name or path of the base model for the reader of the snippet; None: as in `config`.
        dtype: the precision to load in; None: that of training. A fused pipeline is loaded in its own, since a lower
            one would round the LoRA away.
        record: what the run wrote down of its model.
    """

    def __init__(
        self,
        config: Config,
        model: str | None = None,
        dtype: str | None = None,
        *,
        record: ModelRecord | None = None,
    ) -> None:
        self._config = config
        self._dtype = config.model.dtype if dtype is None else dtype
        self._model = config.model.path if model is None else model
        self._family = family_of_model(config, record)
        self._call = CALLS[self._family]

    def load(self, lora: str, comment: str = "", start: str = START_FILE) -> str:
        """The base model with the LoRA in the folder or file `lora`, and the sampler of training.

        Args:
            start: the LoRA that is part of the base model, for a run that merged one (`lora.merge_start`).
        """
        lines = []
        if self._config.lora.merge_start:
            first = f"pipeline.load_lora_weights({_text(start)})  # part of the model that was trained"
            lines = [first, "pipeline.fuse_lora()", "pipeline.unload_lora_weights()"]
        loaded = f"pipeline.load_lora_weights({_text(lora)})" + (f"  # {comment}" if comment else "")
        return "\n".join([self._load_base(), *lines, loaded])

    def _load_base(self) -> str:
        model = self._config.model
        if model.path == TINYWORLD:
            return self._load("model_path()", "from hero.tinyworld import model_path")
        if is_single_file(model.path):
            described = "" if model.config is None else f", config={_text(model.config)}"
            return self._load(f"{_text(self._model)}{described}", one_file=True)
        hub = (("revision", model.revision), ("variant", model.variant))
        extras = "".join(f", {name}={_text(value)}" for name, value in hub if value is not None)
        return self._load(f"{_text(self._model)}{extras}")

    def load_fused(self, folder: str) -> str:
        """A pipeline that has the LoRA in its weights, with the sampler of training."""
        return self._load(_text(folder))

    def load_single_file(self, file: str) -> str:
        """A one-file model that has the LoRA in its weights, with the sampler of training."""
        described = self._config.model.config
        return self._load(_text(file) + ("" if described is None else f", config={_text(described)}"), one_file=True)

    def _load(self, source: str, own_import: str = "", *, one_file: bool = False) -> str:
        dtype = self._dtype
        extras = "" if dtype == "float32" else f", dtype=torch.{dtype}"
        kind, method = (self._family, "from_single_file") if one_file else ("DiffusionPipeline", "from_pretrained")
        classes = f"DDIMScheduler, {kind}" if self._call.ddim else kind
        lines = [f"from diffusers import {classes}", *(["", own_import] if own_import else [])]
        lines = [*(["import torch"] if extras else []), *lines, ""]
        lines.append(f"pipeline = {kind}.{method}({source}{extras})")
        if self._call.ddim:  # only DDIM's own configuration says that nothing is clipped
            lines.append("pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)")
        if self._family == "StableDiffusionPipeline" and self._config.sampling.clip_skip is not None:
            where = 'pipeline.text_encoder.__dict__.setdefault("text_model", pipeline.text_encoder)'
            lines.append(f"{where}  # where diffusers 0.42 looks")
        return "\n".join(lines)

    def draw(self) -> str:
        """One image of the first prompt."""
        return "\n".join(["image = pipeline(", *self._arguments(self._config.task.prompts[0]), ").images[0]"])

    def refined(self, file: str, prompt_index: int) -> str:
        """Images of a prompt that start near the noise of its best image; `file` holds the refined noise."""
        call, dtype = self._call, self._dtype
        spread = f"{refined_spread(self._config):.10g}"
        cast = "" if dtype == "float32" or call.fp32_latents else f".to(torch.{dtype})"
        packing = "latents = pipeline._pack_latents(latents, *latents.shape)  # tokens of 2×2 patches"
        return "\n".join(
            [
                "import torch",
                "from safetensors.torch import load_file",
                "",
                f'best = load_file({_text(file)})["best.{prompt_index}"]',
                f"latents = (1 - {spread}**2) ** 0.5 * best + {spread} * torch.randn({_REFINED}, *best.shape)",
                *([packing] if call.packed else []),
                "images = pipeline(",
                *self._arguments(
                    self._config.task.prompts[prompt_index],
                    f"latents=latents{cast}",
                    f"num_images_per_prompt={_REFINED}",
                ),
                ").images",
            ]
        )

    def _arguments(self, prompt: str, *more: str) -> list[str]:
        """The lines between the parentheses of the pipeline call."""
        sampling = self._config.sampling
        named: dict[str, Any] = {"num_inference_steps": sampling.num_steps, **self._call.guidance(sampling)}
        if self._call.ddim:
            named["eta"] = sampling.eta
        named |= {side: value for side in ("height", "width") if (value := getattr(sampling, side))}
        given = [f"{name}={_text(v) if isinstance(v, str) else f'{v:.10g}'}" for name, v in named.items()]
        # Not by position: the first argument of some pipelines is an image.
        return [f"    {argument}," for argument in (f"prompt={_text(prompt)}", *more, *given)]


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
