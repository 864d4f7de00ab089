"""A finished run has one reader: what it says, that nothing else opens its files, and that reading changes nothing."""

from __future__ import annotations

import ast
import json
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from safetensors import safe_open
from typer.testing import CliRunner

import hero
from hero.cli import app
from hero.config import load_run_config
from hero.errors import RunError
from hero.evaluation.stored import stored_evaluation
from hero.export import export
from hero.feedback.marks import Mark
from hero.feedback.store import LabelStore
from hero.report import write_report
from hero.run.finished import FinishedRun
from hero.types import Feedback

PACKAGE = Path(hero.__file__).parent
TESTS = Path(__file__).parent


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two rounds that is learnt from, labelled and evaluated, its store closed."""
    return Path(shutil.copytree(TESTS / "fixtures" / "run-0.1", tmp_path / "run"))


def share_store(run: Path) -> Path:
    """Moves the labels of `run` into a store that it shares; returns the store's file."""
    shared = run.parent / "elsewhere" / "labels.db"
    shared.parent.mkdir()
    (run / "feedback.db").rename(shared)
    config = load_run_config(run / "config.toml", {"evaluator": {"store": f"sqlite:///{shared}"}})
    (run / "config.toml").write_text(config.to_toml())
    return shared


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def cli(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


# ---------------------------------------------------------------------------------------------- what it says


def test_it_gives_what_a_run_has_come_to(run: Path) -> None:
    finished = FinishedRun(run)
    assert [stats.round for stats in finished.history] == [1, 2]
    assert finished.labels == finished.history[-1].labels
    assert finished.current_evaluation == finished.evaluation
    assert finished.evaluation is not None
    assert finished.lora_file.is_file()
    assert finished.noise_file == run / "refined_noise.safetensors"
    assert finished.best_image is not None
    with LabelStore(run / "feedback.db") as store:
        newest = max(label.created_at for label in store.labels())
    assert finished.newest_label == newest.astimezone(UTC).replace(microsecond=0)


def test_it_loads_no_torch_until_a_checkpoint_is_read(run: Path) -> None:
    script = (
        "import sys\n"
        "from hero.run.finished import FinishedRun\n"
        "run = FinishedRun(sys.argv[1])\n"
        "assert run.history and run.evaluation and run.best_image and run.newest_label and run.noise_file\n"
        "heavy = {'torch', 'diffusers', 'transformers'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script, str(run)], check=True)


def test_the_history_is_that_of_the_checkpoint_or_else_of_the_metrics(run: Path) -> None:
    history = FinishedRun(run).history
    (run / "metrics.jsonl").unlink()
    assert FinishedRun(run).history == history
    (run / "metrics.jsonl").write_text("".join(json.dumps(stats.to_dict()) + "\n" for stats in history[:1]))
    shutil.rmtree(run / "checkpoints")
    assert FinishedRun(run).history == history[:1]


def test_an_evaluation_beside_no_finished_round_is_not_current(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").write_text("")
    finished = FinishedRun(run)
    assert finished.labels == 0
    assert finished.current_evaluation is None
    assert stored_evaluation(finished, 1) is None
    assert "No round has been finished yet" in write_report(run).read_text()


@pytest.mark.parametrize("details", [{"seed": 1}, {"sampler": {"num_steps": 1, "eta": 1.0, "guidance_scale": 1.0}}])
def test_an_evaluation_by_another_sampler_or_seed_is_not_current(run: Path, details: dict[str, Any]) -> None:
    result = run / "evaluation" / "result.json"
    change(result, details={**json.loads(result.read_text())["details"], **details})
    assert FinishedRun(run).current_evaluation is None
    assert "another sampler or seed" in write_report(run).read_text()


# ---------------------------------------------------------------------------------------------- labels elsewhere


def test_the_date_of_an_export_is_that_of_the_shared_store(run: Path, tmp_path: Path) -> None:
    def date(out: Path) -> str:
        with safe_open(export(run, "kohya", out), framework="pt") as file:
            return str(file.metadata()["modelspec.date"])

    own = date(tmp_path / "own.safetensors")
    shared = share_store(run)
    assert date(tmp_path / "shared.safetensors") == own
    assert not (run / "feedback.db").exists()
    shared.unlink()
    with safe_open(export(run, "kohya", tmp_path / "away.safetensors"), framework="pt") as file:
        assert "modelspec.date" not in file.metadata()


def test_the_report_shows_the_verdicts_of_a_shared_store(run: Path) -> None:
    marked = write_report(run).read_text().count("marked good")
    assert marked
    shared = share_store(run)
    assert write_report(run).read_text().count("marked good") == marked
    shared.unlink()
    assert "What was said is not shown: there is no label store" in write_report(run).read_text()
    assert not (run / "feedback.db").exists()


def test_a_run_without_labels_has_a_report_and_an_export(run: Path, tmp_path: Path) -> None:
    (run / "feedback.db").unlink()
    write_report(run)
    export(run, "diffusers", tmp_path / "out")
    assert not (run / "feedback.db").exists()


# ---------------------------------------------------------------------------------------------- whose figures


def test_the_headline_has_the_labels_of_the_evaluation_it_quotes(run: Path, tmp_path: Path) -> None:
    labels = FinishedRun(run).labels
    result = run / "evaluation" / "result.json"
    change(
        result,
        labels=labels // 2,
        success={"base": 0.25, "tuned_fresh": 0.75, "tuned_refined": None},
        success_interval={"base": [0.1, 0.4], "tuned_fresh": [0.6, 0.9], "tuned_refined": None},
    )
    page = write_report(run).read_text()
    assert f"after {labels // 2} labels." in page
    assert f"after {labels} labels." not in page
    assert f"of the model after {labels // 2} labels; it has learnt from {labels} since" in page
    card = ModelCard.load(export(run, "diffusers", tmp_path / "out") / "README.md")
    assert "## Figures" not in card.text
    change(result, labels=labels)
    assert "it has learnt from" not in write_report(run).read_text()


# ---------------------------------------------------------------------------------------------- reading changes nothing


def state(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file and folder with its time, mode and content."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mtime_ns,
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in (folder, *sorted(folder.rglob("*")))
    }


def killed(store: Path) -> None:
    """Adds a label to `store` as a run that is killed leaves it: in the write-ahead log alone."""
    program = (
        "import os, sys\n"
        "from hero.feedback.store import LabelStore, Mark\n"
        "LabelStore(sys.argv[1]).mark(3, 'ann', Mark('r0003-i0000', 'verdict', 'good'))\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(store)], check=False)
    assert store.with_name(store.name + "-wal").stat().st_size


@pytest.mark.parametrize("left", ["closed", "killed", "copied without its index"])
def test_a_store_is_read_whole_without_a_trace(run: Path, left: str) -> None:
    if left != "closed":
        killed(run / "feedback.db")
    if left == "copied without its index":
        (run / "feedback.db-shm").unlink()
    before = state(run)
    store = FinishedRun(run).label_store()
    assert store is not None
    with store:
        assert [label.evaluator for label in store.labels(3)] == ([] if left == "closed" else ["ann"])
        assert store.answer(1) is not None
        with pytest.raises(RunError, match="opened read-only"):
            store.mark(3, "bob", Mark("r0003-i0001", "verdict", "bad"))
    assert state(run) == before


def test_a_store_that_is_being_written_is_read_without_waiting(run: Path) -> None:
    with LabelStore(run / "feedback.db") as writer, writer.edit(3, "ann") as draft:
        draft.mark(Mark("r0003-i0000", "verdict", "good"))
        store = FinishedRun(run).label_store()
        assert store is not None
        with store:
            assert store.count(3) == 0
            assert store.count(1)


def test_a_store_of_version_1_is_read_as_if_upgraded_and_stays_as_it_is(run: Path) -> None:
    path = run / "feedback.db"
    path.unlink()
    connection = sqlite3.connect(path)
    connection.executescript((TESTS / "data" / "feedback-v1.sql").read_text())
    connection.close()
    before = state(run)
    store = FinishedRun(run).label_store()
    assert store is not None
    with store:
        answers = {round_: store.answer(round_) for round_ in store.submitted_rounds()}
    assert state(run) == before
    with LabelStore(path) as upgraded:
        assert answers == {round_: upgraded.answer(round_) for round_ in upgraded.submitted_rounds()}
    assert any(answers.values())


def test_a_store_that_is_none_is_refused_in_one_sentence(run: Path) -> None:
    (run / "feedback.db").write_text("no database at all" * 100)
    with pytest.raises(RunError, match=r"feedback\.db cannot be read .*not a database.*; check that it is complete"):
        FinishedRun(run).label_store()


def test_every_command_that_reads_leaves_the_run_as_it_is(run: Path, tmp_path: Path) -> None:
    killed(run / "feedback.db")
    for path in (run, *run.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = state(run)
    out = tmp_path / "out"
    cli("report", run, "--out", out / "report.html")
    cli("export", run, "--out", out / "lora")
    cli("export", run, "--format", "kohya", "--out", out / "lora.safetensors")
    cli("feedback", "export", run, "--out", out / "labels")
    cli("generate", run, "--out", out / "images", "--images", 1, "--noise", "refined")
    found = json.loads(cli("evaluate", run, "--out", out / "evaluation", "--images", 2, "--json"))
    assert state(run) == before
    assert json.loads((out / "evaluation" / "result.json").read_text()) == found
    assert FinishedRun(run, evaluation=out / "evaluation").current_evaluation == found
    assert len(FinishedRun(run, evaluation=out / "evaluation").evaluated("tuned_fresh")) == 2
    assert '"ann"' in (out / "labels" / "labels.jsonl").read_text()
    assert (out / "report.html").stat().st_size
    for path in (run, *run.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def all_good(batch: Any) -> Feedback:
    return Feedback.from_good(batch, batch.ids)


def test_people_may_judge_beside_a_run_that_cannot_be_written(run: Path, tmp_path: Path) -> None:
    before = state(run)
    judge = f"{__name__}:all_good"
    found = json.loads(
        cli("evaluate", run, "--evaluator", judge, "--images", 2, "--out", tmp_path / "evaluation", "--json")
    )
    assert state(run) == before
    assert found["people"]["success"]["base"] == 1
    assert (tmp_path / "evaluation" / "people" / "verdicts.json").is_file()


def test_a_report_that_cannot_be_written_says_where_else(run: Path) -> None:
    (run / "report.html").mkdir()
    with pytest.raises(RunError, match=r"cannot write .*report\.html: .*; name another file with --out"):
        write_report(run)


# ---------------------------------------------------------------------------------------------- one reader

FILES = ("metrics.jsonl", "feedback.db", "refined_noise.safetensors", "pytorch_lora_weights.safetensors", "result.json")
NAMED_IN = {"run/directory.py", "policies/lora.py", "feedback/store.py", "bench/clicks.py", "web/__main__.py"}
NAMED_IN |= {"policies/lora_file.py", "bench/cells.py", "export/comfyui_node.py"}
"""Where these names are written out: the run directory; the library's own name of a LoRA; the store's default name,
a store that is thrown away, a help text; the base model's result, which is of no run; a node that stands
alone in another program."""
USED_IN = {
    "METRICS_FILE": {"run/finished.py", "cli/running.py", "console.py", "studio/overview.py", "studio/results.py"},
    "STORE_FILE": {
        "run/finished.py",
        "evaluation/people.py",
        "web/desk.py",
        "run/branch.py",
        "studio/desks.py",
        "studio/overview.py",
    },
    "NOISE_FILE": {"run/finished.py", "run/state.py", "export/__init__.py"},
    "LORA_FILE": {
        "run/finished.py",
        "console.py",
        "people/session.py",
        "bench/cells.py",
        "web/desk.py",
        "studio/results.py",
    },
    "RESULT_FILE": {"run/finished.py", "trained.py", "evaluation/people.py", "studio/overview.py"},
}
"""The reader, who writes them, who says where they are or hands them out, and who looks when they last changed."""


def test_nothing_else_opens_the_files_of_a_run() -> None:
    named, used = set(), {name: set[str]() for name in USED_IN}
    for path in sorted(PACKAGE.rglob("*.py")):
        here, tree = path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if any(node.value == file or node.value.endswith(f"/{file}") for file in FILES):
                    named.add(here)
            elif isinstance(node, ast.Name) and node.id in used:
                used[node.id] |= {here} - {"run/directory.py"}
    assert named <= NAMED_IN
    assert {name: places - USED_IN[name] for name, places in used.items()} == {name: set() for name in used}
