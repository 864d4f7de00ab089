"""The channel: events and commands are kept in order for ever, and their fold is what a page shows."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hero.errors import FeedbackError
from hero.feedback import Channel, DeskState, LabelStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "feedback.db"


@pytest.fixture
def channel(path: Path) -> Iterator[Channel]:
    with LabelStore(path) as store:
        yield Channel(store)


def images(*numbers: int, round_: int = 1) -> list[dict[str, str]]:
    return [{"id": f"r{round_:04d}-i{number:04d}", "prompt": "1 hand"} for number in numbers]


def test_a_round_as_the_page_sees_it(channel: Channel) -> None:
    assert channel.state().to_dict() == DeskState().to_dict()
    channel.publish("run", body={"name": "hand", "rounds": 3})
    channel.publish("phase", 0, {"phase": "starting", "step": "loading", "done": 0, "total": 1})
    channel.publish("round", 1, {"total": 4, "best": []})
    channel.publish("chunk", 1, {"images": images(0, 1), "drawn": 2, "total": 4})
    channel.publish("suggestions", 1, {"images": {"r0001-i0000": {"verdict": "good", "score": 0.75}}})
    channel.publish("chunk", 1, {"images": images(2, 3), "drawn": 4, "total": 4})
    channel.publish("suggestions", 1, {"images": {"r0001-i0003": {"verdict": "bad", "score": 0.25}}})
    channel.publish("phase", 1, {"phase": "waiting", "step": "", "done": 0, "total": 0})
    state = channel.state()
    assert state.run == {"name": "hand", "rounds": 3}
    assert state.phase is not None
    assert (state.phase["phase"], state.phase["round"], state.last_event) == ("waiting", 1, 8)
    assert state.round == {
        "round": 1,
        "total": 4,
        "drawn": 4,
        "best": [],
        "images": images(0, 1, 2, 3),
        "suggestions": {
            "r0001-i0000": {"verdict": "good", "score": 0.75},
            "r0001-i0003": {"verdict": "bad", "score": 0.25},
        },
    }
    channel.publish("answer", 1, {"evaluators": ["ada"], "good": 1})
    channel.publish("learned", 1, {"stats": {"round": 1, "good": 1}})
    channel.publish("preview", 1, {"images": [{"id": "p0001-i0000", "prompt": "1 hand"}]})
    channel.publish("preview", 0, {"images": [{"id": "p0000-i0000", "prompt": "1 hand"}]})
    channel.publish("round", 2, {"total": 4, "best": images(1)})
    state = channel.state()
    assert state.learned == [{"round": 1, "good": 1}]
    assert state.answers == [{"round": 1, "evaluators": ["ada"], "good": 1}]
    assert [preview["round"] for preview in state.previews] == [0, 1]
    assert state.round is not None
    assert (state.round["round"], state.round["images"], state.round["best"]) == (2, [], images(1))
    json.dumps(state.to_dict())


def test_a_round_that_begins_again_shows_its_images_anew(channel: Channel) -> None:
    for _ in range(2):
        channel.publish("round", 1, {"total": 2, "best": []})
        channel.publish("chunk", 1, {"images": images(0, 1), "drawn": 2, "total": 2})
        channel.publish("chunk", 1, {"images": images(0, 1), "drawn": 2, "total": 2})  # told twice: once
    state = channel.state()
    assert state.round is not None
    assert (state.round["drawn"], state.round["images"]) == (2, images(0, 1))
    channel.publish("round", 1, {"total": 2, "best": []})
    state = channel.state()
    assert state.round is not None
    assert (state.round["drawn"], state.round["images"]) == (0, [])


def test_the_state_is_a_copy_and_the_desk_has_a_name_of_its_own(channel: Channel, tmp_path: Path) -> None:
    channel.publish("round", 1, {"total": 2, "best": []})
    state = channel.state()
    assert state.round is not None
    state.round["images"].append("mine")
    again = channel.state()
    assert again.round is not None
    assert again.round["images"] == []
    assert again.desk is not None
    with LabelStore(tmp_path / "other.db") as other:
        Channel(other).publish("run")
        assert Channel(other).state().desk != again.desk


_events = st.lists(
    st.tuples(
        st.sampled_from(["run", "round", "chunk", "suggestions", "phase", "learned", "preview", "answer", "command"]),
        st.integers(1, 3),
        st.integers(0, 3),
    ),
    max_size=30,
)


def _body(kind: str, round_: int, number: int) -> dict[str, Any]:
    bodies: dict[str, dict[str, Any]] = {
        "round": {"total": 4, "best": []},
        "chunk": {"images": images(number, round_=round_), "drawn": 1, "total": 4},
        "suggestions": {"images": {f"r{round_:04d}-i{number:04d}": {"verdict": "good", "score": 0.5}}},
        "learned": {"stats": {"round": round_, "good": number}},
        "preview": {"images": images(number)},
    }
    return bodies.get(kind, {"number": number})


@settings(max_examples=60, deadline=None)
@given(told=_events, cut=st.integers(0, 30))
def test_the_fold_does_not_depend_on_when_it_is_asked_for(told: list[tuple[Any, int, int]], cut: int) -> None:
    with LabelStore("sqlite://") as store:
        asked_often, asked_once = Channel(store), Channel(store)
        for number, (kind, round_, n) in enumerate(told):
            asked_often.publish(kind, round_, _body(kind, round_, n))
            if number == cut:
                asked_often.state()
        assert asked_often.state() == asked_once.state()


def test_events_and_commands_are_read_from_where_one_was(channel: Channel, path: Path) -> None:
    first = channel.publish("phase", 0, {"phase": "starting"})
    second = channel.publish("phase", 1, {"phase": "drawing"})
    assert [(event.id, event.kind, event.round) for event in channel.events(first)] == [(second, "phase", 1)]
    assert channel.events(second) == []
    assert json.loads(json.dumps(channel.events()[0].to_dict()))["body"] == {"phase": "starting"}
    pause = channel.command("pause", {}, "ada")
    more = channel.command("more-rounds", {"rounds": 5}, "ada")
    with LabelStore(path) as other:
        found = Channel(other).commands(pause)
    assert [(c.id, c.kind, c.body, c.evaluator) for c in found] == [(more, "more-rounds", {"rounds": 5}, "ada")]


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("explode", {}, "unknown command 'explode'; known: pause, resume"),
        ("pause", {"now": True}, "pause has an empty body"),
        ("more-rounds", {}, 'needs {"rounds"'),
        ("more-rounds", {"rounds": 0}, "from 1 to 1000"),
        ("more-rounds", {"rounds": 1001}, "from 1 to 1000"),
        ("more-rounds", {"rounds": True}, "from 1 to 1000"),
        ("more-rounds", {"rounds": "5"}, "from 1 to 1000"),
    ],
)
def test_commands_that_make_no_sense_are_refused(channel: Channel, kind: str, body: dict[str, Any], said: str) -> None:
    with pytest.raises(FeedbackError, match=said):
        channel.command(kind, body, "ada")
    assert channel.commands() == []


def test_several_threads_share_a_channel(channel: Channel) -> None:
    def send() -> None:
        for _ in range(10):
            channel.command("pause", {}, "ada")
            channel.state()

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = [command.id for command in channel.commands()]
    assert ids == sorted(set(ids))
    assert len(ids) == 40


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET body = '{}'",
        "DELETE FROM events",
        "INSERT OR REPLACE INTO events SELECT * FROM events",
        "UPDATE commands SET body = '{}'",
        "DELETE FROM commands",
        "INSERT OR REPLACE INTO commands SELECT * FROM commands",
    ],
)
def test_the_file_refuses_changes_from_any_program(channel: Channel, path: Path, statement: str) -> None:
    channel.publish("run", body={"name": "hand"})
    channel.command("stop", {}, "ada")
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()
    assert len(channel.events()) == len(channel.commands()) == 1
