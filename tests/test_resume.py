"""Runs that are killed, damaged or short of disk go on as if nothing had happened; or say why they cannot.

Run as a script, `test_resume.py CONFIG OUT`, this file starts a run per entry of `KILLED_AT` and kills it there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file

from hero.config import Config, load_toml, validate
from hero.errors import ConfigError, HeroError, ModelError, RunError
from hero.feedback import LabelStore
from hero.policies import load_policy
from hero.run import RunDirectory
from hero.run.fixed import FIXED
from hero.run.state import Learner
from hero.tuner import Tuner
from hero.types import Feedback, ImageBatch, RoundStats
from hero.update.gradient import GradientSteps

ROUNDS = 3

KILLED_AT: dict[str, tuple[Any, str, int]] = {
    "before the first checkpoint": (Learner, "save", 1),
    "during ask": (RunDirectory, "write_images", 4),
    "between ask and tell": (LabelStore, "record", 2),
    "labels stored, nothing learnt": (Tuner, "_learn_round", 2),
    "in the middle of the update": (GradientSteps, "_optimizer_step", 4),
    "in the middle of a checkpoint": (safetensors.torch, "save_file", 15),
    "checkpoint written, nothing published": (Learner, "publish", 2),
    "in the middle of publishing": (RunDirectory, "write_folder", 2),
}
"""Where → (owner, function, which call of it never begins). Two micro-batches and two optimizer steps a round;
checkpoints of five files (told) and one (asked)."""


def by_brightness(batch: ImageBatch) -> Feedback:
    """The brighter half is good; the best is the brightest ever."""
    light = {i: float(np.asarray(image).mean()) for i, image, _ in batch}
    ranked = sorted(batch.ids, key=lambda i: light[i], reverse=True)
    kept = [b.id for b in batch.best if float(np.asarray(b.image).mean()) >= light[ranked[0]]]
    return Feedback.from_good(batch, ranked[: len(ranked) // 2], kept or ranked[0])


def kill_at(owner: Any, name: str, call: int) -> None:
    """Has this process kill itself when `owner.name` is called for the `call`-th time."""
    original, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(owner, name, counted)


def start_and_kill(config: Path, out: Path, points: Mapping[str, tuple[Any, str, int]]) -> None:
    """Starts a run of `config` in `out` for each of `points`, and kills it there."""
    torch.set_num_threads(1)
    load_policy(validate(load_toml(config)))  # its imports take long: once, not in each child
    for where, point in points.items():
        child = os.fork()
        if child == 0:
            kill_at(*point)
            Tuner(validate(load_toml(config)), out / where).run(by_brightness)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, where


def killed_runs(config: Config, folder: Path, script: str) -> Path:
    """Has `script` start runs of `config` in `folder` and kill them, with another hash seed than this process has."""
    (folder / "config.toml").write_text(config.to_toml())
    seed = "1" if os.environ.get("PYTHONHASHSEED") == "0" else "0"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, str(folder / "config.toml"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def snapshot(run: Path) -> dict[str, Any]:
    """All that a run leaves, wall-clock times aside."""
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    with LabelStore(run / "feedback.db") as store:
        labels = [{**vars(label), "created_at": None, "seconds": None} for label in store.labels()]
        rounds = store.submitted_rounds()
    newest = run / "checkpoints" / f"{len(metrics):04d}-told"
    return {
        "metrics": [{k: v for k, v in line.items() if k not in RoundStats.WALL_CLOCK} for line in metrics],
        "labels": labels,
        "submitted": rounds,
        "lora": (run / "lora" / "pytorch_lora_weights.safetensors").read_bytes(),
        "noise": noise.read_bytes() if (noise := run / "refined_noise.safetensors").exists() else None,
        "images": {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.glob("rounds/*/images/*.png"))},
        "state": {
            f"{file.stem}.{key}": value.numpy().tobytes()
            for file in sorted(newest.glob("*.safetensors"))
            for key, value in load_file(file).items()
        },
    }


@pytest.fixture(scope="module")
def config(tiny_config: Callable[..., Config]) -> Config:
    return tiny_config(
        rounds=ROUNDS,
        sampling={"num_steps": 3, "images_per_round": 4, "micro_batch": 2},
        lora={"layers": ("attention",)},
        update={"micro_batch": 4},
    )


@pytest.fixture(scope="module")
def uninterrupted(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    with Tuner(config, run) as tuner:
        tuner.run(by_brightness)
    return run


@pytest.fixture(scope="module")
def killed(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs, each killed at one of `KILLED_AT`."""
    return killed_runs(config, tmp_path_factory.mktemp("killed"), __file__)


