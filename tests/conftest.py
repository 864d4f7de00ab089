"""Shared fixtures: a random tiny Stable Diffusion pipeline of the real classes, and runs small enough for tests."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test downloads anything; else names on the hub are tried for half a minute

import pytest
import torch

from hero.config import Config, RewardConfig, UpdateConfig, merge
from hero.distributed import Alone
from hero.memory import Memory
from hero.methods import configure
from hero.policies import Conditioning, Policy, load_policy
from hero.registry import PPOSettings
from hero.reward import Reward, RewardContext, make_reward
from hero.tinyworld import architecture
from hero.tinyworld.mixture import SUCCESS_SHARE
from hero.tinyworld.scenes import caption_weights
from hero.tinyworld.vocabulary import build_tokenizer

torch.set_num_threads(1)

LONGEST = ("test_page", "test_learning", "test_train_web", "test_people", "test_distributed", "test_docs", "test_run")
"""Files that take longest, longest first: each goes to one process, and begun last they would be waited for alone."""

OWN_TASKS = tuple(SUCCESS_SHARE)
"""The tiny world's own tasks: those that its mixture of scenes is calibrated for. Others may be registered, too."""

TINY: dict[str, Any] = {
    "model": {"device": "cpu", "threads": 1, "dtype": "float32", "gradient_checkpointing": False},
    "sampling": {
        "num_steps": 4,
        "height": 32,
        "width": 32,
        "images_per_round": 6,
        "micro_batch": 4,
        "guidance_scale": 2.0,
    },
    "lora": {"rank": 2, "alpha": 2.0, "layers": ("attention",)},
    "reward": {"similarity": {"width": 16, "epochs": 5, "batch_size": 16, "learning_rate": 1e-3}},
    "update": {"images_per_step": 2, "micro_batch": 3, "learning_rate": 1e-3, "ppo": {"timesteps_per_image": 2}},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: k for k, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def random_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a StableDiffusionPipeline with the tiny world's architecture and random weights."""
    folder = tmp_path_factory.mktemp("random-pipeline")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = build_tokenizer(caption_weights())
        pipeline = architecture.assemble(
            architecture.new_vae(), architecture.new_text_encoder(tokenizer), tokenizer, architecture.new_unet()
        )
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_config(random_pipeline: Path) -> Callable[..., Config]:
    """`tiny_config(prompts=..., rounds=..., path=..., **stages)`: a run that takes well under a second a round."""

    def make(**given: Any) -> Config:
        named = {key: given.pop(key) for key in ("rounds", "seed", "method") if key in given}
        prompts = given.pop("prompts", ("1 hand",))
        model = str(given.pop("path", random_pipeline))
        return configure(prompts=prompts, model=model, settings=merge(TINY, given), **named)

    return make


@pytest.fixture(scope="session")
def idle_policies() -> dict[str, list[Policy]]:
    """Policies that no test uses at the moment, by their configuration: loading one takes long."""
    return defaultdict(list)


@pytest.fixture
def tiny_policy(
    tiny_config: Callable[..., Config], idle_policies: dict[str, list[Policy]]
) -> Iterator[Callable[..., Policy]]:
    """`tiny_policy(lora_std=..., **settings)`: a policy of its own whose LoRA is random, not the identity."""
    used: list[tuple[str, Policy]] = []

    def make(lora_std: float = 0.05, **given: Any) -> Policy:
        config = tiny_config(**given)
        key = config.to_toml()
        policy = idle_policies[key].pop() if idle_policies[key] else load_policy(config)
        used.append((key, policy))
        randomise_lora(policy, lora_std)
        return policy

    yield make
    for key, policy in used:
        idle_policies[key].append(policy)


def reward_of(kind: str, memory: Memory | None = None, **settings: Any) -> Reward:
    """A reward for latents of 4×8×8; it is given no model."""
    shape: Any = SimpleNamespace(latent_shape=(4, 8, 8), device=torch.device("cpu"))
    context = RewardContext(shape, Conditioning({}, {}), memory or Memory(), 0, Alone())
    table = {kind: settings} if settings else {}
    return make_reward(RewardConfig.model_validate({"kind": kind, **table}), context)


def update_config(**settings: Any) -> UpdateConfig:
    """An `UpdateConfig` for PPO from flat settings, those of its own table among them."""
    own = {name: settings.pop(name) for name in list(settings) if name in PPOSettings.model_fields}
    return UpdateConfig.model_validate({**settings, "ppo": own})


def randomise_lora(policy: Policy, std: float, seed: int = 0) -> None:
    """Sets the A matrices, and the B matrices (zero at first), to small normal numbers; forgets all gradients."""
    source = torch.Generator().manual_seed(seed)
    state = policy.state_dict()
    for name, value in state.items():
        state[name] = torch.randn(value.shape, generator=source) * (std if "lora_B" in name else 0.5)
    policy.load_state_dict(state)
    for parameter in policy.parameters():
        parameter.grad = None
