"""A run with people: their clicks teach what the same labels teach from Python, and their commands are carried out.

People are threads that mark and submit through the label store, as the labelling page does. Run as a script,
`test_people.py CONFIG OUT`, this file starts a run per entry of `KILLED_AT` and kills it there.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hero.people.session
from hero.config import Config, load_toml, validate
from hero.errors import ConfigError, RunError
from hero.feedback import Channel, DeskState, LabelStore, Mark
from hero.people import evaluator as people_module
from hero.people.evaluator import People
from hero.people.session import train_with_people
from hero.people.suggestions import calibrate
from hero.policies import load_policy
from hero.run import RunDirectory
from hero.run.state import Learner
from hero.tuner import Tuner
from hero.types import Feedback, ImageBatch, RoundStats

KILLED_AT: dict[str, tuple[Any, str, int]] = {
    "while the second chunk is drawn": (RunDirectory, "write_images", 6),
    "submitted, not yet taken in": (LabelStore, "conclude", 2),
    "taken in, nothing learnt": (Tuner, "_learn_round", 2),
    "learnt, nothing told": (Learner, "publish", 2),
    "while previews are drawn": (hero.people.session, "rollout", 3),
    "while an event is written": (Channel, "publish", 12),
}
"""Where → (owner, function, which call of it never begins). Images are written twice a round, and once as previews."""


@pytest.fixture(scope="module")
def config(tiny_config: Callable[..., Config]) -> Config:
    return tiny_config(
        rounds=3,
        sampling={"num_steps": 3, "images_per_round": 4, "micro_batch": 2},
        lora={"layers": ("attention",)},
        update={"micro_batch": 4},
        evaluator={"name": "web", "linger": 0, "previews": 2, "undo_seconds": 0},
    )


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people_module, "_POLL", 0.03)


def chosen(light: dict[str, float], kept: dict[str, float]) -> tuple[list[str], str]:
    """The brighter half is good; the best is the brightest ever."""
    ranked = sorted(light, key=lambda i: light[i], reverse=True)
    bests = [i for i, value in kept.items() if value >= light[ranked[0]]]
    return ranked[: len(ranked) // 2], (bests or ranked)[0]


def by_brightness(batch: ImageBatch) -> Feedback:
    """`chosen`, from Python."""
    light = {i: float(np.asarray(image).mean()) for i, image, _ in batch}
    kept = {best.id: float(np.asarray(best.image).mean()) for best in batch.best}
    return Feedback.from_good(batch, *chosen(light, kept))


class Person(threading.Thread):
    """Somebody at a page of the run in `desk`: sees what is there now and then, and reacts."""

    def __init__(self, desk: Path, name: str = "ada", react: Callable[[Person, DeskState], None] | None = None) -> None:
        super().__init__(name=name, daemon=True)
        self.desk = desk
        self.react = react
        self.gone = threading.Event()
        self.done: dict[str, int] = {}
        self.failure: Exception | None = None

    def run(self) -> None:
        while not (self.desk / "feedback.db").exists():
            time.sleep(0.01)
        with LabelStore(self.desk / "feedback.db") as self.store:
            self.channel = Channel(self.store)
            try:
                while not self.gone.is_set():
                    self.look(self.channel.state())
                    time.sleep(0.04)
            except Exception as error:
                self.failure = error
                self.channel.command("stop", {}, self.name)  # or the run would wait for ever

    def look(self, state: DeskState) -> None:
        if self.react is not None:
            self.react(self, state)
        self.label(state)

    def label(self, state: DeskState) -> None:
        """Marks the brightest images of a round that is drawn, changes their mind once, and submits."""
        round_ = state.round
        if round_ is None or round_["drawn"] < round_["total"] or self.name in self.store.submitters(round_["round"]):
            return
        number, ids = round_["round"], [image["id"] for image in round_["images"]]
        good, best = chosen(
            {i: self.brightness(i) for i in ids}, {best["id"]: self.brightness(best["id"]) for best in round_["best"]}
        )
        clicks = [*((i, "good") for i in good), *((i, "bad") for i in ids if i not in good)]
        random.Random(number).shuffle(clicks)
        self.store.mark(number, self.name, Mark(clicks[0][0], "verdict", "good"))
        for image, verdict in clicks:
            self.store.mark(number, self.name, Mark(image, "verdict", verdict))
        with self.store.edit(number, self.name) as draft:
            draft.mark(*(Mark(old, "best", None) for old in draft.given.best), Mark(best, "best", "yes"))
            draft.submit(1.0)

    def brightness(self, image: str) -> float:
        with Image.open(self.desk / "rounds" / image[1:5] / "images" / f"{image}.png") as opened:
            return float(np.asarray(opened.convert("RGB")).mean())

    def once(self, what: str) -> bool:
        """True the first time."""
        self.done[what] = self.done.get(what, 0) + 1
        return self.done[what] == 1

    def __enter__(self) -> Person:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.gone.set()
        self.join()
        if self.failure is not None:
            raise self.failure


def attend(tuner: Tuner) -> bool:
    return train_with_people(tuner, People(tuner.store, tuner.config.evaluator))


def finish(run: Path, config: Config | None = None) -> None:
    """Trains the run, or resumes it, with one person."""
    with Person(run), Tuner.resume(run) if config is None else Tuner(config, run) as tuner:
        assert attend(tuner)


def with_settings(config: Config, **evaluator: Any) -> Config:
    rounds = evaluator.pop("rounds", config.rounds)
    settings = config.evaluator.model_copy(update=evaluator)
    return config.model_copy(update={"evaluator": settings, "rounds": rounds})


def learnt(run: Path) -> dict[str, Any]:
    """What a run has learnt and shown, whoever answered."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "metrics": [{k: v for k, v in line.items() if k not in RoundStats.WALL_CLOCK} for line in metrics],
        "lora": (run / "lora" / "pytorch_lora_weights.safetensors").read_bytes(),
        "noise": (run / "refined_noise.safetensors").read_bytes(),
        "images": {p.name: p.read_bytes() for p in sorted(run.glob("rounds/*/images/r*.png"))},
    }


