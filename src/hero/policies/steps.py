"""The denoising steps of a schedule as transitions: stochastic DDIM, and stochastic flow matching."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from hero.errors import ModelError
from hero.transitions import Transition
from hero.transitions.ddim import ddim_std, ddim_transition
from hero.transitions.flow import flow_std, flow_transition

__all__ = ["DDIMSteps", "FlowSteps", "Steps", "ddim_scheduler", "flow_scheduler"]

_PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Steps(Protocol):
    """The T steps of one schedule.

    Attributes:
        num_steps: T.
        times: (T,) what the scheduler calls the timesteps, on the policy's device.
        trainable: (T,) bool on the CPU; False where a step has no density.
    """

    num_steps: int
    times: torch.Tensor
    trainable: torch.Tensor

    def transition(self, output: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor) -> Transition:
        """Step `steps` (N,) of each of `latents` (N, C, h, w), given the model's `output`."""
        ...


def ddim_scheduler(scheduler: Any) -> DDIMScheduler:
    """A DDIM scheduler over the same noise schedule as `scheduler`.

    Raises:
        ModelError: `scheduler` has no discrete noise schedule, or clips or thresholds its samples, so that its
            steps are not Gaussian in the model's output.
    """
    config, name = dict(scheduler.config), type(scheduler).__name__
    # A scheduler keeps settings of another kind that its file holds, so the setting alone proves nothing.
    if "beta_schedule" not in config or not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(
            f"the scheduler {name} cannot be made stochastic: it has no betas; "
            "put a DDIMScheduler with the model's noise schedule into the model's scheduler folder"
        )
    config.setdefault("clip_sample", False)  # others than DDIM and DDPM never clip
    if config["clip_sample"] or config.get("thresholding"):
        raise ModelError(
            f"the scheduler {name} clips or thresholds its samples; "
            "set clip_sample and thresholding to false in scheduler_config.json"
        )
    if config.get("prediction_type", "epsilon") not in _PREDICTIONS:
        raise ModelError(
            f"the scheduler {name} is for models that predict {config['prediction_type']!r}; "
            f"known: {', '.join(_PREDICTIONS)}"
        )
    return DDIMScheduler.from_config(config)


class DDIMSteps:
    """Stochastic DDIM with T = `num_steps`; `eta` scales the noise.

    Raises:
        ModelError: more steps than the model was trained with, or no step that has a density.
    """

    def __init__(self, scheduler: DDIMScheduler, num_steps: int, eta: float, device: torch.device) -> None:
        train_steps = scheduler.config.num_train_timesteps
        if num_steps > train_steps:
            raise ModelError(f"sampling.num_steps = {num_steps} is more than the model's {train_steps}")
        scheduler.set_timesteps(num_steps)
        self.num_steps = num_steps
        self.eta = eta
        self.prediction = scheduler.config.prediction_type
        self.times = scheduler.timesteps.to(device)
        following = scheduler.timesteps - train_steps // num_steps
        cumulative = scheduler.alphas_cumprod.float()
        final = scheduler.final_alpha_cumprod.float()
        alpha_bar_next = torch.where(following >= 0, cumulative[following.clamp(min=0)], final)
        alpha_bar = cumulative[scheduler.timesteps]
        self.trainable = ddim_std(alpha_bar, alpha_bar_next, eta) > 0
        if eta > 0 and not self.trainable.any():
            raise ModelError(
                f"sampling.num_steps = {num_steps}: with this scheduler no step has a density; use more steps"
            )
        self.alpha_bar = alpha_bar.to(device)
        self.alpha_bar_next = alpha_bar_next.to(device)

    def transition(self, output: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor) -> Transition:
        return ddim_transition(
            output, latents, self.alpha_bar[steps], self.alpha_bar_next[steps], self.eta, self.prediction
        )


def flow_scheduler(scheduler: Any) -> FlowMatchEulerDiscreteScheduler:
    """`scheduler`, if its steps from noise at t = 1 to data at t = 0 can be made stochastic.

    Raises:
        ModelError: it is another kind of scheduler, or is stochastic in its own way already.
    """
    name = type(scheduler).__name__
    if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        raise ModelError(
            f"the scheduler {name} cannot be made stochastic: flow-matching models need a "
            "FlowMatchEulerDiscreteScheduler in the model's scheduler folder"
        )
    for setting in ("stochastic_sampling", "invert_sigmas"):
        if scheduler.config.get(setting):
            raise ModelError(
                f"the scheduler {name} has {setting}, so its steps are not those of an ordinary differential "
                f"equation from noise to data; set {setting} to false in scheduler_config.json"
            )
    return scheduler


class FlowSteps:
    """Stochastic flow matching over the sigmas that `scheduler` was set to; `a` scales the noise.

    `scheduler` has had its `set_timesteps` called, which is where model families differ.
    """

    def __init__(self, scheduler: FlowMatchEulerDiscreteScheduler, a: float, device: torch.device) -> None:
        sigmas = scheduler.sigmas.detach().float().cpu()
        self.num_steps = len(sigmas) - 1
        self.a = a
        self.t_first = float(sigmas[1])
        self.times = scheduler.timesteps.to(device)
        self.trainable = flow_std(sigmas[:-1], sigmas[1:], self.t_first, a) > 0
        self.sigmas = sigmas.to(device)

    def transition(self, output: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor) -> Transition:
        return flow_transition(output, latents, self.sigmas[steps], self.sigmas[steps + 1], self.t_first, self.a)
