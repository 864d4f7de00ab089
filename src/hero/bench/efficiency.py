"""What methods reach with how many labels: tasks × methods × variants × seeds, each a cell, measured as it learns.

Success is measured where runs have spent one of `POINTS` labels, from the same held-out noises for all. The benchmark
can be stopped at any moment and continues from there; its results are written anew after each cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hero.bench.cells import Base, PlannedCell, Refined
from hero.bench.learning_curves import Findings, findings_of
from hero.bench.processes import Say, shared_out
from hero.config import merge, parse_assignments
from hero.errors import ConfigError, nearest
from hero.methods import METHODS, configure
from hero.tasks import judge_for

__all__ = [
    "POINTS",
    "Budgets",
    "SoFar",
    "Variant",
    "bases_of",
    "parse_budgets",
    "parse_variant",
    "plan_cells",
    "run_efficiency",
    "time_left",
]

POINTS = (16, 32, 64, 128, 256, 512)
"""Labels at which a policy is measured, where a round ends there; and the last, whatever it is."""


@dataclass(frozen=True)
class Variant:
    """Settings that a cell has beyond those of its method, and what they are called; "" for none."""

    name: str = ""
    settings: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Budgets:
    """How many labels a run may spend."""

    labels: int = 512
    by_method: Mapping[str, int] | None = None

    def of(self, method: str) -> int:
        return (self.by_method or {}).get(method, self.labels)


def parse_variant(text: str) -> Variant:
    """`"flip-10: evaluator.label_noise=0.1; evaluator.strictness=0.5"`, or `"plain"` for no settings.

    Raises:
        ConfigError: it is not of this form.
    """
    name, colon, settings = text.partition(":")
    if text.strip() == "plain":
        return Variant()
    if not colon or not name.strip() or not set(name.strip()) <= set("abcdefghijklmnopqrstuvwxyz0123456789-"):
        raise ConfigError(
            f"--variant {text!r}: write NAME: stage.field=value; ..., the name in a-z, 0-9 and -, or plain"
        )
    return Variant(name.strip(), parse_assignments([part.strip() for part in settings.split(";") if part.strip()]))


def parse_budgets(texts: Sequence[str]) -> Budgets:
    """`["512", "heron=128"]`: of every method, and of one.

    Raises:
        ConfigError: not a whole number of at least 1, or an unknown method.
    """
    everyone, by_method = Budgets().labels, {}
    for text in texts:
        method, equals, number = text.rpartition("=")
        if not number.strip().isdecimal() or int(number) < 1:
            raise ConfigError(f"--labels {text!r}: write a number of at least 1, or METHOD=NUMBER")
        if equals and method not in METHODS:
            raise ConfigError(f"--labels {text!r}: unknown method; {nearest(method, METHODS)}")
        if equals:
            by_method[method] = int(number)
        else:
            everyone = int(number)
    return Budgets(everyone, by_method)


# ---------------------------------------------------------------------------------------------- the plan


def plan_cells(
    tasks: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    *,
    variants: Sequence[Variant] = (Variant(),),
    budgets: Budgets | None = None,
    images: int = 200,
    refined: Refined = "last",
    settings: Mapping[str, Any] | None = None,
) -> list[PlannedCell]:
    """Every task × method × variant × seed once, all of one seed before the next, so that partial results compare.

    Args:
        settings: as for `configure`; a variant's are laid over them. Tables of kinds that a method does not use are
            left out.

    Raises:
        ConfigError: an unknown name or setting, a budget that is not a whole number of rounds, a task without a judge
            for the model, or methods that would be measured with different samplers or models.
    """
    budgets = budgets or Budgets()
    cells = [
        _planned(task, method, variant, seed, out, budgets, images, refined, settings or {})
        for seed in dict.fromkeys(seeds)
        for variant in variants
        for task in dict.fromkeys(tasks)
        for method in dict.fromkeys(methods)
    ]
    if len(names := [cell.name for cell in cells]) != len(set(names)):
        raise ConfigError("two variants have the same name")
    compared: dict[tuple[str, str], PlannedCell] = {}
    for cell in cells:
        first = compared.setdefault((cell.task, cell.variant), cell)
        if first.base.question != cell.base.question:
            raise ConfigError(
                f"on {cell.task}, {cell.series} and {first.series} would be measured with different models, samplers "
                "or noises: no fair comparison; give the settings with --set, or measure them with another --out each"
            )
    return cells


def bases_of(cells: Sequence[PlannedCell]) -> list[Base]:
    """The bases of `cells`, each once."""
    return list({cell.base.folder: cell.base for cell in cells}.values())


def _planned(
    task: str,
    method: str,
    variant: Variant,
    seed: int,
    out: Path,
    budgets: Budgets,
    images: int,
    refined: Refined,
    settings: Mapping[str, Any],
) -> PlannedCell:
    own, budget = merge(settings, variant.settings or {}), budgets.of(method)
    config = configure(task, method=method, seed=seed, settings=own)
    round_ = config.sampling.images_per_round
    if budget % round_:
        raise ConfigError(
            f"{budget} labels are not a whole number of rounds of {method}, which shows {round_} images a round; "
            f"give --labels {method}=NUMBER, or another sampling.images_per_round"
        )
    config = configure(task, method=method, seed=seed, rounds=budget // round_, settings=own)
    if judge_for(task, config.model.path) is None:
        raise ConfigError(f"no judge of {task!r} was made for {config.model.path}; this benchmark needs one")
    points = tuple(p for p in POINTS if p < budget and p % round_ == 0)
    return PlannedCell(task, method, variant.name, seed, config, images, (*points, budget), refined, out)


# ---------------------------------------------------------------------------------------------- all of it


@dataclass(frozen=True)
class SoFar:
    """The findings of the cells that are finished, and how many are `planned` and `finished`."""

    findings: Findings
    counts: Mapping[str, int]


def run_efficiency(cells: Sequence[PlannedCell], *, processes: int = 2, say: Say = print) -> Iterator[SoFar]:
    """Measures `cells`, with the bases first; yields what is found so far after each cell that is finished.

    Args:
        processes: how many share the work, each with its part of the processor's cores.
        say: called with a line for each point as it is measured, and for each cell with the time left.

    Raises:
        RunError: a folder holds a cell of other settings; nothing was begun.
    """
    measured = {cell: cell.found() for cell in cells}
    for _ in shared_out([base for base in bases_of(cells) if base.result is None], processes, say):
        pass
    open_ = [cell for cell in cells if len(measured[cell]["points"]) < len(cell.points)]
    if not open_:
        yield _so_far(measured)
    for done, (cell, found) in enumerate(shared_out(open_, processes, say), start=len(cells) - len(open_) + 1):
        measured[cell] = found
        left = time_left(measured, processes)
        say(f"{done} of {len(cells)} cells are finished" + ("" if left is None else f"; about {_duration(left)} left"))
        yield _so_far(measured)


def _so_far(measured: Mapping[PlannedCell, Mapping[str, Any]]) -> SoFar:
    finished = [cell for cell, found in measured.items() if len(found["points"]) == len(cell.points)]
    bases = {base.folder: base.result for base in bases_of(finished)}
    findings = findings_of([{**measured[cell], "base": bases[cell.base.folder]} for cell in finished])
    return SoFar(findings, {"planned": len(measured), "finished": len(finished)})


def time_left(measured: Mapping[PlannedCell, Mapping[str, Any]], processes: int) -> float | None:
    """Seconds until all cells are finished, from those that are; None if none is.

    A cell is expected to take as long as the finished ones of its method and number of labels; where there is none, as
    long a label as the others.
    """
    took: dict[tuple[str, int], list[float]] = {}
    for cell, found in measured.items():
        if len(found["points"]) == len(cell.points):
            took.setdefault((cell.method, cell.points[-1]), []).append(_seconds(found["points"][-1]))
    if not took:
        return None
    a_label = sum(map(sum, took.values())) / sum(labels * len(seconds) for (_, labels), seconds in took.items())
    left = 0.0
    for cell, found in measured.items():
        labels, points = cell.points[-1], found["points"]
        known = took.get((cell.method, labels))
        whole = sum(known) / len(known) if known else a_label * labels
        if len(points) < len(cell.points):
            left += max(0.0, whole - (_seconds(points[-1]) if points else 0.0))
    return left / processes


def _seconds(point: Mapping[str, Any]) -> float:
    return float(point["seconds_training"] + point["seconds_evaluating"])


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"
