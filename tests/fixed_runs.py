"""A fixed set of short CPU runs, and a hash of what each gives: `python tests/fixed_runs.py FOLDER [NAME ...]`.

Run on two versions of the code (with PYTHONPATH for another checkout) on one machine, it says whether a change changed
results: LoRA, refined noise, labels and the figures of every round, wall clock aside, to the last bit. Runs that FOLDER
has hashes of are not run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import load_file

from hero import Feedback, ImageBatch, Tuner, configure
from hero.evaluators import Oracle
from hero.feedback.store import LabelStore
from hero.tasks import get_task

FEW = {"sampling": {"images_per_round": 24}, "evaluation": {"images": 8}, "model": {"threads": 1}}
SMALL = {
    "model": {"threads": 1, "dtype": "float32", "gradient_checkpointing": False},
    "sampling": {"num_steps": 6, "height": 32, "width": 32, "images_per_round": 8, "micro_batch": 4},
    "lora": {"rank": 2, "alpha": 4.0},
    "reward": {"similarity": {"width": 16, "epochs": 20, "batch_size": 32, "learning_rate": 1e-3}},
}
FAMILIES = ("stable-diffusion-v", "sdxl", "sd3", "flux", "qwen-image", "z-image", "flux-2-klein")
NOT_COMPARED = (
    "seconds_sampling",
    "seconds_waiting",
    "seconds_updating",
    "seconds_judging",
    "seconds_practising",
    "draws",
    "auc",
)
"""Wall clock, which no two runs share, and figures that version 0.1 did not have."""


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merge(result[key], value) if both else value
    return result


def by_brightness(batch: ImageBatch) -> Feedback:
    """Works on any image: bright ones are good, the brightest is the best; every fifth image is left out."""
    shade = {i: sum(image.convert("L").tobytes()) for i, image, _ in batch}
    judged = [i for k, i in enumerate(batch.ids) if k % 5 != 4]
    middle = sorted(shade[i] for i in judged)[len(judged) // 2]
    prompt = dict(zip(batch.ids, batch.prompts, strict=True))
    best: dict[str, str] = {}
    for i in judged:
        if shade[i] >= middle and shade[i] > shade.get(best.get(prompt[i], ""), -1):
            best[prompt[i]] = i
    verdicts = {i: "good" if shade[i] >= middle else "bad" for i in judged}
    scores = {i: shade[i] / 1000 for i in judged}
    return Feedback(verdicts, best=tuple(best.values()), scores=scores)


def train(folder: Path, evaluator: str | Callable[..., Any] = "oracle", *, stop_after: int = 0, **given: Any) -> None:
    """One run; with `stop_after` it is stopped in the round after, with a batch that waits, and resumed."""
    config = configure(**given)
    answer: Any = evaluator
    if evaluator == "oracle":
        answer = Oracle(get_task(config.task.name).judge, config.evaluator, config.seed, config.rounds)
    with Tuner(config, folder) as tuner:
        while not tuner.done:
            if stop_after and tuner.round == stop_after + 1:
                tuner.ask()
                break
            tuner.tell(answer(tuner.ask()))
    if stop_after:
        with Tuner.resume(folder) as tuner:
            tuner.run(answer)


def hand(**settings: Any) -> dict[str, Any]:
    return {"task": "hand", "rounds": 3, "seed": 1, "settings": merge(FEW, settings)}


def miniature(name: str, root: Path) -> dict[str, Any]:
    from hero.bench.miniatures import save_miniature

    folder = root / "miniatures" / name
    if not folder.exists():
        save_miniature(name, folder)
    prompts = ("1 hand", "a person posing for a photo")
    return {"prompts": prompts, "model": str(folder), "rounds": 3, "settings": SMALL}


def in_half_precision(out: Path, root: Path, dtype: str, name: str = "stable-diffusion", **given: Any) -> None:
    """A small model: convolutions in half precision are slow on CPUs."""
    settings = merge(SMALL, {"model": {"dtype": dtype}})
    train(out, by_brightness, **(miniature(name, root) | {"settings": settings}), **given)


def in_processes(count: int, folder: Path, *options: str) -> None:
    """`hero train` in that many processes."""
    command = [sys.executable, "-m", "hero", "train", "--out", str(folder), "--processes", str(count), *options]
    subprocess.run([*command, "--no-evaluate", "--set", "model.threads=1"], check=True, stdout=subprocess.DEVNULL)


PROCESSES = ("--task", "hand", "--rounds", "2", "--seed", "2", "--images-per-round", "24")
Run = Callable[[Path, Path], None]

RUNS: dict[str, Run] = {
    "hero": lambda out, _: train(out, **hand()),
    "hero-resumed": lambda out, _: train(out, stop_after=1, **hand()),
    "hero-5-prompts": lambda out, _: train(out, **(hand() | {"task": "modest-figure"})),
    "hero-one-process": lambda out, _: in_processes(1, out, *PROCESSES),
    "hero-two-processes": lambda out, _: in_processes(2, out, *PROCESSES),
    "hero-bfloat16": lambda out, root: in_half_precision(out, root, "bfloat16"),
    "hero-float16": lambda out, root: in_half_precision(out, root, "float16"),
    "family-sd3-bfloat16": lambda out, root: in_half_precision(out, root, "bfloat16", "sd3"),
    "ddpo-bfloat16": lambda out, root: in_half_precision(out, root, "bfloat16", method="ddpo"),
    "hero-noisy-labels": lambda out, _: train(out, **hand(evaluator={"label_noise": 0.2, "best": "random"})),
    "hero-unlabelled": lambda out, _: train(out, by_brightness, **hand()),
    "hero-replay": lambda out, _: train(out, stop_after=2, **hand(reward={"similarity": {"replay_rounds": 2}})),
    "similarity-to-good": lambda out, _: train(out, **hand(reward={"similarity": {"reference": "good"}})),
    "score": lambda out, _: train(out, by_brightness, **hand(reward={"kind": "score"})),
    "two-inner-epochs": lambda out, _: train(out, **hand(update={"inner_epochs": 2})),
    "no-guidance": lambda out, _: train(out, **hand(sampling={"guidance_scale": 1.0}, noise={"kind": "standard"})),
    "ddpo": lambda out, _: train(out, **(hand() | {"task": "blue-rose", "method": "ddpo"})),
    "ddpo-resumed": lambda out, _: train(out, stop_after=2, **(hand() | {"task": "blue-rose", "method": "ddpo"})),
    "ddpo-5-prompts": lambda out, _: train(out, **(hand() | {"task": "modest-figure", "method": "ddpo"})),
    "ddpo-two-processes": lambda out, _: in_processes(2, out, *PROCESSES, "--method", "ddpo"),
    "noise-only": lambda out, _: train(out, **(hand() | {"task": "black-cat", "method": "noise-only"})),
    "noise-only-5-prompts": lambda out, _: train(out, **(hand() | {"task": "modest-figure", "method": "noise-only"})),
    **{
        f"family-{name}": lambda out, root, name=name: train(out, by_brightness, **miniature(name, root))  # type: ignore[misc]
        for name in FAMILIES
    },
    "family-flux-ddpo": lambda out, root: train(out, by_brightness, **miniature("flux", root), method="ddpo"),
}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without tables, without what is not there, and without wall clock: the same for any layout of the figures."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value)
        elif value is not None and key not in NOT_COMPARED:
            found[key] = value
    return found


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def of_tensors(file: Path) -> str:
    if not file.is_file():
        return "-"
    tensors = load_file(file)
    parts = [
        (name, list(x.shape), str(x.dtype), x.view(torch.uint8).numpy().tobytes().hex())
        for name, x in sorted(tensors.items())
    ]
    return digest(parts)


def results(folder: Path) -> dict[str, str]:
    """Hashes of what the run in `folder` gave."""
    lines = [flat(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    with_store = LabelStore(folder / "feedback.db")
    answers = [answer.to_dict() for line in lines if (answer := with_store.answer(line["round"])) is not None]
    with_store.close()
    images = sorted(folder.glob("rounds/*/images/r*.png"))
    return {
        "lora": of_tensors(folder / "lora" / "pytorch_lora_weights.safetensors"),
        "refined noise": of_tensors(folder / "refined_noise.safetensors"),
        "labels": digest(answers),
        "metrics": digest(lines),
        "images": digest([hashlib.sha256(file.read_bytes()).hexdigest() for file in images]),
    }


def main() -> None:
    root = Path(sys.argv[1])
    for name in sys.argv[2:] or RUNS:
        file = root / f"{name}.json"
        if not file.exists():
            RUNS[name](root / name, root)
            file.write_text(json.dumps(results(root / name)))
        print(f"{name:24}", *json.loads(file.read_text()).values(), flush=True)


if __name__ == "__main__":
    main()
