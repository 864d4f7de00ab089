"""A real PostgreSQL server behind the label store: store, channel and API, with many evaluators at once."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from desks import Run, assert_error, bad, best, good, mark, opened, rows, submit, wait_until
from hero.bench.clicks import begin_round, click, serving
from hero.errors import FeedbackError, RunError
from hero.feedback.channel import Channel
from hero.feedback.store import LabelStore, Mark
from hero.types import Answer, Feedback

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
pytest.importorskip("psycopg", reason="psycopg is not installed: pip install hero-diffusion[postgres]")


def programs() -> Path:
    """Where initdb and postgres are."""
    on_path = [Path(folder) for folder in os.get_exec_path()]
    for folder in [*reversed(FOLDERS), *on_path]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("no PostgreSQL server here: install Debian's package postgresql, or put initdb and postgres on PATH")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server on a new data folder; it runs as `nobody` where the tests run as root, which it refuses to be."""
    bin_ = programs()
    # Not below pytest's own folder, which lets no other user through.
    folder = Path(tempfile.mkdtemp(prefix="hero-postgres-"))
    user: dict[str, int | list[int]] = {}
    if os.getuid() == 0:
        other = pwd.getpwnam("nobody")
        user = {"user": other.pw_uid, "group": other.pw_gid, "extra_groups": []}
        os.chown(folder, other.pw_uid, other.pw_gid)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    initialise = [bin_ / "initdb", "-D", folder / "data", "-U", "hero", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(initialise, check=True, capture_output=True, cwd="/", **user)  # type: ignore[call-overload]
    command = [bin_ / "postgres", "-D", folder / "data", "-p", str(port), "-h", "127.0.0.1", "-k", folder]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **user)  # type: ignore[call-overload]
    try:
        engine = sa.create_engine(f"postgresql+psycopg://hero@127.0.0.1:{port}/postgres")
        wait_until(lambda: process.poll() is not None or _answers(engine), seconds=60)
        engine.dispose()
        assert process.poll() is None, (folder / "log").read_text()
        yield f"postgresql://hero@127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(folder)


def _answers(engine: sa.Engine) -> bool:
    try:
        engine.connect().close()
    except DBAPIError:
        return False
    return True


@pytest.fixture
def url(server: str) -> Iterator[str]:
    """URL of an empty database."""
    admin = sa.create_engine(
        f"{server.replace('postgresql:', 'postgresql+psycopg:')}/postgres", isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE labels"))
    yield f"{server}/labels"
    with admin.connect() as connection:
        connection.execute(sa.text("DROP DATABASE labels WITH (FORCE)"))
    admin.dispose()


def test_the_store_keeps_and_gives_back_what_it_was_told(url: str) -> None:
    with LabelStore(url) as store:
        answer = Feedback({"r0001-i0000": "good", "r0001-i0001": "bad"}, best="r0001-i0000")
        store.record(1, answer, "Zoë", 2.0)
        with pytest.raises(FeedbackError, match="already submitted"):
            store.mark(1, "Zoë", Mark("r0001-i0000", "verdict", "bad"))
        store.mark(2, "ada", Mark("r0002-i0000", "verdict", "good"))
        store.submit(2, "ada", 1.5)
        store.conclude(2, Answer.of(Feedback({"r0002-i0000": "good"}), "ada"))
    with LabelStore(url) as store:
        assert store.submission(1) == answer
        assert store.submitted_rounds() == (1, 2)
        concluded = store.answer(2)
        assert concluded is not None
        assert concluded.evaluators == ("ada",)
        assert [label.evaluator for label in store.labels(1, after=1)] == ["Zoë", "Zoë"]


def test_labels_cannot_be_changed_or_deleted(url: str) -> None:
    with LabelStore(url) as store:
        store.mark(1, "me", Mark("r0001-i0000", "verdict", "good"))
        for statement in ("UPDATE labels SET value = 'bad'", "DELETE FROM labels", "TRUNCATE labels"):
            engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
            with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
                connection.execute(sa.text(statement))
            engine.dispose()
        assert store.given(1, "me").good == ("r0001-i0000",)


def test_the_channel_carries_events_and_commands(url: str) -> None:
    with LabelStore(url) as here, LabelStore(url) as there:
        run, page = Channel(here), Channel(there)
        first = run.publish("round", 1, {"total": 2, "best": []})
        assert [event.body for event in page.events(first - 1)] == [{"total": 2, "best": []}]
        assert page.state().round is not None
        page.command("more-rounds", {"rounds": 2}, "ada")
        assert [(command.kind, command.evaluator) for command in run.commands()] == [("more-rounds", "ada")]


def test_the_api_labels_a_round(url: str, tmp_path: Path) -> None:
    run = Run(tmp_path, url)
    ids = run.show(1)
    with opened(tmp_path, url) as client, opened(tmp_path, url) as other:
        assert mark(client, 1, best(ids[0]), good(ids[1])).json()["stored"] == 3
        assert mark(other, 1, best(ids[1])).json()["mine"]["best"] == [ids[1]]
        assert_error(mark(client, 1, bad("r0001-i0077")), 422, "unknown-image")
        assert submit(client, 1).json() == {"submitted": True, "good": 2, "bad": 4, "unsure": 0, "best": [ids[1]]}
        assert_error(submit(other, 1), 409, "already-submitted")
        assert other.get("/api/state").json()["evaluators"] == [{"name": "me", "marked": 6, "submitted": True}]
        assert client.post("/api/commands", json={"kind": "stop", "body": {}, "evaluator": "me"}).json() == {"id": 1}
    assert len(rows(run.store)) == 3 + 2 + 4 + 4  # four that nobody marked, each with a mark that says so
    run.close()


def test_ten_evaluators_at_two_servers_lose_nothing(url: str, tmp_path: Path) -> None:
    names = [f"evaluator-{index}" for index in range(10)]
    with LabelStore(url) as store:
        ids = begin_round(store)
        with serving(tmp_path, "--store", url) as one, serving(tmp_path, "--store", url) as two:

            async def both() -> list:  # type: ignore[type-arg]
                halves = [(one, names[:5]), (two, names[5:])]
                return await asyncio.gather(*(click(where, half, ids, clicks=15) for where, half in halves))

            first, second = asyncio.run(both())
        assert first.refused + second.refused == []
        acknowledged = {**first.acknowledged, **second.acknowledged}
        kept = {(name, image): verdict for name in names for image, verdict in store.given(1, name).verdicts.items()}
        assert {key: kept[key] for key in acknowledged} == acknowledged


def test_a_server_that_is_away_is_told_in_words(tmp_path: Path) -> None:
    programs()
    with pytest.raises(RunError, match=r"(?s)cannot be read .*nothing was lost") as caught:
        LabelStore("postgresql://hero:secret@127.0.0.1:9/labels")
    assert "secret" not in str(caught.value)


def test_a_store_that_is_only_read_is_neither_made_nor_written(url: str) -> None:
    with pytest.raises(RunError, match="not a label store yet"):
        LabelStore(url, read_only=True)
    with LabelStore(url) as store:
        store.record(1, Feedback({"r0001-i0000": "good"}), "ann", 1.0)
    with LabelStore(url, read_only=True) as store:
        assert store.answer(1) is not None
        with pytest.raises(RunError, match="opened read-only"):
            store.mark(2, "ann", Mark("r0002-i0000", "verdict", "good"))
        with pytest.raises(RunError, match="read-only"), store.database.transaction(write=False) as connection:
            connection.exec_driver_sql("DELETE FROM meta")
