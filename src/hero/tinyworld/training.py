"""A resumable training loop for the tiny world's networks: schedule, averaged weights, checkpoints.

Each step's examples and random numbers are functions of (seed, stream, step) alone, and a checkpoint holds
all the rest, so that a stopped training ends exactly like one that was never stopped.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["Schedule", "Trainer", "batch_indexes", "echo", "step_generator"]

CHECKPOINT_EVERY, REPORT_EVERY = 250, 100


def echo(text: str) -> None:
    """Prints a line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


@dataclass(frozen=True)
class Schedule:
    """Length, batch size and learning rates of a training.

    The rate rises linearly for `warmup` steps, then falls from `peak` to `final` along half a cosine;
    `average` is the decay of the moving average of the weights.
    """

    steps: int
    batch: int
    peak: float
    final: float
    warmup: int
    weight_decay: float = 1e-2
    average: float = 0.999

    def rate(self, step: int) -> float:
        """The learning rate of step number `step`, from 0."""
        rising = min(1.0, (step + 1) / max(1, self.warmup))
        progress = max(0.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return rising * (self.final + (self.peak - self.final) * 0.5 * (1 + math.cos(math.pi * progress)))

    def average_decay(self, step: int) -> float:
        """Decay of the moving average at `step`: short at first, so that it forgets the random start."""
        return min(self.average, (1 + step) / (10 + step))


def batch_indexes(seed: int, stream: int, step: int, batch: int, count: int) -> npt.NDArray[np.int64]:
    """Which of `count` examples step number `step` sees: (batch,), each example at most once an epoch."""
    size = min(batch, count)
    epoch, place = divmod(step, count // size)
    order = np.random.default_rng((seed, stream, 0, epoch)).permutation(count)
    return order[place * size : (place + 1) * size]


def step_generator(seed: int, stream: int, step: int) -> torch.Generator:
    """The random numbers of one step; on the CPU, so that they are the same on every device."""
    state = np.random.SeedSequence((seed, stream, 1, step)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def _no_visit(step: int) -> None:
    """Does nothing after a step."""


class Trainer:
    """AdamW on a module, with a moving average of the weights and checkpoints.

    A checkpoint is one safetensors file: weights, average and optimizer state; the step stands in its header.
    """

    def __init__(self, name: str, module: nn.Module, schedule: Schedule, checkpoint: Path) -> None:
        self.name, self.module, self.schedule, self.checkpoint = name, module, schedule, checkpoint
        self.averaged = copy.deepcopy(module).eval().requires_grad_(False)
        self.step = 0
        self._parameters = list(module.parameters())
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=schedule.peak, weight_decay=schedule.weight_decay, fused=True
        )

    def run(self, loss_at: Callable[[int], Tensor], visit: Callable[[int], None] = _no_visit) -> nn.Module:
        """Trains from the checkpoint, if there is one, to the end of the schedule; gives the averaged module.

        `loss_at(step)` is the loss to descend; `visit(steps done)` is called after each step.
        """
        if self.checkpoint.exists():
            self._load()
            echo(f"{self.name}: goes on after step {self.step}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        began, first, losses = time.monotonic(), self.step, 0.0
        with Progress(*columns) as progress:
            bar = progress.add_task(self.name, total=self.schedule.steps, completed=self.step)
            report = progress.console.log if progress.console.is_terminal else echo
            while self.step < self.schedule.steps:
                losses += self._advance(loss_at(self.step))
                progress.update(bar, completed=self.step)
                if self.step % REPORT_EVERY == 0:
                    mean = losses / min(REPORT_EVERY, self.step - first)
                    report(self._progress_line(mean, (self.step - first) / (time.monotonic() - began)))
                    losses = 0.0
                if self.step % CHECKPOINT_EVERY == 0:
                    self.save()
                visit(self.step)
        return self.averaged

    def _progress_line(self, loss: float, speed: float) -> str:
        minutes = (self.schedule.steps - self.step) / speed / 60
        return f"{self.name}: step {self.step}, loss {loss:.4f}, {speed:.2f} steps/s, {minutes:.1f} min left"

    def _advance(self, loss: Tensor) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        share = 1 - self.schedule.average_decay(self.step)
        with torch.no_grad():
            for average, current in zip(self.averaged.parameters(), self._parameters, strict=True):
                average.lerp_(current, share)
        self.step += 1
        return float(loss.detach())

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all."""
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        tensors |= {f"averaged.{name}": value for name, value in self.averaged.state_dict().items()}
        for place, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{place}.{name}": value for name, value in state.items()}
        part = self.checkpoint.with_name(self.checkpoint.name + ".part")
        header = {"step": str(self.step), "schedule": repr(self.schedule)}
        save_file({name: value.contiguous() for name, value in tensors.items()}, part, metadata=header)
        os.replace(part, self.checkpoint)

    def _load(self) -> None:
        with safe_open(self.checkpoint, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if header["schedule"] != repr(self.schedule):
            raise ValueError(
                f"{self.checkpoint} is of another schedule, {header['schedule']}: "
                "give the options it was started with, or delete it"
            )
        self.step = int(header["step"])
        self.module.load_state_dict(_under("module.", tensors))
        self.averaged.load_state_dict(_under("averaged.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            place, key = name.split(".")
            state.setdefault(int(place), {})[key] = value
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
