"""Plots of the benchmark of efficiency: success over labels, success against diversity, labels to the goal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hero.bench.intervals import Interval
from hero.bench.learning_curves import CurvePoint, Findings, LearningCurve

__all__ = ["write_plots"]

_COLOURS = ("#3b6fb6", "#c8553d", "#3f8f5f", "#8b5fa8", "#b8892b", "#4b4b4b", "#2aa1a8", "#d06aa0")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_INK, _FAINT = "#444444", "#d9d9d9"


def write_plots(findings: Findings, out: Path) -> list[Path]:
    """Writes what there is something to show of, as PNG files, into `out`; returns them.

    `success.png` and, where refined noise was measured at several points, `success-refined.png`: a panel a task, with
    bands for the intervals, a line at X and one at the base; `pareto.png`: success against diversity as labels are
    spent; `labels-to-x.png`: each seed of each task.
    """
    if not findings.curves:
        return []
    out.mkdir(parents=True, exist_ok=True)
    plots: dict[str, Callable[[], Any]] = {"success": lambda: _over_labels(findings, refined=False)}
    if any(sum(point.refined is not None for point in curve.points) > 1 for curve in findings.curves):
        plots["success-refined"] = lambda: _over_labels(findings, refined=True)
    if any(point.diversity is not None for curve in findings.curves for point in curve.points):
        plots["pareto"] = lambda: _pareto(findings)
    plots["labels-to-x"] = lambda: _labels_to_x(findings)
    written = []
    for name, draw in plots.items():
        path = out / f"{name}.png"
        draw().savefig(path, dpi=120, metadata={"Software": None})
        written.append(path)
    return written


def _panels(findings: Findings, width: float, height: float) -> tuple[Any, list[Any]]:
    """A figure with an axes for each task, and one for the legend where there is room."""
    from matplotlib.figure import Figure

    columns = min(4, len(findings.tasks))
    rows = -(-len(findings.tasks) // columns)
    figure = Figure(figsize=(max(4.5, width * columns), height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in axes[len(findings.tasks) :]:
        spare.set_axis_off()
    return figure, axes[: len(findings.tasks)]


def _styles(findings: Findings) -> dict[str, tuple[str, str]]:
    """Series → colour and marker."""
    return {series: (_COLOURS[k % len(_COLOURS)], _MARKS[k % len(_MARKS)]) for k, series in enumerate(findings.series)}


def _tidy(axes: Any) -> None:
    axes.grid(color=_FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=8)


def _legend(figure: Any, findings: Findings) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=mark, markersize=5, label=series)
        for series, (colour, mark) in _styles(findings).items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=9)


def _label_axis(axes: Any, labels: Sequence[int]) -> None:
    """Labels on a scale that doubles, with a place for none."""
    smallest = min(labels)
    axes.set_xscale("symlog", base=2, linthresh=smallest, linscale=0.8)
    axes.set_xticks([0, *labels], [str(n) for n in (0, *labels)])
    axes.set_xlim(-0.15 * smallest, 1.15 * max(labels))
    axes.xaxis.set_minor_locator(_no_ticks())
    axes.set_xlabel("labels", fontsize=9, color=_INK)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _over_labels(findings: Findings, *, refined: bool) -> Any:
    figure, panels = _panels(findings, 3.2, 2.7)
    styles = _styles(findings)
    for axes, task in zip(panels, findings.tasks, strict=True):
        curves = [curve for curve in findings.curves if curve.task == task]
        axes.axhline(curves[0].base, color=_INK, linewidth=0.8, linestyle="--")
        axes.axhline(curves[0].goal, color=_INK, linewidth=0.8, linestyle=":")
        axes.annotate("X", (1, curves[0].goal), xycoords=("axes fraction", "data"), fontsize=8, color=_INK)
        axes.annotate("base", (1, curves[0].base), xycoords=("axes fraction", "data"), fontsize=8, color=_INK)
        for curve in curves:
            _draw_curve(axes, curve, styles[curve.series], refined)
        axes.set_title(task, fontsize=10)
        axes.set_ylim(0, 1.02)
        _label_axis(axes, sorted({point.labels for curve in curves for point in curve.points}))
        axes.set_ylabel(f"success, {'refined' if refined else 'fresh'} noise", fontsize=9, color=_INK)
        _tidy(axes)
    _legend(figure, findings)
    return figure


def _draw_curve(axes: Any, curve: LearningCurve, style: tuple[str, str], refined: bool) -> None:
    colour, mark = style
    shown = [(p.labels, *_success(p, refined)) for p in curve.points if _success(p, refined)[0] is not None]
    start = [] if refined else [(0, curve.base, curve.base_interval)]
    at, values, bands = zip(*start, *shown, strict=True) if start or shown else ((), (), ())
    axes.plot(at, values, color=colour, marker=mark, markersize=4, linewidth=1.6)
    if bands:
        axes.fill_between(
            at, [low for low, _ in bands], [high for _, high in bands], color=colour, alpha=0.13, linewidth=0
        )


def _success(point: CurvePoint, refined: bool) -> tuple[float | None, Interval | None]:
    return (point.refined, point.refined_interval) if refined else (point.success, point.success_interval)


def _pareto(findings: Findings) -> Any:
    """Diversity to the right, success upwards, a line through the points of each series; large: the last."""
    figure, panels = _panels(findings, 3.2, 2.9)
    styles = _styles(findings)
    for axes, task in zip(panels, findings.tasks, strict=True):
        curves = [curve for curve in findings.curves if curve.task == task]
        axes.plot([1], [curves[0].base], marker="o", color=_INK, markersize=5)
        axes.annotate("base", (1, curves[0].base), xytext=(4, -9), textcoords="offset points", fontsize=8, color=_INK)
        for curve in curves:
            colour, mark = styles[curve.series]
            points = [point for point in curve.points if point.diversity is not None]
            at = [1.0, *(point.diversity for point in points)]
            axes.plot(at, [curve.base, *(point.success for point in points)], color=colour, linewidth=1.2, alpha=0.7)
            axes.plot(at[1:], [point.success for point in points], color=colour, marker=mark, markersize=3, linewidth=0)
            if points:
                _cross(axes, points[-1], colour, mark)
        axes.set_title(task, fontsize=10)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("diversity of successes (base: 1)", fontsize=9, color=_INK)
        axes.set_ylabel("success, fresh noise", fontsize=9, color=_INK)
        _tidy(axes)
    _legend(figure, findings)
    return figure


def _cross(axes: Any, point: CurvePoint, colour: str, mark: str) -> None:
    """A point with both intervals."""
    assert point.diversity is not None
    low, high = point.success_interval
    sides = point.diversity_interval or (point.diversity, point.diversity)
    axes.errorbar(
        [point.diversity],
        [point.success],
        xerr=[[point.diversity - sides[0]], [sides[1] - point.diversity]],
        yerr=[[point.success - low], [high - point.success]],
        color=colour,
        marker=mark,
        markersize=7,
        elinewidth=0.9,
        alpha=0.9,
    )


def _labels_to_x(findings: Findings) -> Any:
    """A row per series, a panel per task; hollow, at the last point: a run that did not reach X."""
    figure, panels = _panels(findings, 3.2, 0.9 + 0.45 * len(findings.series))
    styles = _styles(findings)
    rows = {series: row for row, series in enumerate(reversed(findings.series))}
    for axes, task in zip(panels, findings.tasks, strict=True):
        curves = [curve for curve in findings.curves if curve.task == task]
        for curve in curves:
            colour, mark = styles[curve.series]
            for k, labels in enumerate(curve.labels_to):
                spread = 0.6 * ((k + 0.5) / len(curve.labels_to) - 0.5)
                axes.plot(
                    [curve.last.labels if labels is None else labels],
                    [rows[curve.series] + spread],
                    marker=">" if labels is None else mark,
                    color=colour,
                    fillstyle="none" if labels is None else "full",
                    markersize=4,
                    alpha=0.8,
                )
        axes.set_title(task, fontsize=10)
        axes.set_yticks(list(rows.values()), list(rows), fontsize=8)
        axes.set_ylim(-0.5, len(rows) - 0.5)
        _label_axis(axes, sorted({point.labels for curve in curves for point in curve.points}))
        axes.set_xlabel("labels to X; hollow: not reached", fontsize=9, color=_INK)
        _tidy(axes)
    return figure
