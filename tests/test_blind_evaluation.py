"""Judges who see base and tuned images blind: nothing gives a set away, nothing said is lost, both judges are kept."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import socket
import time
from _thread import interrupt_main
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hero.cli import app
from hero.config import validate
from hero.errors import FeedbackError, RunError
from hero.evaluation import SETS, EvaluationResult, Measured
from hero.evaluation.blind import ROUND_SIZE, BlindPlan
from hero.evaluation.people import BlindDesk
from hero.evaluation.stored import DESK, people_said, stored_evaluation
from hero.feedback.store import LabelStore
from hero.run import RunDirectory
from hero.run.finished import FinishedRun
from hero.tasks import get_task
from hero.types import Feedback, ImageBatch, ImageChunk, RoundStart, RoundStats

IMAGES = 40
RED = {"base": 10, "tuned_fresh": 30, "tuned_refined": 36}
"""How many of each set's images are red; the others are blue."""


def _picture(red: bool, shade: int) -> Image.Image:
    """A picture of its own for each (red, shade)."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[..., 0 if red else 2] = 255
    pixels[shade // 8 % 8, shade % 8] = 40 + shade
    return Image.fromarray(pixels)


def round_stats(round_: int, labels: int) -> dict[str, Any]:
    """A line of metrics.jsonl of which the labels alone matter."""
    known = {"round": round_, "labels": labels, "images": 24, "best": [], "note": "", "figures": {}}
    return {**dict.fromkeys((f.name for f in fields(RoundStats)), 0), **known}


@pytest.fixture
def run(tmp_path: Path) -> FinishedRun:
    """An evaluated run: the judge of the task says success of the first 9 base and the first 30 and 36 tuned images."""
    task = get_task("hand")
    config = validate({"task": {"name": task.name, "prompts": task.prompts, "criterion": task.criterion}})
    run = RunDirectory.create(tmp_path / "run", config)
    run.write_metrics([round_stats(1, 24)])
    marks = {name: [i < k - (name == "base") for i in range(IMAGES)] for name, k in RED.items()}
    result = EvaluationResult(
        task="hand",
        images=IMAGES,
        labels=24,
        success={name: Measured.share(m) for name, m in marks.items()},
        diversity={},
        drift=None,
        details={
            "prompts": list(task.prompts) * IMAGES,
            "verdicts": marks,
            "seed": config.evaluation.seed,
            "sampler": config.sampling.model_dump(include={"num_steps", "eta", "guidance_scale"}),
        },
    )
    for offset, (name, k) in enumerate(RED.items()):
        pictures = [_picture(i < k, 50 * offset + i) for i in range(IMAGES)]
        run.write_images_under(f"evaluation/{name}", pictures)
    run.write_text("evaluation/result.json", json.dumps(result.to_dict()))
    return FinishedRun(run.path)


def _is_red(image: Image.Image) -> bool:
    red, _, blue = image.resize((1, 1)).getpixel((0, 0))  # type: ignore[misc]
    return red > blue


def judge_blind(
    run: FinishedRun, evaluator: Any, *, judge: str, images: int = 48, on_round: Callable[..., Any] | None = None
) -> dict[str, Any]:
    with BlindDesk(run, judge, images) as desk:
        return desk.judge(evaluator, on_round)


class Watching:
    """Says good of what is red; keeps what it was shown, and can be interrupted before a round."""

    name = "ann"

    def __init__(self, stop_before: int = 99) -> None:
        self.stop_before = stop_before
        self.batches: list[ImageBatch] = []

    def __call__(self, batch: ImageBatch) -> Feedback:
        if batch.round >= self.stop_before:
            raise KeyboardInterrupt
        self.batches.append(batch)
        return Feedback.from_good(batch, [i for i, image, _ in batch if _is_red(image)])


def test_what_people_see_is_shuffled_and_says_nothing_of_the_sets(run: FinishedRun) -> None:
    judge = Watching()
    judge_blind(run, judge, judge="my:judge", images=IMAGES)
    sizes = [len(batch) for batch in judge.batches]
    assert sum(sizes) == 3 * IMAGES
    assert max(sizes) <= ROUND_SIZE
    assert max(sizes) - min(sizes) <= 1
    ids = [i for batch in judge.batches for i in batch.ids]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"e\d{4}-i\d{4}", i) for i in ids)
    assert all(batch.best == () and batch.criterion == get_task("hand").criterion for batch in judge.batches)

    # Each round holds all sets in about equal parts, in no order of theirs.
    plan = BlindPlan(run, json.loads((run.path / "evaluation/result.json").read_text()), IMAGES)
    for round_ in plan.rounds:
        counts = [sum(item.of == name for item in round_) for name in SETS]
        assert min(counts) >= 5
        changes = sum(a.of != b.of for a, b in itertools.pairwise(round_))
        assert changes > 15

    desk = run.evaluation_folder / DESK
    texts = [path.read_bytes() for path in desk.rglob("*") if path.is_file() and path.name != "verdicts.json"]
    names = [str(path.relative_to(desk)) for path in desk.rglob("*")]
    for word in (*SETS, "tuned", "refined", "fresh"):
        assert not any(word.encode() in text for text in texts)
        assert not any(word in name for name in names)
    shown = {path.name for path in desk.glob("rounds/*/images/*.png")}
    assert shown == {f"{i}.png" for i in ids}


def test_the_order_is_a_function_of_the_seed(run: FinishedRun) -> None:
    result = json.loads((run.path / "evaluation/result.json").read_text())
    assert BlindPlan(run, result, IMAGES).rounds == BlindPlan(run, result, IMAGES).rounds
    result["details"]["seed"] += 1
    assert (
        BlindPlan(run, result, IMAGES).rounds
        != BlindPlan(run, {**result, "details": {**result["details"], "seed": 1}}, IMAGES).rounds
    )


def test_both_judges_are_kept_with_intervals_and_how_far_they_agree(run: FinishedRun) -> None:
    oracle = json.loads((run.path / "evaluation/result.json").read_text())
    told: list[tuple[int, int]] = []
    result = judge_blind(run, Watching(), judge="my:judge", images=IMAGES, on_round=lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert result == json.loads((run.path / "evaluation/result.json").read_text())
    assert {key: result[key] for key in oracle if key != "people"} == {k: v for k, v in oracle.items() if k != "people"}
    people = result["people"]
    assert (people["judge"], people["evaluators"], people["images"]) == ("my:judge", ["ann"], IMAGES)
    for name, k in RED.items():
        share = Measured.share([i < k for i in range(IMAGES)])
        assert people["success"][name] == share.value
        assert people["success_interval"][name] == [share.low, share.high]
        assert people["judged"][name] == IMAGES
        assert people["verdicts"][name] == [i < k for i in range(IMAGES)]
    assert people["agreement"]["images"] == 3 * IMAGES
    assert people["agreement"]["share"] == pytest.approx(1 - 1 / (3 * IMAGES))
    assert 0.97 < people["agreement"]["alpha"] < 1
    assert (people["agreement"]["good_by_people_only"], people["agreement"]["good_by_oracle_only"]) == (1, 0)


def test_an_interrupted_judge_goes_on_where_it_stopped(run: FinishedRun) -> None:
    with pytest.raises(KeyboardInterrupt):
        judge_blind(run, Watching(stop_before=2), judge="my:judge", images=IMAGES)
    assert json.loads((run.path / "evaluation/result.json").read_text())["people"] is None
    rest = Watching()
    resumed = judge_blind(run, rest, judge="my:judge", images=IMAGES)
    assert [batch.round for batch in rest.batches] == [2, 3]
    assert resumed["people"]["success"]["base"] == 0.25
    with LabelStore(run.evaluation_folder / DESK / "feedback.db") as store:
        assert store.submitted_rounds() == (1, 2, 3)
        assert store.count() == 3 * IMAGES


def test_a_new_judgement_moves_the_old_one_aside_and_keeps_its_labels(run: FinishedRun) -> None:
    judge_blind(run, Watching(), judge="my:judge", images=IMAGES)
    again = judge_blind(run, lambda batch: Feedback.from_good(batch, batch.ids), judge="your:judge", images=10)
    assert again["people"]["success"] == dict.fromkeys(SETS, 1.0)
    assert again["people"]["images"] == 10
    with LabelStore(run.evaluation_folder / f"{DESK}-001" / "feedback.db") as store:
        assert store.count() == 3 * IMAGES
    # An unfinished one of the same judge on other images is not gone on with, either.
    with pytest.raises(KeyboardInterrupt):
        judge_blind(run, Watching(stop_before=2), judge="my:judge", images=IMAGES)
    run.directory.write_images_under("evaluation/base", [_picture(True, i) for i in range(IMAGES)])
    rest = Watching()
    judge_blind(run, rest, judge="my:judge", images=IMAGES)
    assert [batch.round for batch in rest.batches] == [1, 2, 3]


def test_what_people_said_holds_for_the_very_images_they_saw(run: FinishedRun) -> None:
    result = judge_blind(run, Watching(), judge="my:judge", images=10)
    oracle = {**result, "people": None}
    assert people_said(run, oracle) == result["people"]
    run.directory.write_images_under("evaluation/tuned_fresh", [_picture(False, i) for i in range(IMAGES)])
    assert people_said(run, oracle) is None


def test_images_left_out_are_not_counted_and_no_verdict_is_refused(run: FinishedRun) -> None:
    def first_ten(batch: ImageBatch) -> Feedback:
        return Feedback(dict.fromkeys(batch.ids[:10], "good"))

    people = judge_blind(run, first_ten, judge="my:judge", images=IMAGES)["people"]
    assert people["evaluators"] == ["first_ten"]
    assert sum(people["judged"].values()) == 30
    assert sum(mark is None for marks in people["verdicts"].values() for mark in marks) == 90
    answers: list[Callable[[ImageBatch], Feedback]] = [
        lambda _: Feedback(),
        lambda _: Feedback({"r0001-i0000": "good"}),
    ]
    for answer in answers:
        with pytest.raises(FeedbackError):
            judge_blind(run, answer, judge="my:judge", images=5)


def test_an_evaluator_that_watches_the_drawing_can_judge(run: FinishedRun) -> None:
    class Live:
        name = "live"

        def begin(self, start: RoundStart) -> None:
            self.start = start

        def show(self, chunk: ImageChunk) -> None:
            assert chunk.total == self.start.total == len(chunk.ids)
            self.answer = dict.fromkeys(chunk.ids, "good")

        def collect(self) -> Feedback:
            return Feedback(self.answer)

    assert judge_blind(run, Live(), judge="my:Live", images=4)["people"]["evaluators"] == ["live"]


def test_only_an_evaluation_of_the_run_as_it_is_counts_as_stored(run: FinishedRun) -> None:
    assert stored_evaluation(run, IMAGES) is not None
    assert stored_evaluation(run, 8, list(run.config.task.prompts)) is not None
    assert stored_evaluation(run, 8, ["a hand at night"]) is None
    assert stored_evaluation(run, IMAGES + 1000) is None
    run.directory.write_metrics([round_stats(1, 24), round_stats(2, 48)])
    assert stored_evaluation(run, IMAGES) is None


def test_a_run_without_images_cannot_be_judged(run: FinishedRun) -> None:
    with pytest.raises(RunError, match="no evaluation of 41 images"):
        judge_blind(run, Watching(), judge="my:judge", images=IMAGES + 1)
    (run.path / "evaluation/result.json").unlink()
    with pytest.raises(RunError, match="holds no evaluation; run"):
        judge_blind(run, Watching(), judge="my:judge")


def test_people_judge_on_the_page(run: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command serves the desk; two people say good of what is red, one of them errs on one image of each round."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("HERO_WEB_TOKEN", "a-token-of-the-test-that-is-long-enough")
    seen: list[str] = []
    people = Thread(target=_people, args=(f"http://127.0.0.1:{port}", os.environ["HERO_WEB_TOKEN"], seen), daemon=True)
    people.start()
    command = ["evaluate", str(run.path), "--evaluator", "web", "--images", "17", "--port", str(port), "--no-browser"]
    config = run.config.model_dump(mode="json", exclude_none=True)
    config["evaluator"] |= {"people": 2, "rule": "lead:ann", "undo_seconds": 0}
    run.directory.write_text("config.toml", validate(config).to_toml())
    (run.path / "report.html").write_text("the report before anybody judged")
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    people.join(10)
    answer = json.loads(result.stdout)["people"]
    assert (answer["judge"], answer["evaluators"], answer["images"]) == ("web", ["ann", "ben"], 17)
    assert answer["success"] == {"base": 10 / 17, "tuned_fresh": 1.0, "tuned_refined": 1.0}
    assert answer["agreement_between"]["images"] == 51
    assert answer["agreement_between"]["share"] == pytest.approx(49 / 51)
    assert "As ann, ben saw it" in (run.path / "report.html").read_text(), "a run's report has the newest figures"
    assert "evaluation" in seen[0]
    for text in seen:
        assert not any(name in text for name in (*SETS, "tuned", "refined"))


def _people(address: str, token: str, seen: list[str]) -> None:
    try:
        _label(address, token, seen)
    except BaseException:
        interrupt_main()  # the command would wait for them for ever
        raise


def _label(address: str, token: str, seen: list[str]) -> None:
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        for round_ in (1, 2):
            shown = _round_of(client, round_, seen)
            files = [client.get(f"/api/images/{image['id']}").content for image in shown["images"]]
            red = [_is_red(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
            for name in ("ben", "ann"):
                said = [not red[0] if name == "ben" else red[0], *red[1:]]
                marks = [
                    {"image_id": image["id"], "kind": "verdict", "value": "good" if good else "bad"}
                    for image, good in zip(shown["images"], said, strict=True)
                ]
                body = {"evaluator": name, "marks": [{**mark, "suggested": None, "seconds": 0.4} for mark in marks]}
                client.post(f"/api/rounds/{round_}/marks", json=body).raise_for_status()
                closing = {"evaluator": name, "seconds": 9.0, "seen_none_good": True}
                client.post(f"/api/rounds/{round_}/submit", json=closing).raise_for_status()


def _round_of(client: httpx.Client, round_: int, seen: list[str]) -> dict[str, Any]:
    """The round once all its images are there."""
    for _ in range(1000):
        try:
            state = client.get("/api/state", params={"evaluator": "ann"})
        except httpx.TransportError:
            time.sleep(0.2)
            continue
        shown = state.json()["round"]
        if shown is not None and shown["round"] == round_ and shown["drawn"] == shown["total"]:
            seen.append(state.text)
            return dict(shown)
        time.sleep(0.2)
    raise AssertionError(f"round {round_} never came")
