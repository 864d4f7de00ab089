"""The studio's API: what it shows of a folder of runs, and what it does with them. No model is loaded here."""

from __future__ import annotations

import fcntl
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from desks import assert_error
from hero.errors import RunError
from hero.feedback.channel import Channel
from hero.feedback.store import LabelStore
from hero.run.finished import FinishedRun
from hero.studio.studio import Studio
from studios import OnDisk, config_of, studio_at


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def client(root: Path) -> Iterator[TestClient]:
    with studio_at(root) as client:
        yield client


def cards(client: TestClient) -> dict[str, Any]:
    return {card["name"]: card for card in client.get("/api/runs").json()["runs"]}


def do(client: TestClient, run: str, deed: str, **more: Any) -> Any:
    return client.post(f"/api/runs/{run}/do", json={"do": deed, **more})


# ---------------------------------------------------------------------------------------------- the list


def test_the_list_shows_every_run_of_the_folder(client: TestClient, root: Path) -> None:
    OnDisk(root, "cup", rounds=2, config=config_of(criterion="The cup is red."))
    OnDisk(root, "new one")
    (root / "not a run").mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "config.toml").write_text("rounds = 'many'\n")
    found = cards(client)
    assert set(found) == {"cup", "new one", "broken"}
    cup = found["cup"]
    assert (cup["prompts"], cup["criterion"], cup["method"]) == (["a red cup"], "The cup is red.", "hero")
    assert (cup["finished_rounds"], cup["rounds"], cup["labels"]) == (2, 3, 12)
    assert cup["shares"] == [2 / 6, 2 / 6]
    assert cup["success"] is None
    assert cup["picture"] == "r0002-i0000"
    assert (cup["doing"]["what"], cup["doing"]["active"]) == ("stopped", False)
    assert cup["disk"] > 2000
    assert found["new one"]["picture"] is None
    assert found["new one"]["doing"]["what"] == "new"
    assert "rounds" in found["broken"]["broken"]
    picture = client.get(f"/api/runs/cup/images/{cup['picture']}?width=128")
    assert picture.headers["content-type"] == "image/jpeg"
    tag = picture.headers["etag"]
    assert (
        client.get(f"/api/runs/cup/images/{cup['picture']}?width=128", headers={"If-None-Match": tag}).status_code
        == 304
    )


def test_a_card_is_made_anew_when_something_changes(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "cup", rounds=1)
    overview = client.app.state.studio.overview  # type: ignore[attr-defined]
    before = overview.traces()
    assert overview.traces() == before
    assert cards(client)["cup"]["finished_rounds"] == 1
    run.add_round(2)
    assert overview.traces() != before
    assert cards(client)["cup"]["finished_rounds"] == 2


def test_the_end_of_a_job_is_a_change_even_if_it_writes_nothing(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "cup", rounds=1)
    job = run.path / "studio" / "exports" / "kohya"
    job.mkdir(parents=True)
    (job / "job.json").write_text(json.dumps({"arguments": [], "started": "2026-01-01"}))
    overview = client.app.state.studio.overview  # type: ignore[attr-defined]
    with open(job / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert client.get("/api/runs/cup").json()["exports"]["kohya"]["standing"] == "running"
        before = overview.traces()
    assert overview.traces() != before
    assert client.get("/api/runs/cup").json()["exports"]["kohya"]["standing"] == "killed"
    with open(job / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # its end is on disk, and the process is about to go
        (job / "done.json").write_text(json.dumps({"status": 0, "ended": "2026-01-01"}))
        assert client.get("/api/runs/cup").json()["exports"]["kohya"]["standing"] == "done"


def test_success_is_shown_where_it_is_known(client: TestClient, root: Path) -> None:
    OnDisk(root, "cup", rounds=3).evaluate()
    assert cards(client)["cup"]["success"] == {"base": [0.25, [0.05, 0.7]], "tuned_fresh": [0.75, [0.3, 0.95]]}
    assert cards(client)["cup"]["doing"]["what"] == "finished"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (None, "starting"),
        ("drawing", "drawing"),
        ("waiting", "waiting"),
        ("paused", "paused"),
        ("finished", "lingering"),
        ("stopped", "starting"),  # by the process before
    ],
)
def test_a_run_that_a_terminal_started_says_what_it_does(
    client: TestClient, root: Path, said: str | None, shown: str
) -> None:
    run = OnDisk(root, "cup")
    if said is not None:
        run.say(said, done=2, total=6)
    assert not cards(client)["cup"]["doing"]["active"]
    run.directory.lock()
    doing = cards(client)["cup"]["doing"]
    assert (doing["what"], doing["active"], doing["ours"]) == (shown, True, False)
    if said == shown:
        assert (doing["done"], doing["total"]) == (2, 6)
    run.directory.unlock()
    assert not cards(client)["cup"]["doing"]["active"]


