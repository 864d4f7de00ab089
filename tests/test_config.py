"""Settings: unknown keys name the nearest known one, layers go over each other, TOML gives back what it was given."""

from __future__ import annotations

import tomllib
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from hero.config import Config, check_used, load_toml, merge, overlaid, parse_assignments, validate
from hero.errors import ConfigError
from hero.methods import METHODS, PRESETS, configure, resolve
from hero.registry import (
    NOISES,
    REWARDS,
    SELECTORS,
    UPDATES,
    FeedbackNoiseSettings,
    PPOSettings,
    SimilaritySettings,
)
from hero.tasks import TASKS

ONE_PROMPT: dict[str, Any] = {"task": {"prompts": ["a cat"]}}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sampling": {"etta": 1}}, "unknown setting 'sampling.etta'; did you mean 'eta'"),
        ({"samplin": {}}, "unknown setting 'samplin'; did you mean 'sampling'"),
        ({"sampling": {"eta": 2}}, "sampling.eta = 2"),
        ({"sampling": {"eta": float("nan")}}, "sampling.eta"),
        ({"sampling": 3}, "sampling = 3"),
        ({"lora": {"layers": []}}, "lora.layers"),
        ({"lora": {"layers": ["attentive"]}}, "attentive"),
        ({"rounds": 0}, "rounds = 0"),
        ({"rounds": 10_000}, "rounds = 10000"),
        ({"sampling": {"eta": 0}}, "deterministic sampler has no policy gradient"),
        ({"sampling": {"num_steps": 3}}, "timesteps_per_image"),
        ({"task": {"prompts": ["a", "b"]}, "sampling": {"images_per_round": 1}}, "number of prompts"),
        ({"task": {"prompts": []}}, "at least one prompt"),
        ({"task": {"prompts": ["a", " "]}}, "no empty one"),
        ({"task": {"prompts": ["a", "a"]}}, "twice"),
        ({"seed": -1}, "seed = -1"),
        ({"sampling": {"images_per_round": 10_001}}, "sampling.images_per_round = 10001"),  # ids have four digits
        ({"update": {"kind": "pppo"}}, "update.kind = 'pppo': did you mean 'ppo'"),
        ({"update": {"ppo": {"clip": 1}}}, "unknown setting 'update.ppo.clip'; did you mean 'clip_range'"),
        ({"update": {"ppo": {"clip_range": -1}}}, "update.ppo.clip_range = -1"),
        ({"update": {"d3pp": {}}}, "unknown setting 'update.d3pp'"),
        ({"noise": {"kind": "standard", "feedback": {}}}, "noise.feedback is for noise.kind = 'feedback'"),
        ({"reward": {"kind": "label", "label": {}}}, "unknown setting 'reward.label'"),
        ({"selection": {"drawn": 8}}, "selection.drawn is 8, less than sampling.images_per_round, 64"),
        ({"selection": {"drawn": 80}}, "selection.kind 'all' shows every drawn image"),
        ({"distributed": {"shard": True}, "model": {"compile": True}}, "cannot be combined with model.compile"),
        ({"distributed": {"shard": True}, "model": {"device": "cuda:1"}}, "leave it at auto"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        validate(merge(ONE_PROMPT, values))
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"update": {"clip_range": 1}}, "update.clip_range is now update.ppo.clip_range"),
        ({"noise": {"epsilon": 0.2}}, "noise.epsilon is now noise.feedback.epsilon"),
        ({"representation": {"width": 8}}, "representation.width is now reward.similarity.width"),
        (
            {"reward": {"kind": "similarity-to-good"}},
            'is now reward.kind = "similarity" with reward.similarity.reference',
        ),
    ],
)
def test_names_of_version_0_1_give_the_new_one(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        validate(merge(ONE_PROMPT, values))
    assert said in str(refusal.value)


def test_tables_of_kinds_that_are_not_chosen_are_left_out_of_a_recipe_but_refused_on_the_command_line() -> None:
    shared = {"update": {"ppo": {"clip_range": 0.5}}, "reward": {"similarity": {"width": 8}}}
    config = configure("hand", method="ddpo", settings=shared)
    assert config.update.table(PPOSettings).clip_range == 0.5
    assert config.reward.own is None
    with pytest.raises(ConfigError, match=r"reward\.similarity is for reward\.kind = 'similarity', but this run's is"):
        check_used(shared, config)
    frozen = overlaid(config.model_dump(), {"update": {"kind": "none"}})
    assert "ppo" not in frozen["update"]
    assert not validate(frozen).update.learns


def test_every_wrong_setting_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as refusal:
        validate(merge(ONE_PROMPT, {"sampling": {"eta": 2}, "lora": {"rank": 0}}))
    assert {part.split(" = ")[0] for part in str(refusal.value).split("; ")} == {"sampling.eta", "lora.rank"}


def test_a_frozen_policy_may_be_sampled_deterministically() -> None:
    assert validate(merge(ONE_PROMPT, {"sampling": {"eta": 0}, "update": {"kind": "none"}})).sampling.eta == 0


def test_every_setting_has_a_description() -> None:
    stages: list[type[BaseModel]] = [Config]
    stages += [f.annotation for f in Config.model_fields.values() if isinstance(f.annotation, type)
               and issubclass(f.annotation, BaseModel)]  # fmt: skip
    kinds = [choice for registry in (NOISES, REWARDS, SELECTORS, UPDATES) for choice in registry.values()]
    stages += [choice.settings for choice in kinds if choice.settings is not None]
    assert all(choice.summary for choice in kinds)
    missing = [
        f"{stage.__name__}.{name}"
        for stage in stages
        for name, info in stage.model_fields.items()
        if not info.description and not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel))
    ]
    assert missing == []


