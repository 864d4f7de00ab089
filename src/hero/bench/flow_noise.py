"""How far from a known picture flow models' stochastic steps end, and which steps their gradients weigh.

`python -m hero.bench.flow_noise --out docs/results/flow-noise`

The schedules are those of each family, the density is a toy whose perfect model is known. The steps that Flow-GRPO
publishes, all stochastic and all trained alike, are compared with this project's, and both with deterministic steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hero.bench.miniatures import MINIATURES
from hero.config import SamplingConfig
from hero.policies import family_of
from hero.policies.steps import FlowSteps
from hero.seeding import Stage, generator, normal
from hero.transitions import Transition
from hero.transitions.flow import velocity_to_noise

__all__ = ["FlowNoise", "flow_noise_table", "main", "measure_flow_noise"]

_CPU = torch.device("cpu")
_SHAPE = (4, 64, 64)

_CASES: dict[str, tuple[str, float, tuple[int, float, int], tuple[int, float, int]]] = {
    "Stable Diffusion 3.5": ("sd3", 3.0, (10, 0.7, 1024), (10, 0.7, 1024)),
    "FLUX.1": ("flux", 1.0, (6, 0.9, 1024), (10, 0.9, 512)),
    "Qwen-Image": ("qwen-image", 1.0, (6, 0.9, 1024), (10, 0.9, 512)),
    "Z-Image, shift 3": ("z-image", 3.0, (6, 0.9, 1024), (10, 0.9, 512)),
    "Z-Image, shift 6": ("z-image", 6.0, (6, 0.9, 1024), (10, 0.9, 512)),
    "FLUX.2 klein": ("flux-2-klein", 1.0, (6, 0.9, 1024), (10, 0.9, 512)),
}
"""Family → its miniature, its scheduler's fixed shift, and (T, a, pixels) of the first presets and of those now."""

_Stepper = Callable[[torch.Tensor, torch.Tensor, int], Transition]
"""(velocity, latents, step) → the transition."""


@dataclass(frozen=True)
class FlowNoise:
    """One schedule with one kind of step.

    Attributes:
        std: σ of each step.
        from_picture: rms distance of drawn values from the nearer of two points, ±1, of width 0.05.
        from_picture_ode: the same with deterministic steps.
        grain: standard deviation of drawn values of N(0, 0.3²).
        grain_ode: the same with deterministic steps.
        last_two: share of the last two trained steps in the squared weight of all steps' gradients.
    """

    family: str
    steps: str
    setting: str
    std: tuple[float, ...]
    from_picture: float
    from_picture_ode: float
    grain: float
    grain_ode: float
    last_two: float


def measure_flow_noise(title: str) -> list[FlowNoise]:
    """The family `title` (a key of the cases above) with the published steps and with this project's."""
    name, shift, before, now = _CASES[title]
    pipeline = MINIATURES[name]()
    if not pipeline.scheduler.config.use_dynamic_shifting:
        pipeline.scheduler = type(pipeline.scheduler)(shift=shift)
    found = []
    for (num_steps, a, pixels), published in ((before, True), (now, False)):
        steps, plain = (_steps(pipeline, num_steps, scale, pixels) for scale in (a, 0.0))
        stepper, ode = (_published(steps, a) if published else _ours(steps)), _ours(plain)
        stds, pulls = _std_and_pull(stepper, num_steps)
        trained = [(s, p) for s, p in zip(stds, pulls, strict=True) if s > 0]
        # A log-probability's gradient by the model's output is ∂mean/∂v·ξ/σ; this project weighs it by σ.
        weight = [(p / s if published else p) ** 2 for s, p in trained]
        found.append(
            FlowNoise(
                title,
                "Flow-GRPO's" if published else "this project's",
                f"{num_steps} steps, a = {a}, {pixels}²",
                tuple(round(s, 4) for s in stds),
                _distance(stepper, steps),
                _distance(ode, plain),
                _spread(stepper, steps),
                _spread(ode, plain),
                sum(weight[-2:]) / sum(weight),
            )
        )
    return found


