"""What an evaluation left on disk: its result, and people's verdicts on its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hero.errors import RunError
from hero.evaluation.blind import BlindPlan
from hero.evaluation.intervals import Measured
from hero.evaluation.result import SETS
from hero.feedback.agreement import Agreement, measure_agreement
from hero.ids import prompts_in_turn
from hero.run.finished import FinishedRun, read_json
from hero.types import Feedback, Verdict

__all__ = ["DESK", "QUESTION", "VERDICTS", "agreement_figures", "people_said", "stored_evaluation"]

DESK = "people"
"""The desk of a blind evaluation, within its folder: its labels and the images as they were shown."""

QUESTION, VERDICTS = "question.json", "verdicts.json"
"""Files of the desk: what is asked and, once everything is answered, the verdicts on each set."""


def stored_evaluation(run: FinishedRun, images: int, prompts: Sequence[str] | None = None) -> dict[str, Any] | None:
    """The evaluation on disk, if it is of the run as it is now and has `images` images per set, of these prompts."""
    result = run.current_evaluation
    asked = prompts_in_turn(prompts or run.config.task.prompts, images)
    return result if result is not None and _drawn_for(result)[:images] == asked else None


def _drawn_for(result: Mapping[str, Any]) -> list[str]:
    """The prompt of each image; empty if the evaluation does not record them."""
    return list(result.get("details", {}).get("prompts") or ())


def people_said(run: FinishedRun, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary of people's verdicts on the images of the evaluation `result`; None if nobody judged these images."""
    question, found = (read_json(run.evaluation_folder / DESK / file) for file in (QUESTION, VERDICTS))
    if question is None or found is None:
        return None
    try:
        if BlindPlan(run, result, question["images"]).fingerprint() != question["fingerprint"]:
            return None
    except RunError:
        return None
    return _summary(found, result)


def _summary(found: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The object under "people"."""
    marks = {name: [mark for mark in found["verdicts"].get(name, ()) if mark is not None] for name in SETS}
    measured = {name: Measured.share(given) if given else None for name, given in marks.items()}
    return {
        **{key: found[key] for key in ("judge", "evaluators", "images")},
        "success": {name: None if m is None else m.value for name, m in measured.items()},
        "success_interval": {name: None if m is None else [m.low, m.high] for name, m in measured.items()},
        "judged": {name: len(given) for name, given in marks.items()},
        "agreement_between": found["agreement_between"],
        "agreement": _with_oracle(found["verdicts"], result["details"].get("verdicts") or {}),
        "verdicts": found["verdicts"],
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
    """`images`, `share` and `alpha`; None if there is nothing to agree or disagree on."""
    return None if found is None else {"images": found.images, "share": found.full_share, "alpha": found.alpha}
