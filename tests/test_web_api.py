"""Labelling through the JSON API: what each call stores, and what it refuses without storing anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from desks import Run, assert_error, bad, best, good, mark, opened, rows, submit, unmarked
from hero.feedback.store import LabelStore


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "run", prompts=["a cat", "a dog"])
    yield made
    made.close()


@pytest.fixture
def client(run: Run) -> Iterator[TestClient]:
    with opened(run.folder) as client:
        yield client


def state(client: TestClient, evaluator: str = "me") -> dict[str, Any]:
    answer = client.get("/api/state", params={"evaluator": evaluator})
    assert answer.status_code == 200
    return dict(answer.json())


# ---------------------------------------------------------------------------------------------- state


def test_a_desk_without_a_run_has_an_empty_state(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("desk", "run", "phase", "round"))
    lists: dict[str, Any] = {"evaluators": [], "learned": [], "previews": [], "answers": []}
    mine = {"marks": {}, "best": [], "submitted": False}
    with opened(tmp_path) as client:
        assert state(client) == {**nothing, **lists, "last_event": 0, "mine": mine}


def test_the_state_follows_the_run(run: Run, client: TestClient) -> None:
    first = state(client)
    assert first["run"] == run.told
    assert first["round"] is None
    assert first["desk"]
    kept = {"r0001-i0003": "a cat"}
    run.begin(2, total=6, best=kept)
    drawn = run.draw(2, [0, 1, 2, 3])
    now = state(client)
    assert (now["round"]["round"], now["round"]["drawn"], now["round"]["total"]) == (2, 4, 6)
    assert now["round"]["best"] == [{"id": "r0001-i0003", "prompt": "a cat"}]
    assert [image["id"] for image in now["round"]["images"]] == drawn
    assert now["round"]["suggestions"] is None
    suggestion = {drawn[0]: {"verdict": "good", "score": 0.6}}
    run.channel.publish("suggestions", 2, {"images": suggestion})
    run.channel.publish("phase", 2, {"phase": "waiting", "message": "Waiting"})
    run.channel.publish("learned", 1, {"stats": {"good": 3}})
    run.answer(1)
    newest = run.channel.publish("preview", 1, {"images": [{"id": "p0001-i0000", "prompt": "a cat"}]})
    now = state(client)
    assert now["round"]["suggestions"] == suggestion
    assert now["phase"]["phase"] == "waiting"
    assert now["learned"] == [{"good": 3, "round": 1}]
    assert (now["answers"][0]["round"], now["answers"][0]["evaluators"]) == (1, ["me"])
    assert now["previews"] == [{"round": 1, "images": [{"id": "p0001-i0000", "prompt": "a cat"}]}]
    assert now["last_event"] == newest
    assert now["desk"] == first["desk"]


def test_everyone_sees_how_far_the_others_are_and_nothing_else(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    mark(client, 1, good(ids[0]), bad(ids[1]), evaluator="ada")
    mark(client, 1, good(ids[2]), unmarked(ids[2]), evaluator="bob")
    submit(client, 1, "ada")
    seen = state(client, "cleo")
    assert seen["mine"] == {"marks": {}, "best": [], "submitted": False}
    assert seen["evaluators"] == [
        {"name": "ada", "marked": 6, "submitted": True},
        {"name": "bob", "marked": 0, "submitted": False},
    ]
    assert state(client, "ada")["mine"]["submitted"]
    run.show(2)
    assert state(client, "cleo")["evaluators"] == [], "a new round begins with nobody"


# ---------------------------------------------------------------------------------------------- marks


def test_marks_are_stored_with_who_how_long_and_what_was_suggested(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    answer = mark(client, 1, {**good(ids[0]), "suggested": "bad", "seconds": 1.5}, evaluator="Zoë B.")
    assert answer.json() == {"stored": 1, "mine": {"marks": {ids[0]: "good"}, "best": [], "submitted": False}}
    (label,) = run.store.labels()
    assert (label.round, label.evaluator, label.image_id, label.kind) == (1, "Zoë B.", ids[0], "verdict")
    assert (label.value, label.suggested, label.seconds) == ("good", "bad", 1.5)


def test_the_best_is_good_and_there_is_one_for_each_prompt(run: Run, client: TestClient) -> None:
    ids = run.show(1)  # cats are even, dogs odd
    assert mark(client, 1, best(ids[0])).json()["mine"] == {
        "marks": {ids[0]: "good"},
        "best": [ids[0]],
        "submitted": False,
    }
    assert mark(client, 1, best(ids[1])).json()["mine"]["best"] == [ids[0], ids[1]]
    moved = mark(client, 1, best(ids[2])).json()["mine"]
    assert set(moved["best"]) == {ids[1], ids[2]}
    assert moved["marks"] == {ids[0]: "good", ids[1]: "good", ids[2]: "good"}
    assert mark(client, 1, bad(ids[2])).json()["mine"]["best"] == [ids[1]]
    assert mark(client, 1, unmarked(ids[1])).json()["mine"]["best"] == []
    assert mark(client, 1, best(ids[2])).json()["mine"]["marks"][ids[2]] == "good", "naming it the best makes it good"
    left = mark(client, 1, {"image_id": ids[2], "kind": "best", "value": None}).json()["mine"]
    assert (left["best"], left["marks"][ids[2]]) == ([], "good")


def test_the_best_so_far_can_stay_the_best(run: Run, client: TestClient) -> None:
    ids = run.show(2, best={"r0001-i0004": "a cat"})
    mark(client, 2, best(ids[0]), best(ids[1]))
    mine = mark(client, 2, best("r0001-i0004")).json()["mine"]
    assert set(mine["best"]) == {"r0001-i0004", ids[1]}
    assert mine["marks"] == {ids[0]: "good", ids[1]: "good"}, "it has no verdict in this round"
    assert_error(mark(client, 2, good("r0001-i0004")), 422, "unknown-image", "marks.0.image_id")
    assert mark(client, 2, best(ids[2])).json()["mine"]["best"] == [ids[1], ids[2]]


def test_a_request_that_is_sent_again_adds_nothing(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    marks = [best(ids[0]), bad(ids[1]), good(ids[2])]
    first = mark(client, 1, *marks).json()
    again = mark(client, 1, *marks).json()
    assert (first["stored"], again["stored"]) == (4, 0)
    assert first["mine"] == again["mine"]
    assert run.store.count() == 4


def test_marks_are_stored_all_or_none(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    assert_error(mark(client, 1, good(ids[0]), good("r0001-i0099")), 422, "unknown-image", "marks.1.image_id")
    assert_error(mark(client, 1, good(ids[0]), good("r0002-i0000")), 422, "unknown-image", "marks.1.image_id")
    assert run.store.count() == 0


def test_images_can_be_marked_while_others_are_still_drawn(run: Run, client: TestClient) -> None:
    run.begin(1)
    ids = run.draw(1, [0, 1])
    assert mark(client, 1, good(ids[0])).status_code == 200
    assert_error(mark(client, 1, good("r0001-i0002")), 422, "unknown-image")
    assert_error(submit(client, 1), 409, "not-fully-drawn")
    run.draw(1, [2, 3, 4, 5])
    assert mark(client, 1, good("r0001-i0002")).status_code == 200
    assert submit(client, 1).json() == {"submitted": True, "good": 2, "bad": 4, "best": []}


# ---------------------------------------------------------------------------------------------- submitting


def test_submitting_makes_the_rest_bad(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    mark(client, 1, best(ids[3]), bad(ids[4]))
    assert submit(client, 1, seconds=12.5).json() == {"submitted": True, "good": 1, "bad": 5, "best": [ids[3]]}
    answer = run.store.submission(1, "me")
    assert answer is not None
    assert (set(answer.verdicts), answer.good, answer.best) == (set(ids), (ids[3],), (ids[3],))
    assert state(client)["mine"]["submitted"]


def test_a_submitted_answer_stays_as_it_is(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    mark(client, 1, good(ids[0]))
    submit(client, 1)
    before = rows(run.store)
    assert_error(submit(client, 1), 409, "already-submitted")
    assert_error(mark(client, 1, bad(ids[0])), 409, "already-submitted")
    assert rows(run.store) == before
    assert mark(client, 1, bad(ids[0]), evaluator="bob").status_code == 200, "it is another's round still"


def test_that_nothing_is_good_has_to_be_meant(run: Run, client: TestClient) -> None:
    run.show(1)
    assert_error(submit(client, 1), 409, "nothing-good")
    assert run.store.count() == 0
    assert submit(client, 1, seen_none_good=True).json() == {"submitted": True, "good": 0, "bad": 6, "best": []}


def test_what_comes_out_of_order_changes_nothing(run: Run, client: TestClient) -> None:
    assert_error(mark(client, 1, good("r0001-i0000")), 409, "no-round")
    assert_error(submit(client, 1), 409, "no-round")
    run.show(1)
    ids = run.show(2)
    for round_ in (1, 3):
        assert_error(mark(client, round_, good(ids[0])), 409, "not-current-round")
        assert_error(submit(client, round_, seen_none_good=True), 409, "not-current-round")
    run.answer(2)
    assert_error(mark(client, 2, good(ids[0])), 409, "round-over")
    assert_error(submit(client, 2, seen_none_good=True), 409, "round-over")
    assert run.store.count() == 0
    assert run.store.submitted_rounds() == ()


def test_an_evaluation_asks_for_good_or_bad_alone(tmp_path: Path) -> None:
    run = Run(tmp_path / "people", mode="evaluation")
    run.begin(1, total=2)
    images = [{"id": name, "prompt": "a cat"} for name in ("e0001-i0000", "e0001-i0001")]
    for image in images:
        run.write_image(image["id"])
    run.channel.publish("chunk", 1, {"images": images, "drawn": 2, "total": 2})
    with opened(run.folder) as client:
        assert_error(mark(client, 1, best("e0001-i0000")), 422, "no-best-asked", "marks.0.kind")
        assert mark(client, 1, good("e0001-i0000")).status_code == 200
        assert submit(client, 1).json() == {"submitted": True, "good": 1, "bad": 1, "best": []}
        assert client.get("/api/images/e0001-i0001").status_code == 200
    run.close()


# ---------------------------------------------------------------------------------------------- past rounds


def test_others_verdicts_show_once_i_have_submitted(run: Run, client: TestClient) -> None:
    ids = run.show(1, total=2)
    mark(client, 1, good(ids[0]), evaluator="ada")
    submit(client, 1, "ada")
    mark(client, 1, good(ids[1]))
    before = client.get("/api/rounds/1", params={"evaluator": "me"}).json()
    assert before["verdicts"] is None
    assert before["mine"] == {"marks": {ids[1]: "good"}, "best": [], "submitted": False}
    assert before["images"] == [{"id": ids[0], "prompt": "a cat"}, {"id": ids[1], "prompt": "a dog"}]
    submit(client, 1)
    after = client.get("/api/rounds/1", params={"evaluator": "me"}).json()
    assert after["verdicts"] == {ids[0]: {"good": 1, "bad": 1}, ids[1]: {"good": 1, "bad": 1}}
    assert after["answer"] is None
    run.answer(1)
    late = client.get("/api/rounds/1", params={"evaluator": "late"}).json()
    assert late["verdicts"] == after["verdicts"]
    assert late["answer"]["rule"] == "majority"


def test_past_rounds_stay_and_rounds_to_come_are_not_there(run: Run, client: TestClient) -> None:
    run.show(1)
    run.show(2, best={"r0001-i0000": "a cat"})
    assert len(client.get("/api/rounds/1").json()["images"]) == 6
    assert client.get("/api/rounds/2").json()["best"] == [{"id": "r0001-i0000", "prompt": "a cat"}]
    assert_error(client.get("/api/rounds/3"), 404, "round-not-found")


# ---------------------------------------------------------------------------------------------- commands


@pytest.mark.parametrize("kind", ["pause", "resume", "stop", "finish", "more-rounds"])
def test_commands_reach_the_run(run: Run, client: TestClient, kind: str) -> None:
    body = {"rounds": 3} if kind == "more-rounds" else {}
    answer = client.post("/api/commands", json={"kind": kind, "body": body, "evaluator": "me"})
    (command,) = run.channel.commands()
    assert answer.json() == {"id": command.id}
    assert (command.kind, command.body, command.evaluator) == (kind, body, "me")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("explode", {}),
        ("more-rounds", {}),
        ("more-rounds", {"rounds": 0}),
        ("more-rounds", {"rounds": 1001}),
        ("more-rounds", {"rounds": "3"}),
        ("stop", {"now": True}),
        ("stop", []),
        (None, {}),
    ],
)
def test_commands_that_do_not_exist_are_refused(run: Run, client: TestClient, kind: Any, body: Any) -> None:
    answer = client.post("/api/commands", json={"kind": kind, "body": body, "evaluator": "me"})
    assert_error(answer, 422, "invalid-request")
    assert run.channel.commands() == []


def test_two_servers_may_label_one_store(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    one = client
    with opened(run.folder) as other:
        mark(one, 1, good(ids[0]))
        assert mark(other, 1, best(ids[2])).json()["mine"]["marks"] == {ids[0]: "good", ids[2]: "good"}
        assert mark(one, 1, best(ids[4])).json()["mine"]["best"] == [ids[4]]
        submit(other, 1)
        assert_error(mark(one, 1, bad(ids[0])), 409, "already-submitted")
        assert state(one)["evaluators"] == [{"name": "me", "marked": 6, "submitted": True}]
    with LabelStore(run.folder / "feedback.db") as store:
        assert len(store.submissions(1)) == 1
