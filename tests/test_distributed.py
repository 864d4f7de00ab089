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
from hero.bench.miniatures import MINIATURES, save_miniature
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
import os, sys, time
from pathlib import Path
import torch
from hero.distributed import Helper, connect, is_helper, launch, process_count
from hero.errors import ConfigError, TrainingError
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
heard = Path("heard")
if is_helper():
    helper = Helper()
    if os.environ["RANK"] == "1":
        helper.refuse("no such model")
        while not heard.exists():
            time.sleep(0.1)
    helper.serve(tasks, [parameter])
    sys.exit()

workers = connect(configure(prompts="a", settings={"distributed": {"collective_timeout": 20}}))
workers.prepare(tasks, [parameter])

def attempt(task, items):
    try:
        print(list(workers.map(task, items)))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")

attempt("scale", range(1, 8))
heard.touch()
while True:  # until it serves
    try:
        print(list(workers.map("scale", range(1, 8))))
        break
    except TrainingError:
        time.sleep(0.1)
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
    done = python("script.py", folder=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[:8] == [
        "TrainingError: process 1: no such model",
        "[(0, 1.0), (1, 2.0), (2, 3.0), (0, 4.0), (1, 5.0), (2, 6.0), (0, 7.0)]",
        "(0, 0.0)",
        "[(0, 10.0), (1, 20.0)]",
        "ConfigError: four",
        "TrainingError: process 2 failed: ValueError: four",
        "OutOfMemoryError: too large",
        "[(0, 50.0)]",
    ], done.stderr
    # Whether the main process hears of a killed one before it is ended with it depends on which of the two is faster.
    lost = "TrainingError: another of the 3 processes ended or did not answer in time ("
    assert len(lines) == 8 or lines[8].startswith(lost)
    assert done.returncode == 1
    assert "hero: process 1 of 3 was ended by signal 9, and the others with it" in done.stderr


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
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match=r"configured for DEEPSPEED.*docs/distributed\.md"):
        connect(tiny_config())


# ---------------------------------------------------------------------------------------------- one model in parts

TOGETHER = """
import os, sys, time
import torch
import torch.distributed as dist
from hero.distributed import Helper, connect, is_helper, launch, process_count
from hero.errors import ConfigError
from hero.methods import configure

if process_count() == 1:
    sys.exit(launch(3, sys.argv))

rank = int(os.environ["RANK"])

def add(item):
    total = torch.tensor(float(item))
    dist.all_reduce(total, group=mesh.get_group())
    return rank, total.item()

def refuse(item):
    add(item)
    if item == 1:
        raise ConfigError("one")

def fail(item):
    if rank == int(sys.argv[1]):
        raise torch.OutOfMemoryError("too large") if rank == 1 else ValueError("bad\\nand more")
    add(item)

tasks = {"add": add, "refuse": refuse, "fail": fail}
if is_helper():
    helper = Helper()
    mesh = helper.mesh
    helper.serve(tasks, [])
    sys.exit()

settings = {"distributed": {"collective_timeout": 3, "shard": True}, "model": {"device": "cpu"}}
workers = connect(configure(prompts="a", settings=settings))
mesh = workers.mesh
workers.prepare(tasks, [])

def attempt(task, items):
    try:
        print(list(workers.map(task, items)))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")

attempt("add", range(1, 6))
abandoned = workers.map("add", range(1, 9))
print(next(abandoned))
abandoned.close()
attempt("refuse", range(9))
attempt("add", [7])
started = time.monotonic()
attempt("fail", range(4))
attempt("add", [7])
workers.stop()
print(time.monotonic() - started < 10)
"""


