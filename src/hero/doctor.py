"""Checks an installation, a model and an evaluator, and says what to do where something is wrong.

The model's checks are the first two promises of the project, ratio one and same as the library, and what makes images
worth labelling: that they follow their prompts, and show no noise of the sampler's.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from packaging.requirements import Requirement
from PIL import Image

from hero.config import Config, overlaid, validate
from hero.errors import HeroError
from hero.evaluators import check_evaluator, load_evaluator
from hero.methods import configure
from hero.noise import fresh_noise
from hero.policies import FAMILIES, Conditioning, Policy, family_of, load_policy, resolve_device
from hero.policies.footprint import device_memory, estimate, gibibytes, measure_costs, options_that_fit
from hero.policies.steps import VISIBLE_NOISE, Steps, noise_left
from hero.registry import FROZEN
from hero.rollout import rollout
from hero.seeding import Stage
from hero.tasks import get_task
from hero.tinyworld.scenes import draw_scene
from hero.types import BestImage, ImageBatch, Trajectory, image_id
from hero.update.replay import ratio_deviation

__all__ = ["Check", "diagnose"]

RATIO_TOLERANCE = 1e-6
LIBRARY_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.3}
"""Half precision: the LoRA and the transition are fp32 here and not in the library."""

MIN_FREE_BYTES = 1_000_000_000

_IMAGES, _STEPS = 2, 4
_SHARE = 0.9
"""Largest share of a device's memory that a run may be estimated to need."""


