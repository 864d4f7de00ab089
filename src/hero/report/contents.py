"""A run directory in the form that the report's template needs: read from its files alone, never from a model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from hero.errors import RunError
from hero.feedback.store import LabelStore
from hero.report.charts import Chart, charts
from hero.report.outcome import BlindFigures, Tile, chosen_among, finding, outdated, paired_of, people_of, tiles_of
from hero.report.pictures import Pair, Picture, data_uri, open_image
from hero.report.rounds import Round, rounds_of
from hero.report.settings import Setting, settings
from hero.run.finished import FinishedRun
from hero.snippets import Snippets
from hero.tasks import TASKS
from hero.types import RoundStats

__all__ = ["RunContents"]

_PAIRS_SHOWN = 12
_UNRELATED_SHOWN = 8


class RunContents:
    """A run directory in the form that the template needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run = FinishedRun(folder)
        self.config = self._run.config
        self._unreachable = ""

    @property
    def name(self) -> str:
        """How commands name the run: the path as given; for an absolute path, its last part."""
        return self._run.name if self.folder.is_absolute() else self.folder.as_posix()

    @cached_property
    def stats(self) -> list[RoundStats]:
        return self._run.history

    @cached_property
    def evaluation(self) -> dict[str, Any] | None:
        """The object of `hero evaluate --json`, if the run was evaluated."""
        return self._run.evaluation

    @property
    def details(self) -> dict[str, Any]:
        """The evaluation's extras; empty without an evaluation."""
        return dict((self.evaluation or {}).get("details", {}))

    @property
    def sensitive(self) -> bool:
        task = TASKS.get(self.config.task.name)
        return task is not None and task.sensitive

    @property
    def cut_prompts(self) -> list[str]:
        """What text encoders do not see of the prompts."""
        return self._run.cut_prompts

    @property
    def labels(self) -> int:
        return self.stats[-1].labels if self.stats else 0

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Success of each image set by the task's judge; empty if it is unknown for all of them."""
        if self.evaluation is None:
            return ()
        counts = dict.fromkeys(self.evaluation["success"], self.evaluation["images"])
        return tiles_of(self.evaluation, counts, chosen_among(self.evaluation))

    @cached_property
    def people(self) -> BlindFigures | None:
        """What people saw; None if nobody was asked."""
        return None if self.evaluation is None else people_of(self.evaluation)

    @property
    def finding(self) -> str:
        """The headline, by the task's judge; by people where there is none."""
        if not self.tiles and self.people is not None:
            return finding(self.people.tiles, self._measured_at, self.people.paired, who=self.people.who)
        paired = None
        if self.evaluation is not None:
            paired = paired_of(self.details.get("verdicts"), chosen_among(self.evaluation))
        return finding(self.tiles, self._measured_at, paired)

    @property
    def _measured_at(self) -> int:
        """Labels spent when the run was evaluated; its figures refer to that point."""
        return 0 if self.evaluation is None else int(self.evaluation["labels"])

    @property
    def outdated(self) -> str:
        """Why the evaluation does not describe the run as it is now; "" if it does, or if there is none."""
        if self.evaluation is None or self._run.is_current(self.evaluation):
            return ""
        return outdated(self._measured_at, self.labels)

    @cached_property
    def pairs(self) -> list[Pair]:
        """The base's first images beside the tuned model's from the same noises; in order, not selected."""
        return self._pairs("base", "tuned_fresh", "the task", _PAIRS_SHOWN)

    @cached_property
    def unrelated_pairs(self) -> list[Pair]:
        """Prompts that have nothing to do with the task, before and after."""
        return self._pairs("unrelated_base", "unrelated_tuned", "an unrelated prompt", _UNRELATED_SHOWN)

    def _pairs(self, before: str, after: str, what: str, limit: int) -> list[Pair]:
        prompts = list(self.details.get("drift_by_prompt", {})) if before != "base" else self.details.get("prompts")
        pairs = []
        for index in range(limit):
            prompt = prompts[index] if prompts and index < len(prompts) else ""
            pictures = [self._evaluated(name, index, prompt or what) for name in (before, after)]
            if pictures[0] is None or pictures[1] is None:
                break
            pairs.append(Pair(prompt, pictures[0], pictures[1]))
        return pairs

    @cached_property
    def refined(self) -> list[Picture]:
        """The first images of the tuned model on refined noise."""
        found = (self._evaluated("tuned_refined", i, "refined noise") for i in range(_PAIRS_SHOWN))
        return [picture for picture in found if picture is not None]

    def _evaluated(self, name: str, index: int, what: str) -> Picture | None:
        path = self._run.evaluation_folder / name / f"{index:04d}.png"
        if not path.is_file():
            return None
        marks = self.details.get("verdicts", {}).get(name)
        verdict = "" if marks is None or index >= len(marks) else "good" if marks[index] else "bad"
        who = "base model" if name.endswith("base") else "tuned model"
        judged = {"good": ", judged a success", "bad": ", judged a failure", "": ""}[verdict]
        return Picture(data_uri(open_image(path), 256, 90), f"{who}, image {index}: {what}{judged}", verdict)

    @cached_property
    def rounds(self) -> list[Round]:
        """Every round with its images, small enough that all of them fit into the file."""
        if self._labels is None:
            return rounds_of(self.folder, self.stats, None)
        with self._labels:
            return rounds_of(self.folder, self.stats, self._labels)

    @cached_property
    def _labels(self) -> LabelStore | None:
        try:
            return self._run.label_store()
        except RunError as error:
            if not self.config.evaluator.store:
                raise
            self._unreachable = str(error)  # whoever was given the run may not be able to reach its shared store
            return None

    @property
    def labels_unreachable(self) -> str:
        """Why the shared label store cannot be read; "" if it can, or if the labels are in the run."""
        return self._unreachable if self._labels is None else ""

    @cached_property
    def charts(self) -> list[Chart]:
        """What changed over the labels; empty for a single round."""
        return charts(self.stats) if len(self.stats) > 1 else []

    @property
    def seconds(self) -> Mapping[str, float]:
        """Phase -> seconds over all rounds."""
        return {
            "sampling": sum(s.seconds_sampling for s in self.stats),
            "waiting": sum(s.seconds_waiting for s in self.stats),
            "updating": sum(s.seconds_updating for s in self.stats),
            "practising": sum(s.seconds_practising for s in self.stats),
        }

    @property
    def longest_round(self) -> float:
        """Seconds of the round that took longest; positive."""
        return max((round_.seconds for round_ in self.rounds), default=0.0) or 1.0

    @property
    def settings(self) -> list[Setting]:
        return list(settings(self.config))

    @property
    def lora(self) -> str:
        """Size of the LoRA file, formatted; "" if there is none."""
        path = self._run.lora_file
        return f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else ""

    @property
    def has_refined_noise(self) -> bool:
        return self._run.noise_file is not None

    @property
    def snippet(self) -> str:
        """Python that loads the LoRA into a plain diffusers pipeline."""
        snippets = Snippets(self.config, record=self._run.model)
        return f"{snippets.load('lora', 'in the folder of the run')}\n{snippets.draw()}"