@settings(max_examples=50, deadline=None)
@given(
    prompts=st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=3, unique=True),
    criterion=st.text(),
    rate=st.floats(1e-9, 1.0),
    share=st.floats(0, 1),
    method=st.sampled_from(sorted(METHODS)),
    preset=st.sampled_from(sorted(PRESETS)),
    seed=st.integers(0, 2**53),
)
def test_toml_gives_back_the_same_configuration(
    prompts: list[str], criterion: str, rate: float, share: float, method: str, preset: str, seed: int
) -> None:
    config = configure(
        prompts=prompts, criterion=criterion, method=method, preset=preset, seed=seed,
        settings={"update": {"learning_rate": rate}, "noise": {"feedback": {"best_share": share}}},
    )  # fmt: skip
    assert validate(tomllib.loads(config.to_toml())) == config


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the configuration file"):
        load_toml(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("eta = = 1")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_toml(tmp_path / "bad.toml")


def test_later_layers_win_and_none_is_changed() -> None:
    below, above = {"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"y": 3}, "b": {"z": 4}}
    assert merge(below, above) == {"a": {"x": 1, "y": 3}, "b": {"z": 4}}
    assert merge({"a": MappingProxyType({"x": 1})}, {"a": {"y": 2}}) == {"a": {"x": 1, "y": 2}}
    assert below == {"a": {"x": 1, "y": 2}, "b": 1}


def test_assignments_are_toml_or_else_text() -> None:
    assert parse_assignments(["sampling.eta=0.5", "sampling.num_steps = 7", "seed=3", "method=ddpo"]) == {
        "sampling": {"eta": 0.5, "num_steps": 7},
        "seed": 3,
        "method": "ddpo",
    }
    assert parse_assignments(['task.prompts=["a", "b"]', "evaluator.name=my:judge", "task.criterion=a=b"]) == {
        "task": {"prompts": ["a", "b"], "criterion": "a=b"},
        "evaluator": {"name": "my:judge"},
    }
    for wrong in ("sampling.eta", "=1", "  =1"):
        with pytest.raises(ConfigError, match=r"stage\.field=value"):
            parse_assignments([wrong])


def test_settings_go_over_the_method_and_that_over_the_preset() -> None:
    assert resolve("ddpo", "tinyworld", ONE_PROMPT).noise.kind == "standard"
    own = resolve("ddpo", "tinyworld", merge(ONE_PROMPT, {"noise": {"kind": "feedback"}}))
    assert own.noise.kind == "feedback"
    assert own.sampling.num_steps == PRESETS["tinyworld"]["sampling"]["num_steps"]
    assert (own.method, own.preset) == ("ddpo", "tinyworld")


def test_the_published_values_are_the_stable_diffusion_preset() -> None:
    config = configure(prompts="a cat", model="some/model")
    assert (config.method, config.preset) == ("hero", "stable-diffusion")
    assert (config.sampling.num_steps, config.sampling.eta, config.sampling.guidance_scale) == (50, 1.0, 5.0)
    r = config.reward.table(SimilaritySettings)
    assert (r.width, r.epochs, r.batch_size, r.learning_rate, r.margin) == (2048, 500, 2048, 1e-5, 0.5)
    assert config.noise.table(FeedbackNoiseSettings) == FeedbackNoiseSettings(best_share=0.5, epsilon=0.1)
    u = config.update
    assert (u.images_per_step, u.weight_decay, u.max_grad_norm) == (8, 1e-4, 1.0)
    assert u.table(PPOSettings) == PPOSettings(clip_range=1e-4, timesteps_per_image=5)
    assert (config.rounds * config.sampling.images_per_round, config.reward.advantage_clip) == (512, 5.0)


def test_a_task_brings_its_prompts_and_criterion() -> None:
    config = configure("blue-rose", seed=0)
    assert config.task.prompts == TASKS["blue-rose"].prompts
    assert config.task.criterion == TASKS["blue-rose"].criterion
    assert configure().task.name == "hand"
    assert configure("hand", criterion="five fingers").task.criterion == "five fingers"
    assert configure(prompts="a cat").task.name == "custom"
    assert configure(settings={"task": {"prompts": ["a cat"]}}).task.prompts == ("a cat",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"task": "hnad"}, "did you mean 'hand'"),
        ({"method": "heroo"}, "did you mean 'hero'"),
        ({"preset": "tinyword"}, "did you mean 'tinyworld'"),
        ({"task": "hand", "prompts": "a cat"}, "not both"),
    ],
)
def test_unknown_names_get_a_hint(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configure(**arguments)