@dataclass(frozen=True)
class Check:
    """One line: what was checked, whether it is all right, what was found, and what to do if it is not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""


def diagnose(
    model: str = "tinyworld",
    evaluator: str | None = None,
    folder: Path = Path(),
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Check]:
    """Yields each check as soon as it is done.

    Args:
        model: `tinyworld`, a pipeline folder or a hub id.
        evaluator: the user's "module:callable", tried on one batch; None: not checked.
        folder: where runs would be written.
        settings: of the run for which memory is estimated, as nested dicts.
    """
    yield _python()
    yield from _packages()
    yield _device()
    yield _disk(folder)
    yield from _model(model, settings or {})
    if evaluator is not None:
        yield from _evaluator(evaluator)


def _python() -> Check:
    return Check("python", sys.version_info >= (3, 11), platform.python_version(), "install Python 3.11 or newer")


def _packages() -> Iterator[Check]:
    try:
        requirements = [Requirement(line) for line in requires("hero-diffusion") or []]
    except PackageNotFoundError:
        yield Check("packages", False, "the package hero-diffusion is not installed", "pip install -e .")
        return
    for requirement in requirements:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        remedy = f"pip install '{requirement}'"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Check(requirement.name, False, "not installed", remedy)
            continue
        fits = requirement.specifier.contains(found, prereleases=True)
        yield Check(requirement.name, fits, found if fits else f"{found}, needs {requirement.specifier}", remedy)


def _device() -> Check:
    device = resolve_device("auto")
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / 2**30
        return Check("device", True, f"{torch.cuda.get_device_name(device)}, {memory:.0f} GiB")
    threads = torch.get_num_threads()
    return Check("device", True, f"{device.type}, {threads} thread{'s' if threads > 1 else ''}")


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    return Check(
        "disk",
        free >= MIN_FREE_BYTES,
        f"{free / 1e9:.1f} GB free in {folder.resolve()}",
        "free some space, or run hero where there is more: a run stores its images and checkpoints",
    )


def _model(model: str, settings: Mapping[str, Any]) -> Iterator[Check]:
    try:
        config = configure("hand", model=model, settings=settings)
        yield from _untrained(config)  # frees its policy before the next one is loaded
    except HeroError as error:
        remedy = "give a pipeline folder, a hub id or tinyworld with --model; supported pipelines: "
        yield Check("model loads", False, str(error), remedy + ", ".join(FAMILIES))
        return
    yield _attempt("ratio one", lambda: _ratio_one(_short(config, eta=1.0)))


def _untrained(config: Config) -> Iterator[Check]:
    started = time.monotonic()
    policy = load_policy(_short(config, eta=0.0))
    name, seconds = type(policy.pipeline).__name__, time.monotonic() - started
    yield Check("model loads", True, f"{config.model.path}, a {name}, on {policy.device}, {seconds:.1f} s")
    yield _attempt("same as the library", lambda: _same_as_library(policy, _short(config, eta=0.0)))
    yield _attempt("prompts", lambda: _prompts(policy, _short(config, eta=0.0)))
    yield _attempt("pictures", lambda: _pictures(policy, _short(config, eta=0.0)))
    yield _attempt("precision", lambda: _precision(policy))
    schedule: list[Steps] = []
    yield _attempt("scheduler", lambda: _scheduler(schedule, policy, config))
    for steps in schedule:
        yield _attempt("last steps", partial(_last_steps, steps, policy, config))
        yield _attempt("noise left", partial(_noise_left, steps))
    yield _attempt("memory", lambda: _memory(policy, config))


def _attempt(name: str, check: Callable[[], Check]) -> Check:
    """The result of `check`, or its failure: a model may fail in any way (out of memory, say)."""
    try:
        return check()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Check(name, False, reason, "check the model's files, and that it fits into the device's memory")


def _short(config: Config, *, eta: float) -> Config:
    """`config` with a few short trajectories and no learning."""
    settings = {
        "sampling": {"num_steps": _STEPS, "eta": eta, "images_per_round": _IMAGES, "micro_batch": _IMAGES},
        "selection": {"drawn": None},
        "update": {"kind": FROZEN},
    }
    return validate(overlaid(config.model_dump(), settings))


def _draw(policy: Policy, config: Config) -> tuple[Conditioning, Trajectory]:
    prompts = config.task.prompts * _IMAGES
    noise = fresh_noise(len(prompts), policy.latent_shape, seed=config.seed, stage=Stage.DOCTOR_NOISE)
    conditioning = policy.encode(config.task.prompts)
    index = torch.zeros(_IMAGES, dtype=torch.int64)
    chunks = rollout(
        policy,
        conditioning,
        index,
        noise,
        seed=config.seed,
        round_=0,
        micro_batch=_IMAGES,
        stage=Stage.DOCTOR_STEP_NOISE,
    )
    return conditioning, next(chunks).trajectory


def _same_as_library(policy: Policy, config: Config) -> Check:
    """With η = 0 the final latents of a rollout are those of the pipeline's own call, from the same noise."""
    _, trajectory = _draw(policy, config)
    reference = policy.library_latents(config.task.prompts * _IMAGES, trajectory.initial_noise)
    apart = float((trajectory.final_latents - reference).abs().max())
    return Check(
        "same as the library",
        apart <= LIBRARY_TOLERANCE[policy.storage_dtype],
        f"latents differ from the pipeline's own call by at most {apart:.1e}",
        "check the model's scheduler_config.json; please report the model and this number",
    )


_DIFFERENT = ("a red apple on a table", "a blue car in a street")


def _prompts(policy: Policy, config: Config) -> Check:
    """Different prompts have different embeddings, and draw different latents from the same noise."""
    rows = policy.encode(_DIFFERENT).positive
    apart = max(_share_apart(*value) for value in rows.values() if len(value) == len(_DIFFERENT))
    noise = fresh_noise(1, policy.latent_shape, seed=config.seed, stage=Stage.DOCTOR_NOISE)
    chunks = rollout(
        policy,
        policy.encode(_DIFFERENT),
        torch.arange(len(_DIFFERENT)),
        noise.expand(len(_DIFFERENT), -1, -1, -1),
        seed=config.seed,
        round_=0,
        micro_batch=len(_DIFFERENT),
        stage=Stage.DOCTOR_STEP_NOISE,
    )
    drawn = _share_apart(*next(chunks).trajectory.final_latents)
    return Check(
        "prompts",
        min(apart, drawn) > _SAME,
        f"two different prompts differ by {apart:.0e} in their embeddings and by {drawn:.0e} in latents from one noise",
        "check the files of the tokenizers and text encoders: vocabulary, merges, weights",
    )


