"""Learning curves from measured cells: success over labels, labels to a goal, areas, and factors between methods.

Only cells that are finished count. Means are over seeds; intervals are 95 % ones of `hero.bench.intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from hero.bench.intervals import (
    Interval,
    difference_interval,
    interquartile_mean,
    seeds_interval,
    share_interval,
    stratified_bootstrap,
)
from hero.evaluation import wilson_interval

__all__ = [
    "CurvePoint",
    "Factor",
    "Findings",
    "LearningCurve",
    "Pooled",
    "factor",
    "findings_of",
    "goal",
    "labels_to",
]

REFERENCE = "hero"
"""The method that others are compared with, where it was measured; else the first."""

CLAIM_SEEDS = 5
"""Fewest seeds for which a factor may be claimed."""

_TOLERANCE = 0.05
_ROUNDING = 1e-9

MeasuredCell = Mapping[str, Any]
"""What a cell's file holds, as docs/efficiency.md lists it, and under "base" the result of its base model."""


def goal(base: float) -> float:
    """X = base + ½·(1 − base): half of what is missing."""
    return base + 0.5 * (1 - base)


def labels_to(curve: Sequence[tuple[int, float]], target: float) -> int | None:
    """Labels of the first point of `curve` (labels, success) that reaches `target` and holds it.

    It holds where the next point is no more than .05 below. None, which means censored at the last point, if there is
    no such point; one that is reached at the last point only has nothing to confirm it.
    """
    for (labels, success), (_, after) in pairwise(curve):
        if success >= target - _ROUNDING and after >= target - _TOLERANCE - _ROUNDING:
            return labels
    return None


@dataclass(frozen=True)
class CurvePoint:
    """Figures after `labels` labels; refined ones are None where they were not measured, or some seed has none."""

    labels: int
    success: float
    success_interval: Interval
    gain: float
    gain_interval: Interval
    refined: float | None
    refined_interval: Interval | None
    diversity: float | None
    diversity_interval: Interval | None
    draws: float
    best_picks: float
    seconds: float


@dataclass(frozen=True)
class LearningCurve:
    """One task × method × variant over its seeds.

    Attributes:
        goal: X of `labels_to`, which has one entry a seed; None: not reached by the last point.
        area: mean success from fresh noise between no label and `area_labels`, by trapezoids: the budget that all
            methods have in common on this task.
        plain: success of the exported LoRA in the library's own pipeline at η = 0; `plain_base`: without the LoRA.
        drift: at the last point.
    """

    task: str
    method: str
    variant: str
    seeds: tuple[int, ...]
    images: int
    base: float
    base_interval: Interval
    points: tuple[CurvePoint, ...]
    goal: float
    labels_to: tuple[int | None, ...]
    area: float
    area_interval: Interval
    area_labels: int
    plain: float | None
    plain_interval: Interval | None
    plain_base: float | None
    drift: float | None
    drift_interval: Interval | None

    @property
    def series(self) -> str:
        return f"{self.method} {self.variant}".strip()

    @property
    def last(self) -> CurvePoint:
        return self.points[-1]


@dataclass(frozen=True)
class Pooled:
    """One series after `labels` labels over its tasks, which count equally.

    `interquartile` is the mean of the middle half of the success of all tasks' runs.
    """

    series: str
    tasks: tuple[str, ...]
    seeds: int
    labels: int
    success: float
    success_interval: Interval
    gain: float
    gain_interval: Interval
    interquartile: float
    interquartile_interval: Interval | None
    diversity: float | None
    diversity_interval: Interval | None


@dataclass(frozen=True)
class Factor:
    """How many times fewer labels `ours` needs than `theirs`.

    Attributes:
        value: geometric mean over tasks of (median labels to X of theirs) / (of ours), medians over seeds.
        interval: a bootstrap over seeds within each task and series; None with one seed.
        censored: runs that did not reach X: of ours, of theirs. Both are taken to our disadvantage: ours as never
            reaching it, which makes the factor 0 where that is the median, theirs as reaching it with the last label.
        claimed: the interval's lower end, if that is above 1 and each has at least `CLAIM_SEEDS` seeds; else None.
    """

    ours: str
    theirs: str
    tasks: tuple[str, ...]
    seeds: int
    value: float
    interval: Interval | None
    censored: tuple[int, int]
    claimed: float | None