def shown(run: Path) -> dict[str, Any]:
    """What the pages of a run show at its end, besides its phase."""
    with LabelStore(run / "feedback.db") as store:
        state = Channel(store).state().to_dict()
    stats = [{k: v for k, v in s.items() if k not in RoundStats.WALL_CLOCK} for s in state["learned"]]
    previews = {p.name: p.read_bytes() for p in sorted(run.glob("rounds/*/images/p*.png"))}
    return {key: state[key] for key in ("round", "previews", "answers")} | {"learned": stats, "files": previews}


def events(run: Path, kind: str) -> list[tuple[int, dict[str, Any]]]:
    with LabelStore(run / "feedback.db") as store:
        return [(event.round, event.body) for event in Channel(store).events() if event.kind == kind]


@pytest.fixture(scope="module")
def uninterrupted(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with one person; not to be changed."""
    run = tmp_path_factory.mktemp("people") / "run"
    finish(run, config)
    return run


# ---------------------------------------------------------------------------------------------- teaching


def test_clicks_teach_what_the_same_labels_teach_from_python(
    uninterrupted: Path, config: Config, tmp_path: Path
) -> None:
    with Tuner(config, tmp_path / "python") as tuner:
        while not tuner.done:
            tuner.tell(by_brightness(tuner.ask()))
    assert learnt(uninterrupted) == learnt(tmp_path / "python")
    assert [line["steps"] for line in learnt(uninterrupted)["metrics"]] == [2, 2, 2]


def test_the_order_of_an_answer_teaches_nothing(config: Config, uninterrupted: Path, tmp_path: Path) -> None:
    def backwards(batch: ImageBatch) -> Feedback:
        feedback = by_brightness(batch)
        return Feedback(dict(reversed(list(feedback.verdicts.items()))), feedback.best)

    with Tuner(config, tmp_path / "run") as tuner:
        tuner.run(backwards)
    assert learnt(uninterrupted) == learnt(tmp_path / "run")


def main(config: Path, out: Path) -> None:
    torch.set_num_threads(1)
    people_module._POLL = 0.03
    load_policy(validate(load_toml(config)))  # its imports take long: once, not in each child
    for where, (owner, name, call) in KILLED_AT.items():
        child = os.fork()
        if child == 0:
            kill_at(owner, name, call)
            finish(out / where, validate(load_toml(config)))
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, where


def kill_at(owner: Any, name: str, call: int) -> None:
    """Has this process kill itself when `owner.name` is called for the `call`-th time."""
    original, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(owner, name, counted)


@pytest.fixture(scope="module")
def killed(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, each killed at one of `KILLED_AT`."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "config.toml").write_text(config.to_toml())
    command = [sys.executable, __file__, str(folder / "config.toml"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.learns
@pytest.mark.parametrize("where", KILLED_AT)
def test_a_killed_run_ends_as_if_it_had_not_been(where: str, killed: Path, uninterrupted: Path) -> None:
    finish(killed / where)
    assert learnt(killed / where) == learnt(uninterrupted)
    assert shown(killed / where) == shown(uninterrupted)


def test_a_half_done_round_comes_back_with_its_marks(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = "r0001-i0000"

    def mark_one_and_stop(person: Person, state: DeskState) -> None:
        if state.phase is not None and state.phase["phase"] == "waiting" and person.once("marked"):
            person.store.mark(1, "zoe", Mark(first, "verdict", "good"))
            person.channel.command("stop", {}, "zoe")

    with Unready(run, react=mark_one_and_stop), Tuner(config, run) as tuner:
        assert not attend(tuner)
    with LabelStore(run / "feedback.db") as store:
        state = Channel(store).state()
        assert (state.phase or {})["phase"] == "stopped"
        assert store.given(1, "zoe") == Feedback({first: "good"})
    with pytest.raises(ConfigError, match="round 1 was drawn with other settings and already has labels"):
        Tuner.resume(run, {"sampling": {"guidance_scale": 4.0}})
    (run / "checkpoints" / "0001-asked" / "state.json").unlink()  # as if it had been killed while it drew
    with pytest.raises(ConfigError, match="already has labels"):
        Tuner.resume(run, {"sampling": {"guidance_scale": 4.0}})
    finish(run)
    with LabelStore(run / "feedback.db") as store:
        assert store.given(1, "zoe") == Feedback({first: "good"})
        assert [store.answer(r).evaluators for r in (1, 2, 3)] == [("ada",)] * 3  # type: ignore[union-attr]


class Unready(Person):
    """Somebody who labels nothing."""

    def label(self, state: DeskState) -> None:
        pass


# ---------------------------------------------------------------------------------------------- what the pages see


def test_images_are_on_disk_before_they_are_told_of(config: Config, tmp_path: Path) -> None:
    run, missing, seen = tmp_path / "run", [], set()

    def look(person: Person, state: DeskState) -> None:
        for image in (state.round or {"images": []})["images"]:
            seen.add(image["id"])
            if not (run / "rounds" / image["id"][1:5] / "images" / f"{image['id']}.png").is_file():
                missing.append(image["id"])

    with Person(run, react=look), Tuner(with_settings(config, rounds=1), run) as tuner:
        assert attend(tuner)
    assert (len(seen), missing) == (4, [])
    assert [(body["drawn"], body["total"]) for _, body in events(run, "chunk")] == [(2, 4), (4, 4)]


def test_the_story_of_a_run_is_told(uninterrupted: Path, config: Config) -> None:
    (_, first), (_, last) = events(uninterrupted, "run")
    assert (first["mode"], first["rounds"], first["images_per_round"], first["lora"]) == ("train", 3, 4, None)
    assert Path(last["lora"]).is_file()
    assert [round_ for round_, _ in events(uninterrupted, "round")] == [1, 2, 3]
    assert [body["stats"]["good"] for _, body in events(uninterrupted, "learned")] == [2, 2, 2]
    answers = events(uninterrupted, "answer")
    assert [(r, b["evaluators"], b["good"], b["bad"]) for r, b in answers] == [(r, ["ada"], 2, 2) for r in (1, 2, 3)]
    phases = [(body["phase"], body["step"]) for _, body in events(uninterrupted, "phase")]
    expected = ["starting", "drawing", "waiting", "learning", "finished"]
    assert list(dict.fromkeys(name for name, _ in phases)) == expected
    assert {step for name, step in phases if name == "learning"} == {"representation", "update", "preview"}
    previews = events(uninterrupted, "preview")
    assert [[image["id"] for image in body["images"]] for _, body in previews] == [
        [f"p000{r}-i0000", f"p000{r}-i0001"] for r in range(4)
    ]
    before, after = (uninterrupted / "rounds" / f"000{r}" / "images" / f"p000{r}-i0000.png" for r in (0, 3))
    assert before.read_bytes() != after.read_bytes()


def test_progress_of_learning_is_told_now_and_then(config: Config, tmp_path: Path) -> None:
    with LabelStore(tmp_path / "feedback.db") as store:
        people = People(store, config.evaluator)
        people.say("waiting")
        for step in range(2000):
            people.learning("update", step, 2000)
        time.sleep(0.45)
        people.learning("update", 1999, 2000)
        told = [body for _, body in events(tmp_path, "phase")]
    assert 3 <= len(told) <= 20
    assert told[1]["eta_seconds"] is None
    assert 0 < told[-1]["eta_seconds"] < 10


def test_suggestions_come_from_the_second_round_on(uninterrupted: Path) -> None:
    suggested = events(uninterrupted, "suggestions")
    assert sorted({round_ for round_, _ in suggested}) == [2, 3]
    for round_, body in suggested:
        for image, suggestion in body["images"].items():
            assert image.startswith(f"r000{round_}")
            assert 0 <= suggestion["score"] <= 1
            assert suggestion["verdict"] == ("good" if suggestion["score"] >= 0.5 else "bad")


def test_people_see_heron_practise_and_what_it_thinks_of_new_images(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(
        method="heron",
        rounds=2,
        sampling={"num_steps": 3, "images_per_round": 6, "micro_batch": 3},
        practice={"draws": 8, "images": 4},
        update={"inner_epochs": 1, "nft": {"levels_per_image": 1}},
        evaluator={"name": "web", "linger": 0, "previews": 0, "undo_seconds": 0},
    )
    finish(tmp_path / "web", config)
    with Tuner(config, tmp_path / "python") as tuner:
        tuner.run(by_brightness)
    first, second = (
        (tmp_path / run / "lora" / "pytorch_lora_weights.safetensors").read_bytes() for run in ("web", "python")
    )
    assert first == second
    told = [body for _, body in events(tmp_path / "web", "phase")]
    practising = [(body["done"], body["total"]) for body in told if body["step"] == "practice"]
    assert practising[0] == (0, 8)
    suggested = events(tmp_path / "web", "suggestions")
    assert {round_ for round_, _ in suggested} == {2}
    assert {image for _, body in suggested for image in body["images"]} == {f"r0002-i000{i}" for i in range(6)}


def test_a_calibration_gives_back_the_probabilities_that_made_the_labels() -> None:
    source = np.random.default_rng(0)
    rewards = source.normal(0.8, 0.05, size=4000)
    probability = 1 / (1 + np.exp(-(rewards - 0.82) / 0.03))
    fitted = calibrate(rewards.tolist(), (source.random(4000) < probability).tolist())
    assert fitted is not None
    assert max(abs(fitted(r) - p) for r, p in zip(rewards, probability, strict=True)) < 0.08


def test_a_calibration_needs_both_kinds_and_never_turns_a_reward_round() -> None:
    assert calibrate([0.5, 0.6], [True, True]) is None
    assert calibrate([], []) is None
    backwards = calibrate([0.1, 0.2, 0.8, 0.9], [True, True, False, False])
    assert backwards is not None
    assert backwards(0.1) == backwards(0.9) == pytest.approx(0.5)
    constant = calibrate([0.5] * 4, [True, False, False, False])
    assert constant is not None
    assert constant(0.5) == pytest.approx(0.3, abs=0.06)


# ---------------------------------------------------------------------------------------------- commands


def replies(run: Path) -> list[tuple[bool, str]]:
    return [(body["done"], body["message"]) for _, body in events(run, "command")]


def test_a_paused_run_learns_only_once_it_goes_on(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    seen: list[tuple[str, bool]] = []

    def pause(person: Person, state: DeskState) -> None:
        phase = (state.phase or {}).get("phase")
        if phase == "waiting" and person.once("paused"):
            person.channel.command("pause", {}, "ada")
        if phase == "paused":
            submitted = "ada" in person.store.submitters(1)
            seen.append((phase, bool(state.learned)))
            if submitted and len(seen) > 6 and person.once("resumed"):
                person.channel.command("resume", {}, "ada")

    class Patient(Person):
        def label(self, state: DeskState) -> None:
            if (state.phase or {}).get("phase") == "paused":  # marks are stored all the same
                super().label(state)

    with Patient(run, react=pause), Tuner(with_settings(config, rounds=1), run) as tuner:
        assert attend(tuner)
    assert len(seen) > 6
    assert not any(learned for _, learned in seen)
    assert replies(run) == [(True, "Paused."), (True, "Resumed.")]
    phases = [body["phase"] for _, body in events(run, "phase")]
    assert phases.index("paused") < len(phases) - 1 - phases[::-1].index("learning")


def test_a_pause_holds_up_the_drawing(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def pause(person: Person, state: DeskState) -> None:
        if state.round is not None and state.round["drawn"] == 0 and person.once("paused"):
            person.channel.command("pause", {}, "ada")
        if (state.phase or {}).get("phase") == "paused":
            time.sleep(0.1)
            if person.once("resumed"):
                person.channel.command("resume", {}, "ada")

    one = with_settings(config, rounds=1)
    slow = one.model_copy(update={"sampling": one.sampling.model_copy(update={"micro_batch": 1})})
    with Person(run, react=pause), Tuner(slow, run) as tuner:
        assert attend(tuner)
    assert replies(run) == [(True, "Paused."), (True, "Resumed.")]
    back = [body["phase"] for _, body in events(run, "phase")]
    assert back[back.index("paused") + 1] in ("drawing", "waiting")


def stop_at(phase: str) -> Callable[[Person, DeskState], None]:
    def react(person: Person, state: DeskState) -> None:
        if (state.phase or {}).get("phase") == phase and person.once("stopped"):
            person.channel.command("stop", {}, "ada")

    return react


@pytest.mark.parametrize(("phase", "rounds"), [("drawing", 0), ("waiting", 0), ("learning", 1)])
def test_a_stopped_run_has_its_lora_and_goes_on_as_if_it_had_not_been(
    phase: str, rounds: int, config: Config, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    person = Person if phase == "learning" else Unready
    with person(run, react=stop_at(phase)), Tuner(config, run) as tuner:
        assert not attend(tuner)
        assert len(tuner.history) == rounds  # what is being learnt is learnt
    assert (run / "lora" / "pytorch_lora_weights.safetensors").is_file()
    assert replies(run) == [(True, "Stopping: what was learnt is saved.")]
    with LabelStore(run / "feedback.db") as store:
        assert (Channel(store).state().phase or {})["phase"] == "stopped"
    finish(run)
    assert learnt(run) == learnt(uninterrupted)
    assert shown(run) == shown(uninterrupted)


def test_more_rounds_may_be_wanted_at_any_time(config: Config, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def more(person: Person, state: DeskState) -> None:
        phase = state.phase or {}
        if phase.get("phase") == "waiting" and phase["round"] == 1 and person.once("first"):
            person.channel.command("more-rounds", {"rounds": 1}, "ada")
            person.channel.command("finish", {}, "ada")
        if phase.get("phase") == "finished" and len(state.learned) == 2 and person.once("second"):
            person.channel.command("more-rounds", {"rounds": 1}, "ada")
        if phase.get("phase") == "finished" and len(state.learned) == 3 and person.once("third"):
            person.channel.command("finish", {}, "ada")

    with Person(run, react=more), Tuner(with_settings(config, rounds=1, linger=300.0), run) as tuner:
        started = time.monotonic()
        assert attend(tuner)
        assert time.monotonic() - started < 290  # it was told to finish
    assert validate(load_toml(run / "config.toml")).rounds == 3
    assert learnt(run) == learnt(uninterrupted)
    assert [body["rounds"] for _, body in events(run, "run")][-1] == 3
    assert [done for done, _ in replies(run)] == [True, False, True, True]
    assert "There are rounds left" in replies(run)[1][1]


def test_commands_to_a_run_that_had_ended_are_refused_when_it_is_resumed(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with Unready(run, react=stop_at("waiting")), Tuner(config, run) as tuner:
        assert not attend(tuner)
    with LabelStore(run / "feedback.db") as store:
        Channel(store).command("stop", {}, "ada")
    finish(run)
    assert [done for done, _ in replies(run)] == [True, False]
    assert "not active at that time" in replies(run)[1][1]
    finish(run)  # and only once; a finished run has nothing more to ask
    assert len(replies(run)) == 2


def test_a_failure_is_told(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RunError("the disk is full")

    run = tmp_path / "run"
    with Person(run), Tuner(config, run) as tuner:
        monkeypatch.setattr(tuner.learner, "save", broken)
        with pytest.raises(RunError, match="the disk is full"):
            attend(tuner)
    assert events(run, "phase")[-1][1] | {"eta_seconds": None} == {
        "phase": "failed",
        "round": 1,
        "step": "",
        "done": 0,
        "total": 0,
        "eta_seconds": None,
        "message": "the disk is full",
    }


# ---------------------------------------------------------------------------------------------- several people


def test_a_round_waits_for_all_who_are_needed(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    two = with_settings(config, rounds=1, people=2, rule="lead:zoe")
    waited: list[int] = []

    def watch(person: Person, state: DeskState) -> None:
        if len(person.store.submitters(1)) == 2 and not state.answers:
            waited.append(len(state.answers))

    class Late(Unready):
        def label(self, state: DeskState) -> None:
            # The lead comes last, and says otherwise than the two who were enough in number.
            if len(self.store.submitters(1)) == 2 and len(waited) > 6 and self.once("submitted"):
                ids = [image["id"] for image in (state.round or {})["images"]]
                self.store.mark(1, "zoe", *(Mark(i, "verdict", "good") for i in ids), Mark(ids[3], "best", "yes"))
                self.store.submit(1, "zoe", 2.0)

    with Person(run, "ada", watch), Person(run, "bob"), Late(run, "zoe"), Tuner(two, run) as tuner:
        assert attend(tuner)
        answer = tuner.store.answer(1)
    assert len(waited) > 6
    assert answer is not None
    assert (len(answer.good), answer.best, answer.evaluators) == (4, ("r0001-i0003",), ("ada", "bob", "zoe"))
    [(_, told)] = events(run, "answer")
    assert (told["rule"], told["good"], len(told["disagreements"])) == ("lead:zoe", 4, 2)


def test_an_answer_can_be_taken_back_before_the_run_learns_from_it(config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    slow = with_settings(config, rounds=1, undo_seconds=1.5)
    seen: list[str] = []

    def take_back(person: Person, state: DeskState) -> None:
        if state.phase is not None and not state.answers:
            seen.append(f"{state.phase['phase']} {state.phase['step']}".strip())
        if person.name in person.store.submitters(1) and person.once("taken back"):
            person.store.reopen(1, person.name)
            time.sleep(2.0)  # longer than the run would have waited
            assert person.store.answer(1) is None
            person.store.mark(1, person.name, Mark("r0001-i0000", "verdict", "good"))

    with Person(run, "ada", take_back), Tuner(slow, run) as tuner:
        assert attend(tuner)
        answer = tuner.store.answer(1)
    assert answer is not None
    assert "waiting settling" in seen, "the page knows that it can still be taken back"
    assert len(answer.verdicts) == 4


def test_ctrl_c_while_the_run_waits_for_more_rounds_ends_it_in_order(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left to interrupt: the evaluation and the report come after it."""
    monkeypatch.setattr(People, "_stay", lambda _people: signal.raise_signal(signal.SIGINT))
    run = tmp_path / "run"
    told: list[tuple[str, str]] = []
    with Person(run), Tuner(with_settings(config, rounds=1, linger=300.0), run) as tuner:
        people = People(tuner.store, tuner.config.evaluator)
        people.on_phase = lambda phase, step, done, total: told.append((phase, step))
        assert train_with_people(tuner, people)
    phases = list(dict.fromkeys(phase for phase, _ in told))
    assert phases == ["starting", "drawing", "waiting", "learning", "finished"]
    assert ("learning", "reward") in told or ("learning", "representation") in told


# ---------------------------------------------------------------------------------------------- the store


@pytest.fixture
def shared(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shared.db'}"


def test_labels_may_be_in_a_store_that_is_shared(
    config: Config, shared: str, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with Tuner(with_settings(config, store=shared), run) as tuner:
        while not tuner.done:
            tuner.tell(by_brightness(tuner.ask()))
    assert not (run / "feedback.db").exists()
    assert learnt(run)["lora"] == learnt(uninterrupted)["lora"]
    with LabelStore(shared) as store:
        assert store.submitted_rounds() == (1, 2, 3)
    with Tuner.resume(run) as tuner:
        assert tuner.done
    with pytest.raises(RunError, match=r"shared\.db holds the labels of another run"):
        Tuner(with_settings(config, store=shared), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("store", "said"),
    [("labels.db", "is not a URL"), ("postgresql://me:secret@host/labels", "holds a password")],
)
def test_a_store_is_a_url_without_a_secret(store: str, said: str, tiny_config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_config(evaluator={"store": store})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
