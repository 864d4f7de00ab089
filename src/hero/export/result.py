"""What a run has come to, read from its directory alone: the LoRA, the figures, the best image. Loads no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError, safe_open

from hero.config import Config, ModelConfig
from hero.errors import ModelError, RunError
from hero.feedback.store import LabelStore
from hero.ids import ImageId, image_id
from hero.run import Checkpoint, RunDirectory
from hero.tinyworld import NAME as TINYWORLD
from hero.tinyworld import model_path

__all__ = ["ModelFacts", "RunResult", "read_model_facts", "read_result"]

LORA = "lora/pytorch_lora_weights.safetensors"
NOISE = "refined_noise.safetensors"


@dataclass(frozen=True)
class RunResult:
    """A run as of its newest checkpoint.

    Attributes:
        name: of its folder.
        lora_file: in diffusers' layout.
        lora: its tensors under PEFT's names (`<layer>.lora_A.weight`), without the component's prefix.
        component: the denoiser that it belongs to, `unet` or `transformer`.
        rank, alpha: of every layer.
        history: one dict per finished round, the lines of metrics.jsonl.
        evaluation: the object of evaluation/result.json if it is of this LoRA.
        best: the best image (of the first prompt that has one), or the first of the last round; None before any.
        noise_file: None where the run has no refined noise.
        date: when the last answer was given; None before any.
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
        """Labels spent: every image that was shown counts one."""
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
        RunError: there is no run, nothing to export yet, or its LoRA file is gone or older than its checkpoint.
    """
    directory = RunDirectory.open(path)
    checkpoint = directory.load_checkpoint("told")
    if checkpoint is None:
        raise RunError(f"{path} holds no checkpoint yet; run `hero resume {path}` first")
    lora, component, rank, alpha = _read_lora(directory.path, checkpoint)
    history = checkpoint.state["history"]
    noise = directory.path / NOISE
    return RunResult(
        name=directory.path.resolve().name,
        config=directory.config,
        lora_file=directory.path / LORA,
        lora=lora,
        component=component,
        rank=rank,
        alpha=alpha,
        history=history,
        evaluation=_read_evaluation(directory.path, history),
        best=_read_best(directory, checkpoint),
        noise_file=noise if noise.is_file() else None,
        date=_read_date(directory.path),
    )


def _read_lora(run: Path, checkpoint: Checkpoint) -> tuple[dict[str, torch.Tensor], str, int, float]:
    remedy = f"`hero resume {run}` writes it again"
    try:
        with safe_open(run / LORA, framework="pt") as file:
            about = json.loads(file.metadata()["lora_adapter_metadata"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"cannot read {run / LORA}: {error}; {remedy}") from None
    component = next(iter(tensors)).partition(".")[0]
    lora = {key.removeprefix(f"{component}."): value for key, value in tensors.items()}
    told = checkpoint.tensors["lora"]
    if lora.keys() != told.keys() or not all(torch.equal(lora[key], told[key]) for key in lora):
        raise RunError(f"{run / LORA} is older than the newest checkpoint; {remedy}")
    return lora, component, int(about[f"{component}.r"]), float(about[f"{component}.lora_alpha"])


def _read_evaluation(run: Path, history: list[dict[str, Any]]) -> dict[str, Any] | None:
    try:
        result: dict[str, Any] = json.loads((run / "evaluation" / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if history and result.get("labels") == history[-1]["labels"] else None


def _read_best(directory: RunDirectory, checkpoint: Checkpoint) -> Image.Image | None:
    bests: list[ImageId] = [best for _, best in sorted(checkpoint.state["best_id"].items())]
    rounds = len(checkpoint.state["history"])
    for name in [*bests[:1], *([image_id(rounds, 0)] if rounds else [])]:
        try:
            return directory.read_image(name)
        except RunError:
            continue
    return None


def _read_date(run: Path) -> datetime | None:
    """Of the newest label, so that exporting twice gives the same bytes."""
    with LabelStore(run / "feedback.db") as store:
        dates = [label.created_at for label in store.labels()]
    return max(dates).astimezone(UTC).replace(microsecond=0) if dates else None


def read_model_facts(config: ModelConfig, component: str) -> ModelFacts:
    """Reads the configuration files of a model, `component` being its denoiser (`unet` or `transformer`).

    Raises:
        ModelError: they cannot be read.
    """
    from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel

    source = str(model_path() if config.path == TINYWORLD else Path(config.path).expanduser())
    try:
        index = DiffusionPipeline.load_config(source, revision=config.revision)
        # The classes stand for any denoiser and scheduler: only the files' names are theirs.
        denoiser = UNet2DConditionModel.load_config(source, subfolder=component, revision=config.revision)
        scheduler = DDIMScheduler.load_config(source, subfolder="scheduler", revision=config.revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot read the configuration of the model {config.path!r}: {reason}") from None
    return ModelFacts(index["_class_name"], denoiser, scheduler)
