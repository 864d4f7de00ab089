"""How fast a model draws and learns here: images and optimizer steps per second, arithmetic as a share of the peak.

The peak is measured, not looked up: the fastest large matrix product in the model's precision.
"""

from __future__ import annotations

import json
import platform
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from hero import __version__
from hero.bench.architectures import FULL_SIZE, save_full_size
from hero.config import Config
from hero.errors import ConfigError
from hero.noise import fresh_noise
from hero.policies import Policy, load_policy
from hero.rollout import concatenate, rollout
from hero.types import Judged, Trajectory
from hero.update import make_update

__all__ = ["Speed", "measure_speed", "model_folder", "peak_flops", "speed_table", "write_speed"]

_RANDOM = "-random"


@dataclass(frozen=True)
class Speed:
    """One model on one device.

    Attributes:
        images_per_second: drawn, decoding included.
        steps_per_second: optimizer steps of the update.
        teraflops: those of the denoiser while images are drawn, in 10¹² operations per second.
        peak_share: that, as a share of the device's fastest matrix product.
        peak_memory: bytes; the device's, or the process's on the CPU.
    """

    model: str
    device: str
    dtype: str
    height: int
    width: int
    images: int
    num_steps: int
    images_per_second: float
    steps_per_second: float
    teraflops: float
    peak_share: float
    peak_memory: int


def model_folder(name: str, out: Path) -> Path | str:
    """The folder of `name`; `<architecture>-random` is made under `out` if it is not there.

    Raises:
        ConfigError: there is no such architecture.
    """
    if not name.endswith(_RANDOM):
        return name
    architecture = name.removesuffix(_RANDOM)
    if architecture not in FULL_SIZE:
        raise ConfigError(f"--model {name}: no such architecture; known: sd15{_RANDOM}, or any model")
    return save_full_size(architecture, out / name)


def measure_speed(config: Config, name: str) -> Speed:
    """Draws a round of `config` twice, the first time to warm up, and takes one round's update."""
    policy = load_policy(config)
    device = policy.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    _draw(policy, config, images=1)
    _wait(device)
    started = time.perf_counter()
    trajectory = _draw(policy, config, images=config.sampling.images_per_round)
    _wait(device)
    drawing = time.perf_counter() - started
    steps, updating = _update(policy, config, trajectory)
    operations = _operations(policy, config) * policy.num_steps * len(trajectory)
    teraflops = operations / drawing / 1e12
    return Speed(
        model=name,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or device.type,
        dtype=config.model.dtype,
        height=policy.image_size[0],
        width=policy.image_size[1],
        images=len(trajectory),
        num_steps=policy.num_steps,
        images_per_second=len(trajectory) / drawing,
        steps_per_second=steps / updating,
        teraflops=teraflops,
        peak_share=1e12 * teraflops / peak_flops(device, policy.storage_dtype),
        peak_memory=_peak_memory(device),
    )


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest of a few large square matrix products on `device`."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * side**3 / best


def write_speed(speed: Speed, out: Path) -> None:
    """Writes speed.json and speed.md into `out`."""
    (out / "speed.json").write_text(json.dumps({"hero": __version__, **asdict(speed)}, indent=1) + "\n")
    (out / "speed.md").write_text(speed_table(speed))


def speed_table(speed: Speed) -> str:
    """A table of one row."""
    head = "| model | device | precision | size | images/s | update steps/s | TFLOP/s | of peak | peak memory |"
    row = (
        f"| {speed.model} | {speed.device} | {speed.dtype} | {speed.height}×{speed.width}, {speed.num_steps} steps "
        f"| {speed.images_per_second:.3g} | {speed.steps_per_second:.3g} | {speed.teraflops:.3g} "
        f"| {speed.peak_share:.0%} | {speed.peak_memory / 2**30:.1f} GiB |"
    )
    return "\n".join([head, "|---" * 9 + "|", row]) + "\n"


def _draw(policy: Policy, config: Config, images: int) -> Trajectory:
    prompts = [config.task.prompts[0]] * images
    noise = fresh_noise(images, policy.latent_shape, seed=config.seed)
    chunks = rollout(
        policy,
        policy.encode(prompts[:1]),
        torch.zeros(images, dtype=torch.int64),
        noise,
        seed=config.seed,
        round_=0,
        micro_batch=config.sampling.micro_batch,
    )
    return concatenate([chunk.trajectory for chunk in chunks])


def _update(policy: Policy, config: Config, trajectory: Trajectory) -> tuple[int, float]:
    """Optimizer steps of one round, and the seconds that they took."""
    update = make_update(policy, config.update, seed=config.seed)
    if update is None:
        raise ConfigError(f"update.kind = {config.update.kind!r} has no update to measure; choose another")
    values = torch.arange(float(len(trajectory)))
    advantages = (values - values.mean()) / (values.std() + 1e-8)
    half = len(trajectory) // 2
    judged = Judged(trajectory, values, advantages, tuple((half + k, k) for k in range(half)))
    started = time.perf_counter()
    stats = update.step(judged, policy.encode(config.task.prompts[:1]), 1)
    _wait(policy.device)
    assert stats is not None
    return stats.steps, time.perf_counter() - started


@torch.no_grad()
def _operations(policy: Policy, config: Config) -> int:
    """Floating-point operations of one denoising step of one image, guidance included."""
    row = policy.encode(config.task.prompts[:1]).rows(torch.zeros(1, dtype=torch.int64))
    latents = torch.zeros(1, *policy.latent_shape, device=policy.device, dtype=policy.storage_dtype)
    with FlopCounterMode(display=False) as counter:
        policy.transition(latents, torch.zeros(1, dtype=torch.int64), row)
    return int(counter.get_total_flops())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
