"""Statistics and tables of the success benchmark, and that it goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hero.bench.base import contact_sheet
from hero.bench.eye import compare, join, split
from hero.bench.pictures import before_after
from hero.bench.success import run_success, success_table, summarise, write_results
from hero.bench.transfer import measure_transfer, write_transfer
from hero.config import validate
from hero.errors import RunError
from hero.tasks import TASKS, judged_tasks


def evaluation(base: list[bool], fresh: list[bool], refined: list[bool] | None, **changes: Any) -> dict[str, Any]:
    """What result.json of a run holds, as far as the benchmark reads it."""
    verdicts = {"base": base, "tuned_fresh": fresh, "tuned_refined": refined}
    return {
        "task": "hand",
        "images": len(base),
        "labels": 512,
        "success": {name: None if v is None else sum(v) / len(v) for name, v in verdicts.items()},
        "diversity": {"base": 1.0, "tuned_fresh": 0.8, "tuned_refined": None},
        "drift": 0.1,
        "details": {"verdicts": verdicts, "seconds_training": 60.0},
    } | changes


def test_summary_is_worked_by_hand() -> None:
    runs = [
        evaluation([True, False, False, False], [True, True, False, False], [True, True, True, True]),
        evaluation([True, False, False, False], [True, True, True, False], [True, True, True, False]),
    ]
    cell = summarise("hand", "hero", runs)
    assert (cell.seeds, cell.images, cell.labels) == (2, 4, 512)
    assert cell.base == 0.25
    assert cell.fresh == pytest.approx(0.625)
    assert cell.refined == pytest.approx(0.875)
    assert cell.gain == pytest.approx(0.375)
    assert cell.gain_interval[0] <= cell.gain <= cell.gain_interval[1]
    assert cell.diversity_fresh == pytest.approx(0.8)
    assert cell.diversity_fresh_interval == pytest.approx((0.8, 0.8))
    assert (cell.diversity_refined, cell.diversity_refined_interval) == (None, None)
    assert cell.drift_interval == pytest.approx((0.1, 0.1))


def test_a_method_without_refined_noise_has_no_refined_figure() -> None:
    cell = summarise("hand", "ddpo", [evaluation([True, False], [True, True], None)])
    assert cell.refined is None
    assert "| – |" in success_table([cell])


def test_a_run_without_a_judge_is_refused() -> None:
    run = evaluation([True], [True], None)
    run["details"]["verdicts"]["base"] = None
    with pytest.raises(ValueError, match="needs the task's judge"):
        summarise("hand", "hero", [run])


def test_results_say_when_and_where(tmp_path: Path) -> None:
    cell = summarise("hand", "hero", [evaluation([True, False], [True, True], [True, True])])
    write_results([cell], tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"date", "hero", "machine", "pooled", "cells", "runs"} == set(results)
    assert results["cells"][0]["fresh"] == 1.0
    assert (tmp_path / "results.md").read_text().count("\n") == 3


def test_before_after_shows_each_set_and_marks_verdicts(tmp_path: Path) -> None:
    result = evaluation([True, False], [False, True], None)
    (tmp_path / "config.toml").write_text(validate({"task": {"prompts": ["1 hand"]}}).to_toml())
    folder = tmp_path / "evaluation"
    for name, colour in (("base", (200, 0, 0)), ("tuned_fresh", (0, 0, 200))):
        (folder / name).mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (64, 64), colour).save(folder / name / f"{index:04d}.png")
    (folder / "result.json").write_text(json.dumps(result))
    sheet = np.asarray(before_after([tmp_path], columns=2)).reshape(-1, 3)
    colours = {tuple(colour) for colour in np.unique(sheet, axis=0).tolist()}
    assert {(200, 0, 0), (0, 0, 200)} <= colours  # both sets
    assert {(38, 160, 96), (196, 70, 62)} <= colours  # both verdicts


def test_before_after_of_a_run_without_evaluation_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run in"):
        before_after([tmp_path])
    (tmp_path / "config.toml").write_text(validate({"task": {"prompts": ["1 hand"]}}).to_toml())
    with pytest.raises(RunError, match="hero evaluate"):
        before_after([tmp_path])


def test_contact_sheets_show_successes_first() -> None:
    images = [Image.new("RGB", (64, 64), colour) for colour in ("black", "white")]
    sheet = contact_sheet(images, [False, True])
    assert sheet.getpixel((34, 34)) == (255, 255, 255)
    assert sheet.getpixel((0, 0)) == (38, 160, 96)
    assert sheet.getpixel((68, 0)) == (196, 70, 62)


def test_an_eye_and_a_judge_are_compared_image_by_image() -> None:
    found = compare([True, False, True, False], [0, 1])
    assert (found["agreement"], found["eye"], found["judge"]) == (0.5, 0.5, 0.5)
    assert (found["good for the eye alone"], found["good for the judge alone"]) == ([1], [2])
    low, high = found["interval"]
    assert 0 < low < 0.5 < high < 1


@pytest.mark.parametrize("good", [[0, 0], [4], [-1]])
def test_labels_of_images_that_are_not_there_are_refused(good: list[int]) -> None:
    with pytest.raises(RunError, match="twice, or one that is not among 0 to 3"):
        compare([True] * 4, good)


def test_a_sheet_gives_back_the_images_it_was_made_of() -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(16)]
    again = split(join(images))
    assert [np.array_equal(a, b) for a, b in zip(images, again, strict=True)] == [True] * 16


SHORT: dict[str, Any] = {
    "rounds": 1,
    "sampling": {"images_per_round": 8, "num_steps": 4},
    "update": {"ppo": {"timesteps_per_image": 2}},
    "reward": {"similarity": {"epochs": 2}},
}


@pytest.fixture(scope="module")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Four tiny runs that two processes shared, and what was reported of them."""
    out, lines = tmp_path_factory.mktemp("bench"), []
    cells = run_success(
        ["green-view"], ["hero", "noise-only"], [0, 1], out, images=8, settings=SHORT, jobs=2, report=lines.append
    )
    assert [(cell.method, cell.seeds, cell.images) for cell in cells] == [("hero", 2, 8), ("noise-only", 2, 8)]
    return out, lines