def test_a_run_by_its_oracle_is_followed_by_its_files(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "hand", rounds=1, config=config_of(task="hand", evaluator="oracle"))
    run.directory.lock()
    run.picture("rounds/0002/images/r0002-i0000.png", 1)
    doing = cards(client)["hand"]["doing"]
    assert (doing["what"], doing["round"], doing["done"], doing["total"]) == ("drawing", 2, 1, 6)
    run.directory.unlock()


def test_one_studio_serves_a_folder(client: TestClient, root: Path) -> None:
    with pytest.raises(RunError, match="already; open its page"):
        Studio(root)


def test_a_folder_that_is_a_run_is_refused(root: Path) -> None:
    OnDisk(root, "cup")
    with pytest.raises(RunError, match="is a run"):
        Studio(root / "cup")


# ---------------------------------------------------------------------------------------------- one run


def test_everything_about_a_run(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "cup", rounds=3)
    run.evaluate()
    found = client.get("/api/runs/cup").json()
    assert [line["labels"] for line in found["history"]] == [6, 12, 18]
    low, high = found["history"][0]["interval"]
    assert 0 < low < 2 / 6 < high < 1
    assert [one["round"] for one in found["previews"]] == [1, 2, 3]
    assert found["evaluation"]["finding"].startswith("Success on fresh noise rose from 25")
    assert found["evaluation"]["sets"] == {"base": 4, "tuned_fresh": 4}
    assert found["files"] == ["lora", "metrics", "settings"]
    assert client.get("/api/runs/cup/evaluation/base/3?width=128").status_code == 200
    assert_error(client.get("/api/runs/cup/evaluation/base/4"), 404, "image-not-found")
    assert client.get("/api/runs/cup/files/lora").content == b"a LoRA"
    assert_error(client.get("/api/runs/cup/files/report"), 404, "file-not-found")


def test_marks_of_everybody(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "cup")
    run.add_round(1, evaluators=("anna", "ben"))
    found = client.get("/api/runs/cup/rounds/1").json()
    assert found["evaluators"] == ["anna", "ben"]
    assert found["agreement"]["disputed"] == ["r0001-i0005"]
    assert found["images"][5]["marks"] == {"anna": "bad", "ben": "good"}
    assert found["images"][0]["verdict"] == "good"
    assert_error(client.get("/api/runs/cup/rounds/2"), 404, "round-not-found")


def test_a_report_brings_its_own_policy(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "cup", rounds=1)
    (run.path / "report.html").write_text("<style>p{color:red}</style><p>a report</p>")
    answer = client.get("/api/runs/cup/report")
    assert "a report" in answer.text
    assert answer.headers["content-security-policy"].startswith("sandbox allow-popups; default-src 'none'")
    assert "unsafe-inline" not in client.get("/api/runs").headers["content-security-policy"]


# ---------------------------------------------------------------------------------------------- order in the folder


def test_renamed_archived_and_deleted(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "cup", rounds=1)
    assert do(client, "cup", "rename", name="red cup (2)").json()["name"] == "red cup (2)"
    assert set(cards(client)) == {"red cup (2)"}
    assert do(client, "red cup (2)", "archive").json()["archived"]
    assert not do(client, "red cup (2)", "unarchive").json()["archived"]
    assert do(client, "red cup (2)", "delete").json() == {}
    assert cards(client) == {}
    (gone,) = (root / ".trash").iterdir()
    assert (gone / "metrics.jsonl").is_file()
    assert not run.path.exists()


