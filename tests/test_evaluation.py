"""The measures against closed forms and worked numbers, and `evaluate` on a small real pipeline."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hero.config import Config, overlaid, validate
from hero.errors import ConfigError
from hero.evaluation import (
    MIN_DIVERSITY_SAMPLE,
    SETS,
    EvaluationResult,
    Measured,
    diversity,
    drift,
    evaluate,
    pixel_features,
    unrelated_prompts,
    vendi_score,
    wilson_interval,
)
from hero.evaluation.prompts import EVERYDAY
from hero.memory import Memory
from hero.methods import configure
from hero.noise import FeedbackNoise
from hero.policies import Policy, load_policy
from hero.tasks import get_task
from hero.tinyworld import scenes
from hero.tinyworld.architecture import assemble, new_text_encoder, new_unet, new_vae
from hero.tinyworld.scenes import caption_weights
from hero.tinyworld.vocabulary import build_tokenizer
from hero.types import Feedback, Labelled

torch.set_num_threads(1)


def _scenes(caption: str, n: int, seed: int = 0, success: bool | None = None) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(scenes.draw_scene(caption, rng, success=success).image) for _ in range(n)]


# ------------------------------------------------------------------------------------------ Wilson interval


def test_wilson_interval_is_the_published_example() -> None:
    # Newcombe (1998), table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_mirrors(count: tuple[int, int]) -> None:
    successes, n = count
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("successes", "n", "confidence"), [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_interval_refuses_nonsense(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="wilson_interval"):
        wilson_interval(successes, n, confidence)


# ------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (96, 40), (7, 5), (1, 1)])
def test_features_of_any_size_are_non_negative_and_of_unit_length(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    features = pixel_features([Image.fromarray(pixels), Image.new("L", size, 90)])
    assert features.shape == (2, 1680)
    assert (features >= 0).all()
    assert np.linalg.norm(features, axis=1) == pytest.approx(1)
    assert pixel_features([]).shape == (0, 1680)


def test_features_of_black_and_white_share_the_shape_half_only() -> None:
    black, white = pixel_features([Image.new("RGB", (64, 64), 0), Image.new("RGB", (64, 64), (255, 255, 255))])
    assert black @ white == pytest.approx(0.5)


def test_features_tell_orientations_apart() -> None:
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::4] = 255
    upright, lying = Image.fromarray(stripes), Image.fromarray(stripes.T.copy())
    moved = Image.fromarray(np.roll(stripes, 2, axis=1))
    features = pixel_features([upright, lying, moved])
    assert features[0] @ features[2] > 0.99 > features[0] @ features[1] + 0.3


def test_the_feature_map_is_frozen() -> None:
    """A change of these numbers is another map, and needs another FEATURE_MAP name."""
    ramp = np.add.outer(np.arange(64), 2 * np.arange(64)).astype(np.uint8)
    features = pixel_features([Image.fromarray(np.stack([ramp, ramp.T, 255 - ramp], axis=2))])[0]
    assert features[[0, 700, 1540, 1544]] == pytest.approx([0.025503, 0.014998, 0.000978, 0.172229], abs=1e-6)


# ------------------------------------------------------------------------------------- Vendi score, diversity


@pytest.mark.parametrize("n", [1, 2, 17, 64])
def test_vendi_score_in_closed_form(n: int) -> None:
    assert vendi_score(np.ones((n, 5))) == pytest.approx(1)
    assert vendi_score(np.eye(n)) == pytest.approx(n)


def test_vendi_score_of_groups_is_the_exponential_of_their_entropy() -> None:
    groups = np.repeat(np.eye(3), [10, 5, 5], axis=0)
    assert vendi_score(groups) == pytest.approx(math.exp(0.5 * math.log(2) + 0.5 * math.log(4)))
    assert vendi_score(7 * groups) == pytest.approx(vendi_score(groups))


@pytest.mark.parametrize("features", [np.zeros((3, 2)), np.zeros((0, 4)), np.array([[1.0, -0.1]]), np.ones(3)])
def test_vendi_score_refuses_what_has_no_score(features: np.ndarray) -> None:
    with pytest.raises(ValueError, match="vendi_score"):
        vendi_score(features)


def test_diversity_ranks_what_the_eye_ranks() -> None:
    mixed = [image for c in list(scenes.caption_weights())[::4] for image in _scenes(c, 4, seed=len(c))][:32]
    roses = _scenes("photo of one blue rose in a vase", 32, success=True)
    first = np.asarray(roses[0], dtype=float)
    noise = np.random.default_rng(0).normal(0, 6, (32, *first.shape))
    near = [Image.fromarray(np.clip(first + n, 0, 255).astype(np.uint8)) for n in noise]
    everything = np.ones(32, dtype=bool)
    scores = [diversity(images, everything, n=32) for images in (near, roses, mixed)]
    assert all(score is not None for score in scores)
    assert scores[0] < 2 < 8 < scores[1] < scores[2] < 32  # type: ignore[operator]


def test_diversity_counts_kept_images_only() -> None:
    images = [Image.new("RGB", (64, 64), (255, 0, 0))] * 20 + _scenes("photo of one red rose in a vase", 20)
    keep = np.arange(40) < 20
    assert diversity(images, keep, n=16) == pytest.approx(1, abs=1e-6)
    assert diversity(images, ~keep, n=16) > 3  # type: ignore[operator]
    assert diversity(images, keep, n=20) == pytest.approx(1, abs=1e-6)
    assert diversity(images, keep, n=21) is None


def test_diversity_depends_on_its_seed_alone() -> None:
    images = _scenes("photo of one red rose in a vase", 24)
    keep = [True] * 24
    assert diversity(images, keep, n=8, seed=3) == diversity(images, keep, n=8, seed=3)
    assert diversity(images, keep, n=8, seed=3) != diversity(images, keep, n=8, seed=4)


# -------------------------------------------------------------------------------------------------- drift


def test_drift_of_equal_images_is_exactly_nothing() -> None:
    images = _scenes("a black cat", 3)
    moved = drift(images, [image.copy() for image in images])
    assert (moved.feature_distance, moved.pixels_changed) == (0, 0)


def test_drift_counts_pixels_that_changed_visibly() -> None:
    before = Image.new("RGB", (10, 10), (100, 100, 100))
    after = before.copy()
    after.paste((100, 117, 100), (0, 0, 5, 5))  # 25 pixels by 17 of 255
    after.paste((116, 100, 100), (5, 5, 10, 10))  # 25 pixels by 16: not visible
    assert drift([before], [after]).pixels_changed == 0.25
    assert 0 < drift([before], [after]).feature_distance < 0.1


def test_drift_of_black_to_white() -> None:
    moved = drift([Image.new("RGB", (64, 64), 0)], [Image.new("RGB", (64, 64), (255, 255, 255))])
    assert moved.feature_distance == pytest.approx(math.sqrt(0.5))
    assert moved.pixels_changed == 1


def test_drift_needs_pairs() -> None:
    images = _scenes("a black cat", 2)
    with pytest.raises(ValueError, match="need pairs"):
        drift(images, images[:1])
    with pytest.raises(ValueError, match="sizes"):
        drift(images[:1], [images[0].resize((32, 32))])


# ------------------------------------------------------------------------------------------ unrelated prompts


def test_unrelated_prompts_leave_the_tasks_family_out() -> None:
    for task in ("hand", "blue-rose", "black-cat", "narcissus", "mountain", "green-view", "modest-figure"):
        own = {scenes.scene_family_of(prompt) for prompt in get_task(task).prompts}
        chosen = unrelated_prompts(get_task(task).prompts)
        assert len(set(chosen)) == 24
        assert not own & {scenes.scene_family_of(prompt) for prompt in chosen}
        assert chosen == unrelated_prompts(get_task(task).prompts)
        assert chosen[:20] == unrelated_prompts(get_task(task).prompts, 20)


def test_unrelated_prompts_of_a_prompt_outside_the_grammar_share_no_word_with_it() -> None:
    chosen = unrelated_prompts(["an oil painting of roses"])
    assert len(chosen) == 24
    assert not any("rose" in prompt for prompt in chosen)


# ---------------------------------------------------------------------------------------------- the result


def test_to_dict_is_the_object_of_the_command_line() -> None:
    result = EvaluationResult(
        task="hand",
        images=20,
        labels=64,
        success={"base": Measured.share([True] * 5 + [False] * 15), "tuned_fresh": None},
        diversity={"base": 1.0, "tuned_fresh": None},
        drift=None,
        details={"seed": 1},
    )
    shown = json.loads(json.dumps(result.to_dict()))
    low, high = wilson_interval(5, 20)
    assert shown == {
        "task": "hand",
        "images": 20,
        "labels": 64,
        "success": {"base": 0.25, "tuned_fresh": None, "tuned_refined": None},
        "success_interval": {"base": [low, high], "tuned_fresh": None, "tuned_refined": None},
        "diversity": {"base": 1.0, "tuned_fresh": None, "tuned_refined": None},
        "drift": None,
        "people": None,
        "details": {"seed": 1},
    }


# ------------------------------------------------------------------------------- on a small, untrained model


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A run on an untrained pipeline of the tiny world's size: two steps, no guidance."""
    folder = tmp_path_factory.mktemp("model") / "pipeline"
    torch.manual_seed(0)
    tokenizer = build_tokenizer(scenes.caption_weights())
    assemble(new_vae(), new_text_encoder(tokenizer), tokenizer, new_unet()).save_pretrained(folder)
    return validate(
        {
            "task": {"name": "hand", "prompts": ["1 hand"]},
            "model": {"path": str(folder), "device": "cpu"},
            "sampling": {"num_steps": 2, "guidance_scale": 1.0, "micro_batch": 8},
            "update": {"ppo": {"timesteps_per_image": 1}},
            "evaluation": {"images": 4},
        }
    )


