"""The result of a run, read from its directory alone: the LoRA, the figures, the best image. Loads no model weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open

from hero.config import Config
from hero.errors import ModelError, RunError
from hero.model_index import is_folder, missing_folder
from hero.policies.lora_file import LoraFile, read_lora_file, scaled
from hero.run import Checkpoint
from hero.run.finished import FinishedRun
from hero.run.model import ModelRecord
from hero.tinyworld import NAME as TINYWORLD
from hero.tinyworld import model_path

__all__ = ["ModelFacts", "RunResult", "read_model_facts", "read_result"]


@dataclass(frozen=True)
class RunResult:
    """A run as of its newest checkpoint.

    Attributes:
        name: that of its folder.
        lora: as it is applied, with the factor alpha / rank of the run in it; its alpha is its rank.
        history: one dict per finished round, the lines of metrics.jsonl.
        evaluation: the object of evaluation/result.json if it is of this LoRA.
        best: the best image (of the first prompt that has one), or the first of the last round; None before any.
        noise_file: None if the run has no refined noise.
        started, date: when the oldest and the newest label were given; None before any, and if a shared store cannot be
            reached.
        model: which model it was trained on; None in runs that were made before that was written down.
        weight: the factor of its effect that is in `lora` already.
    """

    name: str
    config: Config
    lora: LoraFile
    history: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    best: Image.Image | None
    noise_file: Path | None
    started: datetime | None
    date: datetime | None
    model: ModelRecord | None = None
    weight: float = 1.0

    @property
    def labels(self) -> int:
        """Labels spent: every image that was shown counts as one."""
        return int(self.history[-1]["labels"]) if self.history else 0

    @property
    def refined_prompts(self) -> tuple[int, ...]:
        """Indexes of the prompts whose best image's noise is in the noise file, ascending."""
        if self.noise_file is None:
            return ()
        with safe_open(self.noise_file, framework="pt") as noise:
            names = [key for key in noise.keys() if key.startswith("best.")]  # noqa: SIM118
        return tuple(sorted(int(name.removeprefix("best.")) for name in names))


@dataclass(frozen=True)
class ModelFacts:
    """The model's own description: pipeline class, and the configurations of its denoiser and scheduler."""

    family: str
    denoiser: Mapping[str, Any]
    scheduler: Mapping[str, Any]


def read_result(path: str | Path, round_: int | None = None) -> RunResult:
    """The result of the run in `path`, as it is or as it was after round `round_`; then without refined noise.

    Raises:
        RunError: there is no run or nothing to export yet, its LoRA file is missing or older than its checkpoint, or
            that round is not kept.
    """
    run = FinishedRun(path, round_=round_)
    started, date = _read_dates(run)
    return RunResult(
        name=run.name,
        config=run.config,
        lora=_read_lora(run, run.checkpoint()),
        history=[stats.to_dict() for stats in run.history],
        evaluation=run.current_evaluation,
        best=run.best_image,
        noise_file=run.noise_file if round_ is None else None,
        started=started,
        date=date,
        model=run.model,
    )


def _read_lora(run: FinishedRun, checkpoint: Checkpoint) -> LoraFile:
    remedy = f"`hero resume {run.path}` writes it again"
    try:
        found = read_lora_file(run.lora_file)
    except RunError as error:
        raise RunError(f"{error}; {remedy}") from None
    told = scaled(checkpoint.tensors["lora"], run.config.lora.alpha / run.config.lora.rank)
    if run.round is not None:  # the file is that of the newest round; what it says of its layers holds for all
        return replace(found, lora=told)
    if found.lora.keys() != told.keys() or not all(torch.equal(found.lora[key], told[key]) for key in told):
        raise RunError(f"{run.lora_file} is older than the newest checkpoint; {remedy}")
    return found


def _read_dates(run: FinishedRun) -> tuple[datetime | None, datetime | None]:
    """Those of the oldest and the newest label, so that exporting twice gives the same bytes."""
    try:
        dates = run.label_dates
    except RunError:
        if not run.config.evaluator.store:
            raise
        return None, None  # whoever was given the run may not be able to reach its shared store
    return (dates[0], dates[-1]) if dates else (None, None)


def read_model_facts(result: RunResult) -> ModelFacts:
    """What the run wrote down of its model, or else what the model's own configuration files say.

    Raises:
        ModelError: they cannot be read.
    """
    if result.model is not None:
        return ModelFacts(result.model.family, result.model.denoiser, result.model.scheduler)
    config, component = result.config.model, result.lora.component
    if is_folder(config.path) and not Path(config.path).expanduser().exists():
        raise missing_folder(config.path)
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
