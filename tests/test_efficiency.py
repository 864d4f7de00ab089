"""Labels to a goal, factors, tables and plots from made cells; real cells that stop and go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hero.bench.cells import Base, PlannedCell
from hero.bench.curve_plots import write_plots
from hero.bench.efficiency import (
    Budgets,
    Variant,
    bases_of,
    parse_budgets,
    parse_variant,
    plan_cells,
    run_efficiency,
    time_left,
)
from hero.bench.efficiency_results import efficiency_tables, write_findings
from hero.bench.learning_curves import factor, findings_of, goal, labels_to
from hero.bench.processes import Say
from hero.cli import app
from hero.errors import ConfigError, RunError
from hero.methods import METHODS, configure
from hero.tuner import Tuner

# ---------------------------------------------------------------------------------------------- labels to the goal


def test_the_goal_is_half_of_what_is_missing() -> None:
    assert goal(0.26) == pytest.approx(0.63)
    assert goal(0.5) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("successes", "expected"),
    [
        ((0.40, 0.62, 0.70, 0.90), 256),  # the first that reaches it
        ((0.63, 0.70, 0.80, 0.90), 64),  # exactly X counts
        ((0.70, 0.50, 0.66, 0.61), 256),  # the first falls back; the third holds, .05 below at most
        ((0.64, 0.58, 0.20, 0.20), 64),  # exactly .05 below is still held
        ((0.30, 0.40, 0.50, 0.90), None),  # reached at the last point only: nothing confirms it
        ((0.30, 0.40, 0.50, 0.60), None),
        ((0.70, 0.50, 0.70, 0.50), None),
    ],
)
def test_labels_to_the_goal_on_worked_examples(successes: tuple[float, ...], expected: int | None) -> None:
    assert labels_to(list(zip((64, 128, 256, 512), successes, strict=True)), 0.63) == expected


# ---------------------------------------------------------------------------------------------- made cells


def verdicts(share: float, images: int = 20) -> str:
    """The first images succeed."""
    return "1" * round(share * images) + "0" * (images - round(share * images))


def made_cell(
    successes: Sequence[float],
    *,
    task: str = "hand",
    method: str = "hero",
    variant: str = "",
    seed: int = 0,
    at: Sequence[int] = (64, 128, 256, 512),
    base: float = 0.2,
    refined: float | None = None,
    diversity: float | None = 0.8,
) -> dict[str, Any]:
    """A cell as its file holds it, with the result of its base."""
    points = []
    for labels, success in zip(at, successes, strict=False):
        last = labels == at[-1]
        shown = refined if last else None
        points.append(
            {
                "labels": labels,
                "draws": 0,
                "best_picks": labels // 64,
                "steps": 8,
                "success": success,
                "verdicts": verdicts(success),
                "refined_success": shown,
                "refined_verdicts": None if shown is None else verdicts(shown),
                "plain_success": success if last else None,
                "plain_verdicts": verdicts(success) if last else None,
                "diversity": diversity,
                "refined_diversity": None,
                "diversity_sample": 16,
                "drift": 0.1 if last else None,
                "drift_by_prompt": {"a cat": 0.05, "a dog": 0.15} if last else {},
                "seconds_training": float(labels),
                "seconds_evaluating": 10.0,
            }
        )
    return {
        "task": task,
        "method": method,
        "variant": variant,
        "seed": seed,
        "images": 20,
        "planned": list(at),
        "refined": "last",
        "settings": {},
        "points": points,
        "base": {"success": base, "verdicts": verdicts(base), "plain_success": 0.25, "plain_verdicts": verdicts(0.25)},
    }


FAST, SLOW, NEVER = (0.6, 0.7, 0.8, 0.9), (0.2, 0.3, 0.6, 0.7), (0.2, 0.3, 0.4, 0.5)
"""With a base of .2, X is .6: reached with 64 labels, with 256, not at all."""


def made_cells(
    curves: dict[str, Sequence[Sequence[float]]], tasks: Sequence[str] = ("hand",), **about: Any
) -> list[dict[str, Any]]:
    """`curves`: method → the successes of each seed."""
    return [
        made_cell(successes, task=task, method=method, seed=seed, **about)
        for task in tasks
        for method, seeds in curves.items()
        for seed, successes in enumerate(seeds)
    ]


def test_a_curve_is_worked_by_hand() -> None:
    (curve,) = findings_of(made_cells({"hero": [FAST, SLOW]}, refined=0.95)).curves
    assert (curve.base, curve.goal, curve.labels_to) == (0.2, pytest.approx(0.6), (64, 256))
    assert curve.seeds == (0, 1)
    last = curve.last
    assert (last.labels, last.success, last.gain) == (512, pytest.approx(0.8), pytest.approx(0.6))
    assert last.success_interval[0] < 0.8 < last.success_interval[1]
    assert [point.refined for point in curve.points] == [None, None, None, pytest.approx(0.95)]
    assert (last.diversity, last.diversity_interval) == (pytest.approx(0.8), pytest.approx((0.8, 0.8)))
    assert (curve.drift, curve.plain, curve.plain_base) == (pytest.approx(0.1), pytest.approx(0.8), 0.25)
    assert curve.drift_interval is not None
    assert curve.drift_interval[0] < 0.1 < curve.drift_interval[1]  # two prompts that differ
    # By trapezoids: (.2 + .6)/2·64 + (.6 + .7)/2·64 + (.7 + .8)/2·128 + (.8 + .9)/2·256, over 512.
    fast = (0.4 * 64 + 0.65 * 64 + 0.75 * 128 + 0.85 * 256) / 512
    slow = (0.2 * 64 + 0.25 * 64 + 0.45 * 128 + 0.65 * 256) / 512
    assert curve.area == pytest.approx((fast + slow) / 2)
    assert curve.area_labels == 512


def test_areas_of_a_task_end_where_its_smallest_budget_ends() -> None:
    cells = [*made_cells({"hero": [SLOW]}), made_cell((0.4, 0.8), method="ddpo", at=(32, 96))]
    hero, ddpo = findings_of(cells).curves
    assert (hero.area_labels, ddpo.area_labels) == (96, 96)
    assert ddpo.area == pytest.approx((0.3 * 32 + 0.6 * 64) / 96)
    assert hero.area == pytest.approx((0.2 * 64 + 0.225 * 32) / 96)  # .25 at 96, between .2 and .3


def test_cells_that_are_not_finished_do_not_count() -> None:
    begun = made_cell(FAST[:2], seed=1)
    (curve,) = findings_of([made_cell(FAST), begun]).curves
    assert curve.seeds == (0,)
    assert findings_of([begun]).curves == ()


def test_pooled_figures_count_tasks_equally() -> None:
    cells = made_cells({"hero": [FAST, FAST]}) + made_cells({"hero": [NEVER]}, tasks=["mountain"])
    pooled = {p.labels: p for p in findings_of(cells).pooled}
    assert set(pooled) == {64, 128, 256, 512}
    assert pooled[512].success == pytest.approx((0.9 + 0.5) / 2)
    assert pooled[512].gain == pytest.approx((0.7 + 0.3) / 2)
    assert pooled[512].seeds == 1
    low, high = pooled[512].gain_interval
    assert low < 0.5 < high


def test_a_variant_is_a_series_of_its_own() -> None:
    findings = findings_of([made_cell(FAST), made_cell(SLOW, variant="flip-10")])
    assert findings.series == ("hero", "hero flip-10")
    assert findings.factors == ()  # one method in each


# ---------------------------------------------------------------------------------------------- factors


def test_a_factor_is_worked_by_hand() -> None:
    curves = {"hero": [SLOW] * 5, "ddpo": [FAST] * 5}
    (found,) = findings_of(made_cells(curves, tasks=["hand", "mountain"])).factors
    assert (found.ours, found.theirs, found.tasks, found.seeds) == ("ddpo", "hero", ("hand", "mountain"), 5)
    assert found.value == pytest.approx(4.0)
    assert found.interval == pytest.approx((4.0, 4.0))
    assert found.claimed == pytest.approx(4.0)
    assert found.censored == (0, 0)


def test_nothing_is_claimed_with_few_seeds_or_an_interval_that_reaches_one() -> None:
    (few,) = findings_of(made_cells({"hero": [SLOW] * 4, "ddpo": [FAST] * 4})).factors
    assert few.value == pytest.approx(4.0)
    assert few.claimed is None
    mixed = {"hero": [SLOW, SLOW, SLOW, FAST, FAST], "ddpo": [FAST, FAST, FAST, SLOW, SLOW]}
    (wide,) = findings_of(made_cells(mixed)).factors
    assert wide.value == pytest.approx(4.0)
    assert wide.interval is not None
    assert wide.interval[0] < 1
    assert wide.claimed is None


def test_censored_runs_count_to_the_disadvantage_of_the_claim() -> None:
    (theirs,) = findings_of(made_cells({"hero": [NEVER] * 5, "ddpo": [FAST] * 5})).factors
    assert theirs.value == pytest.approx(512 / 64)  # at least that
    assert theirs.censored == (0, 5)
    (ours,) = findings_of(made_cells({"hero": [SLOW] * 5, "ddpo": [NEVER] * 3 + [FAST] * 2})).factors
    assert ours.value == 0
    assert ours.censored == (3, 0)
    assert ours.claimed is None
    (seldom,) = findings_of(made_cells({"hero": [SLOW] * 5, "ddpo": [NEVER] + [FAST] * 4})).factors
    assert seldom.value == pytest.approx(4.0)  # the median
    assert seldom.interval is not None
    assert seldom.interval[0] == 0  # with other seeds it might have been one that never gets there


def test_a_factor_of_one_seed_has_no_interval() -> None:
    findings = findings_of(made_cells({"hero": [SLOW], "ddpo": [FAST]}))
    hero, ddpo = findings.curves
    assert factor([ddpo], [hero]).interval is None


# ---------------------------------------------------------------------------------------------- what is written


def test_tables_say_what_was_not_reached_and_what_is_missing(tmp_path: Path) -> None:
    findings = findings_of(
        made_cells({"hero": [NEVER] * 5, "ddpo": [FAST] * 5}, tasks=["hand", "mountain"], refined=0.9)
    )
    text = efficiency_tables(findings, {"planned": 30, "finished": 20})
    assert text.startswith("20 of 30 cells are finished")
    assert "> 512 (0 of 5)" in text
    assert "64 (5 of 5)" in text
    assert "at least 8.0" in text
    write_findings(findings, tmp_path, {"planned": 30, "finished": 20})
    written = json.loads((tmp_path / "results.json").read_text())
    assert {"date", "hero", "machine", "cells", "curves", "pooled", "factors"} == set(written)
    assert written["curves"][0]["labels_to"] == [None] * 5
    assert written["factors"][0]["claimed"] == pytest.approx(8.0)


def test_every_row_of_a_table_has_its_columns() -> None:
    text = efficiency_tables(
        findings_of(made_cells({"hero": [NEVER], "ddpo": [FAST]}, tasks=["hand", "mountain"], diversity=None)),
        {"planned": 4, "finished": 4},
    )
    for table in text.split("\n\n"):
        assert len({row.count("|") for row in table.strip().splitlines()}) == 1


def test_plots_are_pictures_of_what_there_is(tmp_path: Path) -> None:
    curves = {"hero": [SLOW, NEVER], "ddpo": [FAST, SLOW]}
    written = write_plots(findings_of(made_cells(curves, tasks=["hand", "mountain"], refined=0.9)), tmp_path)
    assert [path.name for path in written] == ["success.png", "pareto.png", "labels-to-x.png"]
    for path in written:
        with Image.open(path) as picture:
            assert len(set(map(tuple, np.asarray(picture.convert("RGB")).reshape(-1, 3)[::97].tolist()))) > 3
    again = write_plots(findings_of(made_cells(curves, diversity=None)), tmp_path / "other")
    assert "pareto.png" not in [path.name for path in again]
    assert write_plots(findings_of([]), tmp_path / "none") == []


# ---------------------------------------------------------------------------------------------- the plan


def test_a_cell_is_measured_where_its_rounds_end(tmp_path: Path) -> None:
    (cell,) = plan_cells(["hand"], ["hero"], [0], tmp_path)
    assert (cell.points, cell.config.rounds) == ((64, 128, 256, 512), 8)
    own = {"sampling": {"images_per_round": 24}}
    (cell,) = plan_cells(["hand"], ["hero"], [0], tmp_path, budgets=Budgets(144), settings=own)
    assert cell.points == (144,)  # 24, 48, ..., 144: none of them a point but the last
    (cell,) = plan_cells(
        ["hand"], ["hero"], [0], tmp_path, budgets=Budgets(80), settings={"sampling": {"images_per_round": 16}}
    )
    assert cell.points == (16, 32, 64, 80)


def test_cells_of_a_seed_come_before_those_of_the_next(tmp_path: Path) -> None:
    variants = [Variant(), parse_variant("flip-10: evaluator.label_noise=0.1")]
    cells = plan_cells(["hand", "mountain"], ["hero", "ddpo"], [3, 4], tmp_path, variants=variants)
    assert [cell.seed for cell in cells] == [3] * 8 + [4] * 8
    assert len({cell.folder for cell in cells}) == 16
    noisy = [cell for cell in cells if cell.variant]
    assert {cell.config.evaluator.label_noise for cell in noisy} == {0.1}
    assert noisy[0].name == "hand-hero-flip-10-s3"
    assert len(bases_of(cells)) == 2  # who answers changes nothing for the base model


def test_budgets_of_single_methods() -> None:
    budgets = parse_budgets(["256", "ddpo=64"])
    assert (budgets.of("hero"), budgets.of("ddpo")) == (256, 64)
    assert parse_budgets([]).of("hero") == 512


@pytest.mark.parametrize("text", ["", "0", "many", "hero=", "hero=0", "hera=64", "=64"])
def test_budgets_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--labels"):
        parse_budgets([text])


def test_variants_have_a_name_and_settings() -> None:
    assert parse_variant("plain") == Variant()
    assert parse_variant("two: evaluator.strictness=0.6; evaluator.second_strictness=-0.3") == Variant(
        "two", {"evaluator": {"strictness": 0.6, "second_strictness": -0.3}}
    )


@pytest.mark.parametrize("text", ["evaluator.label_noise=0.1", "A: seed=1", ": seed=1", "a/b: seed=1", "a: nothing"])
def test_variants_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--variant|--set"):
        parse_variant(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": Budgets(100)}, "not a whole number of rounds of hero, which shows 64"),
        ({"variants": [Variant("a"), Variant("a")]}, "same name"),
        ({"methods": ["hera"]}, "unknown method"),
        ({"tasks": ["hnad"]}, "unknown task"),
        ({"settings": {"model": {"path": "somewhere/else"}}}, "no judge of 'hand'"),
        ({"variants": [parse_variant("x: evaluator.label_noise=2")]}, "label_noise"),
    ],
)
def test_plans_that_cannot_be_measured_are_refused_at_once(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    plan = {"tasks": ["hand"], "methods": ["hero"], "seeds": [0], "out": tmp_path, **changes}
    with pytest.raises(ConfigError, match=message):
        plan_cells(**plan)


def test_methods_that_draw_differently_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hero.methods import METHODS, Method

    settings = {**METHODS["ddpo"].settings, "sampling": {"guidance_scale": 1.0}}
    monkeypatch.setitem(METHODS, "unguided", Method("without guidance", settings))
    with pytest.raises(ConfigError, match="no fair comparison"):
        plan_cells(["hand"], ["hero", "unguided"], [0], tmp_path)


def test_time_left_is_told_from_cells_that_are_finished(tmp_path: Path) -> None:
    cells = plan_cells(["hand"], ["hero", "ddpo"], [0, 1], tmp_path)
    nothing: dict[PlannedCell, dict[str, Any]] = {cell: {"points": []} for cell in cells}
    assert time_left(nothing, 2) is None
    done = {**nothing, cells[0]: made_cell(FAST)}  # 512 + 10 seconds
    assert time_left(done, 2) == pytest.approx(3 * 522 / 2)
    half = {**done, cells[2]: made_cell(FAST[:2])}  # 128 + 10 of them are over
    assert time_left(half, 1) == pytest.approx(3 * 522 - 138)


# ---------------------------------------------------------------------------------------------- real cells

SHORT: dict[str, Any] = {
    "model": {"threads": 1},
    "sampling": {"images_per_round": 16, "num_steps": 3},
    "update": {"ppo": {"timesteps_per_image": 1}},
    "reward": {"similarity": {"epochs": 2}},
    "lora": {"layers": ["attention"]},
}


def short_plan(out: Path, **changes: Any) -> list[PlannedCell]:
    plan: dict[str, Any] = {"budgets": Budgets(32), "images": 6, "settings": SHORT, **changes}
    return plan_cells(["green-view"], plan.pop("methods", ["hero"]), plan.pop("seeds", [0]), out, **plan)


def without_seconds(cell: PlannedCell) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cell.file.read_text())
    for point in found["points"]:
        for key in [key for key in point if key.startswith("seconds")]:
            del point[key]
    return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """One cell that was measured without a break, and what was said."""
    out, said = tmp_path_factory.mktemp("bench") / "efficiency", []
    for _ in run_efficiency(short_plan(out), processes=1, say=said.append):
        pass
    return out, said


@pytest.mark.learns
def test_a_cell_holds_what_was_measured_at_each_point(measured: tuple[Path, list[str]]) -> None:
    out, said = measured
    (cell,) = short_plan(out)
    found = json.loads(cell.file.read_text())
    assert [point["labels"] for point in found["points"]] == [16, 32]
    for point in found["points"]:
        assert len(point["verdicts"]) == 6
        assert point["success"] == pytest.approx(point["verdicts"].count("1") / 6)
        assert point["draws"] == 0
    first, last = found["points"]
    assert (first["drift"], first["plain_verdicts"], first["refined_verdicts"]) == (None, None, None)
    assert last["drift"] > 0
    assert len(last["drift_by_prompt"]) == 24
    assert len(last["plain_verdicts"]) == 6
    assert 0 < first["seconds_training"] < last["seconds_training"]
    base = cell.base.result
    assert base is not None
    assert len(base["verdicts"]) == len(base["plain_verdicts"]) == 6
    assert [line for line in said if "labels" in line] == [line for line in said if line.startswith("green-view hero")]
    assert said[-1].startswith("1 of 1 cells")


@pytest.mark.learns
def test_measuring_changes_nothing_of_what_is_learnt(measured: tuple[Path, list[str]], tmp_path: Path) -> None:
    from hero.evaluators import make_evaluator

    (cell,) = short_plan(measured[0])
    with Tuner(cell.config, tmp_path / "run") as tuner:
        tuner.run(make_evaluator(cell.config))
    lora = Path("lora") / "pytorch_lora_weights.safetensors"
    assert (cell.folder / lora).read_bytes() == (tmp_path / "run" / lora).read_bytes()


@pytest.mark.learns
def test_a_cell_that_was_stopped_anywhere_ends_the_same(
    measured: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after each round that was learnt from, before and after the point was written, and while drawing."""
    (whole,) = short_plan(measured[0])
    out = tmp_path / "efficiency"
    shutil.copytree(measured[0] / "base", out / "base")
    (cell,) = short_plan(out)

    def stop(said: str) -> None:
        raise KeyboardInterrupt

    def stopped(say: Say = print) -> None:
        with pytest.raises(KeyboardInterrupt):
            cell.do(say)

    with monkeypatch.context() as patch:
        patch.setattr(PlannedCell, "_point", lambda *_: stop(""))
        stopped()  # learnt from 16 labels, not measured
    assert not cell.file.exists()
    stopped(stop)  # measured and written, then stopped
    assert [point["labels"] for point in json.loads(cell.file.read_text())["points"]] == [16]
    with monkeypatch.context() as patch:
        patch.setattr(Tuner, "tell", lambda *_, **__: stop(""))
        stopped()  # drawn, not answered
    cell.do(lambda line: None)
    assert without_seconds(cell) == without_seconds(whole)


