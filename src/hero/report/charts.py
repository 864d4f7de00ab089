"""Charts as inline SVG in the page's own font and colours, which follow its theme."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hero.types import RoundStats

__all__ = ["Chart", "Line", "charts"]

# Stand-ins that matplotlib writes into the SVG, replaced by the page's own colours, which follow its theme.
_INK, _FAINT, _ACCENT, _SECOND = "#010101", "#020202", "#030303", "#040404"
_THEMED = {_INK: "var(--muted)", _FAINT: "var(--line)", _ACCENT: "var(--accent)", _SECOND: "var(--second)"}


@dataclass(frozen=True)
class Line:
    """One line of a chart: a name, values over the labels (None leaves a gap), and half the band's height."""

    name: str
    values: Sequence[float | None]
    colour: str
    band: Sequence[float | None] = ()

    @property
    def css(self) -> str:
        return _THEMED[self.colour]


@dataclass(frozen=True)
class Chart:
    """Lines over labels as an inline SVG; the page writes its legend."""

    caption: str
    lines: Sequence[Line]
    svg: str


def charts(stats: Sequence[RoundStats]) -> list[Chart]:
    labels = [s.labels for s in stats]
    judged = [s.good / (s.good + s.bad) if s.good + s.bad else None for s in stats]
    lines = [Line("marked good by the evaluator", judged, _ACCENT)]
    success = [s.success_shown for s in stats]
    if any(value is not None for value in success) and success != judged:
        lines.append(Line("success by the judge", success, _SECOND))
    charts = [Chart("Share of shown images that were good", lines, _svg("shown", labels, lines, share=True))]
    rewards = [s.reward_mean for s in stats]
    if any(value is not None for value in rewards):
        line = Line("mean reward ± standard deviation", rewards, _ACCENT, [s.reward_std for s in stats])
        charts.append(Chart("Reward of the images shown", [line], _svg("reward", labels, [line])))
    return charts


def _svg(name: str, labels: Sequence[int], lines: Sequence[Line], *, share: bool = False) -> str:
    """A chart over labels as inline SVG in the page's own font and colours."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 11, "font.family": "sans-serif"}
    buffer = io.StringIO()
    with rc_context(style):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            values = _numbers(line.values)
            axes.plot(labels, values, color=line.colour, linewidth=2, marker="o", markersize=4)
            if line.band:
                half = np.nan_to_num(_numbers(line.band))
                axes.fill_between(labels, values - half, values + half, color=line.colour, alpha=0.14, linewidth=0)
        axes.set_xlabel("labels", color=_INK)
        axes.set_xticks(labels if len(labels) <= 9 else labels[:: len(labels) // 6])
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if share:
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.grid(axis="y", color=_FAINT, linewidth=1)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        axes.tick_params(colors=_INK, length=0)
        figure.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    return _inline(buffer.getvalue(), name)


def _numbers(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _inline(svg: str, name: str) -> str:
    """A standalone SVG adapted for embedding in a page: no prologue or URLs, its own ids, the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\b(id|clip-path|xlink:href)="(url\()?(#?)', rf'\1="\2\3{name}-', svg)
    svg = re.sub(r"<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>", r'<svg \1 aria-hidden="true">', svg, count=1)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for stand_in, colour in _THEMED.items():
        svg = svg.replace(stand_in, colour)
    return svg
