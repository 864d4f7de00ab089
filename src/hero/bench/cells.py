"""One run of the benchmark of efficiency, measured as it learns, and the base model that it is compared with.

A cell is an ordinary run that the task's oracle answers, whose policy is evaluated on the same held-out noises each
time it has spent so many labels. What is measured is on disk before training goes on, so that a cell that was stopped
continues with the point it had come to. The base model is measured once for all cells of a task.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from hero.bench.plain import draw_plain
from hero.bench.processes import Say
from hero.config import Config, overlaid, validate
from hero.errors import HeroError, RunError
from hero.evaluation import evaluate
from hero.evaluation.prompts import UNRELATED
from hero.evaluators import make_evaluator
from hero.ids import prompts_in_turn
from hero.policies import load_policy
from hero.registry import FROZEN
from hero.run import RunDirectory
from hero.run.directory import LORA_FILE, read_images
from hero.run.finished import FinishedRun, read_json
from hero.tasks import get_task
from hero.tuner import Tuner
from hero.types import RoundStats

__all__ = ["Base", "PlannedCell", "Refined"]

Refined = Literal["last", "all", "none"]
"""At which points success from refined noise is measured."""


# ---------------------------------------------------------------------------------------------- the base model


@dataclass(frozen=True, eq=False)
class Base:
    """The base model on a task's held-out noises, measured once; it can be sent to another process."""

    task: str
    images: int
    out: Path
    config: Config

    @classmethod
    def of(cls, config: Config, images: int, out: Path) -> Base:
        """The base that a run with `config` is compared with; equal for all that draw alike."""
        frozen = {"update": {"kind": FROZEN}, "practice": {"draws": 0}, "selection": {"drawn": None}}
        return cls(config.task.name, images, out, validate(overlaid(config.model_dump(), frozen)))

    @property
    def question(self) -> dict[str, Any]:
        """Everything that its images depend on."""
        return {
            "task": self.config.task.model_dump(mode="json"),
            "model": self.config.model.model_dump(mode="json", include={"path", "revision", "variant", "dtype"}),
            "sampler": self.config.sampling.model_dump(exclude={"images_per_round", "micro_batch"}),
            "evaluation": self.config.evaluation.model_dump(mode="json", include={"seed", "drift_prompts"}),
            "images": self.images,
        }

    @property
    def folder(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.question, sort_keys=True).encode()).hexdigest()
        return self.out / "base" / f"{self.task}-{digest[:8]}"

    @property
    def result(self) -> dict[str, Any] | None:
        """Its `success` and `verdicts`, the same of the plain pipeline at η = 0, and `question`; None before."""
        return read_json(self.folder / "result.json")

    def drawn(self) -> dict[str, list[Image.Image]]:
        """Its images, under the names that `evaluate` takes them by."""
        return {name: read_images(self.folder / name) for name in ("base", "unrelated_base")}

    def do(self, say: Say) -> None:
        """Measures it, unless that is done."""
        if self.result is not None:
            return
        say(f"{self.task}: drawing the base model's images")
        found, sets = evaluate(load_policy(self.config), get_task(self.task), self.config, None, 0, images=self.images)
        folder = RunDirectory(self.folder, self.config)
        for name in ("base", "unrelated_base"):
            folder.write_images_under(name, sets[name])
        verdicts = found.details["verdicts"]["base"]
        plain = plain_verdicts(self.config, None, self.images)
        result = {"question": self.question, **_judged("success", verdicts), **_judged("plain_success", plain)}
        folder.write_text("result.json", json.dumps(result) + "\n")


def plain_verdicts(config: Config, lora: Path | None, images: int) -> list[bool]:
    """The judge's verdicts on images of the library's own pipeline at η = 0, from the held-out initial noises."""
    task, prompts = get_task(config.task.name), prompts_in_turn(config.task.prompts, images)
    judges = [task.judge_of(prompt) for prompt in prompts]
    drawn = draw_plain(config, lora, prompts)
    return [bool(judge(image).success) for judge, image in zip(judges, drawn, strict=True) if judge is not None]


def _judged(name: str, verdicts: Sequence[bool] | None) -> dict[str, Any]:
    """Success and, as a string of 0 and 1, the verdict on each image."""
    key = name.replace("success", "verdicts")
    if verdicts is None:
        return {name: None, key: None}
    return {name: sum(verdicts) / len(verdicts), key: "".join("01"[verdict] for verdict in verdicts)}


# ---------------------------------------------------------------------------------------------- a cell


