"""Options of memory and speed: what each changes and what it leaves; estimates; presets by model; what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from typer.testing import CliRunner

from conftest import update_config
from hero.cli import app
from hero.config import Config, UpdateConfig, merge, validate
from hero.errors import ConfigError, ModelError, TrainingError
from hero.methods import PRESET_OF, configure
from hero.noise import StandardNoise
from hero.policies import FAMILIES, Policy, load_policy
from hero.policies.footprint import Costs, estimate, measure_costs, options_that_fit
from hero.rollout import concatenate, rollout
from hero.transitions import Transition
from hero.types import Judged, Trajectory
from hero.update.optimizer import load_optimizer_tensors, make_adamw, optimizer_tensors
from hero.update.ppo import PPO

PROMPTS = ("1 hand",)


def draw(policy: Policy, n: int = 5, micro_batch: int = 5) -> Trajectory:
    noise = StandardNoise().sample(PROMPTS * n, policy.latent_shape, seed=0, round_=1)
    index = torch.zeros(n, dtype=torch.int64)
    chunks = rollout(policy, policy.encode(PROMPTS), index, noise, seed=0, round_=1, micro_batch=micro_batch)
    return concatenate([chunk.trajectory for chunk in chunks])


def learn(policy: Policy, trajectory: Trajectory, micro_batch: int = 8, **settings: Any) -> PPO:
    """One round's update; the gradients of its last step are still there."""
    config = update_config(
        timesteps_per_image=2, images_per_step=5, micro_batch=micro_batch, learning_rate=1e-3, **settings
    )
    values = torch.arange(float(len(trajectory)))
    update = PPO(policy, config, seed=0)
    update.step(Judged(trajectory, values, values - values.mean()), policy.encode(PROMPTS), 1)
    return update


def gradients(policy: Policy) -> list[torch.Tensor]:
    return [p.grad.clone() for p in policy.parameters() if p.grad is not None]


class Small:
    """A policy whose transitions have no room for more than `room` images, whatever is asked of it."""

    def __init__(self, policy: Policy, room: int) -> None:
        self._policy, self._room = policy, room
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._policy, name)

    def transition(self, latents: torch.Tensor, steps: torch.Tensor, conditioning: Any) -> Transition:
        self.sizes.append(len(latents))
        if len(latents) > self._room:
            raise torch.OutOfMemoryError("no room")
        return self._policy.transition(latents, steps, conditioning)


# ---------------------------------------------------------------------------------------------- out of memory


