"""A new run that is as another one was after an earlier round, to go another way from there."""

from __future__ import annotations

import shutil
from pathlib import Path

from hero.errors import RunError
from hero.feedback import schema
from hero.feedback.store import LabelStore
from hero.run.directory import CUT_FILE, STORE_FILE
from hero.run.finished import FinishedRun

__all__ = ["copy_up_to"]

_COPIED = (schema.labels, schema.submissions, schema.answers, schema.events)
_PASSING = ("phase", "command")
"""Kinds of event that were about the other run's process."""


def copy_up_to(source: FinishedRun, round_: int, target: Path) -> None:
    """Makes `target` a run that has learnt from the first `round_` rounds of `source`, and from nothing since.

    Its next round is drawn by the model as it was then. Labels and images of later rounds stay with `source` alone.

    Args:
        target: does not exist yet; it is there whole, or not at all.

    Raises:
        RunError: that state is no longer on disk, the labels are in a store that `source` shares, or the copy cannot be
            written.
    """
    name = f"{round_:04d}-told"
    if source.config.evaluator.store is not None:
        raise RunError(
            f"the labels of {source.name} are in a store of their own; copy that first, and set evaluator.store"
        )
    if not (source.path / "checkpoints" / name / "state.json").is_file():
        raise RunError(
            f"{source.name} no longer has what it was after round {round_}; a run keeps its newest two rounds"
        )
    beside = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)
        (beside / "checkpoints").mkdir(parents=True)
        shutil.copytree(source.path / "checkpoints" / name, beside / "checkpoints" / name)
        for number in range(round_ + 1):
            images = source.path / "rounds" / f"{number:04d}"
            if images.is_dir():
                shutil.copytree(images, beside / "rounds" / images.name)
        for file in ("config.toml", CUT_FILE):
            if (source.path / file).is_file():
                shutil.copyfile(source.path / file, beside / file)
        _copy_labels(source, round_, beside / STORE_FILE)
        beside.rename(target)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise RunError(f"cannot copy {source.name} to {target.name}: {error}") from error


def _copy_labels(source: FinishedRun, round_: int, target: Path) -> None:
    """Rows of rounds up to `round_`, in their order and with their times."""
    store = source.label_store()
    if store is None:
        return
    with store, LabelStore(target) as copy:
        for table in _COPIED:
            query = table.select().where(table.c.round <= round_).order_by(table.c.id)
            with store.database.transaction(write=False) as connection:
                rows = [{k: v for k, v in row._mapping.items() if k != "id"} for row in connection.execute(query)]
            if table is schema.events:
                rows = [row for row in rows if row["kind"] not in _PASSING]
            if rows:
                with copy.database.transaction(write=True) as connection:
                    connection.execute(table.insert(), rows)
