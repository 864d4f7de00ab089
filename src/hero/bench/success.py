"""Success before and after training: tasks × methods × seeds, on the same held-out noises.

Every run is an ordinary run directory, so an interrupted benchmark continues where it stopped. Figures from fresh
and from refined noise are never mixed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hero.bench.machine import about_this
from hero.config import Config
from hero.console import quiet_libraries
from hero.errors import RunError
from hero.evaluation import wilson_interval
from hero.evaluation.stored import stored_evaluation
from hero.evaluators import make_evaluator
from hero.methods import configure
from hero.run.finished import FinishedRun
from hero.trained import TrainedRun
from hero.tuner import Tuner

__all__ = ["Cell", "cluster_interval", "run_success", "success_table", "summarise"]

Verdicts = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cell:
    """One task × method, over its seeds.

    Success is the mean over seeds; intervals are 95 %: Wilson's for the base, which is one set of images, and for
    the tuned model a bootstrap over seeds and held-out noises (`cluster_interval`). `gain` is tuned from fresh
    noise minus base, on the same noises.
    """

    task: str
    method: str
    seeds: int
    labels: int
    images: int
    base: float
    base_interval: tuple[float, float]
    fresh: float
    fresh_interval: tuple[float, float]
    refined: float | None
    refined_interval: tuple[float, float] | None
    gain: float
    gain_interval: tuple[float, float]
    diversity_fresh: float | None
    diversity_refined: float | None
    drift: float | None
    seconds: float


def cluster_interval(
    values: npt.NDArray[np.float64], *, draws: int = 4000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` (seeds, images), resampling both axes.

    All seeds are measured on the same noises, so images are resampled jointly for all seeds.
    """
    rng = np.random.default_rng(0)
    seeds, images = values.shape
    means = np.empty(draws)
    for k in range(draws):
        rows = values[rng.integers(seeds, size=seeds)]
        means[k] = rows[:, rng.integers(images, size=images)].mean()
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def run_success(
    tasks: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    *,
    images: int = 300,
    settings: Mapping[str, Any] | None = None,
    jobs: int = 1,
    report: Callable[[str], None] = print,
) -> list[Cell]:
    """Trains and evaluates every task × method × seed under `out`; finished ones are read, not run again.

    Args:
        images: held-out images per figure.
        settings: as for `configure`.
        jobs: processes that share the runs, each with its part of the processor's cores.
        report: called with a line for each run as soon as its figures are known.

    Raises:
        RunError: a run under `out` has other settings.
    """
    # Each once: two processes cannot train in one folder.
    tasks, methods, seeds = list(dict.fromkeys(tasks)), list(dict.fromkeys(methods)), list(dict.fromkeys(seeds))
    runs = [_Run(task, method, seed, out, images, settings) for task in tasks for seed in seeds for method in methods]
    results: dict[_Run, dict[str, Any]] = {}
    for run, result in _measured(runs, jobs):
        results[run] = result
        report(_line(run.task, run.method, run.seed, result))
    cells = [
        summarise(task, method, [results[run] for run in runs if (run.task, run.method) == (task, method)])
        for task in tasks
        for method in methods
    ]
    write_results(cells, out, [_figures(run, results[run]) for run in runs], _pooled(results))
    return cells


def _figures(run: _Run, result: Mapping[str, Any]) -> dict[str, Any]:
    """What one run adds to the results: its figures without the verdicts on individual images."""
    named = {"task": run.task, "method": run.method, "seed": run.seed}
    return {**named, **{key: result[key] for key in ("success", "diversity", "drift")}}


