"""The command line on a tiny random pipeline: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from hero import Feedback, ImageBatch
from hero.cli import app
from hero.tasks import TASKS

DOCS = Path(__file__).parents[1] / "docs" / "cli.md"
TINY = ["--preset", "tinyworld", "--evaluator", "test_cli:every_other"]
TINY += [
    "--set",
    "sampling.num_steps=3",
    "--set",
    "update.ppo.timesteps_per_image=2",
    "--set",
    "reward.similarity.epochs=3",
]


def every_other(batch: ImageBatch) -> Feedback:
    return Feedback.from_good(batch, batch.ids[::2], batch.ids[0])


def interrupts(batch: ImageBatch) -> Feedback:
    """Ctrl-C in the second round."""
    if batch.round == 2:
        signal.raise_signal(signal.SIGINT)
    return every_other(batch)


def hero(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trained(random_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A finished run of two rounds, and what training printed."""
    folder = tmp_path_factory.mktemp("runs")
    settings = folder / "settings.toml"
    settings.write_text("rounds = 5\nseed = 3\n[sampling]\nimages_per_round = 9\neta = 0.7\n[evaluation]\nimages = 4\n")
    options = ["--config", settings, "--set", "sampling.images_per_round=8", "--set", "rounds=4"]
    options += ["--rounds", "2", "--images-per-round", "6"]
    return folder / "run", hero("train", "--model", random_pipeline, "--out", folder / "run", *TINY, *options)


@pytest.fixture
def run(trained: tuple[Path, Result]) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(trained[0], "run"))


# ---------------------------------------------------------------------------------------------- hero train


def test_training_prints_a_line_a_round_and_a_summary(trained: tuple[Path, Result]) -> None:
    run, result = trained
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    rounds = [line for line in lines if line.startswith("round ")]
    assert [line.split(" · ")[:3] for line in rounds] == [
        ["round 1/2", "6 labels", "good 50 % (3 of 6)"],
        ["round 2/2", "12 labels", "good 50 % (3 of 6)"],
    ]
    for file in ("lora/pytorch_lora_weights.safetensors", "report.html", "metrics.jsonl"):
        assert str(run / file) in result.stdout
        assert (run / file).stat().st_size > 0
    commands = [line.split()[:3] for line in lines if line.startswith("  hero ")]
    assert commands == [["hero", command, str(run)] for command in ("evaluate", "generate", "evaluate", "resume")]
    assert "success: unknown" in result.stdout  # no judge was made for a random model
    assert result.stderr == ""


def test_options_go_over_assignments_and_those_over_the_file(trained: tuple[Path, Result]) -> None:
    config = tomllib.loads((trained[0] / "config.toml").read_text())
    assert (config["rounds"], config["seed"]) == (2, 3)
    assert (config["sampling"]["images_per_round"], config["sampling"]["eta"]) == (6, 0.7)


def test_training_evaluates(trained: tuple[Path, Result]) -> None:
    evaluation = trained[0] / "evaluation"
    assert json.loads((evaluation / "result.json").read_text())["labels"] == 12
    for name in ("base", "tuned_fresh", "tuned_refined"):
        assert sorted(p.name for p in (evaluation / name).iterdir()) == [f"000{i}.png" for i in range(4)]