@pytest.fixture(scope="module")
def tuned(config: Config) -> Policy:
    """Its policy, with LoRA weights as training would leave them: not zero."""
    policy = load_policy(config)
    with torch.no_grad():
        for index, parameter in enumerate(policy.parameters()):
            source = torch.Generator().manual_seed(index)
            parameter.add_(torch.randn(parameter.shape, generator=source) * 0.3)
    return policy


def _refined(policy: Policy, prompt: str = "1 hand") -> FeedbackNoise:
    noise = FeedbackNoise(["1 hand", "another"])
    source = torch.Generator().manual_seed(5)
    round_ = torch.randn((2, *policy.latent_shape), generator=source)
    feedback = Feedback({"a": "good", "b": "good"}, best="a")
    index = torch.tensor([noise.prompts.index(prompt)] * 2)
    labelled, memory = Labelled(1, ("a", "b"), index, torch.zeros_like(round_), feedback, round_), Memory()
    memory.update_best(labelled)
    memory.update_good(labelled)
    noise.refit(memory)
    return noise


def _same(a: list[Image.Image], b: list[Image.Image]) -> bool:
    return len(a) == len(b) and all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True))


def test_evaluate_draws_the_three_sets_from_the_same_held_out_noises(config: Config, tuned: Policy) -> None:
    told: list[tuple[int, int]] = []
    task = replace(get_task("hand"), judge_model=config.model.path)
    result, sets = evaluate(
        tuned, task, config, _refined(tuned), 64, progress=lambda done, total: told.append((done, total))
    )
    assert set(sets) == {*SETS, "unrelated_base", "unrelated_tuned"}
    assert [len(sets[name]) for name in SETS] == [4, 4, 4]
    assert told[-1] == (60, 60)
    assert not _same(sets["base"], sets["tuned_fresh"])
    assert not _same(sets["tuned_fresh"], sets["tuned_refined"])

    base, base_sets = evaluate(load_policy(config), task, config, None, 0)
    assert _same(base_sets["base"], sets["base"])
    # A LoRA that was never trained changes nothing, on the task or elsewhere.
    assert _same(base_sets["base"], base_sets["tuned_fresh"])
    assert base.drift is not None
    assert base.drift.feature_distance == 0
    assert result.drift is not None
    assert result.drift.feature_distance > 0

    again, _ = evaluate(tuned, task, config, _refined(tuned), 64)
    assert again.to_dict() == result.to_dict()


