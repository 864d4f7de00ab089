"""The Stable Diffusion policy: schedule, LoRA, what it refuses. That it samples as the library: test_invariants."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from hero.config import Config, LoraConfig
from hero.errors import ModelError
from hero.policies import Policy, family_of, load_policy, resolve_device
from hero.policies.lora import UNET_LAYERS, add_lora
from hero.policies.steps import ddim_scheduler
from hero.seeding import generator, normal


def mean_of_step(policy: Policy, k: int = 0, n: int = 2) -> torch.Tensor:
    latents = torch.stack([normal(policy.latent_shape, generator(0, "test", 0, i)) for i in range(n)])
    conditioning = policy.encode(["1 hand"]).rows(torch.zeros(n, dtype=torch.int64))
    with torch.no_grad():
        return policy.transition(latents, torch.full((n,), k), conditioning).mean


def test_diffusers_is_imported_only_where_a_model_is_loaded() -> None:
    """It takes seconds, and warns of what is not installed before a command can keep it quiet."""
    code = "import sys, hero.run.state, hero.tuner; sys.exit('diffusers' in sys.modules or 'peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_fresh_lora_is_the_identity_and_can_be_switched_off(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy(lora_std=0.0)
    fresh = mean_of_step(policy)
    with policy.frozen():
        base = mean_of_step(policy)
    assert torch.equal(fresh, base)
    trained = tiny_policy(lora_std=0.05)
    assert (mean_of_step(trained) - base).abs().max() > 1e-3
    with trained.frozen():
        assert torch.equal(mean_of_step(trained), base)
    assert (mean_of_step(trained) - base).abs().max() > 1e-3


def test_the_lora_is_a_function_of_the_seed_alone(tiny_config: Callable[..., Config]) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = load_policy(tiny_config()).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = load_policy(tiny_config()).state_dict(), load_policy(tiny_config(seed=1)).state_dict()
    assert list(one) == sorted(one) == list(again)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_only_the_lora_is_trained_and_in_fp32(tiny_policy: Callable[..., Policy]) -> None:
    policy: Any = tiny_policy(model={"dtype": "bfloat16"})
    assert policy.storage_dtype == torch.bfloat16
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert sum(p.numel() for p in policy.parameters()) == sum(v.numel() for v in policy.state_dict().values())
    frozen = [p for part in (policy.denoiser, policy.pipeline.vae, policy.pipeline.text_encoder)
              for p in part.parameters() if p.requires_grad]  # fmt: skip
    assert len(frozen) == len(policy.parameters())


def test_every_kind_of_layer_has_its_lora(tiny_policy: Callable[..., Policy]) -> None:
    for kind, endings in UNET_LAYERS.items():
        names = list(tiny_policy(lora={"layers": (kind,)}).state_dict())
        assert names
        assert all(any(f".{ending}.lora_" in name for ending in endings) for name in names), kind


def test_weights_that_do_not_fit_are_refused(tiny_policy: Callable[..., Policy]) -> None:
    small, large = tiny_policy(lora={"rank": 2}), tiny_policy(lora={"rank": 4})
    with pytest.raises(ModelError, match="do not fit"):
        small.load_state_dict(large.state_dict())


def test_a_denoiser_without_such_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="no layer named"):
        add_lora(torch.nn.Sequential(torch.nn.Linear(2, 2)), LoraConfig(), UNET_LAYERS, seed=0)


def test_guidance_of_one_or_less_is_off(tiny_policy: Callable[..., Policy]) -> None:
    off, zero, on = (tiny_policy(sampling={"guidance_scale": scale}) for scale in (1.0, 0.0, 3.0))
    assert torch.equal(mean_of_step(off), mean_of_step(zero))
    assert not torch.allclose(mean_of_step(off), mean_of_step(on))


def test_steps_of_one_batch_may_differ(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    latents = torch.stack([normal(policy.latent_shape, generator(0, "test", 0, i)) for i in range(2)])
    conditioning = policy.encode(["1 hand"]).rows(torch.zeros(2, dtype=torch.int64))
    with torch.no_grad():
        mixed = policy.transition(latents, torch.tensor([0, 3]), conditioning)
        alone = policy.transition(latents[1:], torch.tensor([3]), policy.encode(["1 hand"]).rows(torch.zeros(1).long()))
    torch.testing.assert_close(mixed.mean[1:], alone.mean, atol=1e-5, rtol=1e-5)
    assert torch.equal(mixed.std[1:], alone.std)
    assert mixed.std[0] != mixed.std[1]


def test_each_prompt_has_its_own_conditioning(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    both, alone = policy.encode(["1 hand", "a person posing"]), policy.encode(["a person posing"])
    torch.testing.assert_close(both.positive["embeddings"][1:], alone.positive["embeddings"])
    rows = both.rows(torch.tensor([1, 0, 1]))
    assert torch.equal(rows.positive["embeddings"][0], both.positive["embeddings"][1])
    assert torch.equal(rows.positive["embeddings"][1], both.positive["embeddings"][0])
    assert rows.negative["embeddings"].shape == rows.positive["embeddings"].shape
    assert torch.equal(rows.negative["embeddings"][0], policy.encode([""]).positive["embeddings"][0])


def test_schedulers_that_clip_or_have_no_betas_are_refused() -> None:
    with pytest.raises(ModelError, match="no betas"):
        ddim_scheduler(FlowMatchEulerDiscreteScheduler())
    clipping = ddim_scheduler(PNDMScheduler(skip_prk_steps=True))
    assert clipping.config.clip_sample is False
    with pytest.raises(ModelError, match="clip_sample"):
        ddim_scheduler(type(clipping)(clip_sample=True))
    with pytest.raises(ModelError, match="thresholding"):
        ddim_scheduler(type(clipping)(clip_sample=False, thresholding=True))


def test_other_schedulers_give_their_noise_schedule() -> None:
    euler = EulerDiscreteScheduler(
        beta_start=0.001, beta_end=0.01, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )
    ours = ddim_scheduler(euler)
    torch.testing.assert_close(ours.alphas_cumprod, euler.alphas_cumprod)
    assert ours.config.prediction_type == "v_prediction"


def with_scheduler(model: Path, folder: Path, **changed: Any) -> Path:
    """A copy of the pipeline in `model` with other scheduler settings."""
    shutil.copytree(model, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    return folder


def test_a_step_without_a_density_is_not_trained(
    tiny_policy: Callable[..., Policy], random_pipeline: Path, tmp_path: Path
) -> None:
    assert tiny_policy().trainable_steps.tolist() == [True] * 4
    to_one = with_scheduler(random_pipeline, tmp_path / "one", set_alpha_to_one=True)
    policy = tiny_policy(path=to_one)
    assert policy.trainable_steps.tolist() == [True, True, True, False]
    with pytest.raises(ModelError, match="no step has a density"):
        tiny_policy(path=to_one, sampling={"num_steps": 1}, update={"ppo": {"timesteps_per_image": 1}})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampling": {"height": 66}}, "sampling.height = 66 is not divisible"),
        ({"model": {"device": "nonsense"}}, "model.device = 'nonsense'"),
    ],
)
def test_settings_that_the_model_cannot_use_are_named(
    tiny_policy: Callable[..., Policy], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        tiny_policy(**settings)


def test_more_steps_than_the_model_was_trained_with_are_refused(
    tiny_policy: Callable[..., Policy], random_pipeline: Path, tmp_path: Path
) -> None:
    short = with_scheduler(random_pipeline, tmp_path / "short", num_train_timesteps=10)
    with pytest.raises(ModelError, match=r"sampling\.num_steps = 11 is more than the model's 10"):
        tiny_policy(path=short, sampling={"num_steps": 11})


def test_other_image_sizes_have_other_latents(tiny_policy: Callable[..., Policy]) -> None:
    assert tiny_policy().latent_shape == (4, 8, 8)
    assert tiny_policy(sampling={"width": 48}).latent_shape == (4, 8, 12)
    assert tiny_policy(sampling={"height": None, "width": None}).latent_shape == (4, 16, 16)


def test_models_that_cannot_be_loaded_say_why(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    for path, said in ((tmp_path / "none", "there is no model folder"), (tmp_path, "no model_index.json")):
        with pytest.raises(ModelError, match=said):
            load_policy(tiny_config(path=path))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "PixArtSigmaPipeline"}))
    with pytest.raises(ModelError, match="PixArtSigmaPipeline are not supported"):
        load_policy(tiny_config(path=tmp_path))
    with pytest.raises(ModelError, match="did you mean 'StableDiffusionPipeline'"):
        family_of("StableDiffusionPipelin")
    assert resolve_device("cpu") == torch.device("cpu")