@dataclass(frozen=True, eq=False)
class PlannedCell:
    """One run of the benchmark; it can be sent to another process.

    Attributes:
        variant: name of its variant; "" for none.
        config: of its run.
        images: held-out images a point.
        points: labels at which it is measured, the last being all that it may spend.
        refined: at which of them from refined noise, too.
        out: the benchmark's folder.
    """

    task: str
    method: str
    variant: str
    seed: int
    config: Config
    images: int
    points: tuple[int, ...]
    refined: Refined
    out: Path

    @property
    def series(self) -> str:
        """Its method and variant: what curves are drawn of."""
        return f"{self.method} {self.variant}".strip()

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.task, self.method, self.variant, f"s{self.seed}")))

    @property
    def folder(self) -> Path:
        """Its run directory."""
        return self.out / "runs" / self.name

    @property
    def file(self) -> Path:
        return self.out / "cells" / f"{self.name}.json"

    @property
    def base(self) -> Base:
        return Base.of(self.config, self.images, self.out)

    def found(self) -> dict[str, Any]:
        """What is on disk of it, with `points` empty if that is nothing.

        Raises:
            RunError: it was measured with other settings, or cannot be read.
        """
        plan = {
            "task": self.task,
            "method": self.method,
            "variant": self.variant,
            "seed": self.seed,
            "images": self.images,
            "planned": list(self.points),
            "refined": self.refined,
            "settings": self.config.model_dump(mode="json"),
        }
        stored = read_json(self.file)
        if stored is None:
            if (self.folder / "config.toml").is_file() and FinishedRun(self.folder).config != self.config:
                raise RunError(f"{self.folder} was run {_OTHERWISE}")
            return {**plan, "points": []}
        asked = ("images", "planned", "refined")
        if {key: stored.get(key) for key in asked} != {key: plan[key] for key in asked}:
            raise RunError(f"{self.file} was measured at other points or on other images; give {_OPTIONS} again")
        try:
            same = validate(stored["settings"]) == self.config
        except (HeroError, KeyError, TypeError):
            same = False
        if not same:
            raise RunError(f"{self.file} was measured {_OTHERWISE}")
        return stored

    def do(self, say: Say) -> dict[str, Any]:
        """Trains and measures what is not done yet; returns all that is on disk then.

        Raises:
            RunError: the folder's run has other settings, or has gone past a point that is missing.
        """
        found = self.found()
        if len(found["points"]) == len(self.points):
            return found
        begun = (self.folder / "config.toml").is_file()
        drawn = self.base.drawn()
        with Tuner.resume(self.folder) if begun else Tuner(self.config, self.folder) as tuner:

            def measure_if_due(_: RoundStats | None = None) -> None:
                due, spent = self.points[len(found["points"])], _labels(tuner)
                if spent > due:
                    raise RunError(
                        f"{self.folder} has spent {spent} labels, but {self.file} lacks the point {due}; "
                        "remove both, and the cell is run anew"
                    )
                if spent == due:
                    found["points"].append(self._point(tuner, drawn, found["points"]))
                    RunDirectory(self.out, self.config).write_text(f"cells/{self.file.name}", json.dumps(found) + "\n")
                    say(self._line(found["points"][-1]))

            if _labels(tuner):
                measure_if_due()
            tuner.run(make_evaluator(tuner.config), on_round=measure_if_due)
        return found

    def _point(
        self, tuner: Tuner, drawn: Mapping[str, Sequence[Image.Image]], earlier: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """The policy as it is now, as a JSON-ready dict; see docs/efficiency.md."""
        started, noise, labels = time.monotonic(), tuner.learner.noise, _labels(tuner)
        last = labels == self.points[-1]
        wanted = self.refined == "all" or (last and self.refined == "last")
        result, _ = evaluate(
            tuner.policy,
            get_task(self.task),
            self.config,
            noise if wanted and noise.fitted else None,
            labels,
            images=self.images,
            base=drawn,
            unrelated=UNRELATED if last else 0,
        )
        details, history = result.details, tuner.history
        lora = tuner.directory.path / LORA_FILE
        plain = plain_verdicts(self.config, lora, self.images) if last else None
        answers = [tuner.store.answer(stats.round) for stats in history]
        return {
            "labels": labels,
            "draws": sum(stats.draws for stats in history),
            "best_picks": sum(len(answer.best) for answer in answers if answer is not None),
            "steps": sum(stats.steps for stats in history),
            **_judged("success", details["verdicts"]["tuned_fresh"]),
            **_judged("refined_success", details["verdicts"]["tuned_refined"]),
            **_judged("plain_success", plain),
            "diversity": result.diversity["tuned_fresh"],
            "refined_diversity": result.diversity["tuned_refined"],
            "diversity_sample": details["diversity_sample"],
            "drift": None if result.drift is None else result.drift.feature_distance,
            "drift_by_prompt": {prompt: d["feature_distance"] for prompt, d in details["drift_by_prompt"].items()},
            "seconds_training": sum(_seconds(stats) for stats in history),
            "seconds_evaluating": (earlier[-1]["seconds_evaluating"] if earlier else 0.0) + time.monotonic() - started,
        }

    def _line(self, point: Mapping[str, Any]) -> str:
        parts = [f"{point['labels']} labels", f"success {point['success']:.2f}"]
        if point["refined_success"] is not None:
            parts.append(f"refined {point['refined_success']:.2f}")
        if point["diversity"] is not None:
            parts.append(f"diversity {point['diversity']:.2f}")
        return f"{self.task} {self.series} seed {self.seed}: {', '.join(parts)}"


_OPTIONS = "the same --labels, --images and --refined"
_OTHERWISE = "with other settings; give them again, or choose another --out"


def _labels(tuner: Tuner) -> int:
    return tuner.history[-1].labels if tuner.history else 0


def _seconds(stats: RoundStats) -> float:
    return stats.seconds_sampling + stats.seconds_updating + stats.seconds_practising
