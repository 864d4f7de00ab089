"""Base success of every task: the bundled model before any training, fresh noise, each task's own sampler and judge.

`python -m hero.bench.base --images 500 --out docs/results/base`; with `--model FOLDER` it measures a candidate
for the bundled model, as is done when the mixture behind its captions is calibrated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hero.bench.machine import about_this
from hero.config import Config
from hero.evaluation import HELD_OUT, Measured
from hero.ids import prompts_in_turn
from hero.methods import configure
from hero.noise import fresh_noise
from hero.policies import Policy, load_policy
from hero.rollout import draw_images
from hero.seeding import Stage
from hero.tasks import Task, get_task, judged_tasks
from hero.tinyworld import NAME as TINYWORLD

__all__ = ["contact_sheet", "draw_base", "draw_held_out", "main"]

_TILE, _MARGIN, _COLUMNS = 64, 2, 16
_GOOD, _BAD = (38, 160, 96), (196, 70, 62)


def draw_held_out(
    policy: Policy,
    prompts: Sequence[str],
    config: Config | None = None,
    *,
    seed: int | None = None,
    stages: tuple[Stage, Stage] = HELD_OUT,
) -> list[Image.Image]:
    """One image per prompt with the policy as it is, from fresh noise; default: the preset's held-out noises."""
    config = config or configure()
    seed = config.evaluation.seed if seed is None else seed
    noise = fresh_noise(len(prompts), policy.latent_shape, seed=seed, stage=stages[0])
    micro_batch = config.sampling.micro_batch
    return draw_images(policy, prompts, noise, seed=seed, stage=stages[1], micro_batch=micro_batch)


def draw_base(
    policy: Policy, task: Task, images: int, *, seed: int | None = None, stages: tuple[Stage, Stage] = HELD_OUT
) -> list[Image.Image]:
    """`images` images of the base model for `task`, prompts in turn; default: on evaluation's held-out noises."""
    prompts = prompts_in_turn(task.prompts, images)
    with policy.frozen():
        return draw_held_out(policy, prompts, seed=seed, stages=stages)


def contact_sheet(images: list[Image.Image], verdicts: list[bool]) -> Image.Image:
    """Images in rows of 16, successes first (green frame), then failures (red frame)."""
    side = _TILE + 2 * _MARGIN
    order = sorted(range(len(images)), key=lambda i: not verdicts[i])
    sheet = Image.new("RGB", (_COLUMNS * side, -(-len(images) // _COLUMNS) * side), (255, 255, 255))
    for place, index in enumerate(order):
        framed = Image.new("RGB", (side, side), _GOOD if verdicts[index] else _BAD)
        framed.paste(images[index].resize((_TILE, _TILE)), (_MARGIN, _MARGIN))
        sheet.paste(framed, (place % _COLUMNS * side, place // _COLUMNS * side))
    return sheet


def main() -> None:
    """The command line of this module: writes results.json, results.md and a contact sheet a task."""
    judged = judged_tasks(TINYWORLD)  # other judges are meaningless on its images
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--sheet", type=int, default=48, help="images on each contact sheet")
    parser.add_argument("--model", type=Path, help="another pipeline of the tiny world (default: the bundled one)")
    parser.add_argument("--task", action="append", choices=list(judged), help="a task (default: all); repeatable")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = None if arguments.model is None else str(arguments.model)
    policy = load_policy(configure(model=model, preset="tinyworld"))
    rows: list[tuple[str, Measured]] = []
    drawn: dict[tuple[str, ...], list[Image.Image]] = {}  # two tasks share a prompt, and so their images
    for task in map(get_task, arguments.task or judged):
        assert task.judge is not None
        if task.prompts not in drawn:
            drawn[task.prompts] = draw_base(policy, task, arguments.images)
        images = drawn[task.prompts]
        verdicts = [task.judge(image).success for image in images]
        measured = Measured.share(verdicts)
        rows.append((task.name, measured))
        print(f"{task.name}: {measured.value:.3f} [{measured.low:.3f}, {measured.high:.3f}]", flush=True)
        n = arguments.sheet
        contact_sheet(images[:n], verdicts[:n]).save(arguments.out / f"{task.name}.png")
    about = {**about_this(), "images": arguments.images}
    tasks = {name: {"success": m.value, "interval": [m.low, m.high]} for name, m in rows}
    (arguments.out / "results.json").write_text(json.dumps({**about, "tasks": tasks}, indent=1) + "\n")
    lines = ["| task | base success, fresh noise | 95 % interval |", "|---|---|---|"]
    lines += [f"| `{name}` | {m.value:.3f} | {m.low:.3f}–{m.high:.3f} |" for name, m in rows]
    (arguments.out / "results.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
