"""The pretraining of the tiny world: its data, tokenizer, resumable training, and the pipeline it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTokenizer

from hero.tinyworld import scenes
from hero.tinyworld.architecture import new_vae, standardise_latents
from hero.tinyworld.averaging import average_pipelines
from hero.tinyworld.dataset import render, render_scene
from hero.tinyworld.pretrain import main, pretrain
from hero.tinyworld.training import Schedule, Trainer, batch_indexes, step_generator
from hero.tinyworld.vocabulary import MAX_LENGTH, build_tokenizer, merges_for


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of a very short pretraining, through all its stages."""
    work = tmp_path_factory.mktemp("pretrain")
    pretrain(work, work / "model", steps=3, vae_steps=3, scenes=70, device="cpu", samples=False)
    return work


# ---- scenes


def test_the_shares_of_the_captions_add_up_to_one() -> None:
    shares = scenes.caption_weights()
    assert sum(shares.values()) == pytest.approx(1)
    of_family = {
        name: sum(shares[c] for c in shares if scenes.scene_family_of(c) == name) for name in scenes.SCENE_FAMILIES
    }
    assert of_family["hands"] / of_family["cats"] == pytest.approx(1.3)
    assert of_family["flowers"] / of_family["views"] == pytest.approx(1.3)


def test_a_caption_outside_the_grammar_has_no_family() -> None:
    with pytest.raises(KeyError, match="a submarine"):
        scenes.scene_family_of("a submarine")


def test_a_scene_depends_on_seed_and_index_alone(tmp_path: Path) -> None:
    few, many = render(tmp_path / "few", 5, seed=3), render(tmp_path / "many", 9, seed=3)
    assert np.array_equal(few.images, many.images[:5])
    assert np.array_equal(few.index, many.index[:5])
    image, caption = render_scene(3, 4, scenes.caption_weights())
    assert np.array_equal(image, many.images[4])
    assert caption == many.captions[many.index[4]]
    assert not np.array_equal(render(tmp_path / "other", 5, seed=4).images, few.images)


def test_scenes_drawn_otherwise_are_refused(made: Path) -> None:
    with pytest.raises(ValueError, match="another seed, count or mixture"):
        render(made, 70, seed=1)


# ---- tokenizer


def test_every_word_of_the_grammar_is_one_token() -> None:
    captions = list(scenes.caption_weights())
    tokenizer = build_tokenizer(captions)
    for caption in captions:
        assert [token.removesuffix("</w>") for token in tokenizer.tokenize(caption)] == caption.split()
        assert len(tokenizer(caption).input_ids) <= MAX_LENGTH


def test_words_that_contain_each_other_stay_whole() -> None:
    words = ["and", "hand", "hands", "sand", "aaa", "aa", "aaaaa"]
    tokenizer = build_tokenizer([" ".join(words)])
    assert tokenizer.tokenize(" ".join(words)) == [f"{word}</w>" for word in words]
    assert len(set(merges_for(words))) == len(merges_for(words))


def test_other_text_falls_apart_and_case_does_not_matter() -> None:
    tokenizer = build_tokenizer(["a hand"])
    assert tokenizer.tokenize("A HAND") == tokenizer.tokenize("a hand")
    strange = tokenizer("zebra ünïcode 🙂!").input_ids
    assert tokenizer.unk_token_id not in strange[1:-1]
    assert tokenizer.decode(strange, skip_special_tokens=True).split()[0] == "zebra"


def test_the_tokenizer_survives_saving(made: Path) -> None:
    captions = list(scenes.caption_weights())
    built, loaded = build_tokenizer(captions), CLIPTokenizer.from_pretrained(made / "model" / "tokenizer")
    assert loaded.model_max_length == MAX_LENGTH
    texts = [*captions, "", "Zebra 12"]
    assert loaded(texts, padding="max_length").input_ids == built(texts, padding="max_length").input_ids


# ---- training


def test_the_learning_rate_rises_and_falls() -> None:
    schedule = Schedule(steps=100, batch=1, peak=1.0, final=0.1, warmup=10)
    assert schedule.rate(0) == pytest.approx(0.1)
    assert schedule.rate(10) == pytest.approx(1.0)
    assert schedule.rate(55) == pytest.approx(0.55)
    assert schedule.rate(100) == pytest.approx(0.1)


def test_an_epoch_shows_every_example_once() -> None:
    epoch = [batch_indexes(0, 1, step, 4, 12) for step in range(3)]
    assert sorted(np.concatenate(epoch).tolist()) == list(range(12))
    assert not np.array_equal(np.concatenate(epoch), np.concatenate([batch_indexes(0, 1, s, 4, 12) for s in (3, 4, 5)]))


class _Stop(Exception):
    pass


