"""What the benchmark of efficiency writes: results.json, tables in results.md, plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median_high
from typing import Any

from hero.bench.intervals import Interval
from hero.bench.learning_curves import CLAIM_SEEDS, Factor, Findings, LearningCurve, Pooled
from hero.bench.machine import about_this

__all__ = ["curves_table", "efficiency_json", "efficiency_tables", "factors_table", "pooled_table", "write_findings"]


def efficiency_json(findings: Findings, cells: Mapping[str, int]) -> dict[str, Any]:
    """The object of results.json and of `--json`; `cells`: how many are `planned` and how many `finished`."""
    return {**about_this(), "cells": dict(cells), **json.loads(json.dumps(asdict(findings)))}


def write_findings(findings: Findings, out: Path, cells: Mapping[str, int]) -> None:
    """Writes results.json and results.md into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(efficiency_json(findings, cells), indent=1) + "\n"
    (out / "results.json").write_text(text, encoding="utf-8")
    (out / "results.md").write_text(efficiency_tables(findings, cells), encoding="utf-8")


def efficiency_tables(findings: Findings, cells: Mapping[str, int]) -> str:
    """All tables, with what is still missing said first."""
    parts = [curves_table(findings.curves)]
    if len(findings.tasks) > 1:
        parts.append(pooled_table(findings.pooled))
    if findings.factors:
        parts.append(factors_table(findings.factors))
    if cells["finished"] < cells["planned"]:
        parts.insert(0, f"{cells['finished']} of {cells['planned']} cells are finished; these tables are of those.\n")
    return "\n".join(parts)


def curves_table(curves: Sequence[LearningCurve]) -> str:
    """A row per task × series, at the last point."""
    lines = [
        "| task | method | labels × seeds | base | fresh noise | gain | refined noise | labels to X | area "
        "| diversity | drift | η = 0, plain (base) | draws | training s |",
        "|---" * 14 + "|",
    ]
    for c in curves:
        last = c.last
        lines.append(
            f"| `{c.task}` | `{c.series}` | {last.labels} × {len(c.seeds)} | {_figure(c.base, c.base_interval)} "
            f"| {_figure(last.success, last.success_interval)} | {_figure(last.gain, last.gain_interval, '+.2f')} "
            f"| {_figure(last.refined, last.refined_interval)} | {_reached(c)} "
            f"| {_figure(c.area, c.area_interval)} to {c.area_labels} "
            f"| {_figure(last.diversity, last.diversity_interval)} | {_figure(c.drift, c.drift_interval)} "
            f"| {_figure(c.plain, c.plain_interval)} ({_figure(c.plain_base, None)}) "
            f"| {last.draws:.0f} | {last.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


def pooled_table(pooled: Sequence[Pooled]) -> str:
    """A row per series and point, over tasks."""
    lines = [
        "| method | tasks × seeds | labels | success, fresh noise | gain | interquartile mean | diversity |",
        "|---" * 7 + "|",
    ]
    for p in pooled:
        lines.append(
            f"| `{p.series}` | {len(p.tasks)} × {p.seeds} | {p.labels} | {_figure(p.success, p.success_interval)} "
            f"| {_figure(p.gain, p.gain_interval, '+.2f')} | {_figure(p.interquartile, p.interquartile_interval)} "
            f"| {_figure(p.diversity, p.diversity_interval)} |"
        )
    return "\n".join(lines) + "\n"


def factors_table(factors: Sequence[Factor]) -> str:
    """A row per series that is compared with the reference."""
    lines = [
        "| method | against | tasks × seeds | times fewer labels to X | runs that did not reach X, of each | claimed |",
        "|---" * 6 + "|",
    ]
    for f in factors:
        nothing = "nothing" if f.seeds >= CLAIM_SEEDS else f"nothing: fewer than {CLAIM_SEEDS} seeds"
        claimed = nothing if f.claimed is None else f"at least {f.claimed:.1f}"
        lines.append(
            f"| `{f.ours}` | `{f.theirs}` | {len(f.tasks)} × {f.seeds} | {_figure(f.value, f.interval)} "
            f"| {f.censored[0]}, {f.censored[1]} | {claimed} |"
        )
    return "\n".join(lines) + "\n"


def _figure(value: float | None, interval: Interval | None, form: str = ".2f") -> str:
    if value is None:
        return "–"
    return f"{value:{form}}" + ("" if interval is None else f" [{interval[0]:{form}}, {interval[1]:{form}}]")


def _reached(curve: LearningCurve) -> str:
    """The median over seeds of the labels to X, and how many seeds got there."""
    ends = sorted(float("inf") if n is None else n for n in curve.labels_to)
    middle, there = median_high(ends), sum(n is not None for n in curve.labels_to)
    shown = f"> {curve.last.labels}" if middle == float("inf") else f"{middle:.0f}"
    return f"{shown} ({there} of {len(ends)})"