@dataclass(frozen=True)
class Findings:
    """Everything that is written down and plotted."""

    curves: tuple[LearningCurve, ...]
    pooled: tuple[Pooled, ...]
    factors: tuple[Factor, ...]

    @property
    def series(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(curve.series for curve in self.curves))

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(curve.task for curve in self.curves))


def findings_of(cells: Sequence[MeasuredCell]) -> Findings:
    """The findings of all finished `cells`; of a series, those points that all its seeds have."""
    groups: dict[tuple[str, str, str], list[MeasuredCell]] = {}
    for cell in cells:
        if len(cell["points"]) == len(cell["planned"]):
            groups.setdefault((cell["task"], cell["method"], cell["variant"]), []).append(cell)
    common: dict[str, int] = {}
    for (task, _, _), group in groups.items():
        common[task] = min(common.get(task, group[0]["planned"][-1]), group[0]["planned"][-1])
    curves = tuple(_curve(group, common[task]) for (task, _, _), group in groups.items())
    return Findings(curves, tuple(_pooled(list(groups.values()))), tuple(_factors(curves)))


# ---------------------------------------------------------------------------------------------- one curve


def _curve(cells: Sequence[MeasuredCell], common: int) -> LearningCurve:
    first, before = cells[0], _marks(cells[0]["base"]["verdicts"])
    base, images = float(before.mean()), len(before)
    last = [cell["points"][-1] for cell in cells]
    plain = _all_marks([point["plain_verdicts"] for point in last])
    drifts = [list(point["drift_by_prompt"].values()) for point in last]
    drift = np.array(drifts) if all(drifts) else None
    areas = _areas(cells, before, common)
    reached = [[(point["labels"], point["success"]) for point in cell["points"]] for cell in cells]
    return LearningCurve(
        task=first["task"],
        method=first["method"],
        variant=first["variant"],
        seeds=tuple(cell["seed"] for cell in cells),
        images=images,
        base=base,
        base_interval=wilson_interval(int(before.sum()), images),
        points=tuple(_point([cell["points"][k] for cell in cells], before) for k in range(len(first["planned"]))),
        goal=goal(base),
        labels_to=tuple(labels_to(curve, goal(base)) for curve in reached),
        area=float(areas.mean()),
        area_interval=difference_interval(areas),
        area_labels=common,
        plain=None if plain is None else float(plain.mean()),
        plain_interval=None if plain is None else share_interval(plain),
        plain_base=first["base"]["plain_success"],
        drift=None if drift is None else float(drift.mean()),
        drift_interval=None if drift is None else difference_interval(drift),
    )


def _point(points: Sequence[Mapping[str, Any]], before: npt.NDArray[np.bool_]) -> CurvePoint:
    fresh = np.array([_marks(point["verdicts"]) for point in points])
    refined = _all_marks([point["refined_verdicts"] for point in points])
    gain = fresh.astype(float) - before
    diversity = [point["diversity"] for point in points if point["diversity"] is not None]
    return CurvePoint(
        labels=points[0]["labels"],
        success=float(fresh.mean()),
        success_interval=share_interval(fresh),
        gain=float(gain.mean()),
        gain_interval=difference_interval(gain),
        refined=None if refined is None else float(refined.mean()),
        refined_interval=None if refined is None else share_interval(refined),
        diversity=float(np.mean(diversity)) if diversity else None,
        diversity_interval=seeds_interval(diversity) if diversity else None,
        draws=float(np.mean([point["draws"] for point in points])),
        best_picks=float(np.mean([point["best_picks"] for point in points])),
        seconds=float(np.mean([point["seconds_training"] for point in points])),
    )


def _areas(cells: Sequence[MeasuredCell], before: npt.NDArray[np.bool_], common: int) -> npt.NDArray[np.float64]:
    """(seeds, images): each image's verdict, averaged over labels from 0 to `common`; between points it is linear."""
    at = np.array([0, *cells[0]["planned"]], dtype=float)
    grid = np.unique([*at[at <= common], float(common)])
    rows = []
    for cell in cells:
        verdicts = np.array([before, *(_marks(point["verdicts"]) for point in cell["points"])], dtype=float)
        on_grid = np.array([np.interp(grid, at, image) for image in verdicts.T])
        rows.append(np.trapezoid(on_grid, grid, axis=1) / common)
    return np.array(rows)


def _marks(verdicts: str) -> npt.NDArray[np.bool_]:
    return np.array([verdict == "1" for verdict in verdicts], dtype=bool)


