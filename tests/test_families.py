"""Every model family, on pipelines of the library's own classes: same as the library, ratio one, runs, LoRA files."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from conftest import randomise_lora
from hero import Feedback, ImageBatch
from hero.bench.miniatures import MINIATURES, save_miniature
from hero.calls import CALLS
from hero.config import Config, UpdateConfig, merge
from hero.errors import ModelError
from hero.methods import configure
from hero.noise import StandardNoise
from hero.policies import FAMILIES, Policy, family_of, load_policy
from hero.policies.family import later_blocks, pack, unpack
from hero.registry import ForwardSettings
from hero.rollout import rollout
from hero.tuner import Tuner
from hero.types import Judged, Trajectory
from hero.update import make_update
from hero.update.forward import ForwardUpdate, Renoised

PROMPTS = ("1 hand", "a person posing for a photo")
GUIDED: dict[str, Any] = {"guidance_scale": 3.0}
DETERMINISTIC: dict[str, Any] = {
    "sampling": {"eta": 0.0, "height": 32, "width": 48, **GUIDED},
    "lora": {"rank": 2, "alpha": 5.5, "layers": ["attention", "feed-forward"]},
    "update": {"kind": "none"},
}

everything = pytest.mark.parametrize("name", MINIATURES)


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`miniature(name)`: the folder of that random pipeline, made once."""
    root = tmp_path_factory.mktemp("miniatures")
    return lambda name: root / name if (root / name).exists() else save_miniature(name, root / name)


@pytest.fixture(scope="module")
def policy_of(miniature: Callable[[str], Path], tiny_config: Callable[..., Config]) -> Callable[..., Any]:
    """`policy_of(name, **settings)`, loaded once for each choice of settings; a test leaves it as it found it."""

    @functools.cache
    def load(name: str, settings: str) -> Policy:
        return load_policy(tiny_config(path=miniature(name), prompts=PROMPTS, **json.loads(settings)))

    return lambda name, **settings: load(name, json.dumps(settings))


@pytest.fixture(scope="module")
def library_of(miniature: Callable[[str], Path]) -> Callable[[str], Any]:
    """A pipeline that never met this project, with the library's own scheduler of the same kind."""

    @functools.cache
    def load(name: str) -> Any:
        pipeline = DiffusionPipeline.from_pretrained(miniature(name))
        if "beta_schedule" in pipeline.scheduler.config:
            pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
        pipeline.set_progress_bar_config(disable=True)
        if name == "stable-diffusion":  # for `clip_skip` it looks there, where transformers have nothing any more
            pipeline.text_encoder.__dict__.setdefault("text_model", pipeline.text_encoder)
        return pipeline

    return load


def draw(policy: Policy, n: int = 3, micro_batch: int = 4) -> Trajectory:
    index = torch.arange(n) % 2
    noise = StandardNoise().sample([PROMPTS[k] for k in index], policy.latent_shape, seed=0, round_=1)
    chunks = rollout(policy, policy.encode(PROMPTS), index, noise, seed=0, round_=1, micro_batch=micro_batch)
    return next(chunks).trajectory


def call(pipeline: Any, policy: Any, noise: torch.Tensor, output: str = "latent") -> Any:
    """What the library's own pipeline makes of `noise` with the policy's settings."""
    made = pipeline(
        prompt=[PROMPTS[i % 2] for i in range(len(noise))],
        height=policy.family.size.height,
        width=policy.family.size.width,
        num_inference_steps=policy.num_steps,
        output_type=output,
        **policy.family.library_arguments(noise),
    ).images
    return policy.family.from_library(made) if output == "latent" else made


# ---------------------------------------------------------------------------------------------- same as the library


