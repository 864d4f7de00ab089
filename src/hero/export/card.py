"""The model card of an exported run, through huggingface_hub's ModelCard: what it is, its figures, how to load it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hero.export.readers import READERS
from hero.export.result import RunResult
from hero.policies.fusing import FusedPrecision
from hero.run.directory import START_FILE
from hero.snippets import Snippets, family_of_model
from hero.tinyworld import NAME as TINYWORLD

__all__ = ["model_card"]

_TEMPLATE = Path(__file__).parent.parent / "templates" / "model_card.md.j2"
_LORA = ("diffusers", "kohya")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_WHOLE = ("fused", "single-file")
"""Formats that need no other model."""
_OPTIMIZERS = {"adamw": "AdamW", "adamw-8bit": "AdamW in 8 bits"}
_SETS = {
    "base": "base model, fresh noise",
    "tuned_fresh": "tuned model, fresh noise",
    "tuned_refined": "tuned model, refined noise",
}


def model_card(result: RunResult, format_: str, file: str, precision: FusedPrecision | None = None) -> ModelCard:
    """The card of `result`, exported as `format_` under the name `file`; `precision` is that of fused weights."""
    config = result.config
    path = config.model.path
    base = path if path == TINYWORLD else Path(path).name
    on_hub = bool(_HUB_ID.fullmatch(path)) and not Path(path).exists()
    data = ModelCardData(
        base_model=path if on_hub else None,
        license="apache-2.0" if path == TINYWORLD else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["text-to-image", "diffusers", *(["lora"] if format_ in _LORA else []), "hero", "human-feedback"],
        model_name=result.name,
        eval_results=_eval_results(result),
        instance_prompt=config.task.prompts[0],
    )
    card: ModelCard = ModelCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        name=result.name,
        config=config,
        base=path if on_hub else base,
        format=format_,
        file=file,
        result=result,
        precision=precision,
        loading=_loading(result, format_, file, path if on_hub else base, precision),
        drawing=Snippets(config, record=result.model).draw(),
        start=_start(result, format_),
        refined=_refined(result, format_, file, precision),
        others=[name for name in _readers(result, format_) if name != "diffusers"],
        optimizer=_OPTIMIZERS.get(config.update.optimizer, config.update.optimizer),
        last=result.history[-1] if result.history else None,
        figures=_figures(result.evaluation),
        evaluation=result.evaluation,
    )
    return card


def _loading(result: RunResult, format_: str, file: str, model: str, precision: FusedPrecision | None) -> str:
    """Python that loads the export into a plain pipeline; "" where diffusers cannot read it."""
    snippets = Snippets(result.config, model, precision.dtype if precision else None, record=result.model)
    if format_ == "fused":
        return snippets.load_fused(file)
    if format_ == "single-file":
        return snippets.load_single_file(file)
    if format_ != "diffusers" and "diffusers" not in _readers(result, format_):
        return ""
    return snippets.load(file, start=f"{file}/{START_FILE}" if format_ == "diffusers" else START_FILE)


def _start(result: RunResult, format_: str) -> str:
    """What to know of the LoRA that the run started from; "" where there is none."""
    settings = result.config.lora
    if settings.start is None:
        return ""
    digest = hashlib.sha256(Path(settings.start).read_bytes()).hexdigest()
    which = f"another LoRA, SHA-256 `{digest}`"
    if not settings.merge_start:
        return (
            f"Training went on from {which}; what is here holds the whole of it. The figures compare with that start."
        )
    if format_ in _WHOLE:
        return f"It was trained on top of {which}, which is in the weights, too. The figures compare with that start."
    where = f"`{START_FILE}`, which is beside it" if format_ == "diffusers" else f"`{START_FILE}` in the run's folder"
    return (
        f"It was trained on top of {which}, and must be combined with it, at full strength: {where}. The figures "
        "compare with the base model that has that one."
    )


def _readers(result: RunResult, format_: str) -> tuple[str, ...]:
    """The programs that load this family's LoRA in this layout."""
    return READERS.get(family_of_model(result.config, result.model), {}).get(format_, ())


def _refined(result: RunResult, format_: str, file: str, precision: FusedPrecision | None) -> str:
    """The recipe for refined noise, for the first prompt that has one; "" where the export has none."""
    if result.noise_file is None or format_ in ("kohya", "single-file", "comfyui"):
        return ""
    best = result.refined_prompts
    snippets = Snippets(result.config, dtype=precision.dtype if precision else None, record=result.model)
    return snippets.refined(f"{file}/{result.noise_file.name}", best[0]) if best else ""


def _eval_results(result: RunResult) -> list[EvalResult] | None:
    """Success on fresh noise, the headline; None where it is not known, or not of the LoRA alone."""
    evaluation = result.evaluation
    if evaluation is None or evaluation["success"]["tuned_fresh"] is None:
        return None
    if _best_of(evaluation) > 1:  # the file alone does not choose
        return None
    task = result.config.task.name
    return [
        EvalResult(
            task_type="text-to-image",
            dataset_type=f"hero-{task}",
            dataset_name=f"{evaluation['images']} held-out noises of {task}",
            metric_type="success",
            metric_name="Share of images that the task's judge calls a success",
            metric_value=round(evaluation["success"]["tuned_fresh"], 4),
        )
    ]


def _best_of(evaluation: dict[str, Any]) -> int:
    """Of how many candidates each image of the tuned model was chosen by the run's reward; 1: there was no choice."""
    return int(evaluation.get("details", {}).get("best_of", 1))


def _figures(evaluation: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """(set, success with its interval, diversity) of each set that was measured."""
    if evaluation is None:
        return []
    rows = []
    best_of = _best_of(evaluation)
    for key, name in _SETS.items():
        if best_of > 1 and key != "base":
            name += f", best of {best_of} by the run's reward"
        success, diversity = evaluation["success"][key], evaluation["diversity"][key]
        if success is None and diversity is None:
            continue
        shown = "unknown"
        if success is not None:
            low, high = evaluation["success_interval"][key]
            shown = f"{success:.0%} ({low:.0%} to {high:.0%})"
        rows.append((name, shown, "unknown" if diversity is None else f"{diversity:.2f}"))
    return rows
