"""Named recipes and value presets: what `--method` and the model select.

A method says which noise distribution, reward and update to use; a preset gives their values for a kind of model.
Settings come in layers: the preset, the method, then the caller's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hero.config import Config, merge, overlaid, validate
from hero.errors import ConfigError, nearest
from hero.model_index import pipeline_class
from hero.tasks import get_task
from hero.tinyworld import NAME as TINYWORLD

__all__ = ["METHODS", "PRESETS", "PRESET_OF", "Method", "configure", "resolve"]


@dataclass(frozen=True)
class Method:
    """A recipe: one sentence, and the settings that make it what it is.

    Attributes:
        summary: one sentence.
        settings: for every model; with them, on Stable Diffusion, a published method has its published values.
        tuned: preset → settings that go over both that preset's values and `settings`.
    """

    summary: str
    settings: Mapping[str, Any]
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_D3PO_TUNED: dict[str, dict[str, Any]] = {"tinyworld": {"update": {"learning_rate": 5e-4, "images_per_step": 16}}}
"""On the tiny world the rate of the other methods, and steps of eight pairs: some dozen a round, as PPO takes."""

METHODS: dict[str, Method] = {
    "hero": Method(
        "feedback-aligned representation as reward, feedback-guided initial noise, PPO",
        {
            "noise": {"kind": "feedback"},
            "reward": {"kind": "similarity"},
            "update": {"kind": "ppo"},
        },
    ),
    "heron": Method(
        "p(good) from the frozen denoiser's features as reward, negative-aware fine-tuning, practice between questions",
        {
            "noise": {"kind": "standard"},
            "reward": {"kind": "head", "head": {"variety": 1.0}},
            "update": {
                "kind": "nft",
                "learning_rate": 3e-4,
                "inner_epochs": 2,
                "nft": {"optimality": "reward", "beta": 1.0},
            },
            "practice": {"draws": 192, "images": 32, "enough": 0.85},
            "sampling": {"images_per_round": 32},
        },
    ),
    "nft": Method(
        "the labels themselves as reward, fresh initial noise, negative-aware fine-tuning (baseline)",
        {
            "noise": {"kind": "standard"},
            "reward": {"kind": "label"},
            "update": {"kind": "nft", "learning_rate": 3e-4, "inner_epochs": 2, "nft": {"optimality": "reward"}},
        },
    ),
    "ddpo": Method(
        "the labels themselves as reward, fresh initial noise, PPO (baseline)",
        # With a tighter clip, a rare good image would count no more than one of many bad ones.
        {
            "noise": {"kind": "standard"},
            "reward": {"kind": "label", "advantage_clip": 5.0},
            "update": {"kind": "ppo"},
        },
    ),
    "noise-only": Method(
        "feedback-guided initial noise with frozen weights (control)",
        {"noise": {"kind": "feedback"}, "reward": {"kind": "label"}, "update": {"kind": "none"}},
    ),
    "d3po": Method(
        "preferences among images that started from one noise (baseline, as published)",
        {
            "noise": {"kind": "shared"},
            "reward": {"kind": "label"},
            "update": {"kind": "d3po", "learning_rate": 3e-5, "d3po": {"within": "noise"}},
        },
        _D3PO_TUNED,
    ),
    "d3po-fresh": Method(
        "preferences among all images of a prompt, each from fresh noise (baseline)",
        {
            "noise": {"kind": "standard"},
            "reward": {"kind": "label"},
            "update": {"kind": "d3po", "learning_rate": 3e-5, "d3po": {"within": "prompt"}},
        },
        _D3PO_TUNED,
    ),
    "raft": Method(
        "the denoising loss on good images alone (baseline)",
        {"noise": {"kind": "standard"}, "reward": {"kind": "label"}, "update": {"kind": "raft"}},
        # A quarter of the images is good at first, so that one pass would be two or three steps.
        {"tinyworld": {"update": {"inner_epochs": 4}}},
    ),
    "best-of-n": Method(
        "frozen weights; of several images the one that a learnt reward likes best (control)",
        {
            "noise": {"kind": "standard"},
            "reward": {"kind": "head"},
            "update": {"kind": "none"},
            "evaluation": {"best_of": 4},
        },
    ),
}

_STABLE_DIFFUSION: dict[str, Any] = {
    "model": {"dtype": "float32", "gradient_checkpointing": False},
    "sampling": {
        "num_steps": 50,
        "eta": 1.0,
        "guidance_scale": 5.0,
        "images_per_round": 64,
        "micro_batch": 8,
    },
    "lora": {"rank": 4, "alpha": 4.0, "layers": ("attention",)},
    "noise": {"feedback": {"best_share": 0.5, "epsilon": 0.1}, "shared": {"group_size": 7}},
    "reward": {
        "advantage_clip": 5.0,
        "similarity": {
            "width": 2048,
            "epochs": 500,
            "batch_size": 2048,
            "learning_rate": 1e-5,
            "margin": 0.5,
        },
    },
    "update": {
        "learning_rate": 3e-4,
        "weight_decay": 1e-4,
        "max_grad_norm": 1.0,
        "images_per_step": 8,
        "micro_batch": 2,
        "ppo": {"clip_range": 1e-4, "timesteps_per_image": 5, "timestep_weight": "uniform"},
        "d3po": {"beta": 0.1, "ratio_range": 0.1, "timesteps_per_image": 20, "timestep_weight": "uniform"},
        "raft": {"levels_per_image": 4},
    },
    "evaluation": {"images": 200},
}

_LARGE = {"model": {"dtype": "bfloat16", "gradient_checkpointing": True}, "update": {"micro_batch": 1}}
"""What models with billions of parameters need to fit on one GPU."""

PRESETS: dict[str, dict[str, Any]] = {
    "stable-diffusion": _STABLE_DIFFUSION,
    "sdxl": merge(_STABLE_DIFFUSION, _LARGE, {"sampling": {"micro_batch": 4}}),
    "sd3": merge(
        _STABLE_DIFFUSION,
        _LARGE,
        {
            "sampling": {"num_steps": 10, "eta": 0.7, "guidance_scale": 4.5, "micro_batch": 4},
            "lora": {"rank": 32, "alpha": 64.0},
            "update": {
                "ppo": {"timestep_weight": "std"},
                "d3po": {"timesteps_per_image": 10, "timestep_weight": "std"},
            },
        },
    ),
    "flux": merge(
        _STABLE_DIFFUSION,
        _LARGE,
        {
            "sampling": {
                "num_steps": 10,
                "eta": 0.9,
                "guidance_scale": 3.5,
                "height": 512,
                "width": 512,
                "micro_batch": 2,
            },
            "lora": {"rank": 32, "alpha": 64.0},
            "update": {
                "ppo": {"timestep_weight": "std"},
                "d3po": {"timesteps_per_image": 10, "timestep_weight": "std"},
            },
        },
    ),
    "tinyworld": {
        "model": {"dtype": "float32", "gradient_checkpointing": False},
        "sampling": {
            "num_steps": 20,
            "eta": 1.0,
            "guidance_scale": 2.0,
            "images_per_round": 64,
            "micro_batch": 16,
        },
        "lora": {"rank": 8, "alpha": 8.0, "layers": ("attention", "feed-forward", "resnet")},
        "noise": {"feedback": {"best_share": 0.5, "epsilon": 0.1}, "shared": {"group_size": 7}},
        "reward": {
            "advantage_clip": 0.5,
            "similarity": {
                "width": 256,
                "epochs": 200,
                "batch_size": 256,
                "learning_rate": 1e-3,
                "margin": 0.5,
            },
        },
        "update": {
            "learning_rate": 5e-4,
            "weight_decay": 1e-4,
            "max_grad_norm": 1.0,
            "images_per_step": 8,
            "micro_batch": 64,
            "ppo": {"clip_range": 1e-3, "timesteps_per_image": 8, "timestep_weight": "std"},
            "d3po": {"beta": 0.1, "ratio_range": 0.1, "timesteps_per_image": 8, "timestep_weight": "std"},
            "raft": {"levels_per_image": 4},
        },
        "evaluation": {"images": 128},
    },
}
"""Values per kind of model, for every kind of noise, reward and update; those that a method does not use are left out.