def test_what_is_at_work_is_neither_renamed_nor_deleted(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "cup")
    run.directory.lock()
    assert_error(do(client, "cup", "delete"), 409, "run-active")
    assert_error(do(client, "cup", "rename", name="mug"), 409, "run-active")
    run.directory.unlock()
    assert run.path.is_dir()


def test_a_name_that_is_taken_or_impossible_is_refused(client: TestClient, root: Path) -> None:
    OnDisk(root, "cup")
    OnDisk(root, "mug")
    assert_error(do(client, "cup", "rename", name="mug"), 409, "name-taken", "name")
    for name in ("..", "../cup", "a/b", ".hidden", " a", "a ", "con:", "a\nb", "x" * 81, "a\\b", "-rf"):
        assert_error(do(client, "cup", "rename", name=name), 422, "bad-name", "name")


def test_going_back_makes_a_run_of_what_was_known_then(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "cup", rounds=2)
    for number in (1, 2):
        folder = run.path / "checkpoints" / f"{number:04d}-told"
        folder.mkdir(parents=True)
        state = {"format": 2, "files": [], "history": [s.to_dict() for s in run.history[:number]]}
        (folder / "state.json").write_text(json.dumps(state))
    assert client.get("/api/runs/cup").json()["back_to"] == [1]
    assert do(client, "cup", "go-back", round=1, name="cup again").json()["finished_rounds"] == 1
    copy = client.get("/api/runs/cup again").json()
    assert (copy["labels"], copy["rounds"], copy["doing"]["what"]) == (6, 3, "stopped")
    assert client.get("/api/runs/cup again/rounds/1").json()["images"][0]["marks"] == {"me": "good"}
    assert_error(client.get("/api/runs/cup again/rounds/2"), 404, "round-not-found")
    assert cards(client)["cup"]["finished_rounds"] == 2
    assert_error(do(client, "cup", "go-back", round=0, name="first"), 409, "cannot-go-back")
    assert not (root / "first").exists()


# ---------------------------------------------------------------------------------------------- commands


def test_a_run_of_people_is_paused_stopped_and_extended_through_its_store(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "cup")
    run.say("waiting")
    assert_error(do(client, "cup", "pause"), 409, "run-idle")
    run.directory.lock()
    for deed, more in (("pause", {}), ("go-on", {}), ("more-rounds", {"rounds": 2}), ("stop", {})):
        assert do(client, "cup", deed, **more).status_code == 200
    assert run.commands() == [("pause", {}), ("resume", {}), ("more-rounds", {"rounds": 2}), ("stop", {})]
    run.say("finished")
    assert do(client, "cup", "stop").status_code == 200
    assert run.commands()[-1] == ("finish", {})
    assert_error(do(client, "cup", "start"), 409, "run-active")
    run.directory.unlock()


def test_a_run_of_a_terminal_that_takes_no_commands_is_not_stopped(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "hand", config=config_of(task="hand", evaluator="oracle"))
    run.directory.lock()
    assert_error(do(client, "hand", "stop"), 409, "needs-terminal")
    assert_error(do(client, "hand", "pause"), 409, "takes-no-commands")
    assert_error(do(client, "hand", "kill"), 409, "needs-terminal")
    run.directory.unlock()


def test_what_is_finished_needs_more_rounds(client: TestClient, root: Path) -> None:
    OnDisk(root, "cup", rounds=3)
    assert_error(do(client, "cup", "start"), 409, "run-finished")


# ---------------------------------------------------------------------------------------------- new runs


