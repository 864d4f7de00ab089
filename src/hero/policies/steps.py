"""The noise schedules of models: denoising steps as transitions, and conversions at any noise level.

A noise level t in (0, 1] means the same for every family: how far a latent is from data (t → 0) to noise (t = 1), as a
share of the model's own training time. If a model was trained at N discrete timesteps, t = (i + 1)/N is timestep i,
and other t are rounded to the nearest; in flow matching t is sigma.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from hero.errors import ModelError
from hero.transitions import Transition
from hero.transitions.ddim import ddim_noised, ddim_std, ddim_target, ddim_transition, to_sample_and_epsilon
from hero.transitions.flow import (
    flow_noised,
    flow_std,
    flow_target,
    flow_transition,
    flow_velocity_to_sample,
    velocity_to_noise,
)

__all__ = [
    "VISIBLE_NOISE",
    "DDIMSteps",
    "FlowSteps",
    "Steps",
    "check_noise_left",
    "ddim_scheduler",
    "flow_scheduler",
    "noise_left",
]

VISIBLE_NOISE = 0.05
"""Noise in final latents, as a share of that at t = 1, that may be seen in a picture."""

_NO_SIGNAL = 1e-6
"""ᾱ below which nothing of the picture is left; usual schedules end at 5e-3 or 4e-5."""

_PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Steps(Protocol):
    """The T steps of one schedule, and conversions at any noise level.

    Conversions take latents, noise and outputs (N, C, h, w) of any float dtype and levels `t` (N,) in (0, 1]; they
    return (N, C, h, w) fp32 on the device of the latents. With them the denoising loss of any model is
    `(policy.predict(z, t, ...) - steps.target(x0, noise, t)).square()`, where `z = steps.noised(x0, noise, t)`.

    Attributes:
        num_steps: T.
        times: (T,) the scheduler's timesteps, on the policy's device.
        levels: (T,) fp32, the noise level t at which each step begins, on the policy's device.
        trainable: (T,) bool on the CPU; False where a step has no density.
        feature_levels: noise levels at which the features of final latents are taken unless others are asked for.
    """

    num_steps: int
    times: torch.Tensor
    levels: torch.Tensor
    trainable: torch.Tensor
    feature_levels: tuple[float, ...]

    def transition(self, output: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor) -> Transition:
        """Step `steps` (N,) of each of `latents` (N, C, h, w), given the model's `output`."""
        ...

    def times_at(self, t: torch.Tensor) -> torch.Tensor:
        """(N,): the denoiser's time argument at noise levels `t`, in the unit and on the device of `times`.

        Raises:
            ValueError: a level is not in (0, 1].
        """
        ...

    def noised(self, sample: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The clean `sample` with the amount of `noise` that belongs to `t`."""
        ...

    def to_sample(self, output: torch.Tensor, latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """x̂_0, the clean sample implied by the model's `output` for `latents` at `t`."""
        ...

    def to_noise(self, output: torch.Tensor, latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """ε̂, the noise implied by the model's `output` for `latents` at `t`."""
        ...

    def target(self, sample: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The output of a perfect model for `noised(sample, noise, t)`, in its own parameterisation."""
        ...


def ddim_scheduler(scheduler: Any) -> DDIMScheduler:
    """A DDIM scheduler over the same noise schedule as `scheduler`.

    Raises:
        ModelError: `scheduler` has no discrete noise schedule, or clips or thresholds its samples, so that its
            steps are not Gaussian in the model's output; or its betas do not go with what the model predicts.
    """
    config, name = dict(scheduler.config), type(scheduler).__name__
    # A scheduler keeps settings of other kinds from its file, so the setting alone proves nothing.
    if "beta_schedule" not in config or not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(
            f"the scheduler {name} cannot be made stochastic: it has no betas; "
            "put a DDIMScheduler with the model's noise schedule into the model's scheduler folder"
        )
    config.setdefault("clip_sample", False)  # schedulers other than DDIM and DDPM never clip
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
    made = DDIMScheduler.from_config(config)
    if made.config.prediction_type == "epsilon" and made.alphas_cumprod.min() < _NO_SIGNAL:
        raise ModelError(
            f"the scheduler {name} has betas of zero terminal SNR, where a model that predicts the noise says nothing "
            "of the picture; set rescale_betas_zero_snr to false in scheduler_config.json, or prediction_type to "
            "v_prediction if the model was trained so"
        )
    return made


class DDIMSteps:
    """Stochastic DDIM with T = `num_steps`; `eta` scales the noise.

    Raises:
        ModelError: more steps than the model was trained with, or no step that has a density.
    """

    feature_levels: tuple[float, ...] = (0.02, 0.1, 0.25)

    def __init__(self, scheduler: DDIMScheduler, num_steps: int, eta: float, device: torch.device) -> None:
        train_steps = scheduler.config.num_train_timesteps
        if num_steps > train_steps:
            raise ModelError(f"sampling.num_steps = {num_steps} is more than the model's {train_steps}")
        scheduler.set_timesteps(num_steps)
        if (first := int(scheduler.timesteps.max())) >= train_steps:
            raise ModelError(
                f"sampling.num_steps = {num_steps}: with the scheduler's steps_offset the first step would be at "
                f"timestep {first} of 0 to {train_steps - 1}; use fewer steps"
            )
        self.num_steps = num_steps
        self.eta = eta
        self.prediction = scheduler.config.prediction_type
        self.times = scheduler.timesteps.to(device)
        following = scheduler.timesteps - train_steps // num_steps
        cumulative = scheduler.alphas_cumprod.float()
        final = scheduler.final_alpha_cumprod.float()
        alpha_bar_next = torch.where(following >= 0, cumulative[following.clamp(min=0)], final)
        alpha_bar = cumulative[scheduler.timesteps]
        self.levels = ((scheduler.timesteps + 1) / train_steps).to(device)
        self.trainable = ddim_std(alpha_bar, alpha_bar_next, eta) > 0
        _check_trainable(self.trainable, eta, num_steps)
        self.alpha_bar = alpha_bar.to(device)
        self.alpha_bar_next = alpha_bar_next.to(device)
        self._cumulative = cumulative.to(device)

    def transition(self, output: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor) -> Transition:
        return ddim_transition(
            output, latents, self.alpha_bar[steps], self.alpha_bar_next[steps], self.eta, self.prediction
        )

    def times_at(self, t: torch.Tensor) -> torch.Tensor:
        n = len(self._cumulative)
        index = (_checked(t) * n).round().long() - 1
        return index.clamp(min=0).to(self.times)

    def _alpha_bar_at(self, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """(N, 1, 1, 1) fp32, on the device of `latents`."""
        alpha_bar: torch.Tensor = self._cumulative[self.times_at(t)]
        return alpha_bar.to(latents.device).view(-1, 1, 1, 1)

    def noised(self, sample: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return ddim_noised(sample.float(), noise.float(), self._alpha_bar_at(t, sample))

    def to_sample(self, output: torch.Tensor, latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha_bar = self._alpha_bar_at(t, latents)
        return to_sample_and_epsilon(output.float(), latents.float(), alpha_bar, self.prediction)[0]

    def to_noise(self, output: torch.Tensor, latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha_bar = self._alpha_bar_at(t, latents)
        return to_sample_and_epsilon(output.float(), latents.float(), alpha_bar, self.prediction)[1]

    def target(self, sample: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return ddim_target(sample.float(), noise.float(), self._alpha_bar_at(t, sample), self.prediction)


def flow_scheduler(scheduler: Any) -> FlowMatchEulerDiscreteScheduler:
    """`scheduler`, if its steps from noise at t = 1 to data at t = 0 can be made stochastic.

    Raises:
        ModelError: it is another kind of scheduler, or is already stochastic in its own way.
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

    Call the scheduler's `set_timesteps` first; model families differ in its arguments. The last step is deterministic,
    and so is any whose σ would be below `NARROWEST`: its density would be one of rounding.

    Raises:
        ModelError: no step has a density.
    """

    NARROWEST = 0.01
    """bfloat16 stores latents of size 1 in steps of 0.008."""

    feature_levels: tuple[float, ...] = (0.12, 0.25, 0.4)
    # The same noise-to-data ratios as Stable Diffusion at those of `DDIMSteps`.

    def __init__(self, scheduler: FlowMatchEulerDiscreteScheduler, a: float, device: torch.device) -> None:
        sigmas = scheduler.sigmas.detach().float().cpu()
        self.num_steps = len(sigmas) - 1
        self.times = scheduler.timesteps.to(device)
        self.train_steps = scheduler.config.num_train_timesteps
        std = flow_std(sigmas[:-1], sigmas[1:], a)
        std = torch.where(std < self.NARROWEST, 0.0, std)
        self.trainable = std > 0
        _check_trainable(self.trainable, a, self.num_steps)
        self.std = std.to(device)
        self.sigmas = sigmas.to(device)
        self.levels = self.sigmas[:-1]

    def transition(self, output: torch.Tensor, latents: torch.Tensor, steps: torch.Tensor) -> Transition:
        return flow_transition(output, latents, self.sigmas[steps], self.sigmas[steps + 1], self.std[steps])

    def times_at(self, t: torch.Tensor) -> torch.Tensor:
        times: torch.Tensor = _checked(t) * self.train_steps
        return times.to(self.times)

    def noised(self, sample: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return flow_noised(sample.float(), noise.float(), _beside(t, sample))

    def to_sample(self, output: torch.Tensor, latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return flow_velocity_to_sample(output.float(), latents.float(), _beside(t, latents))

    def to_noise(self, output: torch.Tensor, latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return velocity_to_noise(output.float(), latents.float(), _beside(t, latents))

    def target(self, sample: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        _checked(t)
        return flow_target(sample.float(), noise.float())


def _check_trainable(trainable: torch.Tensor, eta: float, num_steps: int) -> None:
    if eta > 0 and not trainable.any():
        raise ModelError(f"sampling.num_steps = {num_steps}: with this scheduler no step has a density; use more steps")


def noise_left(steps: Steps) -> float:
    """Standard deviation of the noise in final latents that a perfect model of one known picture would draw.

    In units of that of a latent at t = 1. It is what the sampler adds and does not remove, and what the schedule never
    removes; what the model itself gets wrong is not in it.
    """
    one = torch.ones(1, 1, 1, 1, device=steps.levels.device)
    variance = 1.0
    for k in range(steps.num_steps):
        level, picture = steps.levels[k : k + 1], torch.zeros_like(one)
        noise = one / steps.noised(picture, one, level)  # everything in a latent that is not the picture, here 0
        step = steps.transition(steps.target(picture, noise, level), one, torch.tensor([k], device=one.device))
        variance = float(step.mean) ** 2 * variance + float(step.std) ** 2  # the mean is linear in the latent
    return math.sqrt(variance)


def check_noise_left(steps: Steps) -> None:
    """Raises ModelError if images drawn with `steps` show noise (`VISIBLE_NOISE`) that no model can remove."""
    left = noise_left(steps)
    if not left <= VISIBLE_NOISE:
        raise ModelError(
            f"with these settings noise of standard deviation {left:.2g} stays in every picture's latents (at most "
            f"{VISIBLE_NOISE:g} cannot be seen): use more sampling.num_steps or a lower sampling.eta, and check that "
            "the model's scheduler ends at the clean picture"
        )


def _checked(t: torch.Tensor) -> torch.Tensor:
    if not bool(((t > 0) & (t <= 1)).all()):
        raise ValueError(f"noise levels lie in (0, 1]; got {t.min().item():g} to {t.max().item():g}")
    return t.float()


def _beside(t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """(N,) levels as (N, 1, 1, 1) fp32, on the device of `latents`."""
    return _checked(t).to(latents.device).view(-1, 1, 1, 1)