docs/models.md says where each comes from.
"""

PRESET_OF: dict[str, str] = {
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusion3Pipeline": "sd3",
    "FluxPipeline": "flux",
    "QwenImagePipeline": "flux",
    "ZImagePipeline": "flux",
    "Flux2KleinPipeline": "flux",
}
"""Pipeline class → preset; `stable-diffusion` for every other."""


def resolve(method: str, preset: str, overrides: Mapping[str, Any]) -> Config:
    """The full configuration of `method` with the values of `preset` and the caller's `overrides` (nested dicts).

    Tables of kinds that are not chosen are left out, so that one file may hold the values of several methods.

    Raises:
        ConfigError: an unknown method, preset or setting, or a value out of range.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}; {nearest(method, METHODS)}")
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; {nearest(preset, PRESETS)}")
    named = {"method": method, "preset": preset}
    recipe = METHODS[method]
    layers = (PRESETS[preset], recipe.settings, recipe.tuned.get(preset, {}), overrides, named)
    return validate(overlaid(merge(*layers), {}))


def configure(
    task: str | None = None,
    *,
    prompts: str | Sequence[str] = (),
    criterion: str | None = None,
    model: str | None = None,
    method: str | None = None,
    preset: str | None = None,
    rounds: int | None = None,
    images_per_round: int | None = None,
    seed: int | None = None,
    evaluator: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Config:
    """A configuration from a task's name, or from prompts of your own.

    Args:
        task: a built-in task (`hero tasks`); `hand` where neither a task nor prompts are given.
        prompts: prompts to train on instead of a task's.
        criterion: what makes an image good, in words; default: the task's.
        model: `tinyworld` (the default), a pipeline folder or a hub id.
        method: see `METHODS`; default: `hero`.
        preset: see `PRESETS`; default: by model.
        settings: any other settings as nested dicts, e.g. {"sampling": {"eta": 0.5}}; they override method and
            preset, and the named arguments override them.

    Raises:
        ConfigError: something is unknown or out of range, or both a task and prompts are given.
    """
    own = dict(settings or {})
    _check_stages(own)
    chosen_prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    if task is not None and chosen_prompts:
        raise ConfigError("give a task or prompts of your own, not both")
    about = _about(task, chosen_prompts, criterion, own.get("task", {}))
    named: dict[str, Any] = {
        "rounds": rounds,
        "seed": seed,
        "method": method,
        "preset": preset,
        "task": about,
        "model": {"path": model},
        "sampling": {"images_per_round": images_per_round},
        "evaluator": {"name": evaluator},
    }
    merged = merge(own, _without_none(named))
    chosen = merged.get("preset") or _preset_for(merged.get("model", {}))
    return resolve(merged.get("method", "hero"), chosen, merged)


def _preset_for(model: Mapping[str, Any]) -> str:
    path = model.get("path", TINYWORLD)
    if path == TINYWORLD or not isinstance(path, str):
        return "tinyworld"
    return PRESET_OF.get(pipeline_class(path, model.get("revision")) or "", "stable-diffusion")


def _check_stages(own: Mapping[str, Any]) -> None:
    """Raises ConfigError if a setting that is read before validation has a value of the wrong kind."""
    examples = {"method": "method=hero", "preset": "preset=tinyworld", "task": "task.name=hand"}
    for key, example in (examples | {"model": "model.path=tinyworld"}).items():
        kind = Mapping if "." in example else str
        if key in own and not isinstance(own[key], kind):
            raise ConfigError(f"{key} = {own[key]!r}: write a name, e.g. {example}")


def _about(task: str | None, prompts: tuple[str, ...], criterion: str | None, own: Mapping[str, Any]) -> dict[str, Any]:
    """The `task` stage: prompts of the caller's own, those in the settings, or those of a built-in task."""
    given = {} if criterion is None else {"criterion": criterion}
    if prompts:
        return {"name": "custom", "prompts": prompts, "criterion": "", **given}
    if task is None and "prompts" in own:
        return given
    built_in = get_task(task or own.get("name", "hand"))
    return {"name": built_in.name, "prompts": built_in.prompts, "criterion": built_in.criterion, **own, **given}


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    kept = {k: _without_none(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    return {k: v for k, v in kept.items() if v is not None and v != {}}
