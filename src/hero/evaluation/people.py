"""People, or any evaluator, as judges of success: they see the images blind, and their word stands beside the oracle's.

Each round's answer is on disk before the next is asked, so that an interrupted evaluation goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hero.errors import FeedbackError, RunError
from hero.evaluation.blind import BlindPlan
from hero.evaluation.intervals import Measured
from hero.evaluation.result import SETS
from hero.evaluators.protocols import Evaluator, LiveEvaluator
from hero.feedback.agreement import agreement
from hero.feedback.store import LabelStore
from hero.run import RunDirectory
from hero.types import Feedback, ImageBatch, ImageChunk, RoundStart, Verdict

__all__ = ["DESK", "PEOPLE_IMAGES", "judge_blind", "people_said", "stored_evaluation"]

DESK = "evaluation/people"
"""The desk of a blind evaluation, within the run: its labels and the images as they were shown."""

PEOPLE_IMAGES = 48
"""Images of each set that people judge, unless told otherwise: 144 clicks at most."""

_QUESTION, _VERDICTS = "question.json", "verdicts.json"


def stored_evaluation(run: RunDirectory, images: int, prompts: Sequence[str] | None = None) -> dict[str, Any] | None:
    """The evaluation on disk, if it is of the run as it is now and has `images` images a set of these prompts."""
    result = _read(run.path / "evaluation" / "result.json")
    metrics = run.path / "metrics.jsonl"
    if result is None or not metrics.is_file():
        return None
    asked = prompts or run.config.task.prompts
    details, sampling = result["details"], run.config.sampling
    now = {
        "labels": json.loads(metrics.read_text(encoding="utf-8").splitlines()[-1])["labels"],
        "seed": run.config.evaluation.seed,
        "sampler": sampling.model_dump(include={"num_steps", "eta", "guidance_scale"}),
        "prompts": [asked[i % len(asked)] for i in range(images)],
    }
    found = {**{key: details.get(key) for key in now}, "labels": result["labels"]}
    found["prompts"] = (details.get("prompts") or [])[:images]
    return result if found == now else None


def judge_blind(
    run: RunDirectory,
    evaluator: Evaluator | LiveEvaluator,
    *,
    judge: str,
    images: int = PEOPLE_IMAGES,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Has `evaluator` judge the first `images` images of each set of the evaluation in `run`, shuffled and blind.

    Args:
        evaluator: is shown rounds of at most 48 images with ids such as "e0001-i0007"; only its verdicts count, and
            an image without one is not counted.
        judge: how the evaluator was named, e.g. "web" or "my_judge:evaluate".
        on_round: told (rounds answered, rounds in all).

    Returns:
        The object of evaluation/result.json, written anew with what was said under "people".

    Raises:
        RunError: `run` holds no evaluation of that many images.
        FeedbackError: an answer names other images, or has no verdict; nothing of it was stored.
    """
    result = _read(run.path / "evaluation" / "result.json")
    if result is None:
        raise RunError(f"{run.path} holds no evaluation; run `hero evaluate {run.path}`")
    plan = BlindPlan(run, result, images)
    desk = _open_desk(run, plan, judge)
    verdicts: dict[str, bool] = {}
    evaluators: dict[str, None] = {}
    with LabelStore(desk.path / "feedback.db") as store:
        for round_ in range(1, len(plan.rounds) + 1):
            answer = store.submission(round_)
            if answer is None:
                batch = plan.batch(round_, run.config.task.criterion)
                desk.write_images(round_, dict(zip(batch.ids, batch.images, strict=True)))
                answer = _ask(evaluator, batch, store, judge)
            verdicts |= {name: verdict is Verdict.GOOD for name, verdict in answer.verdicts.items()}
            evaluators |= dict.fromkeys(label.evaluator for label in store.labels(round_))
            if on_round is not None:
                on_round(round_, len(plan.rounds))
    said = {"judge": judge, "evaluators": sorted(evaluators), "images": images}
    desk.write_text(_VERDICTS, json.dumps({**said, "verdicts": plan.sorted_verdicts(verdicts)}, indent=1) + "\n")
    complete = {**result, "people": people_said(run, result)}
    run.write_text("evaluation/result.json", json.dumps(complete, indent=1) + "\n")
    return complete


def people_said(run: RunDirectory, result: Mapping[str, Any]) -> dict[str, Any] | None:
    """What people said of the evaluation `result`, whose images are in `run`; None if nobody judged these images."""
    question, said = _read(run.path / DESK / _QUESTION), _read(run.path / DESK / _VERDICTS)
    if question is None or said is None:
        return None
    try:
        if BlindPlan(run, result, question["images"]).fingerprint() != question["fingerprint"]:
            return None
    except RunError:
        return None
    return _summary(said, result)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); remove it") from None
    return value


def _open_desk(run: RunDirectory, plan: BlindPlan, judge: str) -> RunDirectory:
    """The desk of an interrupted evaluation if it asks the same; any other one is moved aside, its labels are kept."""
    folder = run.path / DESK
    question = {"judge": judge, "images": plan.images, "fingerprint": plan.fingerprint()}
    unfinished = not (folder / _VERDICTS).is_file()
    if folder.exists() and not (unfinished and _read(folder / _QUESTION) == question):
        taken = (folder.with_name(f"{folder.name}-{number:03d}") for number in range(1, 1000))
        folder.rename(next(path for path in taken if not path.exists()))
    desk = RunDirectory(folder, run.config)
    desk.write_text(_QUESTION, json.dumps(question, indent=1) + "\n")
    return desk


def _ask(evaluator: Evaluator | LiveEvaluator, batch: ImageBatch, store: LabelStore, judge: str) -> Feedback:
    started = time.monotonic()
    if isinstance(evaluator, LiveEvaluator):
        prompts = tuple(dict.fromkeys(batch.prompts))
        evaluator.begin(RoundStart(batch.round, len(batch), prompts, (), batch.criterion))
        evaluator.show(ImageChunk(batch.round, batch.ids, batch.images, batch.prompts, len(batch)))
        answer = evaluator.collect()
    else:
        answer = evaluator(batch)
    if not isinstance(answer, Feedback):
        raise FeedbackError(f"an evaluator must return hero.Feedback, not {type(answer).__name__}")
    answer.check(batch)
    if not answer.verdicts:
        raise FeedbackError(f"the evaluator {judge} gave no verdict; say good or bad of each image")
    verdicts = Feedback(answer.verdicts)
    name = getattr(evaluator, "name", None) or getattr(evaluator, "__name__", type(evaluator).__name__)
    store.record(batch.round, verdicts, str(name), time.monotonic() - started)
    return verdicts


def _summary(said: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """The object under "people"."""
    marks = {name: [mark for mark in said["verdicts"].get(name, ()) if mark is not None] for name in SETS}
    measured = {name: Measured.share(given) if given else None for name, given in marks.items()}
    return {
        **{key: said[key] for key in ("judge", "evaluators", "images")},
        "success": {name: None if m is None else m.value for name, m in measured.items()},
        "success_interval": {name: None if m is None else [m.low, m.high] for name, m in measured.items()},
        "judged": {name: len(given) for name, given in marks.items()},
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
    found = agreement(
        {
            "people": Feedback({name: words[mark] for name, mark, _ in both}),
            "oracle": Feedback({name: words[judged] for name, _, judged in both}),
        }
    )
    if found is None:
        return None
    return {
        "images": found.images,
        "share": found.full_share,
        "alpha": found.alpha,
        "good_by_people_only": sum(mark and not judged for _, mark, judged in both),
        "good_by_oracle_only": sum(judged and not mark for _, mark, judged in both),
    }