@everything
def test_a_deterministic_rollout_is_the_library_s_own(
    name: str, policy_of: Callable[..., Any], library_of: Callable[[str], Any]
) -> None:
    policy, pipeline = policy_of(name, **DETERMINISTIC), library_of(name)
    trajectory = draw(policy)
    latents = call(pipeline, policy, trajectory.initial_noise)
    assert (trajectory.final_latents - latents).abs().max() <= 1e-4
    assert (trajectory.final_latents - trajectory.initial_noise).abs().max() > 0.1  # it went somewhere

    ours = policy.decode(trajectory.final_latents[:1])[0]
    theirs = call(pipeline, policy, trajectory.initial_noise[:1], "pil")[0]
    assert ours.size == theirs.size == (48, 32)
    assert max(abs(a - b) for a, b in zip(ours.tobytes(), theirs.tobytes(), strict=True)) <= 1


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sd3", {"guidance_scale": 1.0}),
        ("flux", {"guidance_scale": 1.0}),
        ("flux", {"guidance_scale": 3.5, "true_cfg_scale": 2.0}),
        ("qwen-image", {"guidance_scale": 1.0}),
        ("z-image", {"guidance_scale": 0.0}),
    ],
)
def test_it_is_under_other_kinds_of_guidance_too(
    name: str, settings: dict[str, float], policy_of: Callable[..., Any], library_of: Callable[[str], Any]
) -> None:
    policy = policy_of(name, **merge(DETERMINISTIC, {"sampling": settings}))
    trajectory = draw(policy)
    latents = call(library_of(name), policy, trajectory.initial_noise)
    assert (trajectory.final_latents - latents).abs().max() <= 1e-4
    usual = draw(policy_of(name, **DETERMINISTIC))
    assert (trajectory.final_latents - usual.final_latents).abs().max() > 1e-4  # guidance matters


def prompted(name: str) -> dict[str, Any]:
    """A negative prompt and, where there is a CLIP whose layers can be left out, that; with guidance."""
    clip = {"clip_skip": 1} if "clip_skip" in family_of(type(MINIATURES[name]()).__name__).takes else {}
    return merge(DETERMINISTIC, {"sampling": {"negative_prompt": "a person", "true_cfg_scale": 1.0, **clip}})


@pytest.mark.parametrize("name", [name for name in MINIATURES if name not in ("flux-2-klein", "stable-diffusion-v")])
def test_a_negative_prompt_and_clip_s_layers_are_the_library_s(
    name: str, policy_of: Callable[..., Any], library_of: Callable[[str], Any]
) -> None:
    settings = prompted(name)
    if name == "flux":
        settings["sampling"]["true_cfg_scale"] = 2.0
    policy = policy_of(name, **settings)
    trajectory = draw(policy, n=2)
    latents = call(library_of(name), policy, trajectory.initial_noise)
    assert (trajectory.final_latents - latents).abs().max() <= 1e-4
    sampling = {**settings["sampling"], "negative_prompt": ""}
    without = draw(policy_of(name, **{**settings, "sampling": sampling}), n=2)
    assert (trajectory.final_latents - without.final_latents).abs().max() > 1e-4
    if "clip_skip" in sampling:
        whole = {**settings["sampling"], "clip_skip": None}
        usual = draw(policy_of(name, **{**settings, "sampling": whole}), n=2)
        assert (trajectory.final_latents - usual.final_latents).abs().max() > 1e-4
    said = CALLS[type(policy.pipeline).__name__].guidance(policy_config(settings).sampling)
    ours = {k: v for k, v in policy.family.library_arguments(trajectory.initial_noise).items() if k in said}
    assert said == {k: v[0] if isinstance(v, list) else v for k, v in ours.items()}


def policy_config(settings: dict[str, Any]) -> Config:
    return configure(prompts=PROMPTS, settings=settings, preset="stable-diffusion")


@pytest.mark.parametrize(
    ("name", "sampling", "said"),
    [
        ("flux-2-klein", {"negative_prompt": "x"}, "Flux2KleinPipeline takes no negative prompt"),
        ("flux-2-klein", {"clip_skip": 1}, "Flux2KleinPipeline has none"),
        ("flux", {"clip_skip": 1}, "FluxPipeline has none"),
        ("qwen-image", {"clip_skip": 1}, "QwenImagePipeline has none"),
        ("flux", {"negative_prompt": "x"}, r"no effect on FluxPipeline.*raise sampling\.true_cfg_scale \(it is 1\)"),
        ("sd3", {"negative_prompt": "x", "guidance_scale": 1.0}, r"raise sampling\.guidance_scale \(it is 1\)"),
        ("z-image", {"negative_prompt": "x", "guidance_scale": 0.0}, r"raise sampling\.guidance_scale \(it is 0\)"),
    ],
)
def test_prompting_that_would_have_no_effect_is_refused_by_name(
    name: str, sampling: dict[str, Any], said: str, policy_of: Callable[..., Any]
) -> None:
    with pytest.raises(ModelError, match=said):
        policy_of(name, **merge(DETERMINISTIC, {"sampling": sampling}))


