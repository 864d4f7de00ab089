"""Evaluators: the oracle's mistakes are measured and repeatable, and a wrong name says what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hero.config import Config, EvaluatorConfig, validate
from hero.errors import ConfigError
from hero.evaluators import LiveEvaluator, Oracle, check_evaluator, make_evaluator
from hero.tasks import get_task
from hero.tinyworld.scenes import draw_scene
from hero.types import BestImage, Feedback, ImageBatch, ImageChunk, Judgement, RoundStart, image_id


def brightness(image: Image.Image) -> Judgement:
    """A real, if simple, judge: bright pictures succeed, the brighter the better."""
    mean = float(np.asarray(image.convert("L")).mean()) / 255
    return Judgement(mean >= 0.5, mean)


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (level, level, level))


def batch_of(
    levels: list[int], round_: int = 1, prompts: list[str] | None = None, best: tuple[BestImage, ...] = ()
) -> ImageBatch:
    return ImageBatch(
        round=round_,
        ids=tuple(image_id(round_, index) for index in range(len(levels))),
        images=tuple(grey(level) for level in levels),
        prompts=tuple(prompts or ["a wall"] * len(levels)),
        best=best,
    )


def oracle(seed: int = 0, total_rounds: int = 8, **values: object) -> Oracle:
    return Oracle(brightness, EvaluatorConfig.model_validate(values), seed, total_rounds)


def flips(evaluator: Oracle, batch: ImageBatch) -> npt.NDArray[np.bool_]:
    """(N,) bool: where the evaluator differs from the true judgement."""
    truth = oracle()(batch)
    given = evaluator(batch)
    return np.array([given.verdicts[i] != truth.verdicts[i] for i in batch.ids])


LEVELS = [0, 60, 120, 130, 200, 255]
MANY = [int(level) for level in np.random.default_rng(0).integers(0, 256, 1000)]


def test_without_noise_the_oracle_is_the_judge() -> None:
    batch = batch_of(LEVELS)
    feedback = oracle()(batch)
    feedback.check(batch)
    assert list(feedback.verdicts) == list(batch.ids)
    assert feedback.good == batch.ids[3:]
    assert feedback.best == (batch.ids[5],)


def test_noise_flips_its_share_and_repeats_itself() -> None:
    batch = batch_of(MANY)
    noisy = oracle(seed=3, label_noise=0.2)
    # 1000 draws of probability 0.2: a standard deviation of 12.6.
    assert abs(int(flips(noisy, batch).sum()) - 200) < 4 * 12.6
    assert noisy(batch) == noisy(batch) == oracle(seed=3, label_noise=0.2)(batch)
    assert noisy(batch) != oracle(seed=4, label_noise=0.2)(batch)
    assert (flips(noisy, batch) != flips(noisy, batch_of(MANY, round_=2))).any()


def test_a_mistake_depends_on_its_own_image_alone() -> None:
    noisy = oracle(label_noise=0.3)
    long, short = batch_of(MANY), batch_of(MANY[:7])
    assert (flips(noisy, long)[:7] == flips(noisy, short)).all()


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    noise=st.floats(0, 1),
    fatigue=st.floats(0, 1),
    strictness=st.floats(-1, 1),
    pick=st.sampled_from(["quality", "random"]),
    round_=st.integers(1, 12),
    levels=st.lists(st.integers(0, 255), min_size=1, max_size=9),
    kept=st.booleans(),
)
def test_every_answer_fits_its_batch(
    seed: int,
    noise: float,
    fatigue: float,
    strictness: float,
    pick: str,
    round_: int,
    levels: list[int],
    kept: bool,
) -> None:
    fallible: dict[str, Any] = {"label_noise": noise, "fatigue": fatigue, "best": pick}
    prompts = [f"prompt {index % 2}" for index in range(len(levels))]
    best = (BestImage("r0000-i0000", grey(140), "prompt 0"),) if kept else ()
    batch = batch_of(levels, round_, prompts, best)
    evaluator = oracle(seed, strictness=strictness, **fallible)
    feedback = evaluator(batch)
    feedback.check(batch)
    assert feedback == evaluator(batch)
    assert list(feedback.verdicts) == list(batch.ids)


def test_noise_of_one_turns_everything_round() -> None:
    batch = batch_of(LEVELS)
    assert oracle(label_noise=1.0)(batch).good == batch.ids[:3]


def test_fatigue_grows_over_the_run() -> None:
    tired = oracle(fatigue=0.4, total_rounds=4)
    shares = [flips(tired, batch_of(MANY, round_)).mean() for round_ in (1, 2, 3, 4)]
    # The mean of a line from 0 to 0.4, by quarters; a standard deviation is at most 0.016.
    assert shares == pytest.approx([0.05, 0.15, 0.25, 0.35], abs=0.06)
    assert not flips(tired, batch_of(MANY[:1], 1)).any(), "the first image finds it rested"
    exhausted = oracle(fatigue=1.0, total_rounds=1)
    assert exhausted(batch_of([255, 255])).bad == (image_id(1, 1),), "the last is certain to be wrong"


def test_strict_rejects_more_and_lenient_forgives_more() -> None:
    batch = batch_of(LEVELS)
    usual, strict, lenient = (oracle(strictness=value)(batch) for value in (0.0, 0.7, -0.6))
    assert strict.good == batch.ids[4:], "qualities .78 and 1 reach .7, .51 does not"
    assert lenient.good == batch.ids[2:], "quality .47 reaches 1 − .6, .24 does not"
    assert set(strict.good) < set(usual.good) < set(lenient.good)


def test_two_who_disagree_share_a_round() -> None:
    batch = batch_of([60, 110, 130, 200] * 30)
    strict, lenient = (oracle(strictness=value)(batch).verdicts for value in (0.7, -0.6))
    both = oracle(strictness=0.7, second_strictness=-0.6)(batch).verdicts
    by_first = [i for i in batch.ids if strict[i] != lenient[i] and both[i] == strict[i]]
    by_second = [i for i in batch.ids if strict[i] != lenient[i] and both[i] == lenient[i]]
    assert len(by_first) + len(by_second) == sum(strict[i] != lenient[i] for i in batch.ids) > 20
    assert 0.3 < len(by_first) / (len(by_first) + len(by_second)) < 0.7
    assert all(both[i] == strict[i] for i in batch.ids if strict[i] == lenient[i])


def test_the_best_is_marked_good_even_if_by_mistake() -> None:
    batch = batch_of(MANY[:50])
    feedback = oracle(seed=1, label_noise=0.5)(batch)
    quality = {i: brightness(image).quality for i, image in zip(batch.ids, batch.images, strict=True)}
    assert feedback.best == (max(feedback.good, key=quality.__getitem__),)
    assert feedback.bad, "or else the noise hid nothing"


@pytest.mark.parametrize(("level", "stays"), [(199, False), (200, True), (201, True)])
def test_the_best_may_stay_if_it_is_at_least_as_good(level: int, stays: bool) -> None:
    kept = BestImage(image_id(1, 9), grey(level), "a wall")
    batch = batch_of([10, 200, 150], round_=2, best=(kept,))
    assert oracle()(batch).best == ((kept.id,) if stays else (batch.ids[1],))


def test_the_best_stays_when_nothing_is_good() -> None:
    kept = BestImage(image_id(1, 9), grey(140), "a wall")
    assert oracle()(batch_of([10, 20], round_=2, best=(kept,))).best == (kept.id,)
    assert oracle()(batch_of([10, 20])).best == ()


def test_there_is_one_best_for_each_prompt() -> None:
    prompts = ["a wall", "a door", "a wall", "a door", "a roof"]
    kept = BestImage(image_id(1, 9), grey(250), "a door")
    batch = batch_of([130, 140, 220, 210, 3], 2, prompts, (kept,))
    assert oracle()(batch).best == (batch.ids[2], kept.id)


def test_a_random_best_is_any_good_image_and_never_asks_for_quality() -> None:
    picks = set()
    for seed in range(40):
        batch = batch_of(LEVELS)
        evaluator = oracle(seed, best="random")
        (pick,) = evaluator(batch).best
        assert evaluator(batch).best == (pick,)
        picks.add(pick)
    assert picks == set(batch_of(LEVELS).ids[3:])
    kept = BestImage(image_id(1, 9), grey(255), "a wall")
    assert oracle(best="random")(batch_of([130], 2, best=(kept,))).best == (image_id(2, 0),)


def config(**layers: object) -> Config:
    task = get_task("hand")
    return validate({"task": {"name": task.name, "prompts": list(task.prompts)}, **layers})


def test_the_tasks_own_oracle_judges_drawn_scenes() -> None:
    scenes = [draw_scene("1 hand", np.random.default_rng(seed), success=seed % 2 == 0) for seed in range(20)]
    batch = ImageBatch(
        round=1,
        ids=tuple(image_id(1, index) for index in range(20)),
        images=tuple(Image.fromarray(scene.image) for scene in scenes),
        prompts=("1 hand",) * 20,
    )
    evaluator = make_evaluator(config())
    assert isinstance(evaluator, Oracle)
    feedback = evaluator(batch)
    right = sum((feedback.verdicts[i] == "good") == (index % 2 == 0) for index, i in enumerate(batch.ids))
    assert right >= 19


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"evaluator": {"name": "orakle"}}, "unknown evaluator 'orakle'; did you mean 'oracle'"),
        ({"evaluator": {"name": "web"}}, "hero train --evaluator web"),
        ({"evaluator": {"name": "python"}}, r"Tuner\.ask\(\).*Tuner\.tell"),
        ({"task": {"prompts": ["a hat"]}}, "a prompt of your own has no oracle.*--evaluator module:callable"),
        ({"task": {"name": "hand", "prompts": ["a hat"]}}, "own has no oracle: 'a hat' does not belong to 'hand'"),
        (
            {"task": {"name": "blue-rose", "prompts": ["photo of two red roses in a vase"]}},
            "does not ask for what the oracle of the task 'blue-rose' judges",
        ),
        ({"task": {"name": "hend", "prompts": ["1 hand"]}}, "did you mean 'hand'"),
        ({"model": {"path": "some/model"}}, "'tinyworld', not of 'some/model'.*module:callable"),
    ],
)
def test_what_cannot_be_resolved_says_what_to_do(layers: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_evaluator(config(**layers))


OWN = """
from hero.types import Feedback

