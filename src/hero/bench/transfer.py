"""What a LoRA does beyond its own prompts: on neighbouring prompts of its task, and on the other tasks.

It reads the runs of `hero bench success` and draws from fresh noise only, the same held-out noises for the base model
and for every LoRA. What was drawn is kept beside each run, so that an interrupted measurement goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hero.bench.base import draw_held_out
from hero.bench.machine import about_this
from hero.bench.success import cluster_interval
from hero.errors import RunError
from hero.methods import configure
from hero.policies import Policy, load_policy
from hero.tasks import TASKS, Task
from hero.trained import TrainedRun

__all__ = ["Neighbours", "Others", "measure_transfer", "to_markdown", "write_transfer"]

_FILE = "transfer.json"
Verdicts = dict[str, list[bool]]


@dataclass(frozen=True)
class Neighbours:
    """Success on one prompt that was never trained on, or on all of a task's (`prompt` None), from fresh noise.

    `tuned` and `gain`, tuned minus base on the same noises, are means over seeds with the intervals of
    `cluster_interval`, 95 %.
    """

    task: str
    prompt: str | None
    seeds: int
    images: int
    base: float
    tuned: float
    tuned_interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]


@dataclass(frozen=True)
class Others:
    """Success on task `measured`, from fresh noise, with the LoRAs that were trained on task `trained`."""

    trained: str
    measured: str
    seeds: int
    images: int
    base: float
    tuned: float
    gain: float
    gain_interval: tuple[float, float]


def measure_transfer(
    out: Path, seeds: Sequence[int], *, method: str = "hero", images: int = 100, report: Callable[[str], None] = print
) -> tuple[list[Neighbours], list[Others]]:
    """Measures the runs of `method` and `seeds` under `out`/runs, each of its tasks that has all of them.

    Args:
        images: of each neighbouring prompt together, that is per task, and of each other task.

    Raises:
        RunError: no task has its runs there.
    """
    runs = {
        name: [out / "runs" / f"{name}-{method}-s{seed}" for seed in seeds]
        for name, task in TASKS.items()
        if task.judge is not None
    }
    complete = {name: folders for name, folders in runs.items() if all((f / "lora").is_dir() for f in folders)}
    if not complete:
        raise RunError(f"{out / 'runs'} holds no finished runs of {method} for these seeds; run `hero bench success`")
    base = _kept(out / "runs" / f"base-{_FILE}", images)
    if base is None:
        report("drawing the base model's images")
        policy = load_policy(configure())
        with policy.frozen():
            base = _draw_all(policy, images)
        _keep(out / "runs" / f"base-{_FILE}", images, base)
    tuned: dict[str, list[Verdicts]] = {}
    for name, folders in complete.items():
        for folder in folders:
            verdicts = _kept(folder / _FILE, images)
            if verdicts is None:
                report(f"drawing with {folder.name}")
                verdicts = _draw_all(TrainedRun(folder).policy, images)
                _keep(folder / _FILE, images, verdicts)
            tuned.setdefault(name, []).append(verdicts)
    neighbours = [
        _neighbours(task, key, base, tuned[task.name])
        for task in TASKS.values()
        if task.name in tuned and task.transfer_prompts
        for key in (None, *task.transfer_prompts)
    ]
    others = [_others(trained, measured, base, tuned[trained]) for trained in tuned for measured in runs]
    return neighbours, others


def _key(task: Task, prompt: str | None) -> str:
    return task.name if prompt is None else f"{task.name}: {prompt}"


def _draw_all(policy: Policy, images: int) -> Verdicts:
    """Verdicts on each task's own prompts and on each of its neighbours, with the policy as it is."""
    found: Verdicts = {}
    drawn: dict[tuple[str, ...], Any] = {}  # some prompts belong to two tasks
    for task in TASKS.values():
        if task.judge is None:
            continue
        for prompts in (task.prompts, task.transfer_prompts):
            if not prompts:
                continue
            wanted = [prompts[i % len(prompts)] for i in range(images)]
            if prompts not in drawn:
                drawn[prompts] = draw_held_out(policy, wanted)
            for prompt, image in zip(wanted, drawn[prompts], strict=True):
                judge = task.judge_of(prompt)
                assert judge is not None
                key = _key(task, None if prompts is task.prompts else prompt)
                found.setdefault(key, []).append(bool(judge(image).success))
    return found