def test_processes_share_a_benchmark_and_finished_runs_are_read(shared_runs: tuple[Path, list[str]]) -> None:
    out, lines = shared_runs
    assert len(lines) == 4
    runs = sorted(out.glob("runs/*/evaluation/result.json"))
    assert len(runs) == 4
    written = json.loads((out / "results.json").read_text())
    assert [(run["method"], run["seed"]) for run in written["runs"]] == [
        (method, seed) for seed in (0, 1) for method in ("hero", "noise-only")
    ]
    mean = {cell["method"]: cell for cell in written["cells"]}
    over = mean["hero"]["refined"], mean["noise-only"]["refined"]
    if None not in over:  # no good image, no refined noise
        assert written["pooled"]["over noise-only, refined"]["mean"] == pytest.approx(over[0] - over[1])
    assert written["pooled"]["gain, fresh"]["mean"] == pytest.approx(mean["hero"]["gain"])
    before = [path.stat().st_mtime_ns for path in runs]
    twice = run_success(["green-view"] * 2, ["hero"], [0, 1, 1], out, images=8, settings=SHORT, report=lines.append)
    assert [path.stat().st_mtime_ns for path in runs] == before
    assert [cell.seeds for cell in twice] == [2]


def test_a_shared_run_is_the_one_that_this_process_makes(shared_runs: tuple[Path, list[str]], tmp_path: Path) -> None:
    run_success(["green-view"], ["hero"], [1], tmp_path, images=8, settings=SHORT, report=lambda line: None)
    here, there = (folder / "runs" / "green-view-hero-s1" / "evaluation" for folder in (tmp_path, shared_runs[0]))
    names = [path.relative_to(here) for path in sorted(here.glob("*/*.png"))]
    assert len(names) > 24
    assert [name for name in names if not np.array_equal(Image.open(here / name), Image.open(there / name))] == []


