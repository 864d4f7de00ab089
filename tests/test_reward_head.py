"""The logistic fit against direct solutions, and the head on the tiny model's features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from scipy.special import expit

from hero.config import RewardConfig
from hero.distributed import Alone
from hero.memory import Memory
from hero.policies import Policy
from hero.reward import RewardContext, make_reward
from hero.reward.head import Head
from hero.reward.logistic import fit_logistic
from hero.types import Feedback, Labelled, image_id

N, D, PRIOR = 12, 40, 3.0


@pytest.fixture(scope="module")
def examples() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    good = np.arange(N) % 3 == 0
    return rng.normal(size=(N, D)) * rng.uniform(0.1, 5, D) + good[:, None] * 0.5, good


def direct(features: Any, good: Any) -> tuple[Any, Any]:
    """MAP weights (D + 1,) and the posterior's covariance, solved in all D + 1 dimensions."""
    phi = (features - features.mean(0)) / features.std(0)
    rows = np.concatenate([phi, np.ones((N, 1))], axis=1)
    weigh = np.where(good, N / (2 * good.sum()), N / (2 * (~good).sum()))
    precision = np.append(np.full(D, PRIOR), 1e-6)
    sign = np.where(good, 1.0, -1.0)

    def objective(w: Any) -> Any:
        return weigh @ np.logaddexp(0, -sign * (rows @ w)) + 0.5 * (precision * w) @ w

    w = scipy.optimize.minimize(objective, np.zeros(D + 1), method="BFGS", options={"gtol": 1e-7}).x
    p = expit(rows @ w)
    return w, np.linalg.inv((rows.T * (weigh * p * (1 - p))) @ rows + np.diag(precision))


def test_the_fit_is_that_of_a_direct_solution(examples: tuple[Any, Any]) -> None:
    features, good = examples
    fitted = fit_logistic(features, good, PRIOR)
    w, covariance = direct(features, good)
    new = np.random.default_rng(1).normal(size=(5, D)) * 3
    rows = np.concatenate([(new - features.mean(0)) / features.std(0), np.ones((5, 1))], axis=1)
    mean, deviation = fitted.logit(new)
    assert mean == pytest.approx(rows @ w, abs=2e-3)
    assert deviation == pytest.approx(np.sqrt(((rows @ covariance) * rows).sum(1)), rel=2e-3)


def test_far_from_the_examples_it_does_not_know(examples: tuple[Any, Any]) -> None:
    fitted = fit_logistic(*examples, PRIOR)
    near, far = examples[0][:1], examples[0][:1] + 1000 * fitted.scale * _beside(fitted.basis)
    (p_near, p_far), (_, deviation) = fitted.probability(np.concatenate([near, far]))[0], fitted.logit(far)[1:] * 2
    share = expit(fitted.offset)  # what is left of the calibration where the fit knows nothing
    assert abs(p_far - share) < 0.01 < abs(p_near - share)
    assert deviation > 100


def _beside(basis: Any) -> Any:
    """A direction of length 1 that no example has a part in."""
    direction = np.random.default_rng(2).normal(size=basis.shape[1])
    direction -= basis.T @ (basis @ direction)
    return direction / np.linalg.norm(direction)


def test_each_kind_weighs_as_much_as_the_other() -> None:
    """One good image among nine bad ones at the same distance: the boundary lies in the middle."""
    features = np.array([[1.0]] + [[-1.0]] * 9)
    p, _ = fit_logistic(features, np.array([True] + [False] * 9), 1.0).logit(np.array([[0.0]]))
    assert p == pytest.approx([0.0], abs=1e-3)


def test_one_kind_alone_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="both kinds"):
        fit_logistic(np.zeros((3, 2)), np.ones(3, dtype=bool), 1.0)


def test_left_out_is_what_a_fit_without_the_example_says() -> None:
    rng = np.random.default_rng(3)
    good = np.arange(40) % 2 == 0
    features = rng.normal(size=(40, 60)) + good[:, None] * 0.4
    fitted = fit_logistic(features, good, 30.0)
    refitted = []
    for k in range(40):
        kept = np.arange(40) != k
        other = fit_logistic(features[kept], good[kept], 30.0)
        mean, deviation = other.logit(features[k : k + 1])
        refitted.append(float(mean[0] / np.sqrt(1 + np.pi * deviation[0] ** 2 / 8)))
    assert np.corrcoef(fitted.left_out, refitted)[0, 1] > 0.97
    assert expit(fitted.left_out) == pytest.approx(expit(refitted), abs=0.1)
    seen, _ = fitted.logit(features)
    assert (
        np.abs(expit(fitted.left_out) - good).mean() > np.abs(expit(seen) - good).mean() + 0.05
    )  # what is seen flatters


