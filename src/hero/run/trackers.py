"""Trackers (TensorBoard, W&B, trackio) through accelerate: each finished round's figures and a grid of its images.

Scalars are named after the keys of metrics.jsonl, and the round is the step. Which rounds a tracker has is recorded in
tracking.json *before* they are sent, so that a resumed run never logs a round twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from hero.config import Config, TrackingConfig
from hero.errors import ConfigError
from hero.run import RunDirectory
from hero.types import RoundStats, image_id

__all__ = ["GRID", "Trackers", "check_trackers", "image_grid"]

GRID = "shown"
"""Name of the grid of a round's images."""

_INSTALL = {
    "tensorboard": "pip install 'hero-diffusion[tensorboard]'",
    "wandb": "pip install wandb",
    "trackio": "pip install trackio",
}
_STATE = "tracking.json"


def check_trackers(config: TrackingConfig) -> None:
    """Raises ConfigError if a tracker that `config` names is not installed; loads nothing."""
    for name in config.trackers:
        if find_spec(name) is None:
            raise ConfigError(
                f"tracking.trackers names {name!r}, which is not installed: {_INSTALL[name]}, or leave it out"
            )


class Trackers:
    """The trackers of one run; none where `config.tracking.trackers` is empty."""

    def __init__(self, config: Config, directory: RunDirectory) -> None:
        self.config = config
        self.directory = directory
        self._trackers: list[Any] = []
        self._id = uuid4().hex[:12]
        self._logged: dict[str, int] = {}
        if config.tracking.trackers:
            self._start()

    def _start(self) -> None:
        from accelerate import PartialState

        PartialState()  # accelerate's trackers log through it
        file = self.directory.path / _STATE
        if file.is_file():
            state = json.loads(file.read_text(encoding="utf-8"))
            self._id, self._logged = state["id"], state["logged"]
        for name in self.config.tracking.trackers:
            tracker = self._make(name)
            tracker.start()
            if name not in self._logged:
                tracker.store_init_configuration(_flat(self.config.model_dump(mode="json")))
            self._trackers.append(tracker)

    def _make(self, name: str) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        make, folder, project = LOGGER_TYPE_TO_CLASS[name], self.directory.path.resolve(), self.config.tracking.project
        if name == "tensorboard":
            return make("tensorboard", logging_dir=folder)
        if name == "wandb":
            return make(project, id=self._id, name=folder.name, resume="allow")
        return make(project, name=f"{folder.name}-{self._id}", resume="allow")

    def publish(self, history: Sequence[RoundStats]) -> None:
        """Logs the rounds of `history` that the trackers do not have yet."""
        for tracker in self._trackers:
            for stats in history[self._logged.get(tracker.name, 0) :]:
                self._logged[tracker.name] = stats.round
                self.directory.write_text(_STATE, json.dumps({"id": self._id, "logged": self._logged}) + "\n")
                self._log(tracker, stats)

    def _log(self, tracker: Any, stats: RoundStats) -> None:
        figures = {**stats.to_dict(), **stats.figures}
        values = {key: value for key, value in figures.items() if isinstance(value, int | float)}
        del values["round"]  # it is the step
        count = min(stats.images, self.config.tracking.images)
        if not count:
            tracker.log(values, step=stats.round)
            return
        ids = [image_id(stats.round, i) for i in range(count)]
        grid = image_grid([self.directory.read_image(name) for name in ids])
        if tracker.name == "trackio":  # accelerate cannot log images to it
            values[GRID] = import_module("trackio").Image(grid)
        elif tracker.name == "tensorboard":
            tracker.log_images({GRID: np.asarray(grid)[None]}, step=stats.round, dataformats="NHWC")
        else:
            tracker.log_images({GRID: [grid]}, step=stats.round)
        tracker.log(values, step=stats.round)

    def finish(self) -> None:
        """Sends what is left and closes the trackers."""
        for tracker in self._trackers:
            tracker.finish()
        self._trackers = []


def image_grid(images: Sequence[Image.Image], gap: int = 2) -> Image.Image:
    """`images`, all of one size, in rows of ⌈√n⌉, `gap` white pixels apart."""
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = (side + gap for side in images[0].size)
    grid = Image.new("RGB", (columns * width - gap, rows * height - gap), "white")
    for k, image in enumerate(images):
        grid.paste(image, (k % columns * width, k // columns * height))
    return grid


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `stage.field` → number, string or bool; lists as JSON; unset ones are left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return flat