@pytest.mark.parametrize(
    ("failing", "said"),
    [
        pytest.param(0, "TrainingError: process 0 failed: ValueError: bad", marks=pytest.mark.slow, id="main"),
        pytest.param(
            1,
            "TrainingError: process 1 is out of memory, and with distributed.shard micro-batches are not halved; lower "
            "sampling.micro_batch (drawing) or update.micro_batch (learning)",
            id="helper",
        ),
    ],
)
def test_processes_that_share_a_model_do_each_task_together(failing: int, said: str, tmp_path: Path) -> None:
    """Whoever has no item does another's again; who fails in the middle leaves the others waiting, but not for long."""
    (tmp_path / "script.py").write_text(TOGETHER)
    done = python("script.py", str(failing), folder=tmp_path)
    assert done.stdout.splitlines() == [
        "[(0, 6.0), (1, 6.0), (2, 6.0), (0, 14.0), (1, 14.0)]",
        "(0, 6.0)",
        "ConfigError: one",
        "[(0, 21.0)]",
        said,
        "TrainingError: the processes are out of step after a failure; `hero resume` continues the run",
        "True",
    ], done.stderr
    assert (done.returncode, done.stderr) == (0, "")


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
        ppo = {"timesteps_per_image": 2, "recompute_log_probs": "always"}
        update = {"images_per_step": 5, "micro_batch": 2, "ppo": ppo}
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
    assert any(value.abs().max() > 0 for key, value in lora.items() if key.endswith(".up.weight"))

    for run in (tmp_path / "run", one):
        with Tuner.resume(run, {"rounds": 3}) as tuner:
            tuner.run(evaluate)
    assert learnt(tmp_path / "run") == learnt(one)


