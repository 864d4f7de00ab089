"""The studio with real processes: runs that it starts survive it, wait for each other, stop, and are drawn with."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from conftest import TINY
from desks import assert_error
from hero.config import Config
from hero.feedback.store import LabelStore
from hero.studio.job import DetachedJob, Jobs
from hero.studio.settings import flat
from studios import OnDisk, config_of, studio_at

PATIENCE = 300.0
pytestmark = pytest.mark.learns


def until(client: TestClient, name: str, what: str) -> dict[str, Any]:
    """The card of a run, once it does `what`."""
    end = time.monotonic() + PATIENCE
    while True:
        card: dict[str, Any] = client.get(f"/api/runs/{name}").json()
        if card["doing"]["what"] == what:
            return card
        log = client.get(f"/api/runs/{name}/log").text
        assert time.monotonic() < end, f"{name} does {card['doing']}; it printed:\n{log}"
        assert card["doing"]["what"] != "failed", log
        time.sleep(0.2)


def ended(job: DetachedJob) -> DetachedJob:
    end = time.monotonic() + PATIENCE
    while job.running:
        assert time.monotonic() < end, job.log()
        time.sleep(0.1)
    return job


def do(client: TestClient, run: str, deed: str, **more: Any) -> Any:
    return client.post(f"/api/runs/{run}/do", json={"do": deed, **more})


def test_a_job_outlives_who_started_it_and_says_how_it_ended(tmp_path: Path) -> None:
    job = DetachedJob(tmp_path / "a" / "studio" / "tasks")
    assert job.state().standing == "none"
    jobs = Jobs()
    jobs.start(job, ["tasks"])
    assert job.running
    del jobs
    assert ended(job).state().standing == "done"
    assert "black-cat" in job.log()
    Jobs().start(job, ["report", str(tmp_path / "nothing")])
    state = ended(job).state()
    assert state.standing == "failed"
    assert state.message.startswith("there is no run in")
    assert "black-cat" not in job.log()


def test_two_wishes_one_after_the_other_then_drawn_with(
    tmp_path: Path, random_pipeline: Path, tiny_config: Callable[..., Config]
) -> None:
    """Judged by people: the first waits for marks while the second waits for its turn, also over a restart."""
    root = tmp_path / "runs"
    settings = flat(TINY)
    settings.pop("sampling.images_per_round")
    settings |= {"evaluator.previews": 1, "evaluator.linger": 0, "evaluation.images": 2}
    wish = {"prompts": ["1 hand"], "model": str(random_pipeline), "method": "hero", "settings": settings}
    wish |= {"rounds": "1", "images_per_round": "4"}
    with studio_at(root, random_pipeline) as client:
        for name in ("first", "second"):
            made = client.post("/api/runs", json={"wish": {**wish, "name": name}})
            assert made.status_code == 200, made.text
        assert made.json()["doing"]["what"] == "queued"
        until(client, "first", "waiting")
        assert_error(do(client, "first", "delete"), 409, "run-active")
    with studio_at(root, random_pipeline) as client:  # the studio was away; the run went on
        assert until(client, "first", "waiting")["doing"]["ours"]
        page = "/runs/first/label/api"
        good = [{"image_id": f"r0001-i000{k}", "kind": "verdict", "value": "good"} for k in (0, 1)]
        best = {"image_id": "r0001-i0000", "kind": "best", "value": "yes"}
        assert (
            client.post(f"{page}/rounds/1/marks", json={"evaluator": "me", "marks": [*good, best]}).status_code == 200
        )
        client.post(f"{page}/rounds/1/submit", json={"evaluator": "me"})
        card = until(client, "first", "finished")
        assert (card["labels"], card["lora"]) == (4, True)
        assert card["evaluation"]["sets"]["base"] == 2
        assert [one["round"] for one in card["previews"]] == [0, 1]
        until(client, "second", "waiting")
        assert do(client, "second", "stop").status_code == 200
        until(client, "second", "stopped")
        drawn = client.post(
            "/api/runs/first/draws", json={"prompts": ["a cat"], "images": 1, "strengths": [0, 1]}
        ).json()
        assert drawn == {"id": "0001"}
        ended(DetachedJob(root / "first" / "studio" / "draws" / "0001"))
        (drawing,) = client.get("/api/runs/first").json()["draws"]
        assert (drawing["standing"], drawing["strengths"], drawing["labels"]) == ("done", ["0", "1"], 4)
        before, after = (client.get(f"/api/runs/first/draws/0001/{strength}/0").content for strength in ("0", "1"))
        assert before.startswith(b"\x89PNG")
        assert before != after
        assert client.post("/api/runs/first/exports", json={"kind": "labels"}).status_code == 200
        ended(DetachedJob(root / "first" / "studio" / "exports" / "labels"))
        assert client.get("/api/runs/first/exports/labels/labels.jsonl").text.count("\n") >= 4
    with LabelStore(root / "first" / "feedback.db") as store:
        assert store.submitters(1) == ("me",)


def test_memory_is_estimated_by_a_process_of_its_own(tmp_path: Path, random_pipeline: Path) -> None:
    with studio_at(tmp_path / "runs", random_pipeline) as client:
        settings = {key: value for key, value in flat(TINY).items() if key.startswith(("model.", "lora."))}
        wish = {"prompts": ["a cat"], "model": str(random_pipeline), "settings": settings}
        found = client.post("/api/memory", json=wish).json()
        assert found["fits"]
        assert 0 < found["needed"] < found["available"]
        assert "while" in found["words"]
        (random_pipeline / "unet").rename(tmp_path / "unet")
        try:
            assert "unet" in client.post("/api/memory", json=wish).json()["error"]
        finally:
            (tmp_path / "unet").rename(random_pipeline / "unet")


def test_a_run_that_cannot_start_says_why_and_the_next_one_gets_its_turn(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    OnDisk(root, "first", config=config_of(evaluator="oracle"))  # a prompt of one's own has none
    second = OnDisk(root, "second")
    with studio_at(root) as client:
        client.app.state.studio.queue.add("first")  # type: ignore[attr-defined]
        do(client, "second", "start")
        end = time.monotonic() + PATIENCE
        while (card := client.get("/api/runs/first").json())["doing"]["what"] != "failed":
            assert time.monotonic() < end, card["doing"]
            time.sleep(0.2)
        assert "has no oracle" in card["doing"]["message"]
        until(client, "second", "starting")
        while do(client, "second", "kill").status_code != 200:  # it has not begun yet
            assert time.monotonic() < end
            time.sleep(0.1)
        ended(DetachedJob(second.path / "studio" / "train"))
        assert "killed" in client.get("/api/runs/second").json()["doing"]["message"]