def _all_marks(verdicts: Sequence[str | None]) -> npt.NDArray[np.bool_] | None:
    """(seeds, images); None if a seed has none."""
    known = [_marks(marks) for marks in verdicts if marks is not None]
    return np.array(known) if len(known) == len(verdicts) else None


# ---------------------------------------------------------------------------------------------- over tasks


def _pooled(groups: Sequence[Sequence[MeasuredCell]]) -> list[Pooled]:
    """Each series at each point that it has on all of its tasks."""
    by_series: dict[str, list[Sequence[MeasuredCell]]] = {}
    for group in groups:
        by_series.setdefault(f"{group[0]['method']} {group[0]['variant']}".strip(), []).append(group)
    pooled = []
    for series, tasks in by_series.items():
        shared = set.intersection(*(set(cells[0]["planned"]) for cells in tasks))
        pooled += [_pooled_point(series, tasks, labels) for labels in sorted(shared)]
    return pooled


def _pooled_point(series: str, tasks: Sequence[Sequence[MeasuredCell]], labels: int) -> Pooled:
    at = [[next(p for p in cell["points"] if p["labels"] == labels) for cell in cells] for cells in tasks]
    fresh = [np.array([_marks(point["verdicts"]) for point in points], dtype=float) for points in at]
    gains = [after - _marks(cells[0]["base"]["verdicts"]) for after, cells in zip(fresh, tasks, strict=True)]
    low, high = difference_interval(*fresh)
    middle, middle_interval = interquartile_mean([[point["success"] for point in points] for points in at])
    varied = [[point["diversity"] for point in points if point["diversity"] is not None] for points in at]
    known = [values for values in varied if values]
    return Pooled(
        series=series,
        tasks=tuple(cells[0]["task"] for cells in tasks),
        seeds=min(len(cells) for cells in tasks),
        labels=labels,
        success=float(np.mean([stratum.mean() for stratum in fresh])),
        success_interval=(max(0.0, low), min(1.0, high)),
        gain=float(np.mean([stratum.mean() for stratum in gains])),
        gain_interval=difference_interval(*gains),
        interquartile=middle,
        interquartile_interval=middle_interval,
        diversity=float(np.mean([np.mean(values) for values in known])) if known else None,
        diversity_interval=(
            difference_interval(*(np.array(values)[:, None] for values in known))
            if known and min(map(len, known)) > 1
            else None
        ),
    )


def _factors(curves: Sequence[LearningCurve]) -> list[Factor]:
    """Each series against the reference method of its variant."""
    found = []
    for variant in dict.fromkeys(curve.variant for curve in curves):
        mine = [curve for curve in curves if curve.variant == variant]
        methods = list(dict.fromkeys(curve.method for curve in mine))
        reference = REFERENCE if REFERENCE in methods else methods[0]
        theirs = {curve.task: curve for curve in mine if curve.method == reference}
        for method in methods:
            ours = {curve.task: curve for curve in mine if curve.method == method and curve.task in theirs}
            if method != reference and ours:
                found.append(factor(list(ours.values()), [theirs[task] for task in ours]))
    return found


def factor(ours: Sequence[LearningCurve], theirs: Sequence[LearningCurve]) -> Factor:
    """How many times fewer labels `ours` needs than `theirs`, of the same tasks in the same order."""
    never = [[math.inf if n is None else float(n) for n in curve.labels_to] for curve in ours]
    at_last = [[float(curve.last.labels if n is None else n) for n in curve.labels_to] for curve in theirs]
    half = len(ours)

    def statistic(*samples: Any, axis: int = -1) -> Any:
        medians = [np.median(sample, axis=axis) for sample in samples]
        with np.errstate(divide="ignore"):
            logs = [np.log(b / a) for a, b in zip(medians[:half], medians[half:], strict=True)]
        return np.exp(np.mean(logs, axis=0))

    strata = [*never, *at_last]
    interval = stratified_bootstrap(strata, statistic)
    seeds = min(map(len, strata))
    claimed = interval[0] if interval is not None and interval[0] > 1 and seeds >= CLAIM_SEEDS else None
    return Factor(
        ours=ours[0].series,
        theirs=theirs[0].series,
        tasks=tuple(curve.task for curve in ours),
        seeds=seeds,
        value=float(statistic(*(np.array(stratum) for stratum in strata))),
        interval=interval,
        censored=(_censored(ours), _censored(theirs)),
        claimed=claimed,
    )


def _censored(curves: Sequence[LearningCurve]) -> int:
    return sum(n is None for curve in curves for n in curve.labels_to)
