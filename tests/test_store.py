"""The label store: what was acknowledged is on disk, in order, for ever; and errors say what happened."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from hero.errors import FeedbackError, RunError
from hero.feedback import SCHEMA_VERSION, LabellingProgress, LabelStore, Mark
from hero.types import Answer, Feedback, Verdict, image_id

IDS = [image_id(1, index) for index in range(6)]
ANSWER = Feedback({IDS[2]: "good", IDS[0]: "bad", IDS[1]: "good"}, best=IDS[2])

feedbacks = st.builds(
    Feedback,
    verdicts=st.dictionaries(st.sampled_from(IDS), st.sampled_from(Verdict)),
    best=st.lists(st.sampled_from(IDS), unique=True),
    scores=st.dictionaries(st.sampled_from(IDS), st.floats(allow_nan=False, allow_infinity=False)),
    pairs=st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(IDS))),
)


def in_order(feedback: Feedback | None) -> tuple[object, ...]:
    """Equal only for equal feedback in the same order (dicts compare equal in any order)."""
    assert feedback is not None
    return list(feedback.verdicts.items()), feedback.best, list(feedback.scores.items()), feedback.pairs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "feedback.db"


@pytest.fixture
def store(path: Path) -> Iterator[LabelStore]:
    with LabelStore(path) as opened:
        yield opened


@settings(max_examples=60, deadline=None)
@given(feedback=feedbacks)
def test_feedback_survives_the_round_trip_in_order(feedback: Feedback) -> None:
    with LabelStore("sqlite://") as store:
        store.record(3, feedback, "ada", 1.5)
        assert in_order(store.submission(3)) == in_order(feedback)
        assert store.count() == sum(map(len, (feedback.verdicts, feedback.best, feedback.scores, feedback.pairs)))


def test_an_answer_is_still_there_after_reopening(path: Path) -> None:
    with LabelStore(path) as store:
        store.record(1, ANSWER, "ada", 2.0)
    assert [p.name for p in path.parent.iterdir()] == ["feedback.db"], "closing leaves one file"
    with LabelStore(path) as store:
        assert in_order(store.submission(1, "ada")) == in_order(ANSWER)
        assert store.submitted_rounds() == (1,)


def test_labels_say_who_when_and_what(store: LabelStore) -> None:
    store.mark(1, "ada", Mark(IDS[0], "verdict", "good", suggested="bad", seconds=0.7))
    store.mark(2, "bob", Mark(IDS[1], "pair", "yes", other=IDS[2]))
    first, second = store.labels()
    assert (first.round, first.evaluator, first.image_id, first.kind) == (1, "ada", IDS[0], "verdict")
    assert (first.value, first.other, first.suggested, first.seconds) == ("good", None, "bad", 0.7)
    assert timedelta(0) <= datetime.now(UTC) - first.created_at < timedelta(minutes=1)
    assert (second.image_id, second.other, second.suggested, second.seconds) == (IDS[1], IDS[2], None, None)
    assert list(store.labels(round_=2)) == [second] == list(store.labels(evaluator="bob"))
    with pytest.raises(AttributeError):
        first.value = "bad"  # type: ignore[misc]


def test_labels_are_read_in_pages_without_loss(store: LabelStore) -> None:
    many = Feedback({image_id(1, index): "good" for index in range(2500)})
    store.record(1, many, "ada", 1.0)
    seen = []
    for label in store.labels():
        seen.append(label.image_id)
        if len(seen) == 10:
            store.record(2, ANSWER, "ada", 1.0)  # a slow reader does not lock out a writer
    assert seen == [*many.verdicts, *ANSWER.verdicts, IDS[2]]


def test_the_last_mark_wins_and_marks_can_be_withdrawn(store: LabelStore) -> None:
    store.mark(1, "ada", Mark(IDS[0], "verdict", "good"), Mark(IDS[0], "best", "yes"))
    store.mark(1, "ada", Mark(IDS[1], "verdict", "good"), Mark(IDS[2], "verdict", "bad"))
    store.mark(1, "ada", Mark(IDS[0], "best", None), Mark(IDS[1], "best", "yes"))
    store.mark(1, "ada", Mark(IDS[0], "verdict", "bad"), Mark(IDS[2], "verdict", None))
    store.mark(1, "ada", Mark(IDS[3], "pair", "yes", other=IDS[4]), Mark(IDS[3], "pair", None, other=IDS[4]))
    assert store.submission(1) is None
    store.submit(1, "ada", seconds=12.0)
    assert in_order(store.submission(1)) == in_order(Feedback({IDS[0]: "bad", IDS[1]: "good"}, best=IDS[1]))
    assert store.count() == 10


def test_a_recorded_answer_replaces_earlier_marks(store: LabelStore) -> None:
    store.mark(1, "ada", Mark(IDS[5], "verdict", "good"), Mark(IDS[5], "best", "yes"))
    store.mark(1, "ada", Mark(IDS[5], "score", "0.5"), Mark(IDS[5], "pair", "yes", other=IDS[4]))
    store.record(1, ANSWER, "ada", 1.0)
    assert in_order(store.submission(1)) == in_order(ANSWER)


def test_submitting_twice_or_marking_after_it_is_refused(store: LabelStore) -> None:
    store.record(1, ANSWER, "ada", 1.0)
    before = store.count()
    with pytest.raises(FeedbackError, match="'ada' has already submitted round 1"):
        store.record(1, Feedback({IDS[0]: "good"}), "ada", 1.0)
    with pytest.raises(FeedbackError, match="already submitted"):
        store.mark(1, "ada", Mark(IDS[0], "verdict", "bad"))
    with pytest.raises(FeedbackError, match="already submitted"):
        store.submit(1, "ada")
    assert store.count() == before
    assert in_order(store.submission(1)) == in_order(ANSWER)


def test_evaluators_are_kept_apart(store: LabelStore) -> None:
    other = Feedback({IDS[0]: "good"})
    store.record(4, ANSWER, "zoe", 1.0)
    store.record(4, other, "ada", 1.0)
    store.record(2, other, "ada", 1.0)
    assert in_order(store.submission(4)) == in_order(ANSWER), "without a name: whoever was first"
    assert in_order(store.submission(4, "ada")) == in_order(other)
    assert store.submission(4, "bob") is None
    assert store.submission(1) is None
    assert store.submitted_rounds() == (2, 4)


def test_an_empty_answer_is_an_answer(store: LabelStore) -> None:
    store.record(1, Feedback(), "ada", 1.0)
    assert store.submission(1) == Feedback()
    assert store.submitted_rounds() == (1,)


@pytest.mark.parametrize(
    ("kind", "value", "other"),
    [
        ("verdict", "great", None),
        ("score", "nan", None),
        ("score", "much", None),
        ("best", "no", None),
        ("pair", "yes", None),
        ("verdict", "good", IDS[1]),
        ("opinion", "good", None),
    ],
)
def test_marks_that_make_no_sense_are_refused(kind: str, value: str, other: str | None) -> None:
    with pytest.raises(FeedbackError, match=IDS[0]):
        Mark(IDS[0], kind, value, other)  # type: ignore[arg-type]


def test_a_score_that_is_not_finite_stores_nothing(store: LabelStore) -> None:
    with pytest.raises(FeedbackError, match="inf"):
        store.record(1, Feedback({IDS[0]: "good"}, scores={IDS[1]: float("inf")}), "ada", 1.0)
    assert store.count() == 0
    assert store.submission(1) is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE labels SET value = 'bad'",
        "DELETE FROM labels",
        "INSERT OR REPLACE INTO labels SELECT * FROM labels",
        "UPDATE submissions SET evaluator = 'eve'",
        "DELETE FROM submissions",
        "INSERT OR REPLACE INTO submissions (round, evaluator, created_at) VALUES (1, 'ada', '')",
        "UPDATE answers SET rule = 'unanimity'",
        "DELETE FROM answers",
        "INSERT OR REPLACE INTO answers (round, feedback, evaluators, rule, created_at) VALUES (1, '{}', '[]', '', '')",
    ],
)
def test_the_file_refuses_changes_from_any_program(store: LabelStore, path: Path, statement: str) -> None:
    store.record(1, ANSWER, "ada", 1.0)
    before = list(store.labels())
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
    connection.close()
    assert list(store.labels()) == before
    assert in_order(store.submission(1, "ada")) == in_order(ANSWER)


def test_the_file_is_written_durably(path: Path) -> None:
    pragmas = {}

    def read(connection: sa.Connection) -> None:
        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout"):
            pragmas[name] = connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()

    event.listen(sa.Engine, "begin", read)
    try:
        LabelStore(path, busy_seconds=7).close()
    finally:
        event.remove(sa.Engine, "begin", read)
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 7000}


def test_kill_right_after_record_keeps_every_row(path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from hero.feedback import LabelStore\n"
        "from hero.types import Feedback\n"
        "store = LabelStore(sys.argv[1])\n"
        "for round_ in (1, 2):\n"
        "    store.record(round_, Feedback({'b': 'good', 'a': 'bad'}, best='b'), 'ada', 1.0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert finished.returncode == -signal.SIGKILL
    with LabelStore(path) as store:
        assert store.submitted_rounds() == (1, 2)
        assert store.count() == 6
        assert in_order(store.submission(2)) == in_order(Feedback({"b": "good", "a": "bad"}, best="b"))


def test_kill_in_the_middle_of_record_keeps_nothing_of_it(path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "import sqlalchemy as sa\n"
        "from sqlalchemy import event\n"
        "from hero.feedback import LabelStore\n"
        "from hero.types import Feedback\n"
        "store = LabelStore(sys.argv[1])\n"
        "store.record(1, Feedback({'a': 'good'}), 'ada', 1.0)\n"
        "def kill(connection, cursor, statement, *rest):\n"
        "    if statement.startswith('INSERT INTO submissions'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "event.listen(sa.Engine, 'before_cursor_execute', kill)\n"
        "store.record(2, Feedback({'b': 'good'}), 'ada', 1.0)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert finished.returncode == -signal.SIGKILL
    with LabelStore(path) as store:
        assert [label.image_id for label in store.labels()] == ["a"]
        assert store.submitted_rounds() == (1,)


def test_a_locked_file_is_reported_and_nothing_is_lost(path: Path) -> None:
    with LabelStore(path, busy_seconds=0.05) as store:
        store.record(1, ANSWER, "ada", 1.0)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RunError, match=r"feedback\.db is locked by another program.*nothing was lost"):
            store.record(2, ANSWER, "ada", 1.0)
        assert in_order(store.submission(1)) == in_order(ANSWER), "reading goes on beside a writer"
        other.execute("ROLLBACK")
        other.close()
        store.record(2, ANSWER, "ada", 1.0)
        assert store.submitted_rounds() == (1, 2)


def test_a_full_disk_is_reported_and_nothing_is_lost(path: Path) -> None:
    def limit(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count = 16")

    large = Feedback({image_id(2, index): "good" for index in range(3000)})
    event.listen(sa.Engine, "connect", limit)
    try:
        with LabelStore(path) as store:
            store.record(1, ANSWER, "ada", 1.0)
            with pytest.raises(RunError, match=r"no space left for the label store.*nothing was lost"):
                store.record(2, large, "ada", 1.0)
            assert store.submitted_rounds() == (1,)
            assert store.count() == 4
    finally:
        event.remove(sa.Engine, "connect", limit)
    with LabelStore(path) as store:
        store.record(2, large, "ada", 1.0)
        assert in_order(store.submission(2)) == in_order(large)


def test_a_newer_file_is_refused_untouched(path: Path) -> None:
    with LabelStore(path) as store:
        store.record(1, ANSWER, "ada", 1.0)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE meta SET value = ?", (str(SCHEMA_VERSION + 1),))
    connection.commit()
    connection.close()
    copy = path.with_suffix(".copy")
    shutil.copy(path, copy)
    with pytest.raises(RunError, match=rf"schema version {SCHEMA_VERSION + 1}.*upgrade"):
        LabelStore(path)
    assert path.read_bytes() == copy.read_bytes()


def test_files_that_are_no_label_store_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("this is no database at all, " * 50)
    with pytest.raises(RunError, match=r"notes\.txt cannot be read \(file is not a database\)"):
        LabelStore(text)
    foreign = tmp_path / "foreign.db"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE labels (id INTEGER)")
    connection.close()
    with pytest.raises(RunError, match="not a label store"):
        LabelStore(foreign)
    with pytest.raises(RunError, match="cannot be read"):
        LabelStore(tmp_path / "missing" / "feedback.db")
    with pytest.raises(RunError, match="driver"):
        LabelStore("nonsense://somewhere/labels")


# ---------------------------------------------------------------------------------------------- several evaluators


def mark_and_submit_twice(store: LabelStore) -> None:
    with store.edit(1, "bob") as draft:
        draft.mark(Mark(IDS[0], "verdict", "good"))
        draft.submit()
        draft.submit()


def test_a_draft_reads_and_writes_in_one_go(store: LabelStore) -> None:
    store.mark(1, "ada", Mark(IDS[0], "verdict", "good"), Mark(IDS[0], "best", "yes"))
    with store.edit(1, "ada") as draft:
        assert draft.given == Feedback({IDS[0]: "good"}, best=IDS[0])
        draft.mark(*(Mark(i, "verdict", "bad") for i in IDS if i not in draft.given.verdicts))
        assert len(draft.given.verdicts) == 6
        draft.submit(seconds=3.0)
    assert store.submission(1, "ada") == store.given(1, "ada") == draft.given
    with pytest.raises(FeedbackError, match="already submitted"), store.edit(1, "ada"):
        pass
    with pytest.raises(FeedbackError, match="already"):
        mark_and_submit_twice(store)
    assert store.given(1, "bob") == Feedback()


def test_progress_and_submissions_are_told_by_evaluator(store: LabelStore) -> None:
    assert (store.progress(1), store.revision()) == ((), (0, 0, 0))
    store.mark(1, "zoe", Mark(IDS[0], "verdict", "good"), Mark(IDS[1], "verdict", "bad"))
    store.mark(1, "zoe", Mark(IDS[1], "verdict", None))
    store.record(1, ANSWER, "ada", 1.0)
    assert store.progress(1) == (LabellingProgress("ada", 3, True), LabellingProgress("zoe", 1, False))
    assert store.revision() == (7, 1, 0)
    store.submit(1, "zoe")
    assert list(store.submissions(1)) == list(store.submitters(1)) == ["ada", "zoe"]
    assert store.submissions(1)["zoe"] == Feedback({IDS[0]: "good"})
    assert (store.count(), store.count(1), store.count(2)) == (7, 7, 0)


def test_the_answer_to_a_round_is_one_and_stays(store: LabelStore) -> None:
    store.mark(1, "ada", Mark(IDS[0], "verdict", "good"))
    store.submit(1, "ada")
    assert store.answer(1) is None
    answer = Answer(Feedback({IDS[0]: "good"}), ("ada", "bob"), "lead:ada", (IDS[1],))
    store.conclude(1, answer)
    assert store.answer(1) == answer
    with pytest.raises(RunError, match="round 1 already has an answer"):
        store.conclude(1, answer)
    store.record(1, ANSWER, "cid", 1.0)  # too late: kept, but not what is learnt from
    assert store.answer(1) == answer
    store.record(2, ANSWER, "cid", 1.0)
    assert store.answer(2) == Answer.of(ANSWER, "cid")


@settings(max_examples=60, deadline=None)
@given(feedback=feedbacks)
def test_answers_survive_the_round_trip_in_order(feedback: Feedback) -> None:
    with LabelStore("sqlite://") as store:
        store.record(1, feedback, "ada", 1.0)
        assert in_order(store.answer(1)) == in_order(feedback)


# ---------------------------------------------------------------------------------------------- version 1


@pytest.fixture
def version_1(path: Path) -> Path:
    """A store as version 1 wrote it."""
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parent / "data" / "feedback-v1.sql").read_text())
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return path


def rows(path: Path, table: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    found = connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
    connection.close()
    return found


def test_a_store_of_version_1_is_upgraded_in_place(version_1: Path) -> None:
    before = rows(version_1, "labels"), rows(version_1, "submissions")
    for _ in range(2):  # once upgraded, there is nothing more to do
        with LabelStore(version_1) as store:
            first, second = store.answer(1), store.answer(2)
            assert first == Answer.of(Feedback(dict.fromkeys(("r0001-i0002", "r0001-i0001"), "good")
                | dict.fromkeys(("r0001-i0000", "r0001-i0003"), "bad"), best="r0001-i0002"), "oracle")  # fmt: skip
            assert second == Answer.of(Feedback({"r0002-i0000": "bad", "r0002-i0003": "good"}, "r0002-i0003"), "zoe")
            assert in_order(first) == in_order(store.submission(1))
            assert store.answer(3) is None
            assert store.given(3, "ada") == Feedback({"r0003-i0000": "good"})
    assert (rows(version_1, "labels"), rows(version_1, "submissions")) == before
    assert [row[-1] for row in rows(version_1, "answers")] == [row[-1] for row in before[1][:2]]
    with LabelStore(version_1) as store:
        store.mark(3, "ada", Mark("r0003-i0001", "verdict", "bad"))
        assert [label.id for label in store.labels()][-1] == 18
    assert schema_of(version_1) == schema_of_a_new_store(version_1.with_name("new.db"))


def schema_of(path: Path) -> set[tuple[str, str]]:
    connection = sqlite3.connect(path)
    found = set(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall())
    connection.close()
    return found


def schema_of_a_new_store(path: Path) -> set[tuple[str, str]]:
    LabelStore(path).close()
    return schema_of(path)


def as_version_2(path: Path) -> None:
    """Makes a store what version 2 wrote: it had no reopenings, and nothing else was different."""
    connection = sqlite3.connect(path)
    connection.executescript("DROP TABLE reopenings; UPDATE meta SET value = '2' WHERE key = 'schema_version'")
    connection.close()


def test_a_store_of_version_2_is_upgraded_in_place_and_read_without_it(path: Path) -> None:
    with LabelStore(path) as store:
        store.record(1, ANSWER, "ada", 1.0)
    new = schema_of(path)
    as_version_2(path)
    old, contents = schema_of(path), path.read_bytes()
    with LabelStore(path, read_only=True) as store:
        assert in_order(store.submission(1)) == in_order(ANSWER)
        assert store.submitters(1) == ("ada",)
    assert (schema_of(path), path.read_bytes()) == (old, contents)
    with LabelStore(path) as store:
        assert in_order(store.answer(1)) == in_order(ANSWER)
        store.mark(2, "ada", Mark(IDS[0], "verdict", "good"))
        store.submit(2, "ada")
        store.reopen(2, "ada")
        assert store.submitters(2) == ()
    assert schema_of(path) == new


def test_what_was_taken_back_is_open_in_a_copy_too(store: LabelStore, tmp_path: Path) -> None:
    for name in ("ada", "zoe"):
        store.mark(1, name, Mark(IDS[0], "verdict", "good"))
        store.submit(1, name)
    store.reopen(1, "ada")
    with LabelStore(tmp_path / "copy.db") as copy:
        store.copy_rounds(copy, 1)
        assert copy.submitters(1) == store.submitters(1) == ("zoe",)


def test_a_submission_is_taken_back_and_made_again(store: LabelStore) -> None:
    for name in ("ada", "zoe"):
        store.mark(1, name, Mark(IDS[0], "verdict", "good"))
        store.submit(1, name)
    store.reopen(1, "ada")
    assert (store.submitters(1), list(store.submissions(1))) == (("zoe",), ["zoe"])
    with pytest.raises(FeedbackError, match="'ada' has not submitted round 1"):
        store.reopen(1, "ada")
    before = store.own(1, "ada").revision
    store.mark(1, "ada", Mark(IDS[0], "verdict", "bad"))
    store.submit(1, "ada", 2.0)
    with pytest.raises(FeedbackError, match="already submitted"):
        store.submit(1, "ada")
    assert store.submitters(1) == ("ada", "zoe"), "in the order in which they did so first"
    assert store.own(1, "ada").revision > before
    assert store.submissions(1)["ada"].bad == (IDS[0],)
    store.conclude(1, Answer.of(Feedback({IDS[0]: "bad"}), "ada"))
    with pytest.raises(FeedbackError, match="learnt from already"):
        store.reopen(1, "ada")


def test_a_kill_in_the_middle_of_the_upgrade_leaves_version_1(version_1: Path) -> None:
    before = schema_of(version_1)
    program = (
        "import os, signal, sys\n"
        "import sqlalchemy as sa\n"
        "from sqlalchemy import event\n"
        "from hero.feedback import LabelStore\n"
        "def kill(connection, cursor, statement, *rest):\n"
        "    if statement.startswith('UPDATE meta'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "event.listen(sa.Engine, 'before_cursor_execute', kill)\n"
        "LabelStore(sys.argv[1])\n"
    )
    finished = subprocess.run([sys.executable, "-c", program, str(version_1)], check=False)
    assert finished.returncode == -signal.SIGKILL
    assert schema_of(version_1) == before
    with LabelStore(version_1) as store:
        assert store.answer(1) is not None


def _record_one(path: Path, name: str) -> None:
    with LabelStore(path) as store:
        store.record(1, ANSWER, name, 1.0)


def test_several_programs_may_open_and_write_at_once(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    names = [f"evaluator-{index}" for index in range(4)]
    workers = [context.Process(target=_record_one, args=(path, name)) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with LabelStore(path) as store:
        assert all(in_order(store.submission(1, name)) == in_order(ANSWER) for name in names)


def test_importing_the_store_loads_no_torch() -> None:
    program = "import sys, hero.feedback, hero.feedback.store; print('torch' in sys.modules)"
    finished = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    assert finished.stdout.strip() == "False"
