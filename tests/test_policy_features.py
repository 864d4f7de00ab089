"""Predictions at any noise level, features of the frozen base model, and several LoRAs on one denoiser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import randomise_lora
from hero.bench.miniatures import save_miniature
from hero.config import Config
from hero.errors import ModelError, TrainingError
from hero.features import features
from hero.methods import configure
from hero.policies import Policy, load_policy
from hero.policies.layers import channel_statistics, level_noise
from hero.seeding import generator, normal

PROMPTS = ("1 hand", "a black cat on a chair")


def latents_of(policy: Policy, n: int = 3) -> torch.Tensor:
    return torch.stack([normal(policy.latent_shape, generator(0, "test", 0, i)) for i in range(n)])


def rows_of(policy: Policy, n: int = 3, prompt: int = 0) -> Any:
    return policy.encode(PROMPTS).rows(torch.full((n,), prompt))


def features_of(policy: Policy, n: int = 3, **given: Any) -> torch.Tensor:
    return policy.features(latents_of(policy, n), rows_of(policy, n), **given)


def prediction(policy: Policy, t: float = 0.5, guided: bool = False) -> torch.Tensor:
    with torch.no_grad():
        return policy.predict(latents_of(policy), torch.full((3,), t), rows_of(policy), guided=guided)


@pytest.fixture
def own_policy(tiny_config: Callable[..., Config]) -> Callable[..., Any]:
    """`own_policy(**settings)`: one that no other test gets, with a random LoRA."""

    def load(**settings: Any) -> Policy:
        policy = load_policy(tiny_config(**settings))
        randomise_lora(policy, 0.1)
        return policy

    return load


# ---------------------------------------------------------------------------------------------- predictions


def test_predictions_at_the_steps_levels_are_those_of_the_steps(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    k = torch.tensor([0, 2, 3])
    with torch.no_grad():
        output = policy.predict(latents_of(policy), policy.steps.levels[k], rows_of(policy), guided=True)
        step = policy.transition(latents_of(policy), k, rows_of(policy))
    assert torch.equal(policy.steps.transition(output, latents_of(policy), k).mean, step.mean)


def test_without_guidance_it_is_the_branch_with_the_prompt(tiny_policy: Callable[..., Policy]) -> None:
    guided, plain = tiny_policy(sampling={"guidance_scale": 3.0}), tiny_policy(sampling={"guidance_scale": 1.0})
    conditional = prediction(guided)
    assert torch.equal(conditional, prediction(plain, guided=True))
    with torch.no_grad():
        nothing = guided.encode([""]).rows(torch.zeros(3, dtype=torch.int64))
        unconditional = guided.predict(latents_of(guided), torch.full((3,), 0.5), nothing, guided=False)
    torch.testing.assert_close(
        prediction(guided, guided=True), unconditional + 3 * (conditional - unconditional), atol=1e-4, rtol=1e-4
    )
    assert (conditional - unconditional).abs().max() > 1e-4


def test_a_denoising_loss_trains_the_lora_alone(tiny_policy: Callable[..., Policy]) -> None:
    policy: Any = tiny_policy()
    sample, noise, t = latents_of(policy), latents_of(policy).flip(0), torch.tensor([0.1, 0.5, 1.0])
    latents = policy.steps.noised(sample, noise, t)
    output = policy.predict(latents, t, rows_of(policy), guided=False)
    loss = (output - policy.steps.target(sample, noise, t)).square().mean()
    gradients = torch.autograd.grad(loss, policy.parameters())
    assert all(g.abs().max() > 0 for g in gradients)
    with pytest.raises(ValueError, match="noise levels lie in"):
        policy.predict(latents, torch.zeros(3), rows_of(policy), guided=False)


def test_predictions_are_single_precision_whatever_the_model_s(tiny_policy: Callable[..., Policy]) -> None:
    half = tiny_policy(model={"dtype": "bfloat16"})
    for guided in (False, True):
        assert prediction(half, guided=guided).dtype == torch.float32
    torch.testing.assert_close(prediction(half), prediction(tiny_policy()), atol=0.1, rtol=0.1)


# ---------------------------------------------------------------------------------------------- features


def test_channel_statistics_worked_by_hand() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[5.0, 5.0], [5.0, 5.0]]]])
    torch.testing.assert_close(channel_statistics(maps), torch.tensor([[3.0, 5.0, 6.0, 5.0, 3.5**0.5, 0.0]]))
    assert torch.equal(channel_statistics(torch.ones(2, 3, 1, 1)), torch.tensor([[1.0] * 6 + [0.0] * 3] * 2))


def test_the_tiny_world_has_576_of_them() -> None:
    policy: Any = load_policy(configure("hand", settings={"model": {"device": "cpu", "threads": 1}}))
    assert policy.family.feature_layers == ("mid_block", "up_blocks.0")
    assert features_of(policy, 2).shape == (2, 576)


def test_features_are_a_function_of_image_prompt_and_seed(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    found = features_of(policy)
    assert (found.dtype, found.device.type, found.requires_grad) == (torch.float32, "cpu", False)
    assert torch.equal(found, features_of(policy))
    assert torch.equal(found, features_of(tiny_policy()))
    assert (found[0] - found[1]).abs().max() > 1e-2
    other_prompt = policy.features(latents_of(policy), rows_of(policy, prompt=1))
    assert (found - other_prompt).abs().max() > 1e-3
    assert (found - features_of(tiny_policy(seed=1))).abs().max() > 1e-3


def test_every_image_gets_the_same_noise_at_a_level(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    same = policy.features(latents_of(policy, 1).expand(2, -1, -1, -1), rows_of(policy, 2), levels=[1.0])
    torch.testing.assert_close(same[0], same[1])
    shape = policy.latent_shape
    assert torch.equal(level_noise(shape, 0, 0.1), level_noise(shape, 0, 0.1))
    assert not torch.equal(level_noise(shape, 0, 0.1), level_noise(shape, 0, 0.25))
    assert not torch.equal(level_noise(shape, 0, 0.1), level_noise(shape, 1, 0.1))


def test_features_are_the_mean_over_levels_each_by_itself(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    assert policy.steps.feature_levels == (0.02, 0.1, 0.25)
    each = [features_of(policy, levels=[level]) for level in policy.steps.feature_levels]
    assert (each[0] - each[2]).abs().max() > 1e-3
    torch.testing.assert_close(features_of(policy), torch.stack(each).mean(0))


def test_other_poolings_see_the_layers_by_position(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    seen: list[tuple[int, ...]] = []

    def means(maps: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(maps.shape))
        return maps.mean((2, 3))

    found = features_of(policy, levels=[0.1], pooling=means)
    assert len(seen) == 2
    assert found.shape == (3, sum(channels for _, channels, *_ in seen))
    everything = features_of(policy, levels=[0.1])
    torch.testing.assert_close(found[:, : seen[0][1]], everything[:, : seen[0][1]])


@pytest.mark.parametrize("adapter", ["current", "old", "base"])
def test_features_are_the_base_model_s_and_leave_the_policy_as_it_is(
    adapter: Any, own_policy: Callable[..., Any]
) -> None:
    layers = {"layers": ("attention", "feed-forward", "resnet", "projection")}
    fresh, policy = own_policy(lora=layers), own_policy(lora=layers)
    randomise_lora(fresh, 0.0)
    policy.add_adapter("old")
    randomise_lora(policy, 0.3, seed=1)
    with policy.using(adapter):
        before = state_of(policy)
        assert torch.equal(features_of(policy), features_of(fresh))
        after = state_of(policy)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def state_of(policy: Any) -> dict[str, torch.Tensor]:
    """All weights, what each is trained for, the hooks, and what the policy computes."""
    return {
        **{name: p.detach().clone() for name, p in policy.denoiser.named_parameters()},
        **{f"{name} trained": torch.tensor(p.requires_grad) for name, p in policy.denoiser.named_parameters()},
        "hooks": torch.tensor([len(m._forward_hooks) for m in policy.denoiser.modules()]),
        "output": prediction(policy),
    }


def test_a_failed_pass_leaves_no_hooks_and_no_switched_adapter(tiny_policy: Callable[..., Policy]) -> None:
    policy: Any = tiny_policy()
    before = state_of(policy)
    with pytest.raises(ValueError, match="noise levels lie in"):
        features_of(policy, levels=[0.1, 2.0])
    after = state_of(policy)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_they_keep_no_graph_and_let_one_go_on(tiny_policy: Callable[..., Policy]) -> None:
    """A loss whose graph was made before is differentiated as if nothing had come between."""
    policy = tiny_policy()

    def gradients(between: Callable[[], Any]) -> tuple[torch.Tensor, ...]:
        output = policy.predict(latents_of(policy), torch.full((3,), 0.5), rows_of(policy), guided=False)
        between()
        return torch.autograd.grad(output.square().sum(), policy.parameters())

    usual, interrupted = gradients(lambda: None), gradients(lambda: features_of(policy))
    assert all(torch.equal(a, b) for a, b in zip(usual, interrupted, strict=True))


def test_micro_batches_change_nothing_but_rounding(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    conditioning, index, latents = policy.encode(PROMPTS), torch.tensor([0, 1, 1, 0, 1]), latents_of(policy, 5)
    found = [features(policy, conditioning, index, latents, micro_batch=size) for size in (5, 2, 1)]
    torch.testing.assert_close(found[0][2:3], policy.features(latents[2:3], conditioning.rows(index[2:3])))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=1e-5)


class Small:
    """A policy that has room for the features of no more than `room` images."""

    def __init__(self, policy: Policy, room: int) -> None:
        self._policy, self._room = policy, room

    def features(self, latents: torch.Tensor, conditioning: Any) -> torch.Tensor:
        if len(latents) > self._room:
            raise torch.OutOfMemoryError("no room")
        return self._policy.features(latents, conditioning)


def test_smaller_micro_batches_where_memory_runs_out(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    conditioning, index, latents = policy.encode(PROMPTS), torch.tensor([0, 1, 1, 0, 1]), latents_of(policy, 5)
    small: Any = Small(policy, room=2)
    found = features(small, conditioning, index, latents, micro_batch=5)
    torch.testing.assert_close(found, features(policy, conditioning, index, latents, micro_batch=2))
    with pytest.raises(TrainingError, match=r"out of memory with sampling\.micro_batch = 1"):
        features(Small(policy, room=0), conditioning, index, latents, micro_batch=5)  # type: ignore[arg-type]


def test_options_of_memory_and_precision_give_the_same_features(tiny_policy: Callable[..., Policy]) -> None:
    usual = features_of(tiny_policy())
    frugal = tiny_policy(model={"gradient_checkpointing": True, "offload": ("text-encoders", "vae")})
    with torch.enable_grad():
        assert torch.equal(features_of(frugal), usual)
    half = features_of(tiny_policy(model={"dtype": "bfloat16"}))
    assert half.dtype == torch.float32
    assert (half - usual).norm() < 0.05 * usual.norm()


@pytest.mark.slow
def test_blocks_that_are_compiled_already_give_the_same_features(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    path = save_miniature("z-image", tmp_path / "model")
    plain, compiled = (load_policy(tiny_config(path=path, model={"compile": on})) for on in (False, True))
    for policy in (plain, compiled):
        prediction(policy)
    for _ in range(2):
        torch.testing.assert_close(features_of(compiled), features_of(plain), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(prediction(compiled), prediction(plain), atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------------------------------------- adapters


def test_adapters_are_switched_nested_and_restored(own_policy: Callable[..., Any]) -> None:
    policy = own_policy()
    first = prediction(policy)
    policy.add_adapter("old")
    assert torch.equal(prediction(policy), first)
    randomise_lora(policy, 0.2, seed=1)
    second = prediction(policy)
    with policy.frozen():
        base = prediction(policy)
    assert len({first.sum().item(), second.sum().item(), base.sum().item()}) == 3
    with policy.using("old"):
        assert torch.equal(prediction(policy), first)
        with policy.using("base"):
            assert torch.equal(prediction(policy), base)
            with policy.using("current"):
                assert torch.equal(prediction(policy), second)
            assert torch.equal(prediction(policy), base)
        assert torch.equal(prediction(policy), first)
        with policy.using("old"):
            pass
        assert torch.equal(prediction(policy), first)
    assert torch.equal(prediction(policy), second)
    with pytest.raises(RuntimeError, match="within"), policy.using("old"):
        raise RuntimeError("within")
    assert torch.equal(prediction(policy), second)


@pytest.mark.parametrize("where", ["current", "base"])
def test_an_old_adapter_is_an_untrained_copy_in_fp32(where: Any, own_policy: Callable[..., Any]) -> None:
    policy = own_policy(
        model={"dtype": "bfloat16"}, lora={"layers": ("attention", "feed-forward", "resnet", "projection")}
    )
    trained, before = policy.parameters(), policy.state_dict()
    torch.manual_seed(1)
    random_state = torch.random.get_rng_state()
    with policy.using(where):
        output = prediction(policy)
        policy.add_adapter("old")
        assert torch.equal(prediction(policy), output)  # and it goes on with the one in use
    assert torch.equal(torch.random.get_rng_state(), random_state)
    policy.add_adapter("old")  # is there

    copy = policy.state_dict("old")
    assert list(copy) == list(before) == list(policy.state_dict())
    assert all(torch.equal(copy[key], before[key]) for key in copy)
    old = policy.parameters("old")
    assert {p.dtype for p in old} == {torch.float32}
    assert [p.shape for p in old] == [p.shape for p in trained]
    assert not {id(p) for p in old} & {id(p) for p in trained}
    assert [id(p) for p in policy.parameters()] == [id(p) for p in trained]


@pytest.mark.parametrize("adapter", ["current", "old", "base"])
def test_only_the_current_adapter_is_trained_and_only_in_use(adapter: Any, own_policy: Callable[..., Any]) -> None:
    policy = own_policy()
    policy.add_adapter("old")
    with policy.using(adapter):
        trained = {id(p) for p in policy.denoiser.parameters() if p.requires_grad}
        assert trained == ({id(p) for p in policy.parameters()} if adapter == "current" else set())
        output = policy.predict(latents_of(policy), torch.full((3,), 0.5), rows_of(policy), guided=False)
        assert output.requires_grad == (adapter == "current")
    assert {id(p) for p in policy.denoiser.parameters() if p.requires_grad} == {id(p) for p in policy.parameters()}


def test_other_adapters_between_a_pass_and_its_gradient_change_no_bit(own_policy: Callable[..., Any]) -> None:
    policy = own_policy()
    t = torch.full((3,), 0.5)

    def gradients(others: bool) -> tuple[torch.Tensor, ...]:
        output = policy.predict(latents_of(policy), t, rows_of(policy), guided=False)
        if others:
            policy.add_adapter("old")
            with torch.no_grad(), policy.using("old"):
                policy.predict(latents_of(policy), t, rows_of(policy), guided=False)
            with torch.no_grad(), policy.frozen():
                policy.predict(latents_of(policy), t, rows_of(policy), guided=False)
        return torch.autograd.grad(output.square().sum(), policy.parameters())

    assert all(torch.equal(a, b) for a, b in zip(gradients(False), gradients(True), strict=True))


def test_blending_moves_the_old_adapter_towards_the_current_one(own_policy: Callable[..., Any]) -> None:
    policy = own_policy()
    policy.add_adapter("old")
    start = policy.state_dict("old")
    randomise_lora(policy, 0.2, seed=1)
    current = policy.state_dict()

    policy.blend("old", towards="current", decay=1.0)
    assert all(torch.equal(policy.state_dict("old")[k], start[k]) for k in start)
    policy.blend("old", towards="current", decay=0.75)
    for key, value in policy.state_dict("old").items():
        torch.testing.assert_close(value, 0.75 * start[key] + 0.25 * current[key])
    policy.blend("old", towards="current", decay=0.0)
    policy.blend("old", towards="current", decay=0.3)  # equal ones stay as they are
    assert all(torch.equal(policy.state_dict("old")[k], current[k]) for k in current)
    assert all(torch.equal(policy.state_dict()[k], current[k]) for k in current)
    with pytest.raises(ValueError, match=r"decay is 1\.5, which is not in \[0, 1\]"):
        policy.blend("old", towards="current", decay=1.5)


def test_an_old_adapter_is_kept_and_put_back_by_itself(own_policy: Callable[..., Any]) -> None:
    policy, other = own_policy(), own_policy()
    policy.add_adapter("old")
    randomise_lora(policy, 0.2, seed=1)
    other.add_adapter("old")
    randomise_lora(other, 0.3, seed=2)
    other.load_state_dict(policy.state_dict("old"), "old")
    with policy.using("old"), other.using("old"):
        assert torch.equal(prediction(other), prediction(policy))
    assert not torch.equal(prediction(other), prediction(policy))
    with pytest.raises(ModelError, match="do not fit"):
        other.load_state_dict({}, "old")


def test_the_lora_file_knows_nothing_of_an_old_adapter(own_policy: Callable[..., Any], tmp_path: Path) -> None:
    policy = own_policy(lora={"layers": ("attention", "resnet"), "alpha": 5.0})
    alone = policy.save_lora(tmp_path / "alone").read_bytes()
    policy.add_adapter("old")
    assert policy.save_lora(tmp_path / "beside").read_bytes() == alone
    with policy.using("old"):
        assert policy.save_lora(tmp_path / "within").read_bytes() == alone


def test_adapters_that_are_not_there_are_refused(own_policy: Callable[..., Any]) -> None:
    policy = own_policy()
    before = state_of(policy)
    for use in (
        lambda: policy.using("old").__enter__(),
        lambda: policy.parameters("old"),
        lambda: policy.state_dict("old"),
        lambda: policy.load_state_dict({}, "old"),
        lambda: policy.blend("old", towards="current", decay=0.5),
    ):
        with pytest.raises(ValueError, match=r"no adapter 'old' yet; call add_adapter\('old'\) first"):
            use()
    with pytest.raises(ValueError, match="there is no adapter 'new'; known: current, old"):
        policy.using("new").__enter__()
    after = state_of(policy)
    assert all(torch.equal(before[key], after[key]) for key in before)


# ---------------------------------------------------------------------------------------------- merged


@pytest.mark.parametrize("adapter", ["current", "old", "base"])
def test_merged_it_draws_the_same_and_afterwards_no_bit_has_moved(adapter: Any, own_policy: Callable[..., Any]) -> None:
    policy = own_policy()
    policy.add_adapter("old")
    randomise_lora(policy, 0.1, seed=5)
    rows = policy.encode(["1 hand"]).rows(torch.zeros(2, dtype=torch.int64))
    latents, t = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.4)
    weights = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}
    with policy.using(adapter), torch.no_grad():
        expected = policy.predict(latents, t, rows, guided=True)
        with policy.merged():
            found = policy.predict(latents, t, rows, guided=True)
            moved = [k for k, v in policy.denoiser.state_dict().items() if not torch.equal(v, weights[k])]
        again = policy.predict(latents, t, rows, guided=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(again, expected)
    assert bool(moved) == (adapter != "base")
    assert all(torch.equal(value, weights[name]) for name, value in policy.denoiser.state_dict().items())


def test_an_error_while_merged_leaves_the_weights_as_they_were(own_policy: Callable[..., Any]) -> None:
    policy = own_policy()
    randomise_lora(policy, 0.1)
    weights = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}
    with pytest.raises(KeyError), policy.merged():
        raise KeyError
    assert all(torch.equal(value, weights[name]) for name, value in policy.denoiser.state_dict().items())


def test_half_precision_weights_are_not_merged(own_policy: Callable[..., Any]) -> None:
    """The sum would round much of a small LoRA away."""
    policy = own_policy(model={"dtype": "bfloat16"})
    randomise_lora(policy, 1e-3)
    before = {name: value.clone() for name, value in policy.denoiser.state_dict().items()}
    with policy.merged():
        assert all(torch.equal(value, before[name]) for name, value in policy.denoiser.state_dict().items())
