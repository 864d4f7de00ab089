"""What an evaluation left on disk: its result, and what people said of its images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hero.errors import RunError
from hero.evaluation.blind import BlindPlan
from hero.evaluation.intervals import Measured
from hero.evaluation.result import SETS
from hero.feedback.agreement import Agreement, measure_agreement
from hero.ids import prompts_in_turn
from hero.run import RunDirectory
from hero.types import Feedback, Verdict

__all__ = ["DESK", "QUESTION", "VERDICTS", "agreement_figures", "people_said", "read_json", "stored_evaluation"]

DESK = "evaluation/people"
"""The desk of a blind evaluation, within the run: its labels and the images as they were shown."""

QUESTION, VERDICTS = "question.json", "verdicts.json"
"""Files of the desk: what is asked, and once everything is answered, what was said of which set."""


def stored_evaluation(run: RunDirectory, images: int, prompts: Sequence[str] | None = None) -> dict[str, Any] | None:
    """The evaluation on disk, if it is of the run as it is now and has `images` images a set of these prompts."""
    result = read_json(run.path / "evaluation" / "result.json")
    metrics = run.path / "metrics.jsonl"
    if result is None or not metrics.is_file():
        return None
    asked = prompts or run.config.task.prompts
    details, sampling = result["details"], run.config.sampling
    now = {
        "labels": json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])["labels"],
        "seed": run.config.evaluation.seed,
        "sampler": sampling.model_dump(include={"num_steps", "eta", "guidance_scale"}),
        "prompts": prompts_in_turn(asked, images),
    }
    found = {**{key: details.get(key) for key in now}, "labels": result["labels"]}
    found["prompts"] = (details.get("prompts") or [])[:images]
    return result if found == now else None


def people_said(run: RunDirectory, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """What people said of the evaluation `result`, whose images are in `run`; None if nobody judged these images."""
    question, said = read_json(run.path / DESK / QUESTION), read_json(run.path / DESK / VERDICTS)
    if question is None or said is None:
        return None
    try:
        if BlindPlan(run, result, question["images"]).fingerprint() != question["fingerprint"]:
            return None
    except RunError:
        return None
    return _summary(said, result)


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no file.

    Raises:
        RunError: it cannot be read.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); remove it") from None
    return value


def _summary(said: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The object under "people"."""
    marks = {name: [mark for mark in said["verdicts"].get(name, ()) if mark is not None] for name in SETS}
    measured = {name: Measured.share(given) if given else None for name, given in marks.items()}
    return {
        **{key: said[key] for key in ("judge", "evaluators", "images")},
        "success": {name: None if m is None else m.value for name, m in measured.items()},
        "success_interval": {name: None if m is None else [m.low, m.high] for name, m in measured.items()},
        "judged": {name: len(given) for name, given in marks.items()},
        "agreement_between": said["agreement_between"],
        "agreement": _with_oracle(said["verdicts"], result["details"].get("verdicts") or {}),
        "verdicts": said["verdicts"],
    }


def _with_oracle(people: Mapping[str, list[bool | None]], oracle: Mapping[str, Any]) -> dict[str, Any] | None:
    """How far people and the task's judge agree, image by image; None where there is no judge."""
    both = [
        (f"{name}/{index:04d}", mark, bool(judged))
        for name, marks in people.items()
        for index, (mark, judged) in enumerate(zip(marks, oracle.get(name) or (), strict=False))
        if mark is not None
    ]
    words = {True: Verdict.GOOD, False: Verdict.BAD}
    found = measure_agreement(
        {
            "people": Feedback({name: words[mark] for name, mark, _ in both}),
            "oracle": Feedback({name: words[judged] for name, _, judged in both}),
        }
    )
    figures = agreement_figures(found)
    return figures and {
        **figures,
        "good_by_people_only": sum(mark and not judged for _, mark, judged in both),
        "good_by_oracle_only": sum(judged and not mark for _, mark, judged in both),
    }


def agreement_figures(found: Agreement | None) -> dict[str, Any] | None:
    """`images`, `share` and `alpha`; None where nobody can agree or disagree."""
    return None if found is None else {"images": found.images, "share": found.full_share, "alpha": found.alpha}
