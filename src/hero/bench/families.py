"""Every model family against the library, on miniatures, and the memory of full-size ones.

`python -m hero.bench.families --out docs/results/families`
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import diffusers
import torch

from hero import __version__
from hero.bench.architectures import FULL_SIZE, costs_of
from hero.bench.miniatures import MINIATURES, save_miniature
from hero.config import Config
from hero.ids import prompt_index_of, prompts_in_turn
from hero.methods import configure
from hero.noise import fresh_noise
from hero.policies import Policy, load_policy
from hero.policies.footprint import estimate, gibibytes
from hero.registry import FROZEN
from hero.rollout import rollout
from hero.seeding import Stage, generator
from hero.types import Trajectory
from hero.update.replay import ratio_deviation

__all__ = ["FamilyResult", "check_family", "families_table", "main", "memory_table"]

_PROMPTS = ("1 hand", "a person posing for a photo")
_IMAGES, _STEPS = 4, 4
_PRESET = {"sd15": "stable-diffusion", "sdxl": "sdxl", "sd35-medium": "sd3", "flux-dev": "flux"}


@dataclass(frozen=True)
class FamilyResult:
    """Greatest deviations of one family's miniature, fp32 on the CPU.

    Attributes:
        fidelity: final latents of a rollout without noise against the pipeline's own call.
        ratio: probability ratios before the first gradient step against 1, over another batch shape.
        round_trip: final latents with a LoRA, against the pipeline with the file loaded by the library's own loader.
    """

    family: str
    pipeline: str
    fidelity: float
    ratio: float
    round_trip: float


def check_family(name: str, folder: Path) -> FamilyResult:
    """Makes the miniature `name` in `folder` and measures it."""
    model = save_miniature(name, folder / name)
    policy = load_policy(_config(model, eta=0.0))
    plain = _draw(policy)
    fidelity = _apart(plain.final_latents, policy.library_latents(_prompts(), plain.initial_noise))
    _randomise(policy)
    tuned = _draw(policy)
    file = policy.save_lora(folder / f"{name}-lora")
    other = load_policy(_config(model, eta=0.0))
    other.denoiser.delete_adapters("default")
    other.pipeline.load_lora_weights(file.parent)
    round_trip = _apart(tuned.final_latents, other.library_latents(_prompts(), tuned.initial_noise))
    return FamilyResult(name, type(policy.pipeline).__name__, fidelity, _ratio(model), round_trip)


def _config(model: Path, *, eta: float) -> Config:
    settings = {
        "model": {"device": "cpu", "dtype": "float32", "gradient_checkpointing": False},
        "sampling": {"num_steps": _STEPS, "eta": eta, "guidance_scale": 3.0, "height": 32, "width": 48},
        "lora": {"rank": 2, "alpha": 5.5, "layers": ("attention", "feed-forward")},
        "update": {"kind": FROZEN},
    }
    return configure(prompts=_PROMPTS, model=str(model), settings=settings)


def _prompts() -> list[str]:
    return prompts_in_turn(_PROMPTS, _IMAGES)


def _draw(policy: Policy) -> Trajectory:
    noise = fresh_noise(_IMAGES, policy.latent_shape, seed=0)
    index = torch.tensor([prompt_index_of(i, len(_PROMPTS)) for i in range(_IMAGES)])
    chunks = rollout(policy, policy.encode(_PROMPTS), index, noise, seed=0, round_=0, micro_batch=_IMAGES)
    return next(chunks).trajectory


def _randomise(policy: Policy) -> None:
    source = generator(0, Stage.BENCH_LORA)
    state = policy.state_dict()
    policy.load_state_dict({k: 0.2 * torch.randn(v.shape, generator=source) for k, v in state.items()})


def _ratio(model: Path) -> float:
    config = _config(model, eta=1.0)
    policy = load_policy(config)
    _randomise(policy)
    return ratio_deviation(policy, _draw(policy), policy.encode(_PROMPTS), micro_batch=5)


def _apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max())


def memory_table() -> list[dict[str, Any]]:
    """What full-size architectures need under their presets, and with options that save memory."""
    rows = []
    for name, full in FULL_SIZE.items():
        config = configure("hand", preset=_PRESET[name], model="tinyworld")
        costs = costs_of(name, config)
        needs = estimate(costs, config)
        rows.append(
            {
                "model": full.title,
                "preset": config.preset,
                "dtype": config.model.dtype,
                "parameters": costs.denoiser,
                "weights": needs.weights,
                "peak": needs.peak,
                "phases": dict(needs.phases),
                "trajectories": needs.trajectories,
            }
        )
    return rows


def families_table(families: list[FamilyResult], memory: list[dict[str, Any]]) -> str:
    """Both tables."""
    lines = ["| family | pipeline | fidelity | ratio | LoRA round trip |", "|---|---|---|---|---|"]
    lines += [
        f"| `{r.family}` | `{r.pipeline}` | {r.fidelity:.1e} | {r.ratio:.1e} | {r.round_trip:.1e} |" for r in families
    ]
    lines += [
        "",
        "| model | preset | precision | denoiser | weights | peak | trajectories |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in memory:
        sizes = " | ".join(gibibytes(row[key]) for key in ("weights", "peak", "trajectories"))
        lines.append(
            f"| {row['model']} | `{row['preset']}` | {row['dtype']} | {row['parameters'] / 1e9:.2f} billion | {sizes} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line of this module: writes results.json and results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        families = []
        for name in MINIATURES:
            families.append(check_family(name, Path(folder)))
            print(families[-1], flush=True)
    memory = memory_table()
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "hero": __version__,
        "libraries": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        "machine": f"{platform.system()} {platform.machine()}",
        "families": [asdict(result) for result in families],
        "memory": memory,
    }
    (arguments.out / "results.json").write_text(json.dumps(about, indent=1) + "\n")
    (arguments.out / "results.md").write_text(families_table(families, memory))


if __name__ == "__main__":
    main()