def test_the_base_of_another_run_is_not_drawn_again(config: Config, tuned: Policy) -> None:
    task = replace(get_task("hand"), judge_model=config.model.path)
    told: list[tuple[int, int]] = []
    whole, sets = evaluate(tuned, task, config, _refined(tuned), 64)
    base = {name: sets[name] for name in ("base", "unrelated_base")}
    result, _ = evaluate(
        tuned, task, config, _refined(tuned), 64, base=base, progress=lambda done, total: told.append((done, total))
    )
    assert result.to_dict() == whole.to_dict()
    assert told[-1] == (32, 32)  # of 60


def test_frozen_weights_are_drawn_once_from_fresh_noise(config: Config, tuned: Policy) -> None:
    task = replace(get_task("hand"), judge_model=config.model.path)
    frozen = validate(overlaid(config.model_dump(), {"update": {"kind": "none"}}))
    told: list[tuple[int, int]] = []
    untrained = load_policy(config)
    whole, _ = evaluate(untrained, task, config, _refined(tuned), 64)
    result, _ = evaluate(
        untrained, task, frozen, _refined(tuned), 64, progress=lambda done, total: told.append((done, total))
    )
    assert result.to_dict() == whole.to_dict()
    assert told[-1] == (32, 32)


def test_evaluate_judges_only_the_model_and_prompts_that_the_judge_was_made_for(config: Config, tuned: Policy) -> None:
    made_for_it = replace(get_task("hand"), judge_model=config.model.path)
    cases = [
        (made_for_it, None, True),
        (made_for_it, made_for_it.transfer_prompts[:2], True),
        (made_for_it, ["a black cat"], False),
        (get_task("hand"), None, False),
        (None, None, False),
    ]
    for task, prompts, known in cases:
        result, _ = evaluate(tuned, task, config, None, 0, images=2, prompts=prompts)
        shown = json.loads(json.dumps(result.to_dict()))
        assert (shown["success"]["tuned_fresh"] is not None) is known
        assert (shown["success_interval"]["base"] is not None) is known
        assert shown["success"]["tuned_refined"] is None
        assert shown["drift"] > 0
        assert shown["images"] == 2


