"""Models that lack something: what no policy needs may be missing, and the rest is refused by name, with a remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel

from hero.bench.miniatures import save_miniature
from hero.config import Config, ModelConfig
from hero.errors import ModelError
from hero.policies import load_pipeline, load_policy
from hero.policies.steps import DDIMSteps, ddim_scheduler
from hero.tinyworld import architecture

SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}


@pytest.fixture
def model(random_pipeline: Path, tmp_path: Path) -> Path:
    """A copy of the random Stable Diffusion pipeline, to be damaged."""
    return Path(shutil.copytree(random_pipeline, tmp_path / "model"))


def change_index(model: Path, **parts: Any) -> None:
    file = model / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | parts))


def test_what_no_policy_uses_may_be_missing(model: Path, tiny_config: Callable[..., Config]) -> None:
    change_index(
        model,
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPImageProcessor"],
    )
    (model / "feature_extractor").mkdir()  # empty, as a filtered download leaves it
    policy = load_policy(tiny_config(path=model))
    assert policy.pipeline.safety_checker is None
    assert policy.encode(["1 hand"]).positive["embeddings"].isfinite().all()


def test_stable_diffusion_3_works_without_its_t5(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    model = save_miniature("sd3", tmp_path / "model")
    change_index(model, text_encoder_3=[None, None], tokenizer_3=[None, None])
    shutil.rmtree(model / "text_encoder_3")
    shutil.rmtree(model / "tokenizer_3")
    policy = load_policy(tiny_config(path=model, sampling={"num_steps": 3}))
    assert policy.pipeline.text_encoder_3 is None
    rows = policy.encode(["1 hand", "a person"])
    latents = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        step = policy.transition(latents, torch.tensor([0, 0]), rows.rows(torch.tensor([0, 1])))
    assert step.mean.isfinite().all()
    assert {cut.encoder for cut in policy.cut(["a hand " * 200])} == {"text_encoder", "text_encoder_2"}


@pytest.mark.parametrize("lost", [("vocab.json", "tokenizer.json"), ("vocab.json", "tokenizer.json", "merges.txt")])
def test_a_tokenizer_without_its_vocabulary_is_refused(lost: tuple[str, ...], model: Path) -> None:
    for file in lost:
        (model / "tokenizer" / file).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"tokenizer has no vocabulary .*all prompts would be the same"):
        load_pipeline(ModelConfig(path=str(model)))


def test_an_empty_folder_of_a_component_is_refused(model: Path, tiny_config: Callable[..., Config]) -> None:
    for file in (model / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(ModelError, match=r"no component 'tokenizer': its folder is empty.*download the model again"):
        load_policy(tiny_config(path=model))


def test_a_tokenizer_that_knows_few_tokens_is_refused(
    model: Path, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = model / "tokenizer" / "tokenizer.json"
    tokens = json.loads(file.read_text())
    few = dict(sorted(tokens["model"]["vocab"].items(), key=lambda item: item[1])[-3:])
    tokens["model"] |= {"vocab": {name: k for k, name in enumerate(few)}, "merges": []}
    tokens["added_tokens"] = []
    file.write_text(json.dumps(tokens))
    (model / "tokenizer" / "vocab.json").write_text(json.dumps(tokens["model"]["vocab"]))
    (model / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ModelError, match=r"tokenizer has \d tokens and its text encoder \d+"):
        load_policy(tiny_config(path=model))


def test_files_of_a_variant_are_named_with_the_option(model: Path, tiny_config: Callable[..., Config]) -> None:
    for file in [*model.glob("*/*.safetensors")]:
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    with pytest.raises(ModelError, match="its weights are files of a variant: add --variant fp16"):
        load_policy(tiny_config(path=model))
    assert load_policy(tiny_config(path=model, model={"variant": "fp16"})).latent_shape == (4, 8, 8)


def test_a_variant_that_does_not_exist_is_said(model: Path, tiny_config: Callable[..., Config]) -> None:
    with pytest.raises(ModelError, match=r"no files of the variant 'fp16'.*leave out --variant"):
        load_policy(tiny_config(path=model, model={"variant": "fp16"}))


def test_a_denoiser_for_inpainting_is_refused(model: Path, tiny_config: Callable[..., Config]) -> None:
    config = dict(architecture.new_unet().config) | {"in_channels": 9}
    UNet2DConditionModel.from_config(config).save_pretrained(model / "unet")
    with pytest.raises(ModelError, match=r"takes 9 channels where the VAE's latents have 4"):
        load_policy(tiny_config(path=model))


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_zero_terminal_snr_is_refused_where_the_noise_is_predicted(spacing: str) -> None:
    """It was NaN, blamed on the learning rate."""
    zero = DDIMScheduler(**SCHEDULE, rescale_betas_zero_snr=True, timestep_spacing=spacing)
    with pytest.raises(ModelError, match=r"zero terminal SNR.*set rescale_betas_zero_snr to false"):
        ddim_scheduler(zero)
    for fine in (
        DDIMScheduler(**SCHEDULE, timestep_spacing=spacing),
        DDIMScheduler(
            **SCHEDULE, rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"
        ),
    ):
        steps = DDIMSteps(ddim_scheduler(fine), 10, 1.0, torch.device("cpu"))
        ones = torch.ones(10, 1, 1, 1)
        assert steps.transition(ones, ones, torch.arange(10)).mean.isfinite().all()


def test_more_steps_than_an_offset_leaves_are_refused() -> None:
    scheduler = DDIMScheduler(**SCHEDULE, steps_offset=1)
    with pytest.raises(ModelError, match=r"num_steps = 1000: .*first step would be at timestep 1000 of 0 to 999"):
        DDIMSteps(scheduler, 1000, 1.0, torch.device("cpu"))
    assert DDIMSteps(scheduler, 999, 1.0, torch.device("cpu")).num_steps == 999


def test_only_what_is_missing_is_left_out(model: Path) -> None:
    """A fused export keeps the rest."""
    loaded = DiffusionPipeline.from_pretrained(model)
    assert loaded.components.keys() == load_pipeline(ModelConfig(path=str(model))).components.keys()
