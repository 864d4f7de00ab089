"""What a run has achieved and what is in its folder, as the page shows it: figures, images, marks, files.

What a report is made with is imported when a run is first looked at, so that the studio is there sooner.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hero.errors import HeroError
from hero.feedback.agreement import measure_agreement
from hero.ids import preview_id, prompts_in_turn
from hero.run.directory import LORA_FILE, METRICS_FILE, REPORT_FILE
from hero.run.finished import FinishedRun
from hero.studio.folder import OWN
from hero.studio.job import DetachedJob
from hero.studio.standing import training_of
from hero.types import RoundStats
from hero.web.errors import ApiError

if TYPE_CHECKING:
    from hero.report.outcome import Tile

__all__ = [
    "DRAWS",
    "EVALUATE",
    "EXPORTS",
    "FILES",
    "SETS",
    "draw_folder",
    "export_files",
    "readable",
    "round_of_run",
    "whole",
]

DRAWS, EXPORTS, EVALUATE = "draws", "exports", "evaluate"
"""Folders of jobs in a run's own folder."""

SETS = ("base", "tuned_fresh", "tuned_refined", "unrelated_base", "unrelated_tuned")
"""Folders of images in an evaluation."""

FILES = {
    "lora": LORA_FILE,
    "report": REPORT_FILE,
    "metrics": METRICS_FILE,
    "settings": "config.toml",
}
"""What can be downloaded as it lies in the run."""


def whole(path: Path) -> dict[str, Any]:
    """Everything about the run in `path` but what its card says.

    Raises:
        HeroError: it cannot be read.
    """
    from hero.report.settings import settings

    run = FinishedRun(path)
    history = run.history
    return {
        "path": str(path),
        "history": [_round_figures(stats) for stats in history],
        "previews": _previews(run, len(history)),
        "evaluation": _evaluation(run),
        "settings": [vars(one) for one in settings(run.config)],
        "cut": run.cut_prompts,
        "back_to": _back_to(path, len(history)),
        "files": [name for name, file in FILES.items() if (path / file).is_file()],
        "training": training_of(path).state().to_dict(),
        "evaluating": DetachedJob(path / OWN / EVALUATE).state().to_dict()
        | {"blind": bool(DetachedJob(path / OWN / EVALUATE).asked.get("blind"))},
        "draws": list(_draws(path)),
        "exports": {job.folder.name: _export(job) for job in _jobs(path / OWN / EXPORTS)},
    }


def round_of_run(path: Path, number: int) -> dict[str, Any]:
    """The images of one round, with what everybody said of each; most disputed ones are `disputed`.

    Raises:
        ApiError: 404, there is no such round.
        RunError: its labels cannot be read.
    """
    run = FinishedRun(path)
    folder = path / "rounds" / f"{number:04d}" / "images"
    ids = sorted(p.stem for p in folder.glob("r[0-9]*.png"))
    if not ids:
        raise ApiError(404, "round-not-found", f"There is no round {number} in {path.name}.")
    prompts = prompts_in_turn(run.config.task.prompts, len(ids))
    store = run.label_store()
    marks: dict[str, dict[str, str]] = {}
    answer, agreement = None, None
    if store is not None:
        with store:
            submissions = store.submissions(number)
            answer, agreement = store.answer(number), measure_agreement(submissions)
        for who, given in submissions.items():
            for image, verdict in given.verdicts.items():
                marks.setdefault(image, {})[who] = str(verdict)
    verdicts = {} if answer is None else answer.verdicts
    return {
        "round": number,
        "images": [
            {
                "id": one,
                "prompt": prompt,
                "verdict": None if one not in verdicts else str(verdicts[one]),
                "marks": marks.get(one, {}),
            }
            for one, prompt in zip(ids, prompts, strict=True)
        ],
        "best": [] if answer is None else list(answer.best),
        "evaluators": [] if answer is None else list(answer.evaluators),
        "rule": None if answer is None else answer.rule,
        "agreement": None
        if agreement is None
        else {
            "images": agreement.images,
            "alpha": agreement.alpha,
            "full_share": agreement.full_share,
            "disputed": list(agreement.disputed),
        },
    }


def draw_folder(path: Path, draw: str, strength: str) -> Path:
    """The images of a drawing at one strength.

    Raises:
        ApiError: 404, there is no such drawing, or it was not drawn at that strength.
    """
    for job in _jobs(path / OWN / DRAWS):
        strengths = [f"{factor:g}" for factor in job.asked.get("strengths", [])]
        if job.folder.name == draw and strength in strengths:
            images = job.folder / "images"
            return images / f"strength-{strength}" if len(strengths) > 1 else images
    raise ApiError(404, "drawing-not-found", "There is no such drawing.")