@pytest.fixture(scope="module")
def original_waiting(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("waiting") / "run"
    with Tuner(config, run) as tuner:
        for _ in range(2):
            tuner.tell(by_brightness(tuner.ask()), evaluator="by_brightness")
        tuner.ask()
    return run


@pytest.fixture
def waiting(original_waiting: Path, tmp_path: Path) -> Path:
    """A run that waits for the answer to its third round."""
    return Path(shutil.copytree(original_waiting, tmp_path / "run"))


def finish(run: Path, settings: dict[str, Any] | None = None) -> None:
    with Tuner.resume(run, settings) as tuner:
        assert [stats.round for stats in tuner.run(by_brightness)] == list(range(1, ROUNDS + 1))


def assert_same(run: Path, other: Path) -> None:
    found, expected = snapshot(run), snapshot(other)
    for key, value in expected.items():
        assert found[key] == value, key


# ---------------------------------------------------------------------------------------------- killed


@pytest.mark.learns
@pytest.mark.parametrize("where", KILLED_AT)
def test_a_killed_run_ends_as_if_it_had_not_been(where: str, killed: Path, uninterrupted: Path) -> None:
    finish(killed / where)
    assert_same(killed / where, uninterrupted)


def test_the_uninterrupted_run_did_learn(uninterrupted: Path) -> None:
    found = snapshot(uninterrupted)
    assert found["submitted"] == (1, 2, 3)
    assert [line["steps"] for line in found["metrics"]] == [2, 2, 2]
    assert [line["labels"] for line in found["metrics"]] == [4, 8, 12]
    assert all(line["figures"]["first_ratio_deviation"] <= 1e-6 for line in found["metrics"])
    assert len(found["images"]) == 12


def test_a_finished_run_says_so(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    with Tuner.resume(run) as tuner:
        assert tuner.done
        assert len(tuner.run(by_brightness)) == ROUNDS
        with pytest.raises(RunError, match="is finished after 3 rounds"):
            tuner.ask()
        with pytest.raises(RunError, match="nothing to answer"):
            tuner.tell(Feedback())
    assert_same(run, uninterrupted)


# ---------------------------------------------------------------------------------------------- damaged


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "lora.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "memory.safetensors").unlink()


def garble(checkpoint: Path) -> None:
    (checkpoint / "state.json").write_text("{")


@pytest.mark.parametrize("damage", [truncate, lose_a_file, garble])
def test_an_unreadable_checkpoint_falls_back_to_an_older_one(
    damage: Callable[[Path], None], waiting: Path, uninterrupted: Path
) -> None:
    damage(waiting / "checkpoints" / "0002-told")
    finish(waiting)  # what was learnt in round 2 is learnt again from its stored labels
    assert_same(waiting, uninterrupted)


def test_an_answer_stored_behind_a_damaged_checkpoint_is_learnt_too(waiting: Path, uninterrupted: Path) -> None:
    with Tuner.resume(waiting) as tuner:
        feedback = by_brightness(tuner.ask())
        tuner.store.record(3, feedback, "by_brightness", 1.0)
    garble(waiting / "checkpoints" / "0002-told")
    with Tuner.resume(waiting) as tuner:
        assert tuner.done
    assert_same(waiting, uninterrupted)


def test_no_readable_checkpoint_is_an_error_that_names_one(waiting: Path) -> None:
    for checkpoint in (waiting / "checkpoints").glob("*-told"):
        garble(checkpoint)
    with pytest.raises(RunError, match=r"no checkpoint of .* can be read; .*0002-told"):
        Tuner.resume(waiting)
    shutil.rmtree(waiting / "checkpoints")
    with pytest.raises(RunError, match="holds labels but no checkpoint"):
        Tuner.resume(waiting)


def test_a_checkpoint_of_a_newer_version_is_refused(waiting: Path) -> None:
    state = waiting / "checkpoints" / "0002-told" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "format": 99}))
    with pytest.raises(RunError, match="newer version of hero"):
        Tuner.resume(waiting)


@pytest.mark.parametrize(
    "lost", ["rounds/0003/images/r0003-i0003.png", "checkpoints/0003-asked/trajectory.safetensors"]
)
def test_a_batch_that_is_damaged_is_drawn_again_the_same(lost: str, waiting: Path, uninterrupted: Path) -> None:
    (waiting / lost).write_bytes(b"")
    finish(waiting)
    assert_same(waiting, uninterrupted)


