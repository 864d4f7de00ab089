"""Labelling through the JSON API: what each call stores, and what it refuses without storing anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from desks import Run, assert_error, bad, best, good, mark, opened, own, plain, rows, submit, unmarked, unsure
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
    nothing = dict.fromkeys(("desk", "run", "phase", "round", "result"))
    lists: dict[str, Any] = {"evaluators": [], "learned": [], "previews": [], "answers": []}
    with opened(tmp_path) as client:
        assert state(client) == {**nothing, **lists, "last_event": 0, "mine": {**own({}), "revision": 0}}


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
    assert plain(seen["mine"]) == own({})
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
    assert (answer.json()["stored"], plain(answer.json()["mine"])) == (1, own({ids[0]: "good"}))
    (label,) = run.store.labels()
    assert (label.round, label.evaluator, label.image_id, label.kind) == (1, "Zoë B.", ids[0], "verdict")
    assert (label.value, label.suggested, label.seconds) == ("good", "bad", 1.5)


def test_the_best_is_good_and_there_is_one_for_each_prompt(run: Run, client: TestClient) -> None:
    ids = run.show(1)  # cats are even, dogs odd
    assert plain(mark(client, 1, best(ids[0])).json()["mine"]) == own({ids[0]: "good"}, [ids[0]])
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
    assert submit(client, 1).json() == closed(2, 4)


# ---------------------------------------------------------------------------------------------- submitting


def test_submitting_makes_the_rest_bad(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    mark(client, 1, best(ids[3]), bad(ids[4]))
    assert submit(client, 1, seconds=12.5).json() == closed(1, 5, [ids[3]])
    answer = run.store.submission(1, "me")
    assert answer is not None
    assert (set(answer.verdicts), answer.good, answer.best) == (set(ids), (ids[3],), (ids[3],))
    assert state(client)["mine"]["submitted"]


def closed(good_: int, bad_: int, best_: Sequence[str] = (), unsure_: int = 0) -> dict[str, Any]:
    return {"submitted": True, "good": good_, "bad": bad_, "best": list(best_), "unsure": unsure_}


def test_what_was_not_said_is_told_apart_from_what_was(run: Run, client: TestClient) -> None:
    """A bad image, one that was left unmarked, and one that was never in view: all bad, and the store knows which."""
    ids = run.show(1)
    mark(client, 1, good(ids[0]), bad(ids[1]), unsure(ids[2]))
    assert submit(client, 1, unseen=[ids[0], ids[1], ids[4], ids[5]]).json() == closed(1, 4, unsure_=1)
    answer, asides = run.store.submission(1, "me"), run.store.own(1, "me").asides
    assert answer is not None
    assert (set(answer.good), set(answer.bad)) == ({ids[0]}, {ids[1], *ids[3:]})
    assert asides.rest == {ids[3]: "unmarked", ids[4]: "unseen", ids[5]: "unseen"}
    assert asides.unsure == (ids[2],)


def test_an_image_is_good_bad_unsure_or_none_of_these(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    mark(client, 1, best(ids[0]))
    mine = mark(client, 1, unsure(ids[0])).json()["mine"]
    assert (mine["marks"], mine["best"], mine["unsure"]) == ({}, [], [ids[0]])
    assert mark(client, 1, unsure(ids[0])).json()["stored"] == 0
    for settled in (good(ids[0]), bad(ids[0]), best(ids[0]), {**unsure(ids[0]), "value": None}):
        mark(client, 1, unsure(ids[0]))
        assert mark(client, 1, settled).json()["mine"]["unsure"] == []
    assert_error(mark(client, 1, {**unsure(ids[0]), "value": "good"}), 422, "invalid-request")


def test_a_reason_is_kept_beside_the_mark(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    why = {"image_id": ids[0], "kind": "reason", "value": "six fingers"}
    assert mark(client, 1, bad(ids[0]), why).json()["mine"]["reasons"] == {ids[0]: "six fingers"}
    assert mark(client, 1, why).json()["stored"] == 0
    submit(client, 1, seen_none_good=True)
    assert client.get("/api/rounds/1").json()["mine"]["reasons"] == {ids[0]: "six fingers"}
    assert run.store.own(1, "me").asides.reasons == {ids[0]: "six fingers"}
    for value in ("", "   ", "x" * 501):
        assert_error(mark(client, 1, {**why, "value": value}, evaluator="bob"), 422, "invalid-request")
    assert mark(client, 1, {**why, "value": None}, evaluator="bob").json()["stored"] == 0


def test_an_answer_that_is_not_the_one_that_was_seen_is_refused_with_the_difference(
    run: Run, client: TestClient
) -> None:
    ids = run.show(1)
    mark(client, 1, best(ids[0]), bad(ids[1]), unsure(ids[3]))
    seen = {"good": [ids[0]], "bad": [ids[1]], "best": [ids[0]], "unsure": [ids[3]]}
    mark(client, 1, best(ids[2]))  # in another window of the same person
    before = rows(run.store)
    answer = submit(client, 1, shown=seen)
    assert_error(answer, 409, "answer-changed")
    message = answer.json()["error"]["message"]
    for said in (
        f"{ids[2]} is good, here it was unmarked",
        f"{ids[2]} is a best one now",
        f"{ids[0]} is a best one no more",
    ):
        assert said in message
    assert rows(run.store) == before
    assert not state(client)["mine"]["submitted"]
    assert submit(client, 1, shown={**seen, "good": ids[0:3:2], "best": [ids[2]]}).status_code == 200


def reopen(client: TestClient, round_: int, evaluator: str = "me") -> Any:
    return client.post(f"/api/rounds/{round_}/reopen", json={"evaluator": evaluator})


def test_a_submitted_round_can_be_reopened_until_it_is_learnt_from(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    assert_error(reopen(client, 1), 409, "not-submitted")
    mark(client, 1, good(ids[0]), bad(ids[1]))
    submit(client, 1, unseen=[ids[5]])
    first = state(client)["mine"]["revision"]
    mine = reopen(client, 1).json()
    assert plain(mine) == own({ids[0]: "good", ids[1]: "bad"}), "what was left unmarked is unmarked again"
    assert mine["revision"] > first
    assert run.store.submitters(1) == ()
    assert run.store.submitted_rounds() == ()
    assert mark(client, 1, good(ids[2])).json()["stored"] == 1
    assert submit(client, 1).json() == closed(2, 4)
    assert_error(submit(client, 1), 409, "already-submitted")
    assert (run.store.submitters(1), run.store.own(1, "me").asides.rest[ids[5]]) == (("me",), "unmarked")
    assert reopen(client, 1).status_code == 200, "as often as they like"
    submit(client, 1)
    run.answer(1)
    assert_error(reopen(client, 1), 409, "round-over")
    run.show(2)
    assert_error(reopen(client, 1), 409, "not-current-round")
    assert set(run.store.submission(1, "me").good) == {ids[0], ids[2]}  # type: ignore[union-attr]


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
    assert submit(client, 1, seen_none_good=True).json() == closed(0, 6)


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
        assert submit(client, 1).json() == closed(1, 1)
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
    assert plain(before["mine"]) == own({ids[1]: "good"})
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


# ---------------------------------------------------------------------------------------------- results


def test_the_result_and_its_files_are_there_at_the_end(run: Run, client: TestClient) -> None:
    assert state(client)["result"] is None
    for path in ("/api/report", "/api/lora"):
        assert_error(client.get(path), 404, "file-not-found")
    run.channel.publish("result", 0, {"success": {"base": 0.25, "tuned_fresh": 0.75}, "report": True})
    assert state(client)["result"] == {"success": {"base": 0.25, "tuned_fresh": 0.75}, "report": True}
    (run.folder / "report.html").write_text("<style>p {color: red}</style><p>good")
    report = client.get("/api/report")
    assert report.text.endswith("<p>good")
    policy = report.headers["content-security-policy"]
    assert "sandbox" in policy, "what is written in a report must not act as this page"
    assert "script" not in policy
    (run.folder / "lora").mkdir()
    (run.folder / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    lora = client.get("/api/lora")
    assert lora.content == b"weights"
    assert lora.headers["content-disposition"] == 'attachment; filename="run.safetensors"'


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