@pytest.mark.learns
def test_what_is_finished_is_read(measured: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = measured
    monkeypatch.setattr("hero.bench.cells.Tuner", None)
    (found,) = run_efficiency(short_plan(out), processes=1, say=lambda line: None)
    assert found.counts == {"planned": 1, "finished": 1}
    assert found.findings.curves[0].last.labels == 32


@pytest.mark.learns
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {**SHORT, "lora": {"layers": ["attention"], "rank": 2}}}, "other settings"),
        ({"images": 7}, "on other images"),
        ({"refined": "all"}, "on other images"),
        ({"budgets": Budgets(48)}, "at other points"),
    ],
)
def test_a_folder_of_other_settings_is_refused(
    measured: tuple[Path, list[str]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        next(iter(run_efficiency(short_plan(measured[0], **changes), processes=1)))


@pytest.mark.learns
def test_a_run_beside_a_missing_cell_is_refused_if_it_has_other_settings_or_is_past_it(
    measured: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out = tmp_path / "efficiency"
    shutil.copytree(measured[0], out)
    (cell,) = short_plan(out)
    cell.file.unlink()
    with pytest.raises(RunError, match="lacks the point 16"):
        cell.do(lambda line: None)
    (other,) = short_plan(out, settings={**SHORT, "lora": {"layers": ["attention"], "rank": 2}})
    with pytest.raises(RunError, match="other settings"):
        other.found()


# ---------------------------------------------------------------------------------------------- the command


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "hera"], "unknown method"),
        (["--task", "hnad"], "unknown task"),
        (["--labels", "many"], "--labels 'many'"),
        (["--labels", "100"], "whole number of rounds"),
        (["--variant", "evaluator.label_noise=0.1"], "write NAME"),
        (["--refined", "some"], "write last, all or none"),
        (["--set", "lora.rnak=2"], "unknown setting 'lora.rnak'"),
    ],
)
def test_mistakes_in_options_are_told_before_anything_is_written(
    arguments: list[str], message: str, runner: CliRunner, tmp_path: Path
) -> None:
    out = tmp_path / "bench"
    done = runner.invoke(app, ["bench", "efficiency", "--out", str(out), *arguments])
    assert done.exit_code == 2
    assert message in done.stderr
    assert not out.exists()


@pytest.mark.learns
def test_the_command_reads_what_is_finished_and_prints_one_object(
    measured: tuple[Path, list[str]], runner: CliRunner
) -> None:
    out, _ = measured
    options = ["--task", "green-view", "--method", "hero", "--seeds", "1", "--labels", "32", "--images", "6"]
    for key, values in SHORT.items():
        for name, value in values.items():
            if isinstance(value, dict):
                options += [o for n, v in value.items() for o in ("--set", f"{key}.{name}.{n}={v}")]
            else:
                options += ["--set", f"{key}.{name}={json.dumps(value)}"]
    done = runner.invoke(app, ["bench", "efficiency", "--out", str(out), *options, "--json"])
    assert done.exit_code == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["cells"] == {"planned": 1, "finished": 1}
    assert answer == json.loads((out / "results.json").read_text())
    assert "| `green-view` | `hero` | 32 × 1 |" in (out / "results.md").read_text()
    assert (out / "success.png").is_file()


def test_every_method_is_compared_with_the_same_base(tmp_path: Path) -> None:
    bases = {Base.of(configure("hand", method=name), 8, tmp_path).folder for name in METHODS}
    assert len(bases) == 1