def test_an_empty_form_shows_what_is_usual(client: TestClient) -> None:
    found = client.post("/api/check", json={"method": "heron"}).json()
    assert [problem["field"] for problem in found["problems"]] == ["prompts"]
    assert found["values"]["sampling.images_per_round"] == 32
    assert found["labels"] == 8 * 32
    wrong = {"method": "hero", "prompts": ["a cup"], "settings": {"sampling.num_steps": "4"}, "images_per_round": "4"}
    found = client.post("/api/check", json=wrong).json()
    assert [problem["field"] for problem in found["problems"]] == ["update.ppo.timesteps_per_image"]
    assert (found["values"]["update.kind"], found["labels"]) == ("ppo", None)  # so that its table is there to be mended
    options = client.get("/api/options").json()
    assert {"hand", "black-cat"} <= {task["name"] for task in options["tasks"]}
    assert {"hero", "heron"} <= {method["name"] for method in options["methods"]}


@pytest.mark.parametrize(
    ("wish", "field", "said"),
    [
        ({"rounds": "many"}, "rounds", "valid integer"),
        ({"images_per_round": "0"}, "images_per_round", "greater than or equal to 1"),
        ({"people": "-1"}, "people", "greater than or equal to 1"),
        ({"prompts": ["a", "a"]}, "prompts", "given twice"),
        ({"prompts": ["a", "b"], "images_per_round": "1"}, "images_per_round", "smaller than the number of prompts"),
        ({"settings": {"sampling.eta": "2"}}, "sampling.eta", "less than or equal to 1"),
        ({"settings": {"lora.layers": ["knees"]}}, "lora.layers", "'attention'"),
        ({"settings": {"update.ppo.clip_range": 0}}, "update.ppo.clip_range", "greater than 0"),
        ({"settings": {"update.nft.beta": 1}}, "update.kind", "this run's is 'ppo'"),
        ({"settings": {"evaluator.rule": "coin"}}, "evaluator.rule", "match pattern"),
        ({"judge": "oracle"}, "judge", "judge yourself"),
        ({"method": "magic"}, "method", "unknown method"),
        ({"name": "cup"}, "name", "already something called cup"),
    ],
)
def test_what_is_wrong_is_said_at_its_place(
    client: TestClient, root: Path, wish: dict[str, Any], field: str, said: str
) -> None:
    OnDisk(root, "cup")
    body = {"prompts": ["a cat"], "method": "hero", "name": "new", **wish}
    (problem,) = client.post("/api/check", json=body).json()["problems"]
    assert problem["field"] == field
    assert said in problem["message"]
    assert client.post("/api/runs", json={"wish": body}).status_code in (409, 422)
    assert set(cards(client)) == {"cup"}


def test_a_copy_has_the_settings_of_its_original(client: TestClient, root: Path) -> None:
    own = {"sampling": {"eta": 0.5, "micro_batch": 3}, "lora": {"rank": 3, "layers": ("resnet",)}, "seed": 7}
    config = config_of(["a cup", "a mug"], method="heron", criterion="It is red.", practice={"enough": 0.7}, **own)
    OnDisk(root, "cup", config=config)
    form = client.get("/api/runs/cup/form").json()
    assert form["settings"] == {
        "sampling.eta": 0.5,
        "sampling.micro_batch": 3,
        "lora.rank": 3,
        "lora.layers": ["resnet"],
        "practice.enough": 0.7,
    }
    made = client.post("/api/runs", json={"wish": {**form, "name": "copy"}, "start": False})
    assert made.json()["doing"]["what"] == "new"
    assert FinishedRun(root / "copy").config == config
    form["settings"]["practice.enough"] = "0.9"
    client.post("/api/runs", json={"wish": {**form, "name": "other", "rounds": "5"}, "start": False})
    other = FinishedRun(root / "other").config
    assert (other.rounds, other.practice.enough, other.lora.rank) == (5, 0.9, 3)


# ---------------------------------------------------------------------------------------------- the queue