def test_true_guidance_is_for_models_that_are_told_their_guidance(policy_of: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="true_cfg_scale is for guidance-distilled models"):
        policy_of("sd3", sampling={"true_cfg_scale": 2.0})


def test_packing_is_undone_by_unpacking() -> None:
    latents = torch.randn(2, 4, 6, 8)
    tokens = pack(latents)
    assert tokens.shape == (2, 12, 16)
    assert torch.equal(tokens[0, 1], latents[0, :, 0:2, 2:4].flatten())
    assert torch.equal(unpack(tokens, (4, 6, 8)), latents)


# ---------------------------------------------------------------------------------------------- half precision


@everything
def test_the_ratio_is_one_in_half_precision_too(
    name: str, policy_of: Callable[..., Any], tiny_config: Callable[..., Config]
) -> None:
    policy = policy_of(name, model={"dtype": "bfloat16"}, sampling={"num_steps": 3, **GUIDED})
    randomise_lora(policy, 0.1)
    trajectory = draw(policy, n=2)
    assert trajectory.latents.dtype == torch.bfloat16
    config = tiny_config(update={"images_per_step": 2, "micro_batch": 3, "ppo": {"timesteps_per_image": 2}}).update
    update = make_update(policy, config, seed=0)
    assert update is not None
    stats = update.step(Judged(trajectory, torch.ones(2), torch.tensor([1.0, -1.0])), policy.encode(PROMPTS), 1)
    assert stats is not None
    assert stats.figures["first_ratio_deviation"] == 0


# ---------------------------------------------------------------------------------------------- a run


def likes_the_first(batch: ImageBatch) -> Feedback:
    return Feedback.from_good(batch, batch.ids[:3], batch.ids[0])