def export_files(path: Path, kind: str) -> tuple[Path, list[str]]:
    """The folder of a finished export, and the names of all files below it.

    Raises:
        ApiError: 404, there is none.
    """
    for job in _jobs(path / OWN / EXPORTS):
        if job.folder.name == kind and job.state().standing == "done":
            out = job.folder / "out"
            return out, sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    raise ApiError(404, "export-not-found", f"{kind[:40]!r} has not been exported yet.")


# ---------------------------------------------------------------------------------------------- parts


def _round_figures(stats: RoundStats) -> dict[str, Any]:
    from hero.evaluation.intervals import wilson_interval

    judged = stats.good + stats.bad
    interval = list(wilson_interval(stats.good, judged)) if judged else None
    shown = stats.success_shown
    success = None if shown is None else [shown, list(wilson_interval(round(shown * stats.images), stats.images))]
    return {
        "round": stats.round,
        "labels": stats.labels,
        "good": stats.good,
        "bad": stats.bad,
        "share": stats.good / judged if judged else None,
        "interval": interval,
        "success": success,
        "best": list(stats.best),
        "reward": stats.reward_mean,
        "estimate": stats.figures.get("share_good"),
        "auc": stats.figures.get("auc"),
        "draws": stats.draws,
        "seconds": stats.seconds,
        "note": stats.note,
    }


def _previews(run: FinishedRun, rounds: int) -> list[dict[str, Any]]:
    """Samples from the same fixed noises before training and after each round, for those rounds that have any."""
    count = run.config.evaluator.previews
    prompts = prompts_in_turn(run.config.task.prompts, count)
    found = []
    for number in range(rounds + 1):
        folder = run.path / "rounds" / f"{number:04d}" / "images"
        ids = [preview_id(number, k) for k in range(count)]
        shown = [{"id": i, "prompt": p} for i, p in zip(ids, prompts, strict=True) if (folder / f"{i}.png").is_file()]
        if shown:
            found.append({"round": number, "images": shown})
    return found


def _evaluation(run: FinishedRun) -> dict[str, Any] | None:
    """The evaluation, in the words of the report."""
    from hero.report.contents import RunContents

    contents = RunContents(run.path)
    evaluation, people, details = contents.evaluation, contents.people, contents.details
    if evaluation is None:
        return None
    counts = {name: len(run.evaluated(name)) for name in SETS}
    return {
        "finding": contents.finding,
        "labels": int(evaluation["labels"]),
        "images": evaluation["images"],
        "tiles": [_tile(tile) for tile in contents.tiles],
        "people": None
        if people is None
        else {"who": people.who, "tiles": [_tile(t) for t in people.tiles], "agreement": people.agreement},
        "variety": evaluation["diversity"].get("tuned_fresh"),
        "variety_refined": evaluation["diversity"].get("tuned_refined"),
        "drift": evaluation["drift"],
        "drift_scale": details.get("drift_scale"),
        "outdated": contents.outdated,
        "sets": {name: count for name, count in counts.items() if count},
        "prompts": list(details.get("prompts", [])),
        "unrelated": list(details.get("drift_by_prompt", {})),
        "verdicts": dict(details.get("verdicts", {})),
    }


def _tile(tile: Tile) -> dict[str, Any]:
    return {
        "model": tile.model,
        "noise": tile.noise,
        "value": tile.value,
        "low": tile.low,
        "high": tile.high,
        "count": tile.count,
    }


def _back_to(path: Path, rounds: int) -> list[int]:
    """The rounds after which the run's state is still on disk, without the newest."""
    try:
        names = os.listdir(path / "checkpoints")
    except OSError:
        return []
    kept = {int(name[:4]) for name in names if name[:4].isdigit() and name[4:] == "-told"}
    return sorted(kept - {rounds})


def _jobs(folder: Path) -> Iterator[DetachedJob]:
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        job = DetachedJob(folder / name)
        if job.asked:
            yield job


def _draws(path: Path) -> Iterator[dict[str, Any]]:
    """The newest drawing first."""
    for job in reversed(list(_jobs(path / OWN / DRAWS))):
        asked = job.asked
        strengths = [f"{factor:g}" for factor in asked.get("strengths", [])]
        yield {
            "id": job.folder.name,
            "prompts": asked.get("prompts", []),
            "strengths": strengths,
            "images": asked.get("images", 0),
            "labels": asked.get("labels"),
            "seed": asked.get("seed", 0),
            **job.state().to_dict(),
        }


def _export(job: DetachedJob) -> dict[str, Any]:
    state = job.state()
    files: list[dict[str, Any]] = []
    if state.standing == "done":
        out = job.folder / "out"
        files = [{"name": p.name, "bytes": p.stat().st_size} for p in sorted(out.glob("*")) if p.is_file()]
    return {**state.to_dict(), "labels": job.asked.get("labels"), "files": files}


def readable(path: Path) -> FinishedRun:
    """The run in `path`.

    Raises:
        ApiError: 409, it cannot be read.
    """
    try:
        return FinishedRun(path)
    except HeroError as error:
        raise ApiError(409, "run-unreadable", str(error)) from None
