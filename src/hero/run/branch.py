"""A new run that goes on from an earlier round of another one; the other one stays as it is. No torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from hero.errors import RunError
from hero.feedback.store import LabelStore
from hero.run.directory import CUT_FILE, STORE_FILE, RunDirectory
from hero.run.finished import FinishedRun

__all__ = ["branch"]


def branch(run: str | Path, round_: int, out: str | Path) -> RunDirectory:
    """Makes the run `out` from what `run` had learnt after `round_`, with its images and labels up to then.

    It has a label store of its own, also where that of `run` is shared. `hero.Tuner.resume` goes on with it.

    Raises:
        RunError: there is no run, that round is not kept, or `out` holds something or cannot be written; then it is
            left as it was.
    """
    source = FinishedRun(run, round_=round_)
    labels = source.label_store()
    evaluator = source.config.evaluator.model_copy(update={"store": None})
    existed = Path(out).is_dir()
    made = RunDirectory.create(out, source.config.model_copy(update={"evaluator": evaluator}))
    try:
        if labels is not None:
            with labels, LabelStore(made.path / STORE_FILE) as own:
                labels.copy_rounds(own, round_)
        for kept in (number for number in source.kept_rounds if number <= round_):
            name = f"{kept:04d}-told"
            shutil.copytree(source.path / "checkpoints" / name, made.path / "checkpoints" / name)
        for folder in sorted((source.path / "rounds").glob("[0-9]*")):
            if int(folder.name) <= round_:
                shutil.copytree(folder, made.path / "rounds" / folder.name)
        if (source.path / CUT_FILE).is_file():
            shutil.copyfile(source.path / CUT_FILE, made.path / CUT_FILE)
    except OSError as error:
        made.unlock()
        for left in made.path.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if not existed:
            made.path.rmdir()
        raise RunError(f"cannot write {out}: {error.strerror or error}; choose another --out") from error
    made.unlock()
    return made
