"""Several processes for one run: the same results as one, no time limit on waiting, and no hang when one fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hero import Feedback, ImageBatch, Tuner
from hero.config import Config
from hero.distributed import Alone, connect, is_helper, process_count
from hero.errors import ConfigError, TrainingError
from hero.types import RoundStats

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def python(*arguments: str | Path, folder: Path, timeout: float = 900, **environment: str) -> Any:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


# ---------------------------------------------------------------------------------------------- handing out

SCRIPT = """
import os, sys
from hero.distributed import Helper, connect, is_helper, launch, process_count
from hero.errors import ConfigError
from hero.methods import configure

if process_count() == 1:
    sys.exit(launch(3, sys.argv))

parameter = torch.nn.Parameter(torch.tensor([1.0]))

def scale(item):
    return int(os.environ["RANK"]), float(parameter.detach() * item)

def fail(item):
    if item == 4:
        raise ConfigError("four") if os.environ["RANK"] == "1" else ValueError("four\\nand more")
    return item

def run_out(item):
    if item == 2:
        raise torch.OutOfMemoryError("too large")

def die(item):
    if item == 1:
        os.kill(os.getpid(), 9)

tasks = {"scale": scale, "fail": fail, "run-out": run_out, "die": die}
if is_helper():
    if sys.argv[1] == "refuse":
        Helper().refuse("no such model")
    else:
        Helper().serve(tasks, [parameter])
    sys.exit()

workers = connect(configure(prompts="a", settings={"distributed": {"collective_timeout": 20}}))
workers.prepare(tasks, [parameter])

def attempt(task, items):
    try:
        print(list(workers.map(task, items)))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")

attempt("scale", range(1, 8))
if sys.argv[1] == "work":
    with torch.no_grad():
        parameter.mul_(10)
    abandoned = workers.map("scale", range(7))
    print(next(abandoned))
    abandoned.close()
    attempt("scale", [1, 2])
    attempt("fail", range(6))
    attempt("fail", [0, 1, 4, 4])
    attempt("run-out", range(6))
    attempt("scale", [5])
    attempt("die", range(3))
workers.stop()
"""


def test_results_come_in_order_and_failures_leave_the_processes_in_step(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = python("script.py", "work", folder=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[:7] == [
        "[(0, 1.0), (1, 2.0), (2, 3.0), (0, 4.0), (1, 5.0), (2, 6.0), (0, 7.0)]",
        "(0, 0.0)",
        "[(0, 10.0), (1, 20.0)]",
        "ConfigError: four",
        "TrainingError: process 2 failed: ValueError: four",
        "OutOfMemoryError: too large",
        "[(0, 50.0)]",
    ], done.stderr
    assert lines[7].startswith("TrainingError: another of the 3 processes ended or did not answer in time (")
    assert done.returncode == 1
    assert "hero: process 1 of 3 was ended by signal 9, and the others with it" in done.stderr


def test_a_helper_that_cannot_load_the_model_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = python("script.py", "refuse", folder=tmp_path)
    assert done.stdout.startswith("TrainingError: process 1: no such model"), done.stderr


def test_one_process_does_everything_itself(tiny_config: Callable[..., Config], monkeypatch: Any) -> None:
    assert (process_count(), is_helper()) == (1, False)
    workers = connect(tiny_config())
    assert isinstance(workers, Alone)
    seen: list[int] = []
    workers.prepare({"note": lambda item: seen.append(item) or -item}, [])
    results = workers.map("note", [1, 2])
    assert seen == []  # lazily: the first images are shown before the last are drawn
    assert (list(results), workers.size) == ([-1, -2], 1)

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="only the main process trains a run"):
        connect(tiny_config())
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"configured for FSDP.*docs/distributed\.md"):
        connect(tiny_config())


# ---------------------------------------------------------------------------------------------- training

PATIENT = """
import time
from hero import Feedback

def evaluate(batch):
    if batch.round == 2:
        time.sleep(WAIT)
    return Feedback.from_good(batch, batch.ids[::2], batch.ids[2])