def test_p_is_calibrated_by_labels_as_if_left_out() -> None:
    """Where good and bad lie far apart p comes near 0 and 1, although the prior alone would keep it near ½; where the
    features say nothing it is the share of good ones; and a rank never changes."""
    rng = np.random.default_rng(0)
    good = rng.random(64) < 0.25
    fresh = rng.random(400) < 0.25
    briers = {}
    for apart in (3.0, 0.0):
        features, unseen = (rng.normal(size=(len(y), 40)) for y in (good, fresh))
        features[good, :5] += apart
        unseen[fresh, :5] += apart
        fitted = fit_logistic(features, good, 300.0)
        p, spread = fitted.probability(unseen)
        plain = expit(fitted.logit(unseen)[0])
        assert (
            np.argsort(p) == np.argsort(fitted.logit(unseen)[0] / np.sqrt(1 + np.pi * fitted.logit(unseen)[1] ** 2 / 8))
        ).all()
        assert (spread >= 0).all()
        briers[apart] = np.square(p - fresh).mean(), np.square(plain - fresh).mean()
    assert briers[3.0][0] < 0.5 * briers[3.0][1]
    assert briers[3.0][0] < 0.03
    assert briers[0.0][0] == pytest.approx(0.25 * 0.75, abs=0.03)  # of whoever says the share of good ones


@pytest.mark.parametrize("labels", ["gb", "gbbbbbbb", "gggggggb"])
def test_few_labels_give_no_certainty(labels: str) -> None:
    good = np.array([label == "g" for label in labels])
    features = np.random.default_rng(1).normal(size=(len(good), 30)) + 9.0 * good[:, None]
    p, _ = fit_logistic(features, good, 30.0).probability(features)
    assert 0.02 < p.min() < p.max() < 0.98


def test_the_share_of_good_images_is_counted_without_labels(tiny_policy: Callable[..., Policy]) -> None:
    """Of images that the base rate of the labels says nothing about: half of those labelled were good."""
    policy = tiny_policy()
    made = head(policy)
    assert made.share_good(torch.tensor([0.5])) is None
    made.fit(round_of_images(policy, "gb" * 12))
    for verdicts, share in (("gggb" * 6, 0.75), ("gbbb" * 6, 0.25)):
        new = round_of_images(policy, verdicts, 5)
        found = made.share_good(made.practice(new)[0])
        assert found is not None
        assert found[0] == pytest.approx(share, abs=max(0.1, 2 * found[1]))
        assert found[1] < 0.2


# ---------------------------------------------------------------------------------------------- the head


def head(policy: Policy, prompts: int = 1, **settings: Any) -> Head:
    conditioning = policy.encode(["1 hand", "blue rose"][:prompts])
    context = RewardContext(policy, conditioning, Memory(), 0, Alone())
    from functools import partial

    from hero.features import extract

    context.workers.prepare({"features": partial(extract, policy, conditioning)}, [])
    made = make_reward(RewardConfig.model_validate({"kind": "head", "head": settings}), context)
    assert isinstance(made, Head)
    return made


def round_of_images(policy: Policy, verdicts: str, round_: int = 1, prompts: int = 1) -> Labelled:
    """g: good, b: bad, ?: unlabelled. Good latents lie around +½, the others around −½."""
    n = len(verdicts)
    ids = tuple(image_id(round_, i) for i in range(n))
    latents = torch.randn(n, *policy.latent_shape, generator=torch.Generator().manual_seed(round_))
    latents += torch.tensor([0.5 if v == "g" else -0.5 for v in verdicts])[:, None, None, None]
    said = {i: "good" if v == "g" else "bad" for i, v in zip(ids, verdicts, strict=True) if v != "?"}
    return Labelled(round_, ids, torch.arange(n) % prompts, latents, Feedback(said))


