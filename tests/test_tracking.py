"""Trackers: what TensorBoard's event files hold, also after a kill; W&B and trackio by what they are called with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hero import Feedback, ImageBatch, Tuner
from hero.config import Config
from hero.errors import ConfigError
from hero.run.trackers import GRID, image_grid

NUMBERS = {"labels", "images", "good", "bad", "reward_mean", "reward_std", "triplet_loss", "steps", "loss", "kl"}
NUMBERS |= {"ratio_mean", "first_ratio_deviation", "clip_fraction", "grad_norm", "auc", "seconds_judging"}
NUMBERS |= {"seconds_sampling", "seconds_waiting", "seconds_updating", "seconds_practising", "draws"}


def every_other(batch: ImageBatch) -> Feedback:
    return Feedback.from_good(batch, batch.ids[::2], batch.ids[0])


class Killed(Exception):
    """Stands for a kill between the checkpoint and what is derived from it."""


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    return accumulator.Reload()


def test_tensorboard_has_each_round_once_also_after_a_resume(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    config = tiny_config(rounds=3, tracking={"trackers": ("tensorboard",)}, sampling={"images_per_round": 5})
    with Tuner(config, run) as tuner:
        tuner.tell(every_other(tuner.ask()))
        answer = every_other(tuner.ask())

        def die() -> None:
            raise Killed

        monkeypatch.setattr(tuner.learner, "publish", die)
        with pytest.raises(Killed):
            tuner.tell(answer)
    with Tuner.resume(run) as tuner:  # logs round 2, which the checkpoint has and the tracker has not
        tuner.run(every_other)
    with Tuner.resume(run):
        pass  # a finished run logs nothing again

    logged = events(run)
    assert set(logged.Tags()["scalars"]) == NUMBERS
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line | line["figures"] for line in lines]
    for name in NUMBERS:
        written = [(event.step, event.value) for event in logged.Scalars(name)]
        assert written == [
            (line["round"], pytest.approx(line[name], rel=1e-6)) for line in lines if line.get(name) is not None
        ], name
    grids = logged.Images(GRID)
    assert [grid.step for grid in grids] == [1, 2, 3]
    shown = Image.open(BytesIO(grids[1].encoded_image_string)).convert("RGB")
    images = [Image.open(run / "rounds" / "0002" / "images" / f"r0002-i{i:04d}.png") for i in range(5)]
    assert list(shown.getdata()) == list(image_grid(images).getdata())


def test_a_grid_is_as_square_as_can_be() -> None:
    colours = ["red", "lime", "blue", "black", "yellow"]
    grid = image_grid([Image.new("RGB", (4, 3), colour) for colour in colours], gap=2)
    assert grid.size == (3 * 4 + 2 * 2, 2 * 3 + 2)
    assert grid.getpixel((6, 0)) == (0, 255, 0)
    assert grid.getpixel((7, 6)) == (255, 255, 0)
    assert grid.getpixel((4, 0)) == grid.getpixel((13, 6)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused_before_the_model_is_loaded(
    name: str, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(tracking={"trackers": (name,)}, path=tmp_path / "no-model")
    with pytest.raises(ConfigError, match=f"names '{name}', which is not installed: pip install {name}"):
        Tuner(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"tracking\.trackers\.0.*'wandb' or 'trackio'"):
        tiny_config(tracking={"trackers": ("tensorbord",)})


class Service(ModuleType):
    """Records what accelerate and we call; no network."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__: Any = object()
        self.calls: list[tuple[str, Any]] = []
        self.config: Any = self
        self.Image = lambda image: ("image", image.size)

    def init(self, **arguments: Any) -> Service:
        self.calls.append(("init", arguments))
        return self

    def update(self, values: dict[str, Any], allow_val_change: bool) -> None:
        self.calls.append(("config", values))

    def log(self, values: dict[str, Any], step: int) -> None:
        self.calls.append(("log", (step, values)))

    def finish(self) -> None:
        self.calls.append(("finish", None))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_goes_on_in_the_same_run_of_the_service(
    name: str, tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    config = tiny_config(rounds=2, tracking={"trackers": (name,), "project": "mine", "images": 4})
    with Tuner(config, tmp_path / "run") as tuner:
        tuner.tell(every_other(tuner.ask()))
    with Tuner.resume(tmp_path / "run") as tuner:
        tuner.run(every_other)

    first, second = (arguments for what, arguments in service.calls if what == "init")
    assert first == second
    assert (first["project"], first["resume"]) == ("mine", "allow")
    assert first["name"].startswith("run")
    (settings,) = (values for what, values in service.calls if what == "config")
    assert settings["sampling.num_steps"] == 4
    logged = [value for what, value in service.calls if what == "log"]
    assert [step for step, values in logged if "reward_mean" in values] == [1, 2]
    grids = [values[GRID] for _, values in logged if GRID in values]
    one = ("image", (2 * 32 + 2, 2 * 32 + 2))
    assert grids == ([[one], [one]] if name == "wandb" else [one, one])
    assert [what for what, _ in service.calls].count("finish") == 2
