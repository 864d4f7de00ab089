"""Success before and after training: tasks × methods × seeds, on the same held-out noises.

Every run is an ordinary run directory, so an interrupted benchmark goes on where it stopped. Figures from fresh
and from refined noise are never mixed.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hero.bench.machine import about_this
from hero.console import quiet_libraries
from hero.evaluation import wilson_interval
from hero.evaluators import resolve
from hero.methods import configure
from hero.trained import TrainedRun
from hero.tuner import Tuner

__all__ = ["Cell", "cluster_interval", "run_success", "summarise", "to_markdown"]

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
        report: is given a line for each run as soon as its figures are known.
    """
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
    write_results(cells, out)
    return cells


@dataclass(frozen=True, eq=False)
class _Run:
    """One run of the benchmark; can be sent to another process."""

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
        """The figures, out of the folder if they are there."""
        done = _finished(self.folder, self.images)
        if done is not None:
            return done
        config = configure(self.task, method=self.method, seed=self.seed, settings=self.settings)
        resumed = (self.folder / "config.toml").is_file()
        with Tuner.resume(self.folder) if resumed else Tuner(config, self.folder) as tuner:
            tuner.run(resolve(tuner.config))
        # The base model's images are the same for every seed and method: any finished run of the task has them.
        others = sorted((self.out / "runs").glob(f"{self.task}-*-s*"))
        base_of = next((other for other in others if _finished(other, self.images) is not None), None)
        return TrainedRun(self.folder).evaluate(images=self.images, base_of=base_of).to_dict()


def _measured(runs: Sequence[_Run], jobs: int) -> Iterator[tuple[_Run, dict[str, Any]]]:
    """Each run with its figures, as they are known."""
    if jobs == 1:
        for run in runs:
            yield run, run.measure()
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_job, initargs=(threads,)
    ) as pool:
        waiting = {pool.submit(run.measure): run for run in runs}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:  # what has not begun is not begun; what runs now goes on from its checkpoint next time
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _start_job(threads: int) -> None:
    torch.set_num_threads(threads)
    quiet_libraries()


def _finished(folder: Path, images: int) -> dict[str, Any] | None:
    path = folder / "evaluation" / "result.json"
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result if result["images"] == images else None


def _line(task: str, method: str, seed: int, result: Mapping[str, Any]) -> str:
    success = result["success"]
    parts = [
        f"{name} {success[name]:.3f}" for name in ("base", "tuned_fresh", "tuned_refined") if success[name] is not None
    ]
    return f"{task} {method} seed {seed}: {', '.join(parts)}"


def summarise(task: str, method: str, runs: Sequence[Mapping[str, Any]]) -> Cell:
    """One row out of the evaluations (dicts of `EvaluationResult`) of several seeds."""

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


def write_results(cells: Sequence[Cell], out: Path) -> None:
    """Writes results.json (with date, version and machine) and results.md into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(
        json.dumps({**about_this(), "cells": [asdict(cell) for cell in cells]}, indent=1) + "\n", encoding="utf-8"
    )
    (out / "results.md").write_text(to_markdown(cells), encoding="utf-8")


def to_markdown(cells: Sequence[Cell]) -> str:
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