def test_json_is_one_object_on_stdout(random_pipeline: Path) -> None:
    result = hero(
        *("train", "--model", random_pipeline, "--prompt", "a red cup", "--criterion", "it is red", *TINY),
        *("--rounds", "1", "--images-per-round", "4", "--no-evaluate", "--json"),
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["run"] == str(Path("runs/custom-hero-s0"))
    assert [line["labels"] for line in answer["rounds"]] == [4]
    assert (answer["evaluation"], answer["report"]) == (None, None)
    assert Path(answer["lora"]).is_file()
    assert "round 1/1" in result.stderr
    task = tomllib.loads(Path(answer["run"], "config.toml").read_text())["task"]
    assert task == {"name": "custom", "prompts": ["a red cup"], "criterion": "it is red"}


def test_an_interrupted_run_says_how_to_go_on_and_does(random_pipeline: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have ignored it, for the background
    options = ["--rounds", "2", "--images-per-round", "4", "--no-evaluate", "--evaluator", "test_cli:interrupts"]
    result = hero("train", "--model", random_pipeline, "--out", "run", *TINY, *options)
    assert (result.exit_code, result.stderr) == (130, "hero: stopped; `hero resume run` continues from here\n")
    assert "round 1/2" in result.stdout
    del result  # it holds the traceback, and that the run's lock, as no ended process would
    gc.collect()
    resumed = hero("resume", "run", "--set", "evaluator.name=test_cli:every_other")
    assert resumed.exit_code == 0, resumed.output
    assert "run continues after round 1 of 2" in resumed.stdout
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 2


# ---------------------------------------------------------------------------------------------- bad input

BAD_TRAINING: list[tuple[list[str], str]] = [
    (["--task", "hnd"], "did you mean 'hand'?"),
    (["--method", "heros"], "did you mean 'hero'?"),
    (["--method", ""], "unknown method"),
    (["--preset", "tinywrld"], "did you mean 'tinyworld'?"),
    (["--evaluator", "orcle"], "did you mean 'oracle'?"),
    (["--evaluator", "no_such_module:judge"], "no module named 'no_such_module'"),
    (["--evaluator", "test_cli:every_othr"], "did you mean 'every_other'?"),
    (["--evaluator", "test_cli:TINY"], "must be callable"),
    (["--evaluator", "python"], "Tuner.ask()"),
    (["--evaluator", "web", "--store", "labels.db"], "is not a URL"),
    (["--evaluator", "web", "--store", "postgresql://me:secret@host/labels"], "holds a password"),
    (["--evaluator", "web", "--set", "evaluator.rule=most"], "evaluator.rule = 'most'"),
    (["--prompt", "a red cup", "--evaluator", "oracle"], "a prompt of your own has no oracle"),
    (["--prompt", "a red cup", "--set", "evaluator.name=oracle"], "a prompt of your own has no oracle"),
    (["--prompt", ""], "no empty one"),
    (["--prompt", "a", "--prompt", "a"], "given twice"),
    (["--prompt", "a", "--task", "hand"], "not both"),
    (["--rounds", "0"], "rounds = 0"),
    (["--seed", "-1"], "seed = -1"),
    (["--images-per-round", "0"], "sampling.images_per_round = 0"),
    (["--task", "modest-figure", "--images-per-round", "2"], "number of prompts"),
    (["--set", "rounds"], "write stage.field=value"),
    (["--set", "=3"], "write stage.field=value"),
    (["--set", "sampling.num_step=3"], "did you mean 'num_steps'?"),
    (["--set", "samplin.eta=1"], "did you mean 'sampling'?"),
    (["--set", "sampling.eta=many"], "sampling.eta = 'many'"),
    (["--set", "sampling.eta=nan"], "sampling.eta"),
    (["--set", "sampling.eta=0"], "use eta > 0"),
    (["--set", "sampling.eta.x=1"], "sampling.eta"),
    (["--set", "sampling=3"], "sampling = 3"),
    (["--set", "task=hand"], "task = 'hand'"),
    (["--set", "model=3"], "model.path=tinyworld"),
    (["--set", "method=[1]"], "method = [1]"),
    (["--set", "preset=3"], "preset = 3"),
    (["--set", "method=heros"], "did you mean 'hero'?"),
    (["--config", "missing.toml"], "missing.toml"),
    (["--config", "."], "cannot read the configuration file"),
    (["--config", "broken.toml"], "not valid TOML"),
    (["--config", "binary.toml"], "not valid TOML"),
    (["--config", "unknown.toml"], "did you mean 'images_per_round'?"),
    (["--model", "./missing", "--evaluator", "test_cli:every_other"], "there is no model folder ./missing"),
    (["--model", ".", "--evaluator", "test_cli:every_other"], "holds no model_index.json"),
    (["--model", "other-family", "--evaluator", "test_cli:every_other"], "PixArtAlphaPipeline are not supported"),
    (["--model", "torn", "--evaluator", "test_cli:every_other"], "torn has no component"),
    (["--model", "torn"], "the oracle of 'hand' can judge only images of the model 'tinyworld'"),
    (["--out", "taken"], "taken exists and is not an empty folder"),
    (["--out", "broken.toml"], "broken.toml exists and is not an empty folder"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD_TRAINING, ids=[" ".join(a) for a, _ in BAD_TRAINING])
def test_bad_input_is_refused_in_a_line_or_two(arguments: list[str], said: str, random_pipeline: Path) -> None:
    Path("broken.toml").write_text("rounds = = 3")
    Path("binary.toml").write_bytes(b"\xff\xfe\x00")
    Path("unknown.toml").write_text("[sampling]\nimages_per_rounds = 3\n")
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")
    Path("other-family").mkdir()
    Path("other-family/model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    Path("torn").mkdir()
    shutil.copy(random_pipeline / "model_index.json", "torn")
    before = tree(Path())
    result = hero("train", *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("hero: ")
    assert len(result.stderr.splitlines()) <= 2
    assert said in result.stderr
    assert tree(Path()) == before
    assert not Path("runs").exists()


def test_a_folder_that_holds_a_run_is_left_as_it_is(run: Path) -> None:
    before = tree(run)
    result = hero("train", "--out", run)
    assert result.exit_code == 2
    assert "hero resume run" in result.stderr
    assert "--out" in result.stderr
    assert tree(run) == before


@pytest.mark.parametrize("arguments", [["trian"], ["train", "--sed", "1"], ["train", "--seed", "x"], ["resume"]])
def test_a_wrong_command_line_is_refused(arguments: list[str]) -> None:
    assert hero(*arguments).exit_code == 2


def test_the_traceback_is_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" not in hero("train", "--task", "hnd").stderr
    monkeypatch.setenv("HERO_TRACEBACK", "1")
    result = hero("train", "--task", "hnd")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("hero: unknown task")


# ---------------------------------------------------------------------------------------------- hero resume


def test_resuming_a_finished_run_says_so(run: Path) -> None:
    learnt = {name: data for name, data in tree(run).items() if not name.startswith((".lock", "report"))}
    result = hero("resume", run)
    assert result.exit_code == 0, result.output
    assert "run is finished after 2 rounds; `hero resume run --rounds 4` continues it" in result.stdout
    after = tree(run)
    assert {name for name, data in learnt.items() if after[name] != data and name != "feedback.db"} == set()


def test_resuming_with_more_rounds_goes_on(run: Path) -> None:
    result = hero("resume", run, "--rounds", "3", "--set", "evaluation.images=2", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [line["round"] for line in answer["rounds"]] == [1, 2, 3]
    assert (answer["evaluation"]["labels"], answer["evaluation"]["images"]) == (18, 2)
    assert tomllib.loads((run / "config.toml").read_text())["rounds"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "method=ddpo"], "method cannot change"),
        (["--set", 'task.prompts=["a cat"]'], "task.prompts cannot change"),
        (["--set", "model.path=tinyworld"], "model.path cannot change"),
        (["--set", "lora.rank=2", "--rounds", "3"], "lora"),
        (["--set", "samplin.eta=1"], "did you mean 'sampling'?"),
        (["--set", "evaluator.name=python", "--rounds", "3"], "tuner.ask()"),
        (["--rounds", "0"], "rounds = 0"),
    ],
)
def test_resume_refuses_what_does_not_fit_the_run(run: Path, arguments: list[str], said: str) -> None:
    before = tree(run)
    result = hero("resume", run, *arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("hero: ")
    assert said in result.stderr.lower()
    after = tree(run)
    assert {name for name in before if after[name] != before[name] and not name.startswith("feedback.db")} == set()


# ------------------------------------------------------------------------ hero evaluate, generate and report


def test_evaluate_prints_its_object_and_writes_the_images(run: Path) -> None:
    result = hero("evaluate", run, "--images", "3", "--prompt", "a hand at night", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["task"], answer["images"], answer["labels"]) == ("hand", 3, 12)
    names = {"base", "tuned_fresh", "tuned_refined"}
    assert set(answer["success"]) == set(answer["success_interval"]) == set(answer["diversity"]) == names
    assert answer["success"]["base"] is None  # no judge was made for a random model
    assert answer == json.loads((run / "evaluation" / "result.json").read_text())
    assert sorted(p.name for p in (run / "evaluation" / "base").iterdir()) == ["0000.png", "0001.png", "0002.png"]


def test_evaluate_with_an_evaluator_of_ones_own_draws_once_and_judges_blind(run: Path) -> None:
    command = ["evaluate", run, "--images", "3", "--prompt", "a hand at night", "--evaluator", "test_cli:every_other"]
    result = hero(*command, "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer == json.loads((run / "evaluation" / "result.json").read_text())
    assert answer["success"]["base"] is None
    assert answer["people"]["evaluators"] == ["every_other"]
    judged = answer["people"]["judged"]
    assert (judged["base"], judged["tuned_fresh"], judged["tuned_refined"]) == (3, 3, 0)
    assert answer["people"]["success"]["base"] is not None
    drawn = (run / "evaluation" / "base" / "0000.png").stat().st_mtime_ns
    again = hero(*command)
    assert (run / "evaluation" / "base" / "0000.png").stat().st_mtime_ns == drawn
    assert "3 held-out images a row, blind, by every_other" in again.stdout


@pytest.mark.parametrize(
    ("evaluator", "said"),
    [
        ("test_cli:nobody", "has no 'nobody'"),
        ("clip", "say what is good"),
        ("oracel", "did you mean 'oracle'"),
        ("python", "the evaluator 'python' stands for the caller"),
    ],
)
def test_evaluate_refuses_a_judge_that_is_none_before_drawing(run: Path, evaluator: str, said: str) -> None:
    result = hero("evaluate", run, "--evaluator", evaluator)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (run / "evaluation" / "people").exists()


def test_generate_is_a_function_of_its_options(run: Path) -> None:
    options: dict[str, list[str]] = {
        "tuned": [],
        "again": ["--seed", "0", "--noise", "fresh", "--prompt", "1 hand"],
        "other": ["--seed", "1"],
        "base": ["--base"],
        "absent": ["--strength", "0"],
        "refined": ["--noise", "refined"],
    }
    drawn: dict[str, dict[str, bytes]] = {}
    for name, extra in options.items():
        result = hero("generate", run, "--out", name, "--images", "2", *extra)
        assert result.exit_code == 0, result.output
        drawn[name] = tree(Path(name))
        assert set(drawn[name]) == {"0000.png", "0001.png"}
    assert drawn["tuned"] == drawn["again"]
    assert drawn["base"] == drawn["absent"]
    assert len({drawn[name]["0000.png"] for name in ("tuned", "other", "base", "refined")}) == 4


def test_generate_draws_the_same_noises_at_several_strengths(run: Path) -> None:
    assert hero("generate", run, "--out", "one", "--images", "2").exit_code == 0
    strengths = ["--strength", "0", "--strength", "0.5", "--strength", "1"]
    assert hero("generate", run, "--out", "strip", "--images", "2", *strengths).exit_code == 0
    found = [tree(Path("strip", f"strength-{factor}")) for factor in ("0", "0.5", "1")]
    assert found[2] == tree(Path("one"))
    assert len({images["0000.png"] for images in found}) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "images", "--base", "--strength", "0.5"], "the base model is the LoRA at strength 0"),
        (["--out", "images", "--strength", "nan"], "finite numbers"),
        (["--out", "images", "--noise", "refined", "--prompt", "a cat"], "no refined noise for these prompts"),
        (["--out", "images", "--prompt", " "], "--prompt is empty"),
        (["--out", "run"], "run exists and is not an empty folder"),
    ],
)
def test_generate_refuses_bad_input(run: Path, arguments: list[str], said: str) -> None:
    before = tree(Path())
    result = hero("generate", run, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert tree(Path()) == before


@pytest.mark.parametrize("command", [["resume"], ["evaluate"], ["report"], ["generate", "--out", "images"]])
def test_a_folder_without_a_run_is_refused(command: list[str]) -> None:
    result = hero(*command, "nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("hero: ")
    assert "nowhere" in result.stderr
    assert tree(Path()) == {}


def test_report_is_written_anew(run: Path) -> None:
    (run / "report.html").unlink()
    result = hero("report", run)
    assert result.exit_code == 0, result.output
    assert result.stdout == "run/report.html\n"
    assert "<html" in (run / "report.html").read_text()


# ---------------------------------------------------------------------------------------------- the rest


def test_tasks_are_listed() -> None:
    lines = hero("tasks").stdout.splitlines()
    assert [line.split()[0] for line in lines[1 : len(TASKS) + 1]] == list(TASKS)
    listed = json.loads(hero("tasks", "--json").stdout)
    assert [task["name"] for task in listed] == list(TASKS)
    assert listed[0]["prompts"] == ["1 hand"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["tasks"], 0), (["--help"], 0), (["train", "--help"], 0), (["train", "--task", "hnd"], 2)],
)
def test_quick_answers_load_no_torch(arguments: list[str], status: int) -> None:
    program = (
        "import sys; from hero.cli import app; sys.argv[0] = 'hero'\ntry: app()\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stdout.splitlines()[-1] == "False"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hero", "--version"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.stdout.startswith("hero 0.")


def test_every_command_and_option_is_documented() -> None:
    text = DOCS.read_text()
    root: Any = typer.main.get_command(app)
    missing = []
    groups = {name: command.commands for name, command in root.commands.items() if hasattr(command, "commands")}
    assert set(groups) == {"bench", "feedback"}
    named = {name: command for name, command in root.commands.items() if name not in groups}
    named |= {f"{group} {name}": command for group, commands in groups.items() for name, command in commands.items()}
    for name, command in named.items():
        _, found, section = text.partition(f"\n## hero {name}\n")
        section = section.partition("\n## ")[0]
        options = [o for p in command.params for o in p.opts if o.startswith("--") and o != "--help"]
        missing += [f"hero {name} {o}".strip() for o in ["" if found else "(section)", *options] if o not in section]
    assert missing == []
    assert "--version" in text
