"""What the command line looks like: progress bars, one line per round, the closing summary.

On a terminal, bars are live; elsewhere only finished lines are printed, so that a log stays readable.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from hero.run.directory import LORA_FILE, METRICS_FILE, REPORT_FILE
from hero.types import RoundStats

__all__ = ["closing_lines", "progress_bar", "quiet_libraries", "round_line", "say", "success_lines", "table_lines"]


class Advance(Protocol):
    """Called with the images drawn so far, what is going on, and the images in all if that was not known before."""

    def __call__(self, completed: int, what: str, total: int | None = None) -> None: ...


_SETS = {
    "base": "base model, fresh noise",
    "tuned_fresh": "tuned model, fresh noise",
    "tuned_refined": "tuned model, refined noise",
}


def say(console: Console, *lines: str) -> None:
    """Prints lines as they are: no markup, no wrapping."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True, emoji=False)


@contextmanager
def progress_bar(console: Console, what: str, total: int) -> Iterator[Advance]:
    """A bar over `total` images; silent if `console` is not a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)

        def advance(completed: int, what: str, total: int | None = None) -> None:
            progress.update(task, completed=completed, description=what, total=total)

        yield advance


def round_line(stats: RoundStats, rounds: int) -> str:
    """One finished round as a line of text."""
    judged = stats.good + stats.bad
    parts = [
        f"round {stats.round}/{rounds}",
        f"{stats.labels} labels",
        f"good {_percent(stats.good / judged)} ({stats.good} of {judged})" if judged else "no verdict",
        "" if stats.reward_mean is None else f"reward {stats.reward_mean:.2f}",
        "" if stats.success_shown is None else f"success {_percent(stats.success_shown)}",
        f"practised on {stats.draws} images" if "practice_score" in stats.figures else "",
        _estimate(stats.figures),
        f"{stats.seconds:.1f} s",
        stats.note,
    ]
    return " · ".join(part for part in parts if part)


def _estimate(figures: Mapping[str, float]) -> str:
    """The share of good images that the model draws by now, estimated without labels; "" if there is no estimate."""
    if "share_good" not in figures:
        return ""
    return f"about {_percent(figures['share_good'])} good now (± {_percent(2 * figures['share_good_error'])})"


def success_lines(result: Mapping[str, Any]) -> list[str]:
    """The object of `hero evaluate --json` as lines of text."""
    if result["success"]["base"] is None:
        lines = ["success: unknown, no judge was made for this model and these prompts"]
    else:
        lines = [f"success on {result['images']} held-out images a row (95 % interval), {result['labels']} labels"]
        if (best_of := result.get("details", {}).get("best_of", 1)) > 1:
            lines.append(f"  each image of the tuned model is the best of {best_of}, chosen by the run's reward")
        lines += _share_lines(result)
    people = result.get("people")
    if people is not None:
        who = ", ".join(people["evaluators"])
        lines += [f"success on {people['images']} held-out images a row, blind, by {who}", *_share_lines(people)]
        if people["agreement"] is not None:
            lines.append(f"  agreement with the task's judge: {_percent(people['agreement']['share'])}")
    for name, value in (("diversity", result["diversity"]["tuned_fresh"]), ("drift", result["drift"])):
        if value is not None:
            meaning = {"diversity": "of the base model's, on fresh noise", "drift": "on unrelated prompts (0 is none)"}
            lines.append(f"{name}: {value:.2f} {meaning[name]}")
    return lines


def _share_lines(result: Mapping[str, Any]) -> list[str]:
    """One line for each image set."""
    lines = []
    for key, name in _SETS.items():
        value, interval = result["success"][key], result["success_interval"][key]
        shown = f"{_percent(value):>5}  ({_percent(interval[0])} to {_percent(interval[1])})" if interval else "none"
        lines.append(f"  {name:<27} {shown}")
    return lines


def closing_lines(run: Path, rounds: int, result: Mapping[str, Any] | None) -> list[str]:
    """What a finished run achieved, where its files are, and what to do next."""
    files = {"LoRA": LORA_FILE, "report": REPORT_FILE, "metrics": METRICS_FILE}
    found = [f"{name:<8} {run / file}" for name, file in files.items() if (run / file).is_file()]
    evaluated = result is not None
    unknown = result is not None and result["success"]["base"] is None and result.get("people") is None
    blind = {
        f"hero evaluate {_quoted(run)} --evaluator web": "judge base and tuned images blind: how success becomes known"
    }
    next_commands = {
        **(blind if unknown else {}),
        f"hero generate {_quoted(run)} --out {_quoted(run / 'images')}": "draw with what was learnt",
        f"hero evaluate {_quoted(run)}{' --images 500' if evaluated else ''}": (
            "measure it on more images" if evaluated else "measure it against the base model"
        ),
        f"hero resume {_quoted(run)} --rounds {2 * rounds}": "continue training",
    }
    width = max(map(len, next_commands))
    commands = [f"  {command:<{width}}  # {what}" for command, what in next_commands.items()]
    return ["", *([] if result is None else [*success_lines(result), ""]), *found, "", "next:", *commands]


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def quiet_libraries() -> None:
    """Keeps the libraries' own chatter out of the output; downloads still show their progress."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