def test_runs_with_other_settings_are_refused(shared_runs: tuple[Path, list[str]]) -> None:
    with pytest.raises(RunError, match="other settings"):
        run_success(["green-view"], ["hero"], [0], shared_runs[0], images=8)


def test_when_one_run_fails_the_others_are_not_begun(shared_runs: tuple[Path, list[str]], tmp_path: Path) -> None:
    failing = tmp_path / "runs" / "green-view-hero-s0"
    failing.mkdir(parents=True)
    (failing / "config.toml").write_bytes((shared_runs[0] / "runs" / failing.name / "config.toml").read_bytes())
    with pytest.raises(RunError, match="other settings"):
        run_success(["green-view"], ["hero"], range(12), tmp_path, images=64, jobs=2)  # the preset's own settings
    assert not list(tmp_path.glob("runs/*/evaluation"))
    assert len(list(tmp_path.glob("runs/*"))) < 6


def test_transfer_is_measured_once_and_read_after(shared_runs: tuple[Path, list[str]]) -> None:
    out, _ = shared_runs
    lines: list[str] = []
    neighbours, others = measure_transfer(out, [0, 1], images=8, report=lines.append)
    assert [line for line in lines if "left out" not in line] == [
        "drawing the base model's images",
        "drawing with green-view-hero-s0",
        "drawing with green-view-hero-s1",
    ]
    assert sum("left out" in line for line in lines) == len(TASKS) - 1
    assert {row.task for row in neighbours} == {"green-view"}
    assert {row.prompt for row in neighbours} == {None, *TASKS["green-view"].transfer_prompts}
    assert [(row.trained, row.measured) for row in others] == [
        ("green-view", name) for name in judged_tasks("tinyworld")
    ]
    # The sampler is the runs', for the base model as well: these are the images that the runs were evaluated on.
    result = json.loads((out / "runs" / "green-view-hero-s0" / "evaluation" / "result.json").read_text())
    kept = json.loads((out / "runs" / "base-transfer.json").read_text())["verdicts"]
    assert kept["green-view"] == result["details"]["verdicts"]["base"]
    assert next(row for row in others if row.measured == "green-view").base == result["success"]["base"]
    write_transfer(neighbours, others, out)
    assert {"neighbours", "others", "date"} <= set(json.loads((out / "transfer.json").read_text()))
    assert "a quiet lake" in (out / "transfer.md").read_text()
    again: list[str] = []
    assert measure_transfer(out, [0, 1], images=8, report=again.append) == (neighbours, others)
    assert not [line for line in again if "drawing" in line]


def test_a_run_that_is_still_trained_is_left_out_of_transfer(
    shared_runs: tuple[Path, list[str]], tmp_path: Path
) -> None:
    shutil.copytree(shared_runs[0], tmp_path / "bench")
    newest = max((tmp_path / "bench" / "runs" / "green-view-hero-s1" / "checkpoints").glob("*-told")) / "state.json"
    state = json.loads(newest.read_text())
    further = [*state["history"], {**state["history"][-1], "round": 2, "labels": 16}]
    newest.write_text(json.dumps({**state, "history": further}))
    with pytest.raises(RunError, match="it holds green-view-hero-s0, green-view-hero-s1"):
        measure_transfer(tmp_path / "bench", [0, 1], images=8)


def test_transfer_needs_an_image_for_every_neighbour(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neighbouring prompts"):
        measure_transfer(tmp_path, [0], images=2)


def test_transfer_without_runs_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="hero bench success"):
        measure_transfer(tmp_path, [0])