@everything
def test_a_run_changes_the_lora_and_nothing_else(
    name: str, miniature: Callable[[str], Path], tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(path=miniature(name), rounds=2, sampling={"num_steps": 3, **GUIDED})
    with Tuner(config, tmp_path / "run") as tuner:
        before = tuner.policy.state_dict()
        tuner.run(likes_the_first)
        after = tuner.policy.state_dict()
        assert [stats.round for stats in tuner.history if stats.steps] == [1, 2]
        assert all(stats.figures["first_ratio_deviation"] <= 1e-5 for stats in tuner.history)
        assert any(not torch.equal(before[key], after[key]) for key in before)
        untouched = DiffusionPipeline.from_pretrained(miniature(name))
        for part, theirs in untouched.components.items():
            if isinstance(theirs, torch.nn.Module):
                assert_base_weights_equal(getattr(tuner.policy.pipeline, part), theirs)


@everything
def test_a_run_of_heron_changes_the_lora_and_nothing_else(
    name: str, miniature: Callable[[str], Path], tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(
        path=miniature(name),
        method="heron",
        rounds=2,
        sampling={"num_steps": 3, **GUIDED},
        practice={"draws": 4, "images": 4},
        update={"inner_epochs": 1, "nft": {"levels_per_image": 1, "pull": 0.01}},
    )
    with Tuner(config, tmp_path / "run") as tuner:
        before = tuner.policy.state_dict()
        tuner.run(likes_the_first)
        after = tuner.policy.state_dict()
        assert [stats.round for stats in tuner.history if stats.figures["practice_steps"] == 2] == [1, 2]
        assert "auc" in tuner.history[1].figures
        assert any(not torch.equal(before[key], after[key]) for key in before)
        untouched = DiffusionPipeline.from_pretrained(miniature(name))
        for part, theirs in untouched.components.items():
            if isinstance(theirs, torch.nn.Module):
                assert_base_weights_equal(getattr(tuner.policy.pipeline, part), theirs)


@everything
def test_an_update_of_the_forward_process_learns_from_deterministic_steps(
    name: str, policy_of: Callable[..., Any], tiny_config: Callable[..., Config]
) -> None:
    """Such an update needs no density, so that a family's own deterministic steps may draw (`sampling.eta` = 0)."""
    policy = policy_of(name, **merge(DETERMINISTIC, {"sampling": {"num_steps": 2}}))
    assert not policy.trainable_steps.any()
    trajectory = draw(policy, n=2)
    assert not trajectory.log_probs.any()
    before = policy.state_dict()
    update = Denoising(policy, FORWARD, seed=0)
    stats = update.step(Judged(trajectory, torch.ones(2), torch.tensor([1.0, -1.0])), policy.encode(PROMPTS), 1)
    assert stats is not None
    assert stats.loss > 0
    assert any(not torch.equal(value, before[key]) for key, value in policy.state_dict().items())
    policy.load_state_dict(before)


class Denoising(ForwardUpdate):
    """The plain denoising loss."""

    def loss(self, renoised: Renoised) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        target = renoised.steps.target(renoised.sample, renoised.noise, renoised.t)
        return (renoised.output - target).square().flatten(1).mean(1), {}


FORWARD_VALUES: dict[str, Any] = {
    "kind": "denoising",
    "images_per_step": 2,
    "micro_batch": 2,
    "denoising": ForwardSettings(levels_per_image=1),
}
FORWARD = UpdateConfig.model_construct(**FORWARD_VALUES)
"""As a configuration would be with that update registered."""


def assert_base_weights_equal(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    """Bit for bit; PEFT moves a wrapped layer's own weights under `base_layer`."""
    weights = {k.replace(".base_layer", ""): v for k, v in ours.state_dict().items() if ".lora_" not in k}
    expected = theirs.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


# ---------------------------------------------------------------------------------------------- the file is the policy


@everything
def test_the_saved_lora_in_the_library_s_loader_draws_the_same(
    name: str, policy_of: Callable[..., Any], library_of: Callable[[str], Any], tmp_path: Path
) -> None:
    policy, pipeline = policy_of(name, **DETERMINISTIC), library_of(name)
    randomise_lora(policy, 0.2)
    trajectory = draw(policy)
    with policy.frozen():
        base = draw(policy)
    pipeline.load_lora_weights(policy.save_lora(tmp_path).parent)
    latents = call(pipeline, policy, trajectory.initial_noise)
    randomise_lora(policy, 0.0)
    pipeline.unload_lora_weights()
    # The factor alpha/r is in the file's matrices, so that the last bits of products differ.
    assert (trajectory.final_latents - latents).abs().max() <= 3e-4 * latents.abs().max()
    assert (trajectory.final_latents - base.final_latents).abs().max() > 1e-3  # the LoRA does something


# ---------------------------------------------------------------------------------------------- beside the steps


@everything
def test_predictions_at_noise_levels_are_those_of_the_steps(name: str, policy_of: Callable[..., Any]) -> None:
    policy = policy_of(name, **DETERMINISTIC)
    steps, k = policy.steps, torch.tensor([0, 1, 2])
    latents, rows = draw(policy).latents[:, 1], policy.encode(PROMPTS).rows(torch.tensor([0, 1, 0]))
    assert torch.equal(steps.times_at(steps.levels), steps.times)
    with torch.no_grad():
        output = policy.predict(latents, steps.levels[k], rows, guided=True)
        assert torch.equal(steps.transition(output, latents, k).mean, policy.transition(latents, k, rows).mean)

    sample, noise, t = latents, latents.flip(0), torch.tensor([0.1, 0.5, 0.9])
    latents = steps.noised(sample, noise, t)
    output = policy.predict(latents, t, rows, guided=False)
    assert (output.dtype, output.shape) == (torch.float32, latents.shape)
    assert (output - policy.predict(latents, t, rows, guided=True)).abs().max() > 0 or policy.family.guidance is None
    loss = (output - steps.target(sample, noise, t)).square().mean()
    assert any(
        g.abs().max() > 0 for g in torch.autograd.grad(loss, policy.parameters(), allow_unused=True) if g is not None
    )


@pytest.mark.parametrize(("name", "off"), [("sdxl", 1.0), ("sd3", 1.0), ("qwen-image", 1.0), ("z-image", 0.0)])
def test_predictions_without_guidance_are_the_prompt_s_alone(
    name: str, off: float, policy_of: Callable[..., Any]
) -> None:
    guided = policy_of(name, **DETERMINISTIC)
    plain = policy_of(name, **merge(DETERMINISTIC, {"sampling": {"guidance_scale": off}}))
    latents, t = draw(guided).latents[:, 1], torch.full((3,), 0.5)
    outputs = [
        policy.predict(latents, t, policy.encode(PROMPTS).rows(torch.tensor([0, 1, 0])), guided=asked)
        for policy, asked in ((guided, False), (plain, True))
    ]
    assert torch.equal(*outputs)


def test_a_model_that_is_told_its_guidance_is_told_it_in_every_prediction(policy_of: Callable[..., Any]) -> None:
    told = [policy_of("flux", **merge(DETERMINISTIC, {"sampling": {"guidance_scale": scale}})) for scale in (1.0, 3.0)]
    latents, t = draw(told[0]).latents[:, 1], torch.full((3,), 0.5)
    outputs = [p.predict(latents, t, p.encode(PROMPTS).rows(torch.zeros(3).long()), guided=False) for p in told]
    assert (outputs[0] - outputs[1]).abs().max() > 1e-5


@everything
def test_features_are_the_base_model_s_whatever_the_lora(name: str, policy_of: Callable[..., Any]) -> None:
    policy = policy_of(name, **DETERMINISTIC)
    latents, conditioning = draw(policy, n=3).final_latents, policy.encode(PROMPTS)
    rows = conditioning.rows(torch.tensor([0, 1, 0]))
    found = policy.features(latents, rows)
    assert (found.dtype, found.requires_grad, len(found)) == (torch.float32, False, 3)
    assert found.shape[1] % 3 == 0
    assert found.isfinite().all()
    before = policy.state_dict()
    randomise_lora(policy, 0.5)
    assert torch.equal(policy.features(latents, rows), found)
    policy.load_state_dict(before)
    assert (found[0] - found[2]).abs().max() > 1e-3
    other = policy.features(latents, conditioning.rows(torch.tensor([1, 1, 0])))
    assert (found[0] - other[0]).abs().max() > 1e-5
    torch.testing.assert_close(policy.features(latents[1:2], conditioning.rows(torch.tensor([1]))), found[1:2])


def test_features_come_from_the_middle_of_a_denoiser(policy_of: Callable[..., Any]) -> None:
    assert policy_of("sdxl", **DETERMINISTIC).family.feature_layers == ("mid_block", "up_blocks.0")
    for name, layers in {
        "sd3": ("transformer_blocks.1", "transformer_blocks.2"),
        "flux": ("single_transformer_blocks.0", "single_transformer_blocks.1"),
        "z-image": ("layers.0", "layers.1"),
    }.items():
        assert policy_of(name, **DETERMINISTIC).family.feature_layers == layers
    nineteen_and_more = SimpleNamespace(double=[None] * 19, single=[None] * 38)
    assert later_blocks(nineteen_and_more, "double", "single") == ("single.9", "single.23")
    assert later_blocks(SimpleNamespace(blocks=[None]), "blocks") == ("blocks.0",)


@pytest.mark.parametrize("name", ["sd3", "flux", "qwen-image", "z-image", "flux-2-klein"])
def test_features_by_position_lie_where_the_image_differs(name: str, policy_of: Callable[..., Any]) -> None:
    """Text tokens are left out and rows are rows: what changes in one patch changes most of all at that patch."""
    policy = policy_of(name, **DETERMINISTIC)
    _, h, w = policy.latent_shape
    patch = 1 if name == "flux-2-klein" else 2
    grid = (h // patch, w // patch)
    assert grid[0] != grid[1]
    rows = policy.encode(PROMPTS).rows(torch.tensor([1]))
    latents = draw(policy, n=1).final_latents
    for row, column in ((0, 1), (1, 0), (grid[0] - 1, grid[1] - 1)):
        changed = latents.clone()
        changed[..., patch * row : patch * (row + 1), patch * column : patch * (column + 1)] += 2.0
        by_position = [
            policy.features(x, rows, levels=[0.02], pooling=lambda maps: maps.flatten(1)) for x in (latents, changed)
        ]
        for layer in (by_position[1] - by_position[0]).chunk(2, dim=1):
            change = layer.unflatten(1, (-1, *grid)).norm(dim=1)[0]
            assert divmod(int(change.argmax()), grid[1]) == (row, column)


@everything
def test_an_old_adapter_stays_as_the_current_one_was(name: str, policy_of: Callable[..., Any], tmp_path: Path) -> None:
    policy = policy_of(name, **merge(DETERMINISTIC, {"sampling": {"num_steps": 3}}))
    randomise_lora(policy, 0.2)
    parameters, file = [id(p) for p in policy.parameters()], policy.save_lora(tmp_path / "before").read_bytes()
    first = draw(policy).final_latents
    policy.add_adapter("old")
    assert torch.equal(draw(policy).final_latents, first)
    assert [id(p) for p in policy.parameters()] == parameters
    assert policy.save_lora(tmp_path / "after").read_bytes() == file
    randomise_lora(policy, 0.2, seed=1)
    second = draw(policy).final_latents
    with policy.using("old"):
        assert torch.equal(draw(policy).final_latents, first)
    assert torch.equal(draw(policy).final_latents, second)
    assert (first - second).abs().max() > 1e-3
    policy.blend("old", towards="current", decay=0.0)
    with policy.using("old"):
        assert torch.equal(draw(policy).final_latents, second)
    assert {id(p) for p in policy.denoiser.parameters() if p.requires_grad} == set(parameters)


# ---------------------------------------------------------------------------------------------- what is refused


def with_scheduler(model: Path, folder: Path, **changed: Any) -> Path:
    """A copy of the pipeline in `model` whose scheduler has other settings; `_class_name` changes its class."""
    shutil.copytree(model, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    if "_class_name" in changed:
        index = folder / "model_index.json"
        parts = json.loads(index.read_text())
        index.write_text(json.dumps(parts | {"scheduler": ["diffusers", changed["_class_name"]]}))
    return folder


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        (
            "sd3",
            {"_class_name": "FlowMatchHeunDiscreteScheduler"},
            "Heun.* cannot be made stochastic",
        ),
        ("flux", {"stochastic_sampling": True}, "set stochastic_sampling to false"),
        ("sdxl", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "cannot be made stochastic: it has no betas"),
        ("sdxl", {"prediction_type": "flow"}, "predict 'flow'"),
    ],
)
def test_schedulers_that_cannot_be_made_stochastic_are_refused(
    name: str,
    changed: dict[str, Any],
    said: str,
    miniature: Callable[[str], Path],
    tiny_config: Callable[..., Config],
    tmp_path: Path,
) -> None:
    with pytest.raises(ModelError, match=said):
        load_policy(tiny_config(path=with_scheduler(miniature(name), tmp_path / "model", **changed)))


@pytest.mark.parametrize(
    ("name", "height", "multiple"), [("sdxl", 34, 4), ("sd3", 36, 8), ("flux", 36, 8), ("flux-2-klein", 36, 8)]
)
def test_sizes_between_two_patches_are_refused(
    name: str, height: int, multiple: int, policy_of: Callable[..., Any]
) -> None:
    with pytest.raises(ModelError, match=rf"sampling.height = {height} is not divisible by {multiple} .*use 3[26]"):
        policy_of(name, sampling={"height": height})


def test_kinds_of_layer_that_a_family_has_not_are_refused(policy_of: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match=r"SD3Transformer2DModel has no resnet layers; known: attention, feed-forward"):
        policy_of("sd3", lora={"layers": ("attention", "resnet")})


def test_other_families_are_refused_with_those_that_are_supported() -> None:
    with pytest.raises(ModelError, match="AllegroPipeline are not supported") as refused:
        family_of("AllegroPipeline")
    assert all(name in str(refused.value) for name in FAMILIES)
