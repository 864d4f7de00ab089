"""A run for readers that do not train it: its figures, its evaluation, its labels, its files.

The only reader of these files: reports, exports and evaluations go through it. Reading writes nothing, so the folder
may be read-only. Loads no torch until the tensors of a checkpoint are asked for.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from hero.config import Config
from hero.errors import RunError
from hero.feedback.store import LabelStore
from hero.ids import image_id
from hero.run.directory import (
    CUT_FILE,
    EVALUATION,
    LORA_FILE,
    METRICS_FILE,
    NOISE_FILE,
    RESULT_FILE,
    STORE_FILE,
    Checkpoint,
    RunDirectory,
    read_images,
)
from hero.run.model import ModelRecord, read_record
from hero.types import RoundStats

__all__ = ["FinishedRun", "read_json"]


class FinishedRun:
    """The run in `path`, as far as it has come; every property is read from disk each time.

    Args:
        path: the run directory.
        evaluation: the folder of its evaluation, if that is not in the run.
        round_: the run as it was after that round, if what was learnt by then is kept; None: as it is now.

    Attributes:
        path: as given.
        directory: the same, as a `RunDirectory`.
        config: its settings.
        evaluation_folder: where its evaluation is, or will be.
        round: as given.

    Raises:
        RunError: there is no run in `path`, or that round is not kept; and from every method: a file exists but cannot
            be read.
        ConfigError: its config.toml is not valid.
    """

    def __init__(self, path: str | Path, *, evaluation: str | Path | None = None, round_: int | None = None) -> None:
        self.directory = RunDirectory.open(path)
        self.path = self.directory.path
        self.config: Config = self.directory.config
        self.round = round_
        own = EVALUATION if round_ is None else f"{EVALUATION}-{round_:04d}"
        self.evaluation_folder = self.path / own if evaluation is None else Path(evaluation)
        if round_ is not None and round_ not in self.kept_rounds:
            kept = ", ".join(map(str, self.kept_rounds)) or "none"
            raise RunError(
                f"round {round_} of {path} is not kept (kept: {kept}); with --set run.keep_loras=N every Nth one is"
            )

    @property
    def kept_rounds(self) -> list[int]:
        """Rounds that the run can be read as of, ascending."""
        return self.directory.told_rounds

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.resolve().name

    # ------------------------------------------------------------------ figures

    @property
    def history(self) -> list[RoundStats]:
        """The figures of every finished round: from the newest checkpoint, or else from metrics.jsonl."""
        state = self.directory.load_state("told", self.round)
        if state is not None:
            return [RoundStats.from_dict(line) for line in state["history"]]
        path = self.path / METRICS_FILE
        if not path.is_file():
            return []
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            return [RoundStats.from_dict(json.loads(line)) for line in lines if line.strip()]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path} cannot be read ({error}); restore it, or remove the broken line") from None

    @property
    def labels(self) -> int:
        """Labels spent: every image that was shown counts as one."""
        history = self.history
        return history[-1].labels if history else 0

    @property
    def cut_prompts(self) -> list[str]:
        """What text encoders do not see of its prompts, in a sentence each; usually empty."""
        path = self.path / CUT_FILE
        found: list[str] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        return found

    @property
    def evaluation(self) -> dict[str, Any] | None:
        """The object of `hero evaluate --json`, even if the run has changed since; None if there is none."""
        return read_json(self.evaluation_folder / RESULT_FILE, "`hero evaluate` writes it again")

    @property
    def current_evaluation(self) -> dict[str, Any] | None:
        """The evaluation, if it is of the run as it is now; else None."""
        found = self.evaluation
        return found if found is not None and self.is_current(found) else None

    def is_current(self, evaluation: dict[str, Any]) -> bool:
        """Whether `evaluation` is of the run as it is now: as many labels, the same sampler, seed and so on."""
        sampler = self.config.sampling.sampler
        details = evaluation.get("details", {})
        return (
            evaluation.get("labels") == self.labels
            and details.get("sampler", sampler) == sampler
            and details.get("seed", self.config.evaluation.seed) == self.config.evaluation.seed
            and details.get("best_of", 1) == self.config.evaluation.best_of
            and tuple(details.get("drift_prompts", ())) == self.config.evaluation.drift_prompts
        )

    def evaluated(self, name: str) -> list[Path]:
        """The images of a set of the evaluation, in order."""
        return sorted((self.evaluation_folder / name).glob("[0-9]*.png"))

    def evaluated_images(self, name: str) -> list[Image.Image]:
        """The same, opened."""
        return read_images(self.evaluation_folder / name)

    # ------------------------------------------------------------------ labels

    def label_store(self) -> LabelStore | None:
        """The run's own or shared label store, opened for reading; the caller closes it. None where the run has none.

        Raises:
            RunError: it cannot be read, or a shared one cannot be reached.
        """
        shared = self.config.evaluator.store
        if not shared and not (self.path / STORE_FILE).is_file():
            return None
        return LabelStore(self.directory.labels_at, read_only=True)

    @property
    def label_dates(self) -> list[datetime]:
        """When labels were given, oldest first, in UTC and whole seconds."""
        store = self.label_store()
        if store is None:
            return []
        with store:
            until = float("inf") if self.round is None else self.round
            dates = [label.created_at for label in store.labels() if label.round <= until]
        return sorted(date.astimezone(UTC).replace(microsecond=0) for date in dates)

    @property
    def newest_label(self) -> datetime | None:
        """When the newest label was given, in UTC and whole seconds; None before any."""
        dates = self.label_dates
        return dates[-1] if dates else None

    # ------------------------------------------------------------------ results

    @property
    def best_image(self) -> Image.Image | None:
        """The best image (of the first prompt that has one), or the first of the last round; None before any."""
        history = self.history
        if not history:
            return None
        for name in (*history[-1].best[:1], image_id(history[-1].round, 0)):
            try:
                return self.directory.read_image(name)
            except RunError:
                continue
        return None

    @property
    def model(self) -> ModelRecord | None:
        """Which model it was trained on; None in runs that were made before that was written down."""
        return read_record(self.path)

    @property
    def lora_file(self) -> Path:
        """The LoRA in diffusers' layout; the file does not exist before the first round."""
        return self.path / LORA_FILE

    @property
    def noise_file(self) -> Path | None:
        """The newest refined noise; None where the run has none."""
        path = self.path / NOISE_FILE
        return path if path.is_file() else None

    def checkpoint(self) -> Checkpoint:
        """The newest checkpoint, or that of `round`, with its tensors; loads torch.

        Raises:
            RunError: there is none yet, or none can be read.
        """
        checkpoint = self.directory.load_checkpoint("told", self.round)
        if checkpoint is None:
            raise RunError(f"{self.path} holds no checkpoint yet; run `hero resume {self.path}` first")
        return checkpoint


def read_json(path: Path, remedy: str = "remove it") -> dict[str, Any] | None:
    """A JSON object; None where there is no file.

    Raises:
        RunError: it cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); {remedy}") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} cannot be read (it holds no JSON object); {remedy}")
    return value
