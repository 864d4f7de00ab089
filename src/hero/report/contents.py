"""A run directory as the report's template asks for it: read from its files alone, never from a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from hero.config import Config, load_run_config
from hero.errors import RunError
from hero.feedback.store import LabelStore
from hero.report.charts import Chart, charts
from hero.report.outcome import BlindFigures, Tile, finding, people_of, tiles_of
from hero.report.pictures import Pair, Picture, data_uri, open_image
from hero.report.rounds import Round, rounds_of
from hero.report.settings import Setting, settings, snippet
from hero.tasks import TASKS
from hero.types import RoundStats

__all__ = ["RunContents"]

_PAIRS_SHOWN = 12
_UNRELATED_SHOWN = 8


class RunContents:
    """A run directory, as the template asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "config.toml").is_file():
            raise RunError(f"{folder} is not a run directory: it holds no config.toml; give one that `hero train` made")
        self.config: Config = load_run_config(folder / "config.toml")

    @property
    def name(self) -> str:
        """How commands name the run: the path as given; of an absolute one its last part."""
        return self.folder.resolve().name if self.folder.is_absolute() else self.folder.as_posix()

    @cached_property
    def stats(self) -> list[RoundStats]:
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        try:
            return [RoundStats.from_dict(json.loads(line)) for line in lines if line.strip()]
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path} cannot be read ({error}); restore it, or remove the broken line") from None

    @cached_property
    def evaluation(self) -> dict[str, Any] | None:
        """The object of `hero evaluate --json`, if the run was evaluated."""
        path = self.folder / "evaluation" / "result.json"
        if not path.is_file():
            return None
        try:
            result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{path} cannot be read ({error}); `hero evaluate` writes it anew") from None
        return result

    @property
    def details(self) -> dict[str, Any]:
        """The evaluation's extras; empty without an evaluation."""
        return dict((self.evaluation or {}).get("details", {}))

    @property
    def sensitive(self) -> bool:
        task = TASKS.get(self.config.task.name)
        return task is not None and task.sensitive

    @property
    def labels(self) -> int:
        return self.stats[-1].labels if self.stats else 0

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Success of each image set by the task's judge; empty where it is unknown of all of them."""
        if self.evaluation is None:
            return ()
        return tiles_of(self.evaluation, dict.fromkeys(self.evaluation["success"], self.evaluation["images"]))

    @cached_property
    def people(self) -> BlindFigures | None:
        """What people saw; None if nobody was asked."""
        return None if self.evaluation is None else people_of(self.evaluation)

    @property
    def finding(self) -> str:
        """The headline, by the task's judge; by people where there is none."""
        if not self.tiles and self.people is not None:
            return finding(self.people.tiles, self.labels, who=self.people.who)
        return finding(self.tiles, self.labels)

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
        path = self.folder / "evaluation" / name / f"{index:04d}.png"
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
        path = self.folder / "feedback.db"
        if not path.is_file():
            return rounds_of(self.folder, self.stats, None)
        with LabelStore(path) as store:
            return rounds_of(self.folder, self.stats, store)

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
        """Size of the LoRA file in words; "" if there is none."""
        path = self.folder / "lora" / "pytorch_lora_weights.safetensors"
        return f"{path.stat().st_size / 1e6:.1f} MB" if path.is_file() else ""

    @property
    def has_refined_noise(self) -> bool:
        return (self.folder / "refined_noise.safetensors").is_file()

    @property
    def snippet(self) -> str:
        """Python that loads the LoRA into a plain diffusers pipeline."""
        return snippet(self.config)