def _steps(pipeline: Any, num_steps: int, a: float, pixels: int) -> FlowSteps:
    """The schedule of a family at that size; the miniatures' VAEs have half the factor of the real ones."""
    sampling = SamplingConfig(num_steps=num_steps, eta=a, height=pixels // 2, width=pixels // 2)
    steps: FlowSteps = family_of(type(pipeline).__name__)(pipeline, sampling, _CPU).steps
    return steps


def _ours(steps: FlowSteps) -> _Stepper:
    return lambda velocity, latents, k: steps.transition(velocity, latents, torch.full((len(latents),), k))


def _published(steps: FlowSteps, a: float) -> _Stepper:
    """Flow-GRPO, eq. 9 to 11: Euler–Maruyama, also for the last step; 1 − t is not taken below that after the first."""
    sigmas = steps.sigmas

    def step(velocity: torch.Tensor, latents: torch.Tensor, k: int) -> Transition:
        t, following = sigmas[k], sigmas[k + 1]
        variance = a**2 * t / (1 - t).clamp(min=1 - sigmas[1]) * (t - following)
        drift = variance / (2 * t) * velocity_to_noise(velocity, latents, t)
        return Transition(latents + (following - t) * velocity - drift, variance.sqrt().view(1, 1, 1, 1))

    return step


def _std_and_pull(stepper: _Stepper, num_steps: int) -> tuple[list[float], list[float]]:
    """σ of each step, and how much its mean moves with the model's output."""
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    taken = [(stepper(one, zero, k), stepper(zero, zero, k)) for k in range(num_steps)]
    return [float(moved.std) for moved, _ in taken], [float(moved.mean - still.mean) for moved, still in taken]


def _distance(stepper: _Stepper, steps: FlowSteps, width: float = 0.05) -> float:
    """Rms distance of what is drawn from the nearer of two points ±1; the toy is ½N(−1, width²) + ½N(1, width²)."""

    def clean(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        variance = (1 - t) ** 2 * width**2 + t**2
        mean = torch.tanh((1 - t) * x / variance)  # E[±1 | x_t]
        return mean + (1 - t) * width**2 / variance * (x - (1 - t) * mean)

    final = _draw(stepper, steps, clean)
    return float((final.abs() - 1).square().mean().sqrt())


def _spread(stepper: _Stepper, steps: FlowSteps, std: float = 0.3) -> float:
    """Standard deviation of what is drawn; the toy is N(0, std²)."""
    return float(
        _draw(stepper, steps, lambda x, t: (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2) * x).square().mean().sqrt()
    )


def _draw(
    stepper: _Stepper, steps: FlowSteps, clean: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Draws with a model whose E[x_0 | x_t, t] is `clean`: one "latent" of independent values."""
    x = normal(_SHAPE, generator(0, Stage.BENCH_FLOW))[None]
    for k in range(steps.num_steps):
        t = steps.sigmas[k]
        step = stepper((x - clean(x, t)) / t, x, k)
        x = step.sample(normal(_SHAPE, generator(0, Stage.BENCH_FLOW, k + 1))[None])
    return x


def flow_noise_table(rows: Sequence[FlowNoise]) -> str:
    """One row for each family and kind of step."""
    lines = [
        "| family | steps | setting | σ of the last two steps | from the picture | deterministic | grain of 0.3 "
        "| deterministic | weight of the last two trained |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.family} | {r.steps} | {r.setting} | {r.std[-2]:.3f}, {r.std[-1]:.3f} | {r.from_picture:.3f} "
        f"| {r.from_picture_ode:.3f} | {r.grain:.2f} | {r.grain_ode:.2f} | {r.last_two:.0%} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line of this module: writes results.json and results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = [row for title in _CASES for row in measure_flow_noise(title)]
    (arguments.out / "results.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    (arguments.out / "results.md").write_text(flow_noise_table(rows))
    print(flow_noise_table(rows), end="")


if __name__ == "__main__":
    main()