_SAME = 1e-5
"""Relative difference below which two prompts mean the same to a model; a random text encoder is far above it."""


def _share_apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Norm of the difference, as a share of the larger norm; 0 for equal tensors."""
    one, other = one.float(), other.float()
    return float((one - other).norm() / torch.maximum(one.norm(), other.norm()).clamp(min=1e-12))


def _pictures(policy: Any, config: Config) -> Check:
    """Images are not of one colour, and the VAE gives them back when they are encoded and decoded again."""
    images = policy.decode(_draw(policy, config)[1].final_latents)
    pixels = np.stack([np.asarray(image, dtype=np.float32) / 255 for image in images])
    contrast = float(pixels.std(axis=(1, 2)).mean())
    if contrast < 1 / 255:
        return Check("pictures", False, "they are of one colour", "check the VAE's files; use model.dtype float32")
    if not isinstance(policy.pipeline.vae, AutoencoderKL):
        return Check("pictures", True, f"contrast {contrast:.2f}; this kind of VAE is not asked to give them back")
    again = np.stack([np.asarray(image, dtype=np.float32) / 255 for image in policy.decode(policy.latents_of(images))])
    apart = float(np.sqrt(np.square(again - pixels).mean()))
    return Check(
        "pictures",
        apart < max(0.1, contrast),
        f"contrast {contrast:.2f}; encoded and decoded again, they differ by {apart:.3f} of the range",
        "check the VAE: its weights, scaling_factor and shift_factor",
    )


def _precision(policy: Policy) -> Check:
    """Embeddings and predictions are finite in the model's precision, on a device that has it."""
    name = str(policy.storage_dtype).removeprefix("torch.")
    if policy.storage_dtype == torch.bfloat16 and policy.device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return Check("precision", False, f"{policy.device} has no {name}", "use model.dtype float16 or float32")
    conditioning = policy.encode(_DIFFERENT[:1]).rows(torch.zeros(1, dtype=torch.int64))
    noise = fresh_noise(1, policy.latent_shape, seed=0, stage=Stage.DOCTOR_NOISE).to(policy.device)
    with torch.no_grad():
        outputs = [policy.predict(noise, torch.tensor([t]), conditioning, guided=True) for t in (1.0, 0.5, 0.02)]
    finite = {
        "embeddings": all(bool(value.isfinite().all()) for value in conditioning.positive.values()),
        "predictions": all(bool(output.isfinite().all()) for output in outputs),
    }
    wrong = [what for what, fine in finite.items() if not fine]
    scaled = "; training scales its loss" if policy.storage_dtype == torch.float16 else ""
    return Check(
        "precision",
        not wrong,
        f"{' and '.join(wrong)} are not finite in {name}" if wrong else f"all is finite in {name}{scaled}",
        "use model.dtype bfloat16 or float32",
    )


def _scheduler(schedule: list[Steps], policy: Policy, config: Config) -> Check:
    """The schedule of a run of `config`, which is put into `schedule`: from noise to the clean picture."""
    family = family_of(type(policy.pipeline).__name__)
    try:
        steps: Steps = family(policy.pipeline, config.sampling, policy.device).steps
    except HeroError as error:
        return Check("scheduler", False, str(error), "change these settings or the model's scheduler_config.json")
    schedule.append(steps)
    levels = steps.levels.tolist()
    falling = all(a > b for a, b in pairwise(levels))
    return Check(
        "scheduler",
        falling and levels[0] > _BEGINS_AT,
        f"{steps.num_steps} steps from noise level {levels[0]:.3f} to {levels[-1]:.3f}, of which "
        f"{int(steps.trainable.sum())} can be trained",
        "levels must fall from about 1: check timestep_spacing and num_train_timesteps in scheduler_config.json",
    )