def _regression(folder: Path, stop_at: int | None = None) -> dict[str, Tensor]:
    """A small training with random data, stopped after `stop_at` steps if given; its averaged weights."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))

    def loss_at(step: int) -> Tensor:
        inputs = torch.randn(16, 3, generator=step_generator(0, 9, step))
        return (module(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    def visit(step: int) -> None:
        if step == stop_at:
            raise _Stop

    schedule = Schedule(steps=600, batch=16, peak=1e-2, final=1e-4, warmup=20)
    return dict(Trainer("test", module, schedule, folder / "checkpoint.safetensors").run(loss_at, visit).state_dict())


def test_a_stopped_training_ends_like_one_that_was_not_stopped(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    whole = _regression(tmp_path / "whole")
    for stop_at in (300, 510):
        with pytest.raises(_Stop):
            _regression(tmp_path / "stopped", stop_at)
    resumed = _regression(tmp_path / "stopped")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    inputs = torch.randn(64, 3, generator=step_generator(1, 9, 0))
    hidden = torch.nn.functional.silu(inputs @ whole["0.weight"].T + whole["0.bias"])
    error = hidden @ whole["2.weight"].T + whole["2.bias"] - inputs.sum(1, keepdim=True)
    assert error.square().mean() < 0.1 * 3


def test_a_checkpoint_of_another_schedule_is_refused(tmp_path: Path) -> None:
    module = nn.Linear(2, 1)
    path = tmp_path / "checkpoint.safetensors"
    Trainer("test", module, Schedule(4, 1, 1e-3, 1e-4, 1), path).save()
    other = Trainer("test", module, Schedule(5, 1, 1e-3, 1e-4, 1), path)
    with pytest.raises(ValueError, match="another schedule"):
        other.run(lambda step: module.weight.sum())


# ---- autoencoder


@torch.no_grad()
def test_an_untrained_autoencoder_is_a_mosaic() -> None:
    torch.manual_seed(0)
    vae = new_vae()
    colours = torch.rand(2, 3, 16, 16) * 2 - 1
    latents = vae.encode(colours.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)).latent_dist.mean
    for place in range(2):
        for channel in range(3):
            pair = torch.stack([colours[place, channel].flatten(), latents[place, channel].flatten()])
            assert torch.corrcoef(pair)[0, 1] > 0.999


@torch.no_grad()
def test_standardised_latents_leave_the_pictures_as_they_are() -> None:
    torch.manual_seed(0)
    vae = new_vae()
    nn.init.normal_(vae.quant_conv.weight)
    nn.init.normal_(vae.post_quant_conv.weight)
    pictures = torch.rand(8, 3, 64, 64) * 2 - 1
    before = vae.encode(pictures).latent_dist
    drawn = vae.decode(before.mean).sample
    scale = before.mean.std((0, 2, 3)).view(1, -1, 1, 1)
    standardise_latents(vae, before.mean)
    after = vae.encode(pictures).latent_dist
    assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(after.std * scale, before.std, rtol=1e-3)
    assert torch.allclose(vae.decode(after.mean).sample, drawn, atol=1e-3)
    assert vae.config.scaling_factor == 1


# ---- the pipeline


def test_the_pipeline_loads_in_float32_and_draws(made: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(made / "model")
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("1 hand", num_inference_steps=2, guidance_scale=2.0).images[0]
    assert image.size == (64, 64)


def test_prompts_are_encoded_as_the_training_encoded_captions(made: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(made / "model")
    wanted, unwanted = pipeline.encode_prompt("1 hand", "cpu", 1, do_classifier_free_guidance=True)
    assert wanted.shape == unwanted.shape == (1, MAX_LENGTH, 64)
    tokens = pipeline.tokenizer(["1 hand"], padding="max_length", return_tensors="pt").input_ids
    assert torch.allclose(pipeline.text_encoder(tokens).last_hidden_state, wanted)
    assert not torch.allclose(wanted, unwanted)


def test_the_folder_is_small_complete_and_in_half_precision(made: Path) -> None:
    files = [file for file in (made / "model").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 12_000_000
    assert not [file for file in files if "fp16" in file.name or file.suffix in (".bin", ".pt", ".pkl")]
    assert json.loads((made / "model" / "text_encoder" / "config.json").read_text())["dtype"] == "float32"
    assert "license: apache-2.0" in (made / "model" / "README.md").read_text()
    weights = made / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size < 2.2 * 2.8e6


def test_stages_that_are_done_are_left_alone(made: Path) -> None:
    outputs = [made / "scenes.npy", made / "latents.npy", made / "pipeline" / "model_index.json"]
    times = [output.stat().st_mtime_ns for output in outputs]
    pretrain(made, made / "model", steps=3, vae_steps=3, scenes=70, device="cpu")
    assert [output.stat().st_mtime_ns for output in outputs] == times


def test_continuing_keeps_tokenizer_and_autoencoder(made: Path, tmp_path: Path) -> None:
    pretrain(tmp_path, tmp_path / "model", steps=1, scenes=64, device="cpu", continue_from=made / "model")
    first, second = (StableDiffusionPipeline.from_pretrained(folder / "model") for folder in (made, tmp_path))
    assert first.tokenizer.get_vocab() == second.tokenizer.get_vocab()
    for name, value in first.vae.state_dict().items():
        assert torch.equal(second.vae.state_dict()[name], value)
    moved = [(second.unet.state_dict()[name] - value).abs().max() for name, value in first.unet.state_dict().items()]
    assert 0 < max(moved) < 0.01
    texts = [file.read_text() for file in (tmp_path / "model").rglob("*.json")]
    assert not [text for text in texts if str(tmp_path) in text or str(made) in text]  # nobody's folders go out


def test_averaged_weights_lie_between_both_in_the_share_asked_for(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "model", tmp_path / "new")
    file = tmp_path / "new" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    average_pipelines(made / "model", tmp_path / "new", 0.75, tmp_path / "mean")
    old, mean = (
        StableDiffusionPipeline.from_pretrained(folder).unet.state_dict()
        for folder in (made / "model", tmp_path / "mean")
    )
    for name, value in old.items():
        torch.testing.assert_close(mean[name], value + 0.25, atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="is there already"):
        average_pipelines(made / "model", tmp_path / "new", 0.75, tmp_path / "mean")
    with pytest.raises(ValueError, match="between 0 and 1"):
        average_pipelines(made / "model", tmp_path / "new", 1.5, tmp_path / "other")


def test_wrong_input_is_one_line_and_status_2(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["pretrain", "--work", str(made), "--scenes", "71"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