SETTING = 3

def evaluate(batch):
    return Feedback.from_good(batch, batch.ids[:1], batch.ids[0])

class Watcher:
    def begin(self, start):
        self.ids = []
    def show(self, chunk):
        self.ids += chunk.ids
    def collect(self):
        return Feedback({i: "good" for i in self.ids}, best=self.ids[-1])

class Needy:
    def __init__(self, budget):
        self.budget = budget
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    (tmp_path / "own_judge.py").write_text(OWN)
    (tmp_path / "broken_judge.py").write_text("1 / 0\n")
    (tmp_path / "needing_judge.py").write_text("import a_package_that_is_not_there\n")
    return tmp_path


@pytest.mark.usefixtures("here")
def test_evaluators_of_ones_own_are_found_in_the_current_directory() -> None:
    batch = batch_of(LEVELS)
    function = make_evaluator(config(evaluator={"name": "own_judge:evaluate"}))
    assert not isinstance(function, LiveEvaluator)
    assert function(batch).best == (batch.ids[0],)
    watcher = make_evaluator(config(evaluator={"name": "own_judge:Watcher"}))
    assert isinstance(watcher, LiveEvaluator)
    watcher.begin(RoundStart(1, 6, ("a wall",)))
    watcher.show(ImageChunk(1, batch.ids, batch.images, batch.prompts, 6))
    assert watcher.collect().best == (batch.ids[-1],)
    assert check_evaluator(watcher, batch) == []


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_jugde:evaluate", "no module named 'own_jugde'"),
        ("own_judge:evalute", "own_judge has no 'evalute'; did you mean 'evaluate'"),
        ("own_judge:SETTING", "is a int: it must be callable"),
        ("own_judge:Needy", r"Needy\(\) failed: TypeError.*budget.*without arguments"),
        ("own_judge:", "write module:callable"),
        (":evaluate", "write module:callable"),
        ("broken_judge:evaluate", "importing broken_judge failed: ZeroDivisionError"),
        ("needing_judge:evaluate", "importing needing_judge failed.*a_package_that_is_not_there"),
    ],
)
def test_an_evaluator_that_cannot_be_loaded_says_why(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_evaluator(config(evaluator={"name": name}))


def painting(batch: ImageBatch) -> Feedback:
    batch.images[0].putpixel((0, 0), (9, 9, 9))
    return Feedback.from_good(batch, batch.ids[:1], batch.ids[0])


def failing(batch: ImageBatch) -> Feedback:
    raise KeyError("score")


@pytest.mark.parametrize(
    ("evaluator", "message"),
    [
        (3, "int is not an evaluator"),
        (failing, "raised KeyError"),
        (painting, "changed the images"),
        (lambda batch: {batch.ids[0]: "good"}, "returned a dict; return hero.Feedback"),
        (lambda batch: None, "returned a NoneType"),
        (lambda batch: Feedback(), "labelled no image"),
        (lambda batch: Feedback({"0": "good"}), "not in this batch"),
        (lambda batch: Feedback({batch.ids[0]: "bad"}, best=batch.ids[0]), "not marked good"),
        (lambda batch: Feedback({batch.ids[0]: "good"}, best=batch.ids[0]), "unlabelled, not bad"),
        (lambda batch: Feedback.from_good(batch, batch.ids[:2]), "none is the best"),
    ],
)
def test_check_evaluator_says_what_to_mend(evaluator: object, message: str) -> None:
    (found,) = check_evaluator(evaluator, batch_of(LEVELS))
    assert message in found


def test_check_evaluator_is_content_with_the_oracle() -> None:
    kept = BestImage(image_id(1, 9), grey(255), "a wall")
    assert check_evaluator(oracle(), batch_of(LEVELS)) == []
    assert check_evaluator(oracle(), batch_of(LEVELS, 2, best=(kept,))) == []