def test_it_foresees_labels_that_it_has_not_seen(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    made = head(policy)
    assert not made.ready
    assert made.score(torch.zeros(2, *policy.latent_shape), torch.zeros(2, dtype=torch.int64)).mean.isnan().all()
    assert made.fit(round_of_images(policy, "gbgbgbgb")) == {}
    figures = made.fit(round_of_images(policy, "bbgg", 2))
    assert figures["brier"] < 0.2
    assert len(made.good) == 12


def test_rewards_are_half_label_half_standing(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    made, labelled = head(policy), round_of_images(policy, "gbgb??")
    made.fit(labelled)
    estimates, standing = made.practice(labelled)
    rewards = made.rewards(labelled)
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0])
    torch.testing.assert_close(rewards[:4], 0.5 * labels + 0.5 * standing[:4])
    torch.testing.assert_close(rewards[4:], standing[4:])  # nobody was asked, but it learns from them, too
    z = (estimates - estimates.mean()) / estimates.std(correction=0)
    torch.testing.assert_close(standing, z.clamp(-1, 1) / 2 + 0.5)
    assert rewards.min() >= 0
    assert rewards.max() <= 1


def test_images_that_are_all_about_as_good_get_about_the_same_reward(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    labelled = round_of_images(policy, "gbgb??")
    spreads = []
    for least in (1e-6, 1.0):
        made = head(policy, least_spread=least)
        made.fit(labelled)
        spreads.append(float(made.practice(labelled)[1].std()))
    assert spreads[1] < 0.5 * spreads[0]


def test_of_likely_good_images_those_that_lie_apart_teach_more(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    labelled = round_of_images(policy, "gb" * 10)
    new = round_of_images(policy, "g" * 12 + "b" * 12, 2)
    new.final_latents[1:9] = new.final_latents[1] + 1e-3 * new.final_latents[1:9]  # eight that are nearly the same
    plain, varied = (head(policy, variety=share) for share in (0.0, 1.0))
    for made in (plain, varied):
        made.fit(labelled)
    estimates, rewards = varied.practice(new)
    likely = torch.zeros(24, dtype=torch.bool)
    likely[estimates.argsort(descending=True)[: round(float(estimates.sum()))]] = True
    assert int(likely.sum()) >= 10
    crowd = [row for row in range(1, 9) if likely[row]]
    others = [row for row in range(9, 24) if likely[row]]
    assert rewards[crowd].max() < rewards[others].min()
    assert rewards[likely].min() >= 0.3
    torch.testing.assert_close(rewards[~likely], plain.practice(new)[1][~likely])


def test_prompts_are_compared_apart(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    made, labelled = head(policy, prompts=2), round_of_images(policy, "gbbggbbg", prompts=2)
    made.fit(labelled)
    _, standing = made.practice(labelled)
    for rows in labelled.rows_by_prompt.values():
        assert float(standing[rows].mean()) == pytest.approx(0.5, abs=0.2)


def test_without_both_kinds_it_says_why_nothing_is_learnt(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    made = head(policy)
    labelled = round_of_images(policy, "bbb?")
    made.fit(labelled)
    assert not made.ready
    assert made.rewards(labelled).isnan().all()
    assert "no good image yet" in made.note(labelled)
    made.fit(round_of_images(policy, "???g", 2))  # counts from all rounds together
    assert made.ready
    assert made.note(labelled) == ""


def test_a_round_without_any_label_changes_nothing(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    made = head(policy)
    made.fit(round_of_images(policy, "gb"))
    before = made.state_dict()
    assert made.fit(round_of_images(policy, "???", 2)) == {}
    assert all(torch.equal(before[k], v) for k, v in made.state_dict().items())


def test_its_state_is_its_labels(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    made, other = head(policy), head(policy)
    assert made.state_dict() == {}
    labelled = round_of_images(policy, "gbgb")
    made.fit(labelled)
    other.load_state_dict(made.state_dict())
    new = round_of_images(policy, "????", 3)
    for left, right in zip(made.practice(new), other.practice(new), strict=True):
        assert torch.equal(left, right)
    with pytest.raises(ValueError, match=r"learnt from 7 features, the model has \d+"):
        other.load_state_dict({"features": torch.zeros(2, 7), "good": torch.tensor([True, False])})