def test_evaluate_counts_by_prompt_and_knows_where_refined_noise_ends(config: Config, tuned: Policy) -> None:
    task = replace(get_task("hand"), judge_model=config.model.path)
    prompts = task.transfer_prompts[:2]
    result, sets = evaluate(tuned, task, config, _refined(tuned), 0, images=3, prompts=prompts)
    assert "tuned_refined" not in sets  # no label was ever given for these prompts
    counts = result.details["success_by_prompt"]
    assert [counts[prompt]["base"]["n"] for prompt in prompts] == [2, 1]
    assert result.details["prompts"] == [prompts[0], prompts[1], prompts[0]]


def test_evaluate_without_a_judge_measures_diversity_over_all_images(config: Config, tuned: Policy) -> None:
    n = MIN_DIVERSITY_SAMPLE
    few, few_sets = evaluate(tuned, None, config, None, 0, images=n - 1)
    assert few.diversity == dict.fromkeys(SETS)
    enough, sets = evaluate(tuned, None, config, None, 0, images=n)
    assert enough.diversity["base"] == 1
    assert enough.diversity["tuned_refined"] is None
    assert enough.details["diversity_sample"] == n
    ratio = vendi_score(pixel_features(sets["tuned_fresh"])) / vendi_score(pixel_features(sets["base"]))
    assert enough.diversity["tuned_fresh"] == pytest.approx(ratio)
    # Image i is the same however many are drawn.
    assert _same(few_sets["tuned_fresh"], sets["tuned_fresh"][: n - 1])


def test_other_models_drift_on_everyday_prompts_or_on_those_that_are_named() -> None:
    everyday = unrelated_prompts(["a fox in the snow"], model="some/model")
    assert len(everyday) == 24
    assert set(everyday) < set(EVERYDAY)
    assert not any("snow" in prompt or "fox" in prompt.split() for prompt in everyday)
    assert not set(everyday) & set(caption_weights())
    own = ("a red door", "a fox in the rain")
    assert unrelated_prompts(["a fox in the snow"], model="some/model", own=own) == own
    with pytest.raises(ConfigError, match="'1 hand' is a training prompt; drift is measured on other prompts"):
        configure("hand", settings={"evaluation": {"drift_prompts": ["a red door", "1 hand"]}})
    with pytest.raises(ConfigError, match="twice"):
        configure("hand", settings={"evaluation": {"drift_prompts": ["a red door", "a red door"]}})


def test_drift_is_measured_on_the_run_s_own_prompts(config: Config, tuned: Policy) -> None:
    own = validate(overlaid(config.model_dump(), {"evaluation": {"drift_prompts": ["a quiet lake", "a red door"]}}))
    result, sets = evaluate(tuned, None, own, None, 6, images=2)
    assert list(result.details["drift_by_prompt"]) == ["a quiet lake", "a red door"]
    assert result.details["drift_prompts"] == ["a quiet lake", "a red door"]
    assert len(sets["unrelated_tuned"]) == 2