def _pooled(results: Mapping[_Run, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Differences of `hero` pooled over tasks and seeds, each with the interval of `cluster_interval`.

    "gain, fresh": tuned minus base. "over noise-only, refined": minus that control with the same task and seed.
    """
    verdicts = {(run.method, run.task, run.seed): result["details"]["verdicts"] for run, result in results.items()}
    pairs: dict[str, list[tuple[Any, Any]]] = {"gain, fresh": [], "over noise-only, refined": []}
    for (method, task, seed), ours in verdicts.items():
        if method == "hero":
            pairs["gain, fresh"].append((ours.get("tuned_fresh"), ours.get("base")))
            control = verdicts.get(("noise-only", task, seed), {})
            pairs["over noise-only, refined"].append((ours.get("tuned_refined"), control.get("tuned_refined")))
    pooled = {}
    for name, rows in pairs.items():
        if rows and all(after is not None and before is not None for after, before in rows):
            values = np.array([np.subtract(after, before, dtype=float) for after, before in rows])
            pooled[name] = {"mean": float(values.mean()), "interval": list(cluster_interval(values))}
    return pooled


@dataclass(frozen=True, eq=False)
class _Run:
    """One run of the benchmark; it can be sent to another process."""

    task: str
    method: str
    seed: int
    out: Path
    images: int
    settings: Mapping[str, Any] | None

    @property
    def folder(self) -> Path:
        return self.out / "runs" / f"{self.task}-{self.method}-s{self.seed}"

    def measure(self) -> dict[str, Any]:
        """The figures, read from the folder if they are there.

        Raises:
            RunError: the folder's run has other settings.
        """
        config = configure(self.task, method=self.method, seed=self.seed, settings=self.settings)
        resumed = (self.folder / "config.toml").is_file()
        if resumed:
            there = FinishedRun(self.folder)
            if there.config != config:
                raise RunError(f"{self.folder} was run with other settings; give them again, or choose another --out")
            done = stored_evaluation(there, self.images)
            if done is not None:
                return done
        with Tuner.resume(self.folder) if resumed else Tuner(config, self.folder) as tuner:
            tuner.run(make_evaluator(tuner.config))
        return TrainedRun(self.folder).evaluate(images=self.images, base_of=self._base_of(config)).to_dict()

    def _base_of(self, config: Config) -> Path | None:
        """An evaluated run that drew the base model's images as this one would: every seed and method does."""
        drawn_with = {"model", "sampling", "evaluation", "task"}
        for folder in sorted((self.out / "runs").glob(f"{self.task}-*-s*")):
            if not (folder / "config.toml").is_file():  # another process has just begun it
                continue
            other = FinishedRun(folder)
            same = other.config.model_dump(include=drawn_with) == config.model_dump(include=drawn_with)
            if same and stored_evaluation(other, self.images) is not None:
                return folder
        return None


def _measured(runs: Sequence[_Run], jobs: int) -> Iterator[tuple[_Run, dict[str, Any]]]:
    """Each run with its figures, as they are known."""
    if jobs == 1:
        for run in runs:
            yield run, run.measure()
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")
    earlier = multiprocessing.active_children()
    pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_start_job, initargs=(threads,))
    try:
        waiting = {pool.submit(run.measure): run for run in runs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    except BaseException:
        # A worker would start the next run. Each run continues from its last checkpoint, so that nothing is lost.
        for process in multiprocessing.active_children():
            if process not in earlier:
                process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_job(threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it, too, and ends this process
    torch.set_num_threads(threads)
    quiet_libraries()


def _line(task: str, method: str, seed: int, result: Mapping[str, Any]) -> str:
    success = result["success"]
    parts = [
        f"{name} {success[name]:.3f}" for name in ("base", "tuned_fresh", "tuned_refined") if success[name] is not None
    ]
    return f"{task} {method} seed {seed}: {', '.join(parts)}"


def summarise(task: str, method: str, runs: Sequence[Mapping[str, Any]]) -> Cell:
    """One row from the evaluations (dicts of `EvaluationResult`) of several seeds."""

    def verdicts(name: str) -> Verdicts | None:
        rows = [run["details"]["verdicts"].get(name) for run in runs]
        return None if any(row is None for row in rows) else np.array(rows, dtype=bool)

    base, fresh, refined = verdicts("base"), verdicts("tuned_fresh"), verdicts("tuned_refined")
    if base is None or fresh is None:
        raise ValueError(f"{task}/{method}: a run without verdicts; this benchmark needs the task's judge")
    gain = fresh.astype(float) - base.astype(float)
    return Cell(
        task=task,
        method=method,
        seeds=len(runs),
        labels=int(runs[0]["labels"]),
        images=base.shape[1],
        base=float(base[0].mean()),
        base_interval=wilson_interval(int(base[0].sum()), base.shape[1]),
        fresh=float(fresh.mean()),
        fresh_interval=cluster_interval(fresh.astype(float)),
        refined=None if refined is None else float(refined.mean()),
        refined_interval=None if refined is None else cluster_interval(refined.astype(float)),
        gain=float(gain.mean()),
        gain_interval=cluster_interval(gain),
        diversity_fresh=_mean([run["diversity"]["tuned_fresh"] for run in runs]),
        diversity_refined=_mean([run["diversity"]["tuned_refined"] for run in runs]),
        drift=_mean([run["drift"] for run in runs]),
        seconds=float(np.mean([run["details"]["seconds_training"] for run in runs])),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def write_results(
    cells: Sequence[Cell],
    out: Path,
    runs: Sequence[Mapping[str, Any]] = (),
    pooled: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Writes results.json (with date, version and machine, figures by run and pooled) and results.md into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(
        json.dumps(
            {**about_this(), "pooled": pooled or {}, "cells": [asdict(cell) for cell in cells], "runs": list(runs)},
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )
    (out / "results.md").write_text(success_table(cells), encoding="utf-8")


def success_table(cells: Sequence[Cell]) -> str:
    """A table with one row per cell."""
    lines = [
        "| task | method | labels | base | tuned, fresh noise | gain, fresh | tuned, refined noise "
        "| diversity fresh / refined | drift | training s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in cells:
        lines.append(
            f"| `{c.task}` | `{c.method}` | {c.labels} × {c.seeds} seeds | {_cell(c.base, c.base_interval)} "
            f"| {_cell(c.fresh, c.fresh_interval)} | {_cell(c.gain, c.gain_interval, '+.3f')} "
            f"| {_cell(c.refined, c.refined_interval)} "
            f"| {_plain(c.diversity_fresh)} / {_plain(c.diversity_refined)} | {_plain(c.drift)} | {c.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _cell(value: float | None, interval: tuple[float, float] | None, form: str = ".3f") -> str:
    if value is None or interval is None:
        return "–"
    return f"{value:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