# ---------------------------------------------------------------------------------------------- the disk is full


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Within it the system refuses to write files beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_leaves_the_run_as_it_was(tmp_path: Path, tiny_config: Any) -> None:
    config = tiny_config(rounds=2, lora={"rank": 8, "layers": ("attention", "feed-forward", "resnet")})
    run, twin = tmp_path / "run", tmp_path / "twin"
    with Tuner(config, run) as tuner:
        batch = tuner.ask()
        before = tuner.policy.state_dict()
        with largest_file(300_000), pytest.raises(RunError, match="what was there before is intact"):
            tuner.tell(by_brightness(batch), evaluator="by_brightness")
        assert tuner.history == []
        assert tuner.ask().ids == batch.ids
        assert all(torch.equal(value, before[key]) for key, value in tuner.policy.state_dict().items())
        with LabelStore(run / "feedback.db") as store:
            assert store.submission(1) is not None
    with Tuner.resume(run) as tuner:
        assert len(tuner.history) == 1  # learnt from the stored labels
        tuner.run(by_brightness)
    with Tuner(config, twin) as tuner:
        tuner.run(by_brightness)
    assert_same(run, twin)


@pytest.mark.parametrize("call", [1, 6, 10])
def test_a_full_disk_at_any_renaming_is_said_and_survived(
    call: int, waiting: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, calls = os.replace, 0

    def full(source: Any, target: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    (waiting / "checkpoints" / "0003-asked" / "state.json").unlink()  # so that the third round is drawn, too
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(RunError, match=r"the disk is full.*free some space"):
            finish(waiting)
    finish(waiting)
    assert_same(waiting, uninterrupted)


# ---------------------------------------------------------------------------------------------- refused


def test_a_folder_that_holds_something_is_not_taken(waiting: Path, config: Config, tmp_path: Path) -> None:
    before = snapshot_of_files(waiting)
    with pytest.raises(RunError, match="already holds a run; continue it with `hero resume"):
        Tuner(config, waiting)
    assert snapshot_of_files(waiting) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear to me")
    with pytest.raises(RunError, match="not an empty folder"):
        Tuner(config, tmp_path / "mine")
    with pytest.raises(RunError, match="not an empty folder"):
        Tuner(config, tmp_path / "mine" / "thesis.txt")
    with pytest.raises(RunError, match="there is no run in"):
        Tuner.resume(tmp_path / "mine")


def snapshot_of_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_model_that_cannot_be_loaded_leaves_no_folder(tmp_path: Path, tiny_config: Any) -> None:
    with pytest.raises(ModelError):
        Tuner(tiny_config(path=tmp_path / "none"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_best_image_whose_round_was_deleted_is_left_out(tmp_path: Path, tiny_config: Any) -> None:
    with Tuner(tiny_config(rounds=2), tmp_path / "run") as tuner:
        batch = tuner.ask()
        tuner.tell(Feedback.from_good(batch, batch.ids[::2], batch.ids[2]))
        assert len(tuner.best) == 1
    shutil.rmtree(tmp_path / "run" / "rounds" / "0001")
    with Tuner.resume(tmp_path / "run") as tuner:
        assert tuner.best == ()
        batch = tuner.ask()
        assert batch.best == ()
        tuner.tell(Feedback.from_good(batch, batch.ids[::2], batch.ids[2]))
        assert tuner.done


def test_files_are_flushed_as_windows_allows_it(
    tmp_path: Path, tiny_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens no folder, and flushes no handle that may only read."""
    open_, sync, flushed = os.open, os.fsync, []

    def windows_open(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if Path(path).is_dir() and Path(path).is_relative_to(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_(path, flags, *arguments, **named)

    def windows_fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed.append(descriptor)
        sync(descriptor)

    directory = RunDirectory.create(tmp_path / "run", tiny_config())
    monkeypatch.setattr(os, "open", windows_open)
    monkeypatch.setattr(os, "fsync", windows_fsync)
    directory.write_file("a.txt", lambda path: path.write_text("a"))
    directory.write_folder("folder", lambda path: [path.mkdir(), (path / "b.txt").write_text("b")])
    directory.save_checkpoint(1, "told", {"history": []}, {})
    assert len(flushed) >= 3
    assert directory.load_checkpoint("told") is not None


def test_two_processes_cannot_train_one_run(waiting: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        held = RunDirectory.open(waiting)
        held.lock()
        os.write(write, b"locked")
        signal.pause()
    try:
        assert os.read(read, 6) == b"locked"
        with pytest.raises(RunError, match="another process is training"):
            Tuner.resume(waiting)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read)
        os.close(write)
    with Tuner.resume(waiting) as tuner:
        assert tuner.round == 3
        with pytest.raises(RunError, match="another process is training"):
            Tuner.resume(waiting)
    Tuner.resume(waiting).close()


# ---------------------------------------------------------------------------------------------- other settings


@pytest.mark.parametrize("settings", [{"reward": {"similarity": {"width": 32}}}, {"sampling": {"width": 64}}])
def test_settings_that_do_not_fit_are_refused_and_harm_nothing(
    settings: dict[str, Any], waiting: Path, uninterrupted: Path
) -> None:
    before = snapshot_of_files(waiting)
    with pytest.raises(HeroError, match="fit"):
        Tuner.resume(waiting, settings)
    after = snapshot_of_files(waiting)
    assert after["config.toml"] == before["config.toml"]
    finish(waiting)
    assert_same(waiting, uninterrupted)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lora": {"alpha": 4.0}}, r"lora.alpha cannot change .*\(it is 2.0\).*would be scaled by the new value"),
        ({"lora": {"rank": 3}}, "lora.rank cannot change .*learnt under it"),
        ({"lora": {"layers": ["attention", "resnet"]}}, "lora.layers cannot change"),
        ({"task": {"prompts": ["a tree"]}}, "task.prompts cannot change .*remembered by the prompt's place"),
        ({"task": {"prompts": ["1 hand", "a tree"]}}, "task.prompts cannot change"),
        ({"seed": 7}, "seed cannot change .*features"),
        ({"method": "ddpo"}, "method cannot change .*recipe"),
        ({"model": {"path": "tinyworld"}}, "model.path cannot change .*belongs to that model"),
        ({"model": {"revision": "main"}}, "model.revision cannot change"),
        ({"evaluator": {"store": "sqlite:///other.db"}}, "evaluator.store cannot change .*labels"),
    ],
)
def test_what_is_fixed_cannot_change_in_a_resumed_run(settings: dict[str, Any], said: str, waiting: Path) -> None:
    before = snapshot_of_files(waiting)
    with pytest.raises(ConfigError, match=said):
        Tuner.resume(waiting, settings)
    assert snapshot_of_files(waiting) == before


def test_every_setting_that_is_fixed_exists_and_says_why(config: Config) -> None:
    for key, reason in FIXED.items():
        attrgetter(key)(config)
        assert reason


def test_a_run_may_go_on_with_other_settings(waiting: Path) -> None:
    with Tuner.resume(waiting, {"rounds": 4, "update": {"learning_rate": 1e-5}}) as tuner:
        assert len(tuner.run(by_brightness)) == 4
    kept = RunDirectory.open(waiting).config
    assert (kept.rounds, kept.update.learning_rate) == (4, 1e-5)


def test_a_batch_is_never_learnt_from_under_another_sampler(waiting: Path) -> None:
    sampler = {"sampling": {"guidance_scale": 4.0}}
    with Tuner.resume(waiting) as tuner:
        batch = tuner.ask()
    with Tuner.resume(waiting, sampler) as tuner:  # shown but not answered: drawn anew
        again = tuner.ask()
        assert again.ids == batch.ids
        assert again.images[0].tobytes() != batch.images[0].tobytes()
        stats = tuner.tell(by_brightness(again))
        assert "first_ratio_deviation" in stats.figures
        assert stats.figures["first_ratio_deviation"] <= 1e-6


def test_a_batch_that_is_answered_is_learnt_from_before_its_sampler_changes(waiting: Path) -> None:
    with Tuner.resume(waiting) as tuner:
        tuner.store.record(3, by_brightness(tuner.ask()), "by_brightness", 1.0)
    with pytest.raises(ConfigError, match="round 3 was drawn with other settings and already has labels"):
        Tuner.resume(waiting, {"sampling": {"guidance_scale": 4.0}})
    with Tuner.resume(waiting) as tuner:
        assert tuner.done


if __name__ == "__main__":
    start_and_kill(Path(sys.argv[1]), Path(sys.argv[2]), KILLED_AT)
