"""Success before and after training: tasks × methods × seeds, on the same held-out noises.

Every run is an ordinary run directory, so an interrupted benchmark continues where it stopped. Figures from fresh
and from refined noise are never mixed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hero.bench.intervals import difference_interval, seeds_interval, share_interval
from hero.bench.machine import about_this
from hero.bench.processes import Say, shared_out
from hero.config import Config
from hero.errors import RunError
from hero.evaluation import wilson_interval
from hero.evaluation.stored import stored_evaluation
from hero.evaluators import make_evaluator
from hero.methods import configure
from hero.run.finished import FinishedRun
from hero.trained import TrainedRun
from hero.tuner import Tuner

__all__ = ["Cell", "run_success", "success_table", "summarise"]

Verdicts = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cell:
    """One task × method, over its seeds.

    Figures are means over seeds, with the 95 % intervals of `hero.bench.intervals`; the base is one set of images.
    `gain` is tuned from fresh noise minus base, on the same noises.
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
    diversity_fresh_interval: tuple[float, float] | None
    diversity_refined: float | None
    diversity_refined_interval: tuple[float, float] | None
    drift: float | None
    drift_interval: tuple[float, float] | None
    seconds: float


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
    for run, result in shared_out(runs, jobs, report):
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
    """Differences of `hero`, means over tasks of means over seeds, with the intervals of `difference_interval`.

    "gain, fresh": tuned minus base. "over noise-only, refined": minus that control with the same task and seed.
    """
    verdicts = {(run.method, run.task, run.seed): result["details"]["verdicts"] for run, result in results.items()}
    pairs: dict[str, dict[str, list[tuple[Any, Any]]]] = {"gain, fresh": {}, "over noise-only, refined": {}}
    for (method, task, seed), ours in verdicts.items():
        if method == "hero":
            control = verdicts.get(("noise-only", task, seed), {})
            for name, pair in (
                ("gain, fresh", (ours.get("tuned_fresh"), ours.get("base"))),
                ("over noise-only, refined", (ours.get("tuned_refined"), control.get("tuned_refined"))),
            ):
                pairs[name].setdefault(task, []).append(pair)
    pooled = {}
    for name, tasks in pairs.items():
        if tasks and all(None not in pair for rows in tasks.values() for pair in rows):
            strata = [np.array([np.subtract(*pair, dtype=float) for pair in rows]) for rows in tasks.values()]
            mean = float(np.mean([stratum.mean() for stratum in strata]))
            pooled[name] = {"mean": mean, "interval": list(difference_interval(*strata))}
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

    def do(self, say: Say) -> dict[str, Any]:
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
    diversity = {
        name: _over_seeds([run["diversity"][name] for run in runs]) for name in ("tuned_fresh", "tuned_refined")
    }
    drift = _over_seeds([run["drift"] for run in runs])
    return Cell(
        task=task,
        method=method,
        seeds=len(runs),
        labels=int(runs[0]["labels"]),
        images=base.shape[1],
        base=float(base[0].mean()),
        base_interval=wilson_interval(int(base[0].sum()), base.shape[1]),
        fresh=float(fresh.mean()),
        fresh_interval=share_interval(fresh),
        refined=None if refined is None else float(refined.mean()),
        refined_interval=None if refined is None else share_interval(refined),
        gain=float(gain.mean()),
        gain_interval=difference_interval(gain),
        diversity_fresh=diversity["tuned_fresh"][0],
        diversity_fresh_interval=diversity["tuned_fresh"][1],
        diversity_refined=diversity["tuned_refined"][0],
        diversity_refined_interval=diversity["tuned_refined"][1],
        drift=drift[0],
        drift_interval=drift[1],
        seconds=float(np.mean([run["details"]["seconds_training"] for run in runs])),
    )


def _over_seeds(values: Sequence[float | None]) -> tuple[float | None, tuple[float, float] | None]:
    """Mean and interval over the seeds whose figure is known."""
    known = [value for value in values if value is not None]
    return (float(np.mean(known)), seeds_interval(known)) if known else (None, None)


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
            f"| {_cell(c.diversity_fresh, c.diversity_fresh_interval, '.2f')} "
            f"/ {_cell(c.diversity_refined, c.diversity_refined_interval, '.2f')} "
            f"| {_cell(c.drift, c.drift_interval, '.2f')} | {c.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _cell(value: float | None, interval: tuple[float, float] | None, form: str = ".3f") -> str:
    if value is None:
        return "–"
    return f"{value:{form}}" + ("" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]")