def test_smaller_micro_batches_draw_the_same(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    small: Any = Small(policy, room=2)
    roomy, cramped = draw(policy), draw(small)
    assert max(s for s in small.sizes if s <= 2) == 2
    assert torch.equal(roomy.initial_noise, cramped.initial_noise)
    torch.testing.assert_close(roomy.latents, cramped.latents, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(roomy.log_probs, cramped.log_probs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("recompute", ["never", "always"])
def test_smaller_micro_batches_learn_the_same(tiny_policy: Callable[..., Policy], recompute: str) -> None:
    found = []
    for room in (100, 3):
        policy = tiny_policy()
        start, trajectory = policy.state_dict(), draw(policy)
        small: Any = Small(policy, room)
        update = learn(small, trajectory, recompute_log_probs=recompute)
        assert update.gradients.micro_batch == (8 if room == 100 else 2)
        found.append((gradients(policy), policy.state_dict()))
        policy.load_state_dict(start)
    (roomy, moved), (cramped, moved_too) = found
    for one, other in zip(roomy, cramped, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-3)
    assert moved.keys() == moved_too.keys()


def test_no_room_for_one_image_is_an_error_that_names_the_options(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    trajectory, small = draw(policy), Small(policy, room=0)
    with pytest.raises(TrainingError, match=r"sampling\.micro_batch = 1; try .*hero doctor --model"):
        draw(small)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"update\.micro_batch = 1; try .*model\.gradient_checkpointing"):
        learn(small, trajectory)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- options


def test_gradient_checkpointing_changes_memory_and_not_the_gradient(tiny_policy: Callable[..., Policy]) -> None:
    found = []
    for on in (False, True):
        policy = tiny_policy(model={"gradient_checkpointing": on})
        assert policy.denoiser.is_gradient_checkpointing is on
        start = policy.state_dict()
        learn(policy, draw(policy))
        found.append(gradients(policy))
        policy.load_state_dict(start)
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-6, rtol=1e-4)


def test_parts_that_wait_elsewhere_come_for_their_work_only(tiny_policy: Callable[..., Policy]) -> None:
    policy: Any = tiny_policy(model={"offload": ("text-encoders", "vae")})
    plain = tiny_policy()
    moves: list[str] = []
    pipeline = policy.pipeline
    for name in ("text_encoder", "vae", "unet"):
        module = getattr(pipeline, name)
        module.to = lambda place, name=name: moves.append(f"{name} → {place}")
    policy.device = torch.device("cpu", 0)  # to tell the accelerator's place from the computer's memory
    policy.encode(PROMPTS)
    assert moves == ["unet → cpu", "text_encoder → cpu:0", "text_encoder → cpu", "unet → cpu:0"]
    moves.clear()
    latents = torch.zeros(1, *policy.latent_shape)
    image = policy.decode(latents)[0]
    assert moves == ["vae → cpu:0", "vae → cpu"]
    assert image.tobytes() == plain.decode(latents)[0].tobytes()
    for name in ("text_encoder", "vae", "unet"):
        del getattr(pipeline, name).to
    policy.device = torch.device("cpu")


def test_slices_and_tiles_of_the_vae_and_tf32_are_switched_on(tiny_policy: Callable[..., Policy]) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        policy = tiny_policy(model={"vae_slicing": True, "vae_tiling": True, "tf32": True})
        assert policy.pipeline.vae.use_slicing
        assert policy.pipeline.vae.use_tiling
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.slow
def test_a_compiled_denoiser_draws_the_same(tiny_config: Callable[..., Config]) -> None:
    plain, compiled = (load_policy(tiny_config(model={"compile": on})) for on in (False, True))
    torch.testing.assert_close(draw(plain, 2).latents, draw(compiled, 2).latents, atol=1e-4, rtol=1e-4)


def test_eight_bit_adamw_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"'adamw-8bit' needs the package bitsandbytes .*or use adamw"):
        make_adamw([torch.nn.Parameter(torch.zeros(2))], UpdateConfig(optimizer="adamw-8bit"))


def test_counts_in_an_optimizer_s_state_come_back_as_counts() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    optimizer.state[parameter] = {"step": 7, "state1": torch.tensor([1, 2], dtype=torch.uint8)}
    again = torch.optim.SGD([parameter], lr=0.1)
    load_optimizer_tensors(again, optimizer_tensors(optimizer))
    assert again.state[parameter]["step"] == 7
    assert isinstance(again.state[parameter]["step"], int)


# ---------------------------------------------------------------------------------------------- estimates

COSTS = Costs(
    denoiser=1_000_000_000, text_encoders=500_000_000, vae=100_000_000, lora=10_000_000, kept=8_000_000_000,
    checkpointed=1_000_000_000, pixels=512 * 512, decoder_channels=256, latent_shape=(4, 64, 64),
)  # fmt: skip


def config_of(**settings: Any) -> Config:
    return configure("hand", preset="stable-diffusion", method="ddpo", settings=settings)


def test_an_estimate_worked_by_hand() -> None:
    need = estimate(COSTS, config_of())
    assert need.weights == 4 * 1_600_000_000 + 12 * 10_000_000
    assert need.phases["updating"] == need.weights + 4 * 10_000_000 + 2 * 8_000_000_000
    assert need.phases["decoding"] == need.weights + 3 * 4 * 256 * 512 * 512 * 8
    assert need.trajectories == 4 * 4 * 64 * 64 * 51 * 64
    assert need.peak == need.phases["updating"]
    half = estimate(COSTS, config_of(model={"dtype": "bfloat16", "gradient_checkpointing": True}))
    assert half.phases["updating"] == half.weights + 4 * 10_000_000 + 2 * 500_000_000
    away = estimate(COSTS, config_of(model={"offload": ("text-encoders", "vae")}))
    assert need.weights - away.weights == 4 * 600_000_000
    assert away.phases["encoding"] == 4 * 500_000_000
    eight = estimate(COSTS, config_of(update={"optimizer": "adamw-8bit"}))
    assert need.weights - eight.weights == 6 * 10_000_000
    followed = estimate(COSTS, configure("hand", preset="stable-diffusion", method="heron"))
    assert followed.weights - need.weights == 4 * 10_000_000  # the LoRA that draws follows the one that is trained


def test_the_cheapest_options_that_fit_are_found() -> None:
    config = config_of()
    assert options_that_fit(COSTS, config, 100 * 2**30) == {}
    assert options_that_fit(COSTS, config, 14 * 2**30) == {"model.gradient_checkpointing": True}
    chosen = options_that_fit(COSTS, config, 6 * 2**30)
    assert chosen is not None
    values: dict[str, Any] = config.model_dump()
    for name, value in chosen.items():
        stage, _, key = name.partition(".")
        values = merge(values, {stage: {key: value}})
    assert estimate(COSTS, validate(values)).peak <= 6 * 2**30
    assert options_that_fit(COSTS, config, 2**30) is None


def test_costs_are_counted_and_measured_on_the_model(
    tiny_policy: Callable[..., Policy], tiny_config: Callable[..., Config]
) -> None:
    policy, config = tiny_policy(), tiny_config()
    costs = measure_costs(policy, config)
    assert costs.lora == sum(p.numel() for p in policy.parameters())
    assert costs.denoiser + costs.lora == sum(p.numel() for p in policy.denoiser.parameters())
    assert costs.pixels == 32 * 32
    assert 0 < costs.checkpointed < costs.kept
    checkpointing = tiny_policy(model={"gradient_checkpointing": True})
    assert measure_costs(checkpointing, config) == replace(costs)
    assert checkpointing.denoiser.is_gradient_checkpointing


# ---------------------------------------------------------------------------------------------- which model


def test_the_preset_is_the_model_class_s(tmp_path: Path) -> None:
    for name in FAMILIES:
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
        config = configure(prompts="a cat", model=str(tmp_path))
        assert config.preset == PRESET_OF.get(name, "stable-diffusion")
    assert configure(prompts="a cat", model=str(tmp_path), preset="sd3").sampling.eta == 0.7
    for text in ("[]", "{", '{"_class_name": 3}'):
        (tmp_path / "model_index.json").write_text(text)
        assert configure(prompts="a cat", model=str(tmp_path)).preset == "stable-diffusion"


def test_a_hub_id_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    config = configure(prompts="a cat", model="no-such-user/no-such-model")
    with pytest.raises(ModelError, match=r"cannot load the model 'no-such-user/no-such-model'.*the network"):
        load_policy(config)


def test_revision_and_variant_reach_the_loader_and_the_token_the_hub(
    tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}

    def from_pretrained(source: str, **options: Any) -> None:
        given.update(options)
        raise OSError("far enough")

    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", from_pretrained)
    monkeypatch.setenv("HF_TOKEN", "before")
    options = [
        "--model",
        str(tiny_config().model.path),
        "--revision",
        "v2",
        "--variant",
        "fp16",
        "--token",
        "secret-word",
    ]
    done = CliRunner().invoke(app, ["train", "--prompt", "a cat", "--evaluator", "os:getcwd", "--out",
                                    str(tmp_path / "run"), *options])  # fmt: skip
    assert "far enough" in done.output + str(done.stderr)
    assert (given["revision"], given["variant"]) == ("v2", "fp16")
    assert os.environ["HF_TOKEN"] == "secret-word"
    assert not (tmp_path / "run").exists()


def test_a_missing_component_and_a_rank_of_zero_are_refused(
    tiny_config: Callable[..., Config], random_pipeline: Path, tmp_path: Path
) -> None:
    index = json.loads((random_pipeline / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"has no component '(text_encoder|scheduler|vae|unet|tokenizer)'"):
        load_policy(tiny_config(path=tmp_path))
    with pytest.raises(ConfigError, match=r"lora\.rank = 0"):
        tiny_config(lora={"rank": 0})