def test_runs_wait_for_their_turn_and_a_restart_forgets_none(client: TestClient, root: Path) -> None:
    first, second, third = (OnDisk(root, name) for name in ("a", "b", "c"))
    first.directory.lock()
    for run in (second, third):
        assert do(client, run.path.name, "start").json()["doing"]["what"] == "queued"
    assert client.get("/api/runs").json()["waiting"] == ["b", "c"]
    assert client.post("/api/queue", json={"order": ["c", "nobody"]}).json() == {"waiting": ["c", "b"]}
    do(client, "c", "rename", name="d")
    do(client, "b", "stop")
    assert client.get("/api/runs").json()["waiting"] == ["d"]
    client.__exit__(None, None, None)
    with studio_at(root) as again:
        assert again.get("/api/runs").json()["waiting"] == ["d"]
        assert cards(again)["d"]["place"] == 1
        assert do(again, "d", "unqueue").json()["doing"]["what"] == "new"
    first.directory.unlock()


# ---------------------------------------------------------------------------------------------- downloads


def test_an_export_is_given_out_file_by_file_or_as_one(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "cup", rounds=1)
    job = run.path / "studio" / "exports" / "labels"
    (job / "out" / "images").mkdir(parents=True)
    (job / "out" / "labels.jsonl").write_text("{}\n")
    (job / "out" / "images" / "a.png").write_bytes(b"1" * 3_000_000)
    (job / "job.json").write_text(json.dumps({"arguments": [], "started": "2026-01-01"}))
    assert_error(client.get("/api/runs/cup/exports/labels/labels.jsonl"), 404, "export-not-found")
    (job / "done.json").write_text(json.dumps({"status": 0, "ended": "2026-01-01"}))
    assert client.get("/api/runs/cup/exports/labels/labels.jsonl").text == "{}\n"
    packed = client.get("/api/runs/cup/exports/labels/all.zip")
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["cup-labels/images/a.png", "cup-labels/labels.jsonl"]
        assert archive.read("cup-labels/images/a.png") == b"1" * 3_000_000
    assert_error(client.get("/api/runs/cup/exports/labels/..%2Fjob.json"), 404, "not-found")


# ---------------------------------------------------------------------------------------------- pages of runs


def test_the_labelling_page_of_a_run_is_below_its_name(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "red cup", rounds=1)
    run.say("waiting")
    page = client.get("/runs/red cup/label/")
    assert "All runs" in page.text
    assert client.get("/runs/red cup/label", follow_redirects=False).headers["location"] == "label/"
    state = client.get("/runs/red cup/label/api/state").json()
    assert state["phase"]["phase"] == "waiting"
    script = client.get("/runs/red cup/label/static/js/main.js")
    assert script.headers["content-type"].startswith("text/javascript")
    command = {"kind": "pause", "body": {}, "evaluator": "me"}
    assert client.post("/runs/red cup/label/api/commands", json=command).status_code == 200
    assert run.commands() == [("pause", {})]
    assert_error(client.get("/runs/red cup/blind/"), 404, "not-judged")
    assert_error(client.get("/runs/red cup/nothing/"), 404, "not-found")
    assert_error(client.get("/runs/red mug/label/"), 404, "run-not-found")
    assert (
        client.post(
            "/runs/red cup/label/api/commands", json=command, headers={"Authorization": "Bearer no"}
        ).status_code
        == 401
    )
    do(client, "red cup", "rename", name="mug")
    assert client.get("/runs/mug/label/api/state").status_code == 200


def test_a_blind_evaluation_has_a_page_of_its_own(client: TestClient, root: Path) -> None:
    run = OnDisk(root, "cup", rounds=3)
    desk = run.path / "evaluation" / "people"
    desk.mkdir(parents=True)
    with LabelStore(desk / "feedback.db") as store:
        Channel(store).publish("run", 0, {"name": "cup", "mode": "evaluation", "prompts": ["a red cup"]})
    assert "All runs" in client.get("/runs/cup/blind/").text
    assert client.get("/runs/cup/blind/api/state").json()["run"]["mode"] == "evaluation"
    assert client.get("/runs/cup/label/api/state").json()["run"] is None


def test_a_run_by_its_oracle_has_no_labelling_page(client: TestClient, root: Path) -> None:
    OnDisk(root, "hand", config=config_of(task="hand", evaluator="oracle"))
    assert_error(client.get("/runs/hand/label/"), 404, "not-labelled")