_BEGINS_AT = 0.7
"""Level below which pure noise is not what a model expects at its first step."""


def _last_steps(steps: Steps, policy: Policy, config: Config) -> Check:
    """No trained step has a density narrower than what latents are rounded to."""
    zero = torch.zeros(1, 1, 1, 1, device=steps.levels.device)
    std = [
        float(steps.transition(zero, zero, k).std) for k in torch.arange(steps.num_steps, device=zero.device)[:, None]
    ]
    trained = [value for value, trains in zip(std, steps.trainable.tolist(), strict=True) if trains]
    finest = torch.finfo(policy.storage_dtype).eps / 2  # how far rounding moves a latent of size 1
    narrow = bool(trained) and min(trained) < finest
    last = ", ".join(f"{value:.3f}" for value in std[-2:])
    return Check(
        "last steps",
        not narrow,
        f"σ of the last two is {last}" + (f", less than what {config.model.dtype} rounds away" if narrow else ""),
        "use model.dtype float32, or a larger sampling.eta",
    )


def _noise_left(steps: Steps) -> Check:
    left = noise_left(steps)
    return Check(
        "noise left",
        left <= VISIBLE_NOISE,
        f"{left:.3f} of the initial noise stays in a picture's latents (at most {VISIBLE_NOISE:g} cannot be seen)",
        "use more sampling.num_steps or a lower sampling.eta",
    )


def _memory(policy: Policy, config: Config) -> Check:
    """Whether a run of `config` fits into the device, and what makes it fit."""
    costs, limit = measure_costs(policy, config), device_memory(policy.device)
    need = estimate(costs, config)
    options = options_that_fit(costs, config, int(_SHARE * limit))
    remedy = "use a smaller model, smaller sampling.height and width, or a larger device"
    if options:
        remedy = "add " + " ".join(f"--set {name}={json.dumps(value)!s}" for name, value in options.items())
    return Check("memory", options == {}, f"{need.describe()}; {policy.device.type} has {gibibytes(limit)}", remedy)


def _ratio_one(config: Config) -> Check:
    """Before the first gradient step, replayed log-probabilities are those of sampling."""
    policy = load_policy(config)
    conditioning, trajectory = _draw(policy, config)
    apart = ratio_deviation(policy, trajectory, conditioning, micro_batch=_IMAGES * _STEPS)
    return Check(
        "ratio one",
        apart <= RATIO_TOLERANCE,
        f"replayed probability ratios differ from 1 by at most {apart:.1e}",
        "train with recompute_log_probs = always in the table of the update",
    )


def _evaluator(spec: str) -> Iterator[Check]:
    name = f"evaluator {spec}"
    try:
        evaluator = load_evaluator(spec)
    except HeroError as error:
        yield Check(name, False, str(error), "see docs/extending.md")
        return
    batch = _batch()
    messages = check_evaluator(evaluator, batch)
    for message in messages:
        what, _, remedy = message.partition("; ")
        yield Check(name, False, what, remedy or "see docs/extending.md")
    if not messages:
        yield Check(name, True, f"answered {len(batch)} images, with a best image kept from an earlier round")


def _batch() -> ImageBatch:
    """A second round of drawn hands, so that there is a best image from before."""
    task = get_task("hand")
    prompt, rng = task.prompts[0], np.random.default_rng(0)
    images = tuple(Image.fromarray(draw_scene(prompt, rng).image) for _ in range(9))
    best = BestImage(image_id(1, 0), images[0], prompt)
    ids = tuple(image_id(2, i) for i in range(8))
    return ImageBatch(2, ids, images[1:], (prompt,) * 8, (best,), task.criterion)
