"""How often each judge agrees with the renderer's ground truth, on clean and on degraded scenes.

`python -m hero.bench.judges --scenes 1000 --out docs/results/judges`
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from hero import __version__
from hero.ids import prompt_index_of
from hero.tasks import TASKS, Task
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scene import Scene
from hero.tinyworld.scenes import SCENE_FAMILIES, scene_family_of, views

__all__ = ["accuracy_of", "degraded", "draw_outcome", "main"]


def degraded(pixels: npt.NDArray[np.uint8], rng: np.random.Generator) -> Image.Image:
    """(64, 64, 3) pixels as a small autoencoder would reconstruct them: blurred, noisy, tinted, resampled."""
    sigma = float(rng.uniform(0.6, 0.8))
    blurred = ndimage.gaussian_filter(pixels.astype(np.float64), (sigma, sigma, 0))
    noisy = blurred + rng.normal(0, 5, blurred.shape) + rng.uniform(-10, 10, 3)
    image = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return image.resize((48, 48), Image.Resampling.BILINEAR).resize((64, 64), Image.Resampling.BILINEAR)


def draw_outcome(task: Task, prompt: str, success: bool, rng: np.random.Generator) -> Scene:
    """A scene of `task` with the outcome `success`, every draw from `rng`."""
    if task.name == "green-view":  # its fact is independent of the family's own success
        return views.draw(prompt, rng, green=success)
    return SCENE_FAMILIES[scene_family_of(prompt)].draw(prompt, rng, success=success)


def accuracy_of(task: Task, scenes: int, seed: int = 0) -> tuple[float, float]:
    """(clean, degraded) shares of agreement over `scenes` fresh scenes, half of them successes."""
    if task.judge is None:
        raise ValueError(f"{task.name} has no judge")
    rng = np.random.default_rng(seed)
    clean = dim = 0
    for index in range(scenes):
        prompt = task.prompts[prompt_index_of(index // 2, len(task.prompts))]
        scene = draw_outcome(task, prompt, index % 2 == 0, rng)
        truth = SCENE_FAMILIES[scene_family_of(prompt)].succeeds(task.name, scene.facts)
        clean += task.judge(Image.fromarray(scene.image)).success == truth
        dim += task.judge(degraded(scene.image, rng)).success == truth
    return clean / scenes, dim / scenes


def main() -> None:
    """The command line of this module: writes results.json and results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = {name: accuracy_of(TASKS[name], arguments.scenes) for name in SUCCESS_SHARE}
    about = {"date": datetime.now(UTC).date().isoformat(), "hero": __version__, "scenes": arguments.scenes}
    tasks = {name: {"clean": clean, "degraded": dim} for name, (clean, dim) in found.items()}
    (arguments.out / "results.json").write_text(json.dumps({**about, "tasks": tasks}, indent=1) + "\n")
    lines = ["| task | agreement, clean scenes | degraded scenes |", "|---|---|---|"]
    lines += [f"| `{name}` | {clean:.3f} | {dim:.3f} |" for name, (clean, dim) in found.items()]
    (arguments.out / "results.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