"""


def evaluate(batch: ImageBatch) -> Feedback:
    return Feedback.from_good(batch, batch.ids[::2], batch.ids[2])


def learnt(run: Path) -> dict[str, Any]:
    """Everything that a run has come to, but for the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    told = sorted((run / "checkpoints").glob("*-told"))[-1]
    return {
        "images": {p.name: p.read_bytes() for p in sorted(run.glob("rounds/*/images/*.png"))},
        "metrics": [{k: v for k, v in line.items() if k not in RoundStats.WALL_CLOCK} for line in lines],
        "state": {p.name: p.read_bytes() for p in sorted(told.glob("*.safetensors"))},
    }


def alone(config: Config, run: Path) -> Path:
    with Tuner(config, run) as tuner:
        tuner.run(evaluate)
    return run


def train(config: Config, folder: Path, processes: int, wait: float = 0, launcher: str = "") -> Any:
    (folder / "patient.py").write_text(PATIENT.replace("WAIT", str(wait)))
    (folder / "settings.toml").write_text(config.to_toml())
    command = ["-m", "hero", "train", "--config", "settings.toml", "--evaluator", "patient:evaluate", "--no-evaluate"]
    own = [] if launcher else ["--processes", str(processes)]
    return python(*launcher.split(), *command, "--out", "run", *own, folder=folder)


@pytest.fixture
def config(tiny_config: Callable[..., Config]) -> Callable[..., Config]:
    """Rounds with an odd number of micro-batches, in drawing and in updating."""

    def make(**given: Any) -> Config:
        sampling = {"images_per_round": 6, "micro_batch": 2, "num_steps": 3}
        update = {"images_per_step": 5, "timesteps_per_image": 2, "micro_batch": 2, "recompute_log_probs": "always"}
        evaluator = {"name": "patient:evaluate"}
        return tiny_config(**{"sampling": sampling, "update": update, "evaluator": evaluator, "rounds": 2, **given})

    return make


@pytest.mark.learns
def test_two_processes_give_what_one_gives_also_when_a_person_takes_longer_than_the_timeout(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    """15 seconds with a timeout of 5 stand for 15 minutes with 5; the run then goes on with one process."""
    done = train(config(distributed={"collective_timeout": 5.0}), tmp_path, processes=2, wait=15)
    assert done.returncode == 0, done.stderr
    assert (done.stderr, done.stdout.count("round ")) == ("", 2)
    one = alone(config(), tmp_path / "one")
    assert learnt(tmp_path / "run") == learnt(one)
    lora = load_file(one / "lora" / "pytorch_lora_weights.safetensors")
    assert any(value.abs().max() > 0 for key, value in lora.items() if "lora_B" in key)

    for run in (tmp_path / "run", one):
        with Tuner.resume(run, {"rounds": 3}) as tuner:
            tuner.run(evaluate)
    assert learnt(tmp_path / "run") == learnt(one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param("", id="--processes"),
        pytest.param(
            "-m accelerate.commands.launch --multi_gpu --num_machines 1 --num_processes 4 --mixed_precision no "
            "--dynamo_backend no",
            id="accelerate",
        ),
        pytest.param("-m torch.distributed.run --standalone --nproc-per-node 4", id="torchrun"),
    ],
)
def test_four_processes_give_what_one_gives(launcher: str, config: Callable[..., Config], tmp_path: Path) -> None:
    done = train(config(), tmp_path, processes=4, launcher=launcher)
    assert done.returncode == 0, done.stderr
    assert learnt(tmp_path / "run") == learnt(alone(config(), tmp_path / "one"))


@pytest.mark.slow
def test_a_run_of_one_process_is_resumed_by_four(config: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "patient.py").write_text(PATIENT.replace("WAIT", "0"))
    one = alone(config(rounds=1), tmp_path / "one")
    shutil.copytree(one, tmp_path / "run")
    done = python("-m", "hero", "resume", "run", "--rounds", "2", "--processes", "4", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    with Tuner.resume(one, {"rounds": 2}) as tuner:
        tuner.run(evaluate)
    assert learnt(tmp_path / "run") == learnt(one)


@pytest.mark.slow
def test_bad_input_ends_all_processes_with_one_line(tmp_path: Path) -> None:
    done = python("-m", "hero", "train", "--method", "heros", "--processes", "2", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("hero: unknown method 'heros'")
    assert done.stderr.count("\n") == 1
    missing = python("-m", "hero", "train", "--model", "./none", "--processes", "2", folder=tmp_path)
    assert missing.returncode == 2
    assert "Traceback" not in missing.stderr
