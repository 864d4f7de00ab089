"""The result of a run, read from its directory alone: the LoRA, the figures, the best image. Loads no model weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from hero.config import Config, ModelConfig
from hero.errors import ModelError, RunError
from hero.run import Checkpoint
from hero.run.finished import FinishedRun
from hero.tinyworld import NAME as TINYWORLD
from hero.tinyworld import model_path

__all__ = ["ModelFacts", "RunResult", "read_model_facts", "read_result"]


@dataclass(frozen=True)
class RunResult:
    """A run as of its newest checkpoint.

    Attributes:
        name: that of its folder.
        lora_file: in diffusers' layout.
        lora: its tensors under PEFT's names (`<layer>.lora_A.weight`), without the component's prefix.
        component: the denoiser that the LoRA belongs to, `unet` or `transformer`.
        rank, alpha: those of every layer.
        history: one dict per finished round, the lines of metrics.jsonl.
        evaluation: the object of evaluation/result.json if it is of this LoRA.
        best: the best image (of the first prompt that has one), or the first of the last round; None before any.
        noise_file: None if the run has no refined noise.
        date: when the newest label was given; None before any, and if a shared store cannot be reached.
    """

    name: str
    config: Config
    lora_file: Path
    lora: dict[str, torch.Tensor]
    component: str
    rank: int
    alpha: float
    history: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    best: Image.Image | None
    noise_file: Path | None
    date: datetime | None

    @property
    def labels(self) -> int:
        """Labels spent: every image that was shown counts as one."""
        return int(self.history[-1]["labels"]) if self.history else 0


@dataclass(frozen=True)
class ModelFacts:
    """The model's own description: pipeline class, and the configurations of its denoiser and scheduler."""

    family: str
    denoiser: Mapping[str, Any]
    scheduler: Mapping[str, Any]


def read_result(path: str | Path) -> RunResult:
    """The result of the run in `path`.

    Raises:
        RunError: there is no run or nothing to export yet, or its LoRA file is missing or older than its checkpoint.
    """
    run = FinishedRun(path)
    lora, component, rank, alpha = _read_lora(run, run.checkpoint())
    return RunResult(
        name=run.name,
        config=run.config,
        lora_file=run.lora_file,
        lora=lora,
        component=component,
        rank=rank,
        alpha=alpha,
        history=[stats.to_dict() for stats in run.history],
        evaluation=run.current_evaluation,
        best=run.best_image,
        noise_file=run.noise_file,
        date=_read_date(run),
    )


def _read_lora(run: FinishedRun, checkpoint: Checkpoint) -> tuple[dict[str, torch.Tensor], str, int, float]:
    remedy = f"`hero resume {run.path}` writes it again"
    try:
        with safe_open(run.lora_file, framework="pt") as file:
            about = json.loads(file.metadata()["lora_adapter_metadata"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"cannot read {run.lora_file}: {error}; {remedy}") from None
    component = next(iter(tensors)).partition(".")[0]
    lora = {key.removeprefix(f"{component}."): value for key, value in tensors.items()}
    told = checkpoint.tensors["lora"]
    if lora.keys() != told.keys() or not all(torch.equal(lora[key], told[key]) for key in lora):
        raise RunError(f"{run.lora_file} is older than the newest checkpoint; {remedy}")
    return lora, component, int(about[f"{component}.r"]), float(about[f"{component}.lora_alpha"])


def _read_date(run: FinishedRun) -> datetime | None:
    """The date of the newest label, so that exporting twice gives the same bytes."""
    try:
        return run.newest_label
    except RunError:
        if not run.config.evaluator.store:
            raise
        return None  # whoever was given the run may not be able to reach its shared store


def read_model_facts(config: ModelConfig, component: str) -> ModelFacts:
    """Reads the configuration files of a model, `component` being its denoiser (`unet` or `transformer`).

    Raises:
        ModelError: they cannot be read.
    """
    from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel

    source = str(model_path() if config.path == TINYWORLD else Path(config.path).expanduser())
    try:
        index = DiffusionPipeline.load_config(source, revision=config.revision)
        # These classes stand in for any denoiser and scheduler: only their file names matter.
        denoiser = UNet2DConditionModel.load_config(source, subfolder=component, revision=config.revision)
        scheduler = DDIMScheduler.load_config(source, subfolder="scheduler", revision=config.revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot read the configuration of the model {config.path!r}: {reason}") from None
    return ModelFacts(index["_class_name"], denoiser, scheduler)