def test_two_processes_practise_as_one_does(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny_config(
        method="heron",
        rounds=2,
        sampling={"images_per_round": 6, "micro_batch": 2, "num_steps": 3},
        practice={"draws": 5, "images": 3},
        reward={"head": {"micro_batch": 2}},
        update={"images_per_step": 3, "micro_batch": 2, "inner_epochs": 1, "nft": {"levels_per_image": 1, "pull": 0.1}},
        evaluator={"name": "patient:evaluate"},
    )
    done = train(config, tmp_path, processes=2)
    assert done.returncode == 0, done.stderr
    one = alone(config, tmp_path / "one")
    assert learnt(tmp_path / "run") == learnt(one)
    assert [line["draws"] for line in learnt(one)["metrics"]] == [5, 5]


SHARDED = """
import json, os, sys
from pathlib import Path
import hero.run.state, hero.tuner
from hero.cli import main
from hero.distributed import launch, process_count
from hero.policies import load_policy
from torch.distributed.tensor import DTensor

if process_count() == 1:
    sys.exit(launch(2, sys.argv))

def load_and_count(*given):
    policy = load_policy(*given)
    frozen = [p for p in policy.denoiser.parameters() if not p.requires_grad]
    assert all(isinstance(p, DTensor) for p in frozen)
    assert not any(isinstance(p, DTensor) for p in policy.parameters())
    sizes = [sum(p.to_local().numel() for p in frozen), sum(p.numel() for p in frozen)]
    Path("sizes-" + os.environ["RANK"]).write_text(json.dumps(sizes))
    return policy

hero.run.state.load_policy = hero.tuner.load_policy = load_and_count
main()
"""

FSDP = """
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
num_machines: 1
num_processes: 2
mixed_precision: 'no'
"""


def check_sharded(folder: Path, config: Config, *, launcher: str = "") -> Path:
    """Trains a run of `config` with two processes and one with one, and compares what their first round has given."""
    (folder / "sharded.py").write_text(SHARDED)
    (folder / "fsdp.yaml").write_text(FSDP)
    (folder / "patient.py").write_text(PATIENT.replace("WAIT", "0"))
    (folder / "settings.toml").write_text(config.to_toml())
    train = ["train", "--config", "settings.toml", "--evaluator", "patient:evaluate", "--no-evaluate", "--out", "run"]
    done = python(*launcher.split(), "sharded.py", *train, folder=folder)
    assert done.returncode == 0, done.stderr
    sizes = [json.loads((folder / f"sizes-{rank}").read_text()) for rank in (0, 1)]
    assert sum(part for part, _ in sizes) == sizes[0][1]
    assert all(0.48 < part / whole < 0.52 for part, whole in sizes)

    run, one = folder / "run", alone(config, folder / "one")
    first = "rounds/0001/images/*.png"
    images, expected = ({p.name: p.read_bytes() for p in sorted(r.glob(first))} for r in (run, one))
    assert len(images) == config.sampling.images_per_round
    assert images == expected
    lora, whole = (load_file(r / "lora" / "pytorch_lora_weights.safetensors") for r in (run, one))
    for key, value in whole.items():
        assert (lora[key] - value).norm() <= 1e-3 * value.norm(), key
    assert any(value.abs().max() > 0 for key, value in lora.items() if key.endswith(".up.weight"))
    return run


@pytest.mark.learns
def test_two_processes_that_share_a_model_under_fsdp_give_what_one_gives(
    config: Callable[..., Config], tmp_path: Path
) -> None:
    """Drawing is the same to the bit; gradients only nearly, since a UNet's are added up in another order."""
    run = check_sharded(tmp_path, config(), launcher="-m accelerate.commands.launch --config_file fsdp.yaml")
    with Tuner.resume(run, {"rounds": 3, "distributed": {"shard": True}}) as tuner:
        assert isinstance(tuner.learner.workers, Alone)  # and has it whole
        assert len(tuner.run(evaluate)) == 3


@pytest.mark.slow
def test_sharing_a_model_is_a_setting_too(config: Callable[..., Config], tmp_path: Path) -> None:
    checkpointing = {"gradient_checkpointing": True, "offload": ("text-encoders", "vae")}
    check_sharded(tmp_path, config(distributed={"shard": True}, model=checkpointing))


FAMILIES = """
import os, sys
import torch
from hero.distributed import _Link, launch, process_count
from hero.bench.miniatures import MINIATURES
from hero.methods import configure
from hero.policies import load_policy
from hero.rollout import MicroBatch, draw_micro_batch

if process_count() == 1:
    sys.exit(launch(2, sys.argv))

link = _Link()
for name in sys.argv[1:]:
    config = configure(prompts="1 hand", model=name, settings={
        "model": {"device": "cpu", "dtype": "float32"},
        "sampling": {"num_steps": 3, "height": 64, "width": 64},
        "update": {"ppo": {"timesteps_per_image": 2}},
        "distributed": {"shard": True},
    })
    link.open_groups(config)
    results = []
    for mesh in (None, link.mesh):
        policy = load_policy(config, mesh)
        source = torch.Generator().manual_seed(link.rank)
        state = policy.state_dict()
        policy.load_state_dict({k: 0.1 * torch.randn(v.shape, generator=source) for k, v in state.items()})
        rows, zeros = policy.encode(["1 hand"]), torch.zeros(2, dtype=torch.int64)
        noise = torch.randn(2, *policy.latent_shape, generator=source)
        batch = MicroBatch(range(2), zeros, noise, 0, "noise", 1)
        latents = draw_micro_batch(policy, rows, batch).trajectory.latents
        transition = policy.transition(latents[:, 1], zeros + 1, rows.rows(zeros))
        loss = transition.log_prob(latents[:, 2]).sum()
        gradients = torch.autograd.grad(loss, policy.parameters(), allow_unused=True)
        policy.add_adapter("old")
        policy.load_state_dict({k: torch.zeros_like(v) for k, v in state.items()})
        with policy.using("old"):
            assert torch.equal(draw_micro_batch(policy, rows, batch).trajectory.latents, latents), name
        assert not torch.equal(draw_micro_batch(policy, rows, batch).trajectory.latents, latents), name
        features = policy.features(latents[:, -1], rows.rows(zeros))
        results.append((latents, features, [g for g in gradients if g is not None]))
    (drawn, seen, wanted), (again, seen_again, found) = results
    assert torch.equal(drawn, again), name
    assert torch.equal(seen, seen_again), name
    assert len(wanted) == len(found) > 0, name
    for x, y in zip(wanted, found):
        assert (x - y).norm() <= 1e-4 * x.norm(), name
"""


FEATURES = """
import sys
import torch
from hero import Tuner
from hero.config import load_toml, validate
from hero.distributed import is_helper, launch, process_count
from hero.features import features
from hero.run.state import help_main

if process_count() == 1:
    sys.exit(launch(2, sys.argv))
if is_helper():
    help_main()
    sys.exit()
with Tuner(validate(load_toml("settings.toml")), "run") as tuner:
    policy, learner = tuner.policy, tuner.learner
    latents = torch.randn(5, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    index = torch.zeros(5, dtype=torch.int64)
    given = (policy, learner.conditioning, index, latents)
    together = features(*given, micro_batch=2, workers=learner.workers)
    print(learner.workers.size, torch.equal(together, features(*given, micro_batch=2)))
"""


def test_processes_share_the_work_of_features(config: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text(FEATURES)
    (tmp_path / "settings.toml").write_text(config().to_toml())
    done = python("features.py", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, "2 True\n"), done.stderr


@pytest.mark.slow
def test_every_family_s_model_can_be_shared(tmp_path: Path) -> None:
    folders = [save_miniature(name, tmp_path / name) for name in MINIATURES]
    (tmp_path / "families.py").write_text(FAMILIES)
    done = python("families.py", *folders, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


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
