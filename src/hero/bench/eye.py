"""How often each judge agrees with a human eye on images that the bundled model drew.

`python -m hero.bench.eye --out docs/results/eye` draws one sheet per task if there is none yet, in the order of drawing
and without judging. Look at it, and write the numbers of the images that meet the task's criterion, counted from 0 row
by row, into `labels.json` beside it: `{"hand": [3, 7]}`. The same command then judges the tasks that have labels, from
the sheets, and writes results.json, results.md and the images sorted by verdict.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from hero import __version__
from hero.bench.base import contact_sheet, draw_base
from hero.errors import RunError
from hero.evaluation import wilson_interval
from hero.methods import configure
from hero.policies import load_policy
from hero.seeding import Stage
from hero.tasks import judged_tasks
from hero.tinyworld import NAME as TINYWORLD

__all__ = ["compare", "join", "main", "split"]

_TILE, _COLUMNS, _SEED = 64, 8, 778
"""No benchmark uses this seed: nobody has seen these images."""

_SEED_OF = {"narcissus": 779, "modest-figure": 780}
"""Tasks whose judges were corrected after a comparison on `_SEED`: their images were seen only after that."""


def join(images: Sequence[Image.Image]) -> Image.Image:
    """Images of 64×64 side by side, eight per row, without a gap: `split` returns exactly the same pixels."""
    sheet = Image.new("RGB", (_COLUMNS * _TILE, -(-len(images) // _COLUMNS) * _TILE))
    for k, image in enumerate(images):
        sheet.paste(image, (k % _COLUMNS * _TILE, k // _COLUMNS * _TILE))
    return sheet


def split(sheet: Image.Image) -> list[Image.Image]:
    """The images of a full sheet, by rows."""
    boxes = [(x, y) for y in range(0, sheet.height, _TILE) for x in range(0, sheet.width, _TILE)]
    return [sheet.crop((x, y, x + _TILE, y + _TILE)) for x, y in boxes]


def compare(verdicts: Sequence[bool], good: Sequence[int]) -> dict[str, Any]:
    """Agreement of a judge's verdicts with the indexes that an eye called good, and where they differ.

    Raises:
        RunError: an index is repeated, or no image has it.
    """
    if len(set(good)) < len(good) or not set(good) <= set(range(len(verdicts))):
        raise RunError(f"the labels name an image twice, or one that is not among 0 to {len(verdicts) - 1}")
    eye = [k in set(good) for k in range(len(verdicts))]
    agreed = sum(a == b for a, b in zip(eye, verdicts, strict=True))
    low, high = wilson_interval(agreed, len(verdicts))
    return {
        "images": len(verdicts),
        "agreement": agreed / len(verdicts),
        "interval": [low, high],
        "eye": sum(eye) / len(verdicts),
        "judge": sum(verdicts) / len(verdicts),
        "good for the eye alone": [k for k in range(len(verdicts)) if eye[k] and not verdicts[k]],
        "good for the judge alone": [k for k in range(len(verdicts)) if verdicts[k] and not eye[k]],
    }


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=56, help="images a sheet, a multiple of eight")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.images < _COLUMNS or arguments.images % _COLUMNS:
        parser.error("--images is not a multiple of eight")
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tasks = judged_tasks(TINYWORLD)
    missing = [task for task in tasks.values() if not (out / f"{task.name}.png").is_file()]
    policy = load_policy(configure()) if missing else None
    for task in missing:
        assert policy is not None
        join(
            draw_base(
                policy,
                task,
                arguments.images,
                seed=_SEED_OF.get(task.name, _SEED),
                stages=(Stage.EYE_NOISE, Stage.EYE_STEP_NOISE),
            )
        ).save(out / f"{task.name}.png", optimize=True)
        print(f"{task.name}: drawn", flush=True)
    labels = out / "labels.json"
    marked = json.loads(labels.read_text(encoding="utf-8")) if labels.is_file() else {}
    found = {}
    for name, good in marked.items():
        judge = tasks[name].judge
        assert judge is not None
        images = split(Image.open(out / f"{name}.png").convert("RGB"))
        verdicts = [judge(image).success for image in images]
        found[name] = compare(verdicts, good)
        contact_sheet(images, verdicts).save(out / f"{name}-judged.png", optimize=True)
    if not found:
        print(f"label the sheets in {labels}, then run this again")
        return
    about = {"date": datetime.now(UTC).date().isoformat(), "hero": __version__}
    (out / "results.json").write_text(json.dumps({**about, "tasks": found}, indent=1) + "\n", encoding="utf-8")
    lines = ["| task | images | agreement, 95 % interval | good for the eye | for the judge |", "|---|---|---|---|---|"]
    for name, row in found.items():
        low, high = row["interval"]
        agreement = f"{row['agreement']:.3f} [{low:.3f}, {high:.3f}]"
        lines.append(f"| `{name}` | {row['images']} | {agreement} | {row['eye']:.2f} | {row['judge']:.2f} |")
    (out / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
