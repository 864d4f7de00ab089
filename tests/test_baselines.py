"""Each baseline through the tuner: two rounds, a stop with a batch that waits, and the same bits after a resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hero.config import Config
from hero.tuner import Tuner
from hero.types import Feedback, ImageBatch, RoundStats

SETTINGS: dict[str, dict[str, Any]] = {
    "d3po": {"noise": {"shared": {"group_size": 3}}, "update": {"d3po": {"timesteps_per_image": 2}}},
    "d3po-fresh": {"update": {"d3po": {"timesteps_per_image": 2, "pairs_per_round": 3}}},
    "raft": {"update": {"raft": {"levels_per_image": 2}}},
    "best-of-n": {},
}
"""Method → settings that fit a round of six images of one prompt and four steps."""


def every_other(batch: ImageBatch) -> Feedback:
    return Feedback.from_good(batch, batch.ids[::2], batch.ids[0])


def learnt(tuner: Tuner) -> dict[str, torch.Tensor]:
    update = tuner.learner.update.state_dict() if tuner.learner.update else {}
    parts = {"lora": tuner.policy.state_dict(), "update": update, "reward": tuner.learner.reward.state_dict()}
    return {f"{part}/{name}": value.clone() for part, values in parts.items() for name, value in values.items()}


def figures(history: list[RoundStats]) -> list[dict[str, Any]]:
    return [{k: v for k, v in stats.to_dict().items() if k not in RoundStats.WALL_CLOCK} for stats in history]


@pytest.mark.parametrize("method", SETTINGS)
def test_two_rounds_and_the_same_after_a_stop(method: str, tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny_config(method=method, rounds=2, **SETTINGS[method])
    with Tuner(config, tmp_path / "whole") as whole:
        start = learnt(whole)
        history = whole.run(every_other)
        end = learnt(whole)
    moved = {name.split("/")[0] for name in end if name not in start or not torch.equal(start[name], end[name])}
    assert moved == ({"reward"} if method == "best-of-n" else {"lora", "update"})
    if method.startswith("d3po"):
        # Groups of three hold two pairs each (good, bad, good and bad, good, bad), of nine in all.
        assert [stats.figures["pairs"] for stats in history] == [4, 4] if method == "d3po" else [3, 3]
        assert history[0].figures["first_margin_deviation"] < 1e-6

    with Tuner(config, tmp_path / "stopped") as stopped:
        stopped.tell(every_other(stopped.ask()))
        waiting = stopped.ask()
    with Tuner.resume(tmp_path / "stopped") as resumed:
        assert resumed.ask().ids == waiting.ids
        assert figures(resumed.run(every_other)) == figures(history)
        again = learnt(resumed)
    assert again.keys() == end.keys()
    assert all(torch.equal(again[name], end[name]) for name in end)


def test_a_group_whose_images_are_all_good_or_all_bad_teaches_d3po_nothing(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    with Tuner(tiny_config(method="d3po", rounds=1, **SETTINGS["d3po"]), tmp_path / "run") as tuner:
        batch = tuner.ask()
        stats = tuner.tell(Feedback.from_good(batch, batch.ids[:3], batch.ids[0]))
    assert (stats.steps, stats.note, stats.figures) == (0, "no update", {})