def _neighbours(task: Task, prompt: str | None, base: Verdicts, tuned: Sequence[Verdicts]) -> Neighbours:
    keys = [_key(task, p) for p in (task.transfer_prompts if prompt is None else (prompt,))]
    before = np.concatenate([base[key] for key in keys]).astype(float)
    after = np.array([np.concatenate([run[key] for key in keys]) for run in tuned], dtype=float)
    gain = after - before
    return Neighbours(
        task=task.name,
        prompt=prompt,
        seeds=len(tuned),
        images=len(before),
        base=float(before.mean()),
        tuned=float(after.mean()),
        tuned_interval=cluster_interval(after),
        gain=float(gain.mean()),
        gain_interval=cluster_interval(gain),
    )


def _others(trained: str, measured: str, base: Verdicts, tuned: Sequence[Verdicts]) -> Others:
    before = np.array(base[measured], dtype=float)
    gain = np.array([run[measured] for run in tuned], dtype=float) - before
    return Others(
        trained=trained,
        measured=measured,
        seeds=len(tuned),
        images=len(before),
        base=float(before.mean()),
        tuned=float((gain + before).mean()),
        gain=float(gain.mean()),
        gain_interval=cluster_interval(gain),
    )


def _kept(path: Path, images: int) -> Verdicts | None:
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    verdicts: Verdicts = stored["verdicts"]
    return verdicts if stored["images"] == images else None


def _keep(path: Path, images: int, verdicts: Verdicts) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps({"images": images, "verdicts": verdicts}) + "\n", encoding="utf-8")
    beside.replace(path)


def write_transfer(neighbours: Sequence[Neighbours], others: Sequence[Others], out: Path) -> None:
    """Writes transfer.json (with date, version and machine) and transfer.md into `out`."""
    rows = {"neighbours": [asdict(row) for row in neighbours], "others": [asdict(row) for row in others]}
    text = json.dumps({**about_this(), **rows}, indent=1) + "\n"
    (out / "transfer.json").write_text(text, encoding="utf-8")
    (out / "transfer.md").write_text(to_markdown(neighbours, others), encoding="utf-8")


def to_markdown(neighbours: Sequence[Neighbours], others: Sequence[Others]) -> str:
    """Two tables: neighbouring prompts, one a row; and trained task × measured task, the gain where it is no chance."""
    lines = [
        "| trained on | measured on, never trained on | images × seeds | base | tuned, fresh noise | gain |",
        "|---|---|---|---|---|---|",
    ]
    for n in neighbours:
        low, high = n.tuned_interval
        what = "**all of these**" if n.prompt is None else n.prompt
        lines.append(
            f"| `{n.task}` | {what} | {n.images} × {n.seeds} | {n.base:.2f} | {n.tuned:.2f} [{low:.2f}, {high:.2f}] "
            f"| {n.gain:+.2f} [{n.gain_interval[0]:+.2f}, {n.gain_interval[1]:+.2f}] |"
        )
    measured = list(dict.fromkeys(o.measured for o in others))
    bases = {o.measured: o.base for o in others}
    lines += ["", "| trained on ↓, measured on → | " + " | ".join(f"`{name}`" for name in measured) + " |"]
    lines += ["|---|" + "---|" * len(measured)]
    lines += ["| nothing (base model) | " + " | ".join(f"{bases[name]:.2f}" for name in measured) + " |"]
    for trained in dict.fromkeys(o.trained for o in others):
        row = {o.measured: o for o in others if o.trained == trained}
        lines.append(f"| `{trained}` | " + " | ".join(_change(row[name]) for name in measured) + " |")
    return "\n".join(lines) + "\n"


def _change(o: Others) -> str:
    """Success and gain; bold where the interval of the gain does not contain zero."""
    text = f"{o.tuned:.2f} ({o.gain:+.2f})"
    return f"**{text}**" if o.gain_interval[0] > 0 or o.gain_interval[1] < 0 else text
