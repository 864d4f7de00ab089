"""What a LoRA does beyond its own prompts: on neighbouring prompts of its task, and on all tasks.

It reads the runs of `hero bench success` and draws from fresh noise only, the same held-out noises for the base model
and for every LoRA. What was drawn is kept beside each run, so that an interrupted measurement continues where it
stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hero.bench.base import draw_held_out
from hero.bench.intervals import difference_interval, share_interval
from hero.bench.machine import about_this
from hero.config import Config
from hero.errors import RunError
from hero.evaluation.stored import stored_evaluation
from hero.ids import prompts_in_turn
from hero.policies import Policy, load_policy
from hero.run.finished import FinishedRun
from hero.tasks import TASKS, Task, judged_tasks
from hero.trained import TrainedRun

__all__ = ["Neighbours", "Others", "measure_transfer", "transfer_tables", "write_transfer"]

_FILE = "transfer.json"
Verdicts = dict[str, list[bool]]


@dataclass(frozen=True)
class Neighbours:
    """Success on one prompt that was never trained on, or on all of a task's (`prompt` None), from fresh noise.

    `tuned` and `gain`, tuned minus base on the same noises, are means over seeds with the 95 % intervals of
    `hero.bench.intervals`.
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
    """Measures the runs of `method` and `seeds` under `out`/runs, for each task of which all of them are evaluated.

    Args:
        images: in all for each task's own prompts, and in all for its neighbouring prompts.

    Raises:
        ValueError: fewer images than a task has neighbouring prompts.
        RunError: no task has its runs there, or they were drawn with different models, samplers or noises.
    """
    if images < max(len(task.transfer_prompts) for task in TASKS.values()):
        raise ValueError(f"images is {images}: fewer than a task has neighbouring prompts")
    runs = {name: [out / "runs" / f"{name}-{method}-s{seed}" for seed in seeds] for name in TASKS}
    complete = {name: folders for name, folders in runs.items() if all(map(_is_evaluated, folders))}
    wanted = f"of {method} with seeds {', '.join(map(str, seeds))}"
    if not complete:
        there = sorted(path.name for path in (out / "runs").glob("*-s*"))
        raise RunError(
            f"{out / 'runs'} holds no task's evaluated runs {wanted}; it holds {', '.join(there) or 'nothing'}; "
            "run `hero bench success`, or name other seeds"
        )
    for name in runs.keys() - complete.keys():
        report(f"{name}: left out, not all of its runs {wanted} are there and evaluated")
    configs = {folder: FinishedRun(folder).config for folders in complete.values() for folder in folders}
    first, config = next(iter(configs.items()))
    for folder, other in configs.items():
        if _drawn_with(other) != _drawn_with(config):
            raise RunError(f"{folder} and {first} draw with different models, samplers or noises: no fair comparison")
    judged = judged_tasks(config.model.path)  # another model's judge is meaningless on these images
    if unjudged := complete.keys() - judged.keys():
        raise RunError(f"no judge of {', '.join(sorted(unjudged))} was made for {config.model.path}")

    base = _kept(out / "runs" / f"base-{_FILE}", _question(config, images, None))
    if base is None:
        report("drawing the base model's images")
        policy = load_policy(config)
        with policy.frozen():
            base = _draw_all(policy, config, images)
        _keep(out / "runs" / f"base-{_FILE}", _question(config, images, None), base)
    tuned: dict[str, list[Verdicts]] = {}
    for name, folders in complete.items():
        for folder in folders:
            question = _question(config, images, folder)
            verdicts = _kept(folder / _FILE, question)
            if verdicts is None:
                report(f"drawing with {folder.name}")
                verdicts = _draw_all(TrainedRun(folder).policy, config, images, TASKS[name])
                _keep(folder / _FILE, question, verdicts)
            tuned.setdefault(name, []).append(verdicts)
    neighbours = [
        _neighbours(task, key, base, tuned[task.name])
        for task in judged.values()
        if task.name in tuned and task.transfer_prompts
        for key in (None, *task.transfer_prompts)
    ]
    others = [_others(trained, measured, base, tuned[trained]) for trained in tuned for measured in judged]
    return neighbours, others


def _is_evaluated(folder: Path) -> bool:
    """Whether the run exists, and its evaluation is of its newest round."""
    if not (folder / "config.toml").is_file():
        return False
    run = FinishedRun(folder)
    return run.evaluation is not None and stored_evaluation(run, run.evaluation["images"]) is not None


def _drawn_with(config: Config) -> dict[str, Any]:
    """The settings that images from given weights depend on."""
    sampler = config.sampling.model_dump(exclude={"images_per_round", "micro_batch"})
    return {"model": config.model.path, "sampler": sampler, "seed": config.evaluation.seed}


def _question(config: Config, images: int, folder: Path | None) -> dict[str, Any]:
    """Everything that stored verdicts depend on; they are valid only as long as it is the same."""
    weights = FinishedRun(folder).lora_file if folder else None
    return {
        **_drawn_with(config),
        "images": images,
        "prompts": {name: [*task.prompts, *task.transfer_prompts] for name, task in TASKS.items()},
        "lora": hashlib.sha256(weights.read_bytes()).hexdigest() if weights else None,
    }


def _key(task: Task, prompt: str | None) -> str:
    return task.name if prompt is None else f"{task.name}: {prompt}"


def _draw_all(policy: Policy, config: Config, images: int, trained: Task | None = None) -> Verdicts:
    """Verdicts on each task's prompts and on the neighbours of `trained` (None: of all), with the policy as it is."""
    found: Verdicts = {}
    drawn: dict[tuple[str, ...], Any] = {}  # some prompts belong to two tasks
    for task in judged_tasks(config.model.path).values():
        neighbours = task.transfer_prompts if trained in (None, task) else ()
        for prompts in filter(None, (task.prompts, neighbours)):
            wanted = prompts_in_turn(prompts, images)
            if prompts not in drawn:
                drawn[prompts] = draw_held_out(policy, wanted, config)
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
        tuned_interval=share_interval(after),
        gain=float(gain.mean()),
        gain_interval=difference_interval(gain),
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
        gain_interval=difference_interval(gain),
    )


def _kept(path: Path, question: Mapping[str, Any]) -> Verdicts | None:
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    verdicts: Verdicts = stored["verdicts"]
    return verdicts if stored["question"] == question else None


def _keep(path: Path, question: Mapping[str, Any], verdicts: Verdicts) -> None:
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps({"question": question, "verdicts": verdicts}) + "\n", encoding="utf-8")
    beside.replace(path)


def write_transfer(neighbours: Sequence[Neighbours], others: Sequence[Others], out: Path) -> None:
    """Writes transfer.json (with date, version and machine) and transfer.md into `out`."""
    rows = {"neighbours": [asdict(row) for row in neighbours], "others": [asdict(row) for row in others]}
    text = json.dumps({**about_this(), **rows}, indent=1) + "\n"
    (out / "transfer.json").write_text(text, encoding="utf-8")
    (out / "transfer.md").write_text(transfer_tables(neighbours, others), encoding="utf-8")


def transfer_tables(neighbours: Sequence[Neighbours], others: Sequence[Others]) -> str:
    """Two tables: neighbouring prompts, one a row; and trained task × measured task, with the gain in brackets.

    A gain is bold where its 95 % interval, that of one comparison, does not contain zero.
    """
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
    """Success and, in brackets, the gain."""
    text = f"{o.tuned:.2f} ({o.gain:+.2f})"
    return f"**{text}**" if o.gain_interval[0] > 0 or o.gain_interval[1] < 0 else text
