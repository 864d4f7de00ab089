"""Practice: learning from images that nobody labels, in parts that survive a kill.

Run as a script, `test_practice.py CONFIG OUT`, this file starts a run per entry of `KILLED_AT` and kills it there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hero.tuner
from hero.config import Config
from hero.errors import ConfigError, TrainingError
from hero.practice import Practised, parts_of
from hero.run.state import Learner
from hero.tuner import Tuner
from hero.types import Feedback, ImageBatch
from hero.update.gradient import GradientSteps
from test_resume import ROUNDS, assert_same, by_brightness, finish, killed_runs, snapshot, start_and_kill

KILLED_AT: dict[str, tuple[Any, str, int]] = {
    "before the second part": (hero.tuner, "practise", 2),
    "in the middle of a part of the second round": (GradientSteps, "_optimizer_step", 12),
    "all parts done, nothing saved": (Learner, "save", 3),
}
"""As in test_resume; four optimizer steps in the update and two in each of the two parts of practice."""


@pytest.fixture(scope="module")
def config(tiny_config: Callable[..., Config]) -> Config:
    return tiny_config(
        method="heron",
        rounds=ROUNDS,
        sampling={"num_steps": 3, "images_per_round": 8, "micro_batch": 4},
        practice={"draws": 6, "images": 4},
        update={"images_per_step": 2, "inner_epochs": 1, "nft": {"levels_per_image": 2}},
    )


@pytest.fixture(scope="module")
def uninterrupted(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    with Tuner(config, run) as tuner:
        tuner.run(by_brightness)
    return run


@pytest.fixture(scope="module")
def killed(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return killed_runs(config, tmp_path_factory.mktemp("killed-practising"), __file__)


@pytest.mark.parametrize("where", KILLED_AT)
def test_a_run_killed_while_it_practises_ends_as_if_it_had_not_been(
    where: str, killed: Path, uninterrupted: Path
) -> None:
    finish(killed / where)
    assert_same(killed / where, uninterrupted)


def test_what_was_practised_is_not_practised_again(killed: Path, tmp_path: Path, config: Config) -> None:
    """The parts that a stopped round had finished are taken from disk."""
    parts: list[int] = []
    original = hero.tuner.practise

    def counted(learner: Any, round_: int, before: Practised, *rest: Any) -> Any:
        parts.append(before.parts + 1)
        if len(parts) == 2:
            raise KeyboardInterrupt
        return original(learner, round_, before, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hero.tuner, "practise", counted)
        with Tuner(config, tmp_path / "run") as tuner, pytest.raises(KeyboardInterrupt):
            tuner.run(by_brightness)
        assert (tmp_path / "run" / "checkpoints" / "0001-part").is_dir()
        with Tuner.resume(tmp_path / "run") as tuner:
            assert len(tuner.history) == 1
    assert parts == [1, 2, 2]
    assert not (tmp_path / "run" / "checkpoints" / "0001-part").exists()


def test_parts_learnt_with_other_settings_are_learnt_again(tmp_path: Path, config: Config) -> None:
    begun: list[int] = []

    def stopped(learner: Any, round_: int, before: Practised, *rest: Any) -> Any:
        begun.append(before.parts + 1)
        if before.parts == 1:
            raise KeyboardInterrupt
        return original(learner, round_, before, *rest)

    original = hero.tuner.practise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hero.tuner, "practise", stopped)
        with Tuner(config, tmp_path / "run") as tuner, pytest.raises(KeyboardInterrupt):
            tuner.run(by_brightness)
        with pytest.raises(KeyboardInterrupt):
            Tuner.resume(tmp_path / "run", {"update": {"learning_rate": 2e-3}})
    assert begun == [1, 2, 1, 2]


# ---------------------------------------------------------------------------------------------- what it does


def test_a_round_says_what_practice_did(uninterrupted: Path, config: Config) -> None:
    assert parts_of(config.practice) == [4, 2]
    lines = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["draws"] == 6
        assert line["seconds_practising"] > 0
        assert line["figures"]["practice_steps"] == 3  # images 2 + 2, then 2
        assert 0 <= line["figures"]["practice_score"] <= 1
    assert [line["labels"] for line in lines] == [8, 16, 24]  # nobody is asked about the other images


def test_practice_changes_what_is_learnt_and_nothing_that_is_shown_first(
    uninterrupted: Path, config: Config, tmp_path: Path
) -> None:
    without = config.model_copy(update={"practice": config.practice.model_copy(update={"draws": 0}), "rounds": 1})
    with Tuner(without, tmp_path / "run") as tuner:
        assert tuner.run(by_brightness)[0].draws == 0
    found, expected = snapshot(tmp_path / "run"), snapshot(uninterrupted)
    assert found["lora"] != expected["lora"]
    first = [name for name in expected["images"] if name.startswith("rounds/0001/")]
    assert all(found["images"][name] == expected["images"][name] for name in first)


def test_practice_changes_the_lora_alone(config: Config, tmp_path: Path) -> None:
    with Tuner(config, tmp_path / "run") as tuner:
        denoiser = tuner.policy.denoiser
        frozen = {name: p.clone() for name, p in denoiser.named_parameters() if "lora" not in name}
        tuner.tell(by_brightness(tuner.ask()))
        assert frozen
        assert all(torch.equal(p, frozen[n]) for n, p in denoiser.named_parameters() if n in frozen)
        assert any(p.abs().max() > 0 for n, p in denoiser.named_parameters() if "lora_B" in n)


def test_without_an_estimate_there_is_no_practice(config: Config, tmp_path: Path) -> None:
    """All images of the first round are bad: nothing tells a better image from a worse one."""
    with Tuner(config, tmp_path / "run") as tuner:
        stats = tuner.tell(Feedback.from_good(tuner.ask(), []))
        assert (stats.draws, stats.steps) == (0, 0)
        assert "no good image yet" in stats.note
        assert tuner.tell(by_brightness(tuner.ask())).draws == 6


def test_images_that_nobody_labelled_are_learnt_from_too(config: Config, tmp_path: Path) -> None:
    def half(batch: ImageBatch) -> Feedback:
        said = by_brightness(batch)
        kept = {*batch.ids[:4]}
        return Feedback({i: v for i, v in said.verdicts.items() if i in kept})

    with Tuner(config, tmp_path / "run") as tuner:
        stats = tuner.tell(half(tuner.ask()))
    if stats.good and stats.bad:
        assert stats.steps == 4  # all eight images, two in a step
    else:
        assert stats.draws == 0


def test_a_budget_of_seconds_ends_practice_after_the_part_that_exceeds_it(config: Config, tmp_path: Path) -> None:
    short = config.model_copy(update={"practice": config.practice.model_copy(update={"draws": 400, "seconds": 1e-6})})
    with Tuner(short, tmp_path / "run") as tuner:
        assert tuner.tell(by_brightness(tuner.ask())).draws == 4


def test_progress_counts_images(config: Config, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    with Tuner(config, tmp_path / "run") as tuner:
        tuner.on_step = lambda what, done, total: seen.append((what, done, total))
        tuner.tell(by_brightness(tuner.ask()))
    done = [n for what, n, total in seen if what == "practice" and total == 6]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 6)


def test_any_reward_that_judges_images_without_labels_can_practise(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(sampling={"num_steps": 3}, practice={"draws": 4, "images": 4})  # hero, with PPO
    with Tuner(config, tmp_path / "run") as tuner:
        stats = tuner.tell(by_brightness(tuner.ask()))
    assert stats.draws == 4
    assert stats.figures["practice_steps"] == 2


def test_labels_that_are_good_enough_leave_the_model_as_it_is(config: Config, tmp_path: Path) -> None:
    """Half of the images are good."""
    for enough, steps in ((0.5, 0), (0.6, 4)):
        easy = config.model_copy(update={"practice": config.practice.model_copy(update={"enough": enough})})
        with Tuner(easy, tmp_path / str(enough)) as tuner:
            stats = tuner.tell(by_brightness(tuner.ask()))
            assert stats.steps == steps
            assert stats.note == ("" if steps else "good enough: no update on these labels")


@pytest.mark.parametrize(("estimate", "draws"), [((0.9, 0.01), 4), ((0.9, 0.1), 6), ((0.8, 0.01), 6)])
def test_practice_ends_where_the_estimate_is_good_enough_by_a_standard_error(
    estimate: tuple[float, float], draws: int, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = config.model_copy(update={"practice": config.practice.model_copy(update={"enough": 0.85})})
    with Tuner(stopping, tmp_path / "run") as tuner:
        monkeypatch.setattr(tuner.learner.reward, "share_good", lambda estimates: estimate)
        stats = tuner.tell(by_brightness(tuner.ask()))
    assert stats.draws == draws
    assert (stats.figures["practice_steps"] == 0) == (draws == 4)  # the images that say so are not learnt from
    assert (stats.figures["share_good"], stats.figures["share_good_error"]) == estimate


@pytest.mark.parametrize(
    ("method", "says"),
    [("ddpo", "reward.kind 'label' says nothing about unlabelled images; use"), ("noise-only", "frozen weights")],
)
def test_practice_that_could_teach_nothing_is_refused(
    tiny_config: Callable[..., Config], method: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        tiny_config(method=method, practice={"draws": 8})


def test_a_loss_that_is_not_finite_names_the_round(config: Config, tmp_path: Path) -> None:
    steep = config.model_copy(update={"update": config.update.model_copy(update={"learning_rate": 1e30})})
    with Tuner(steep, tmp_path / "run") as tuner, pytest.raises(TrainingError, match=r"round 1|not finite"):
        tuner.tell(by_brightness(tuner.ask()))
    assert load_file(tmp_path / "run" / "checkpoints" / "0000-told" / "lora.safetensors")


if __name__ == "__main__":
    start_and_kill(Path(sys.argv[1]), Path(sys.argv[2]), KILLED_AT)
