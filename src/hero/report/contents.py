"""A run directory as the report's template asks for it: read from its files alone, never from a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hero.config import Config, load_toml, validate
from hero.errors import RunError
from hero.feedback.store import LabelStore
from hero.report.charts import Chart, charts
from hero.report.pictures import Pair, Picture, data_uri, fit, open_image, thumbnail
from hero.report.settings import Setting, settings, snippet
from hero.report.words import percent
from hero.tasks import TASKS
from hero.types import Feedback, RoundStats, image_id

__all__ = ["RunContents"]

_PAIRS_SHOWN = 12
_UNRELATED_SHOWN = 8

_SETS = {
    "base": ("Base model", "fresh noise"),
    "tuned_fresh": ("Tuned model", "fresh noise"),
    "tuned_refined": ("Tuned model", "refined noise"),
}


@dataclass(frozen=True)
class Tile:
    """One success figure; shares in [0, 1]."""

    model: str
    noise: str
    value: float | None
    low: float = 0.0
    high: float = 1.0
    count: str = ""


@dataclass(frozen=True)
class Round:
    """What was shown in one round, and what it did; `found` images are on disk."""

    stats: RoundStats
    pictures: tuple[Picture, ...]
    found: int

    @property
    def good_share(self) -> float | None:
        judged = self.stats.good + self.stats.bad
        return self.stats.good / judged if judged else None

    @property
    def kept_best(self) -> list[str]:
        """Ids of the best images so far that an earlier round showed."""
        start = image_id(self.stats.round, 0).partition("-")[0]
        return [best for best in self.stats.best if not best.startswith(start)]

    @property
    def seconds(self) -> float:
        return self.stats.seconds_sampling + self.stats.seconds_waiting + self.stats.seconds_updating


class RunContents:
    """A run directory, as the template asks for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not (folder / "config.toml").is_file():
            raise RunError(f"{folder} is not a run directory: it holds no config.toml; give one that `hero train` made")
        self.config: Config = validate(load_toml(folder / "config.toml"))

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
    def tiles(self) -> list[Tile]:
        """Success of each image set; empty where it is unknown of all of them."""
        if self.evaluation is None or self.evaluation["success"]["base"] is None:
            return []
        return [self._tile(name) for name in _SETS]

    def _tile(self, name: str) -> Tile:
        assert self.evaluation is not None
        model, noise = _SETS[name]
        value = self.evaluation["success"][name]
        if value is None:
            return Tile(model, noise, None)
        low, high = self.evaluation["success_interval"][name]
        images = self.evaluation["images"]
        return Tile(model, noise, value, low, high, f"{round(value * images)} of {images} images")

    @property
    def finding(self) -> str:
        """The headline: success on fresh noise before and after, and whether chance could explain it."""
        if not self.tiles or self.tiles[1].value is None or self.tiles[0].value is None:
            return ""
        base, tuned = self.tiles[0], self.tiles[1]
        assert base.value is not None
        assert tuned.value is not None
        verb = "rose" if tuned.value > base.value else "fell" if tuned.value < base.value else "stayed"
        text = f"Success on fresh noise {verb} from {percent(base.value)} to {percent(tuned.value)}"
        if verb == "stayed":
            text = f"Success on fresh noise stayed at {percent(base.value)}"
        text += f" after {self.labels} labels." if self.labels else "."
        if max(base.low, tuned.low) <= min(base.high, tuned.high):
            text += " The two intervals overlap: measure on more images before relying on the difference."
        return text

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
        paths = {s.round: sorted((self._round_folder(s.round) / "images").glob("*.png")) for s in self.stats}
        side, quality, per_round = fit([p for found in paths.values() for p in found], len(paths))
        feedback = self._feedback()
        return [
            Round(
                stats,
                tuple(
                    thumbnail(path, stats, feedback.get(stats.round), side, quality)
                    for path in paths[stats.round][:per_round]
                ),
                len(paths[stats.round]),
            )
            for stats in self.stats
        ]

    def _round_folder(self, round_: int) -> Path:
        return self.folder / "rounds" / f"{round_:04d}"

    def _feedback(self) -> dict[int, Feedback]:
        path = self.folder / "feedback.db"
        if not path.is_file():
            return {}
        with LabelStore(path) as store:
            answers = {s.round: store.submission(s.round) for s in self.stats}
        return {round_: feedback for round_, feedback in answers.items() if feedback is not None}

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
