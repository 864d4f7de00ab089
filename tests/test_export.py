"""Exported files give the trained policy's output once the library's own loader has read them, and the same bytes."""

from __future__ import annotations

import base64
import builtins
import errno
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import urllib.request
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from huggingface_hub import ModelCard
from peft import get_peft_model_state_dict
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from conftest import randomise_lora
from hero import Feedback, ImageBatch, Tuner
from hero.cli import app
from hero.cli.running import publisher_of, train_to_end
from hero.config import Config, LoraConfig
from hero.errors import ConfigError, HeroError, RunError
from hero.export import FORMATS, export
from hero.export.kohya import kohya_tensors
from hero.export.metadata import kohya_metadata
from hero.export.publish import Publisher
from hero.export.result import ModelFacts, read_result
from hero.policies.lora import UNET_LAYERS, add_lora

EVERY_LAYER = tuple(UNET_LAYERS)
DOCS = Path(__file__).parents[1] / "docs"
OF_ANY_RUN = [format_ for format_ in FORMATS if format_ != "single-file"]  # its tests are in test_single_file.py


class Finished(NamedTuple):
    """A run of one round, and what its model predicts."""

    path: Path
    prediction: torch.Tensor


@pytest.fixture(scope="module")
def finished(tiny_config: Callable[..., Config], tmp_path_factory: Any) -> Callable[[float], Finished]:
    """`finished(alpha)`: a run with a LoRA of rank 4 that is random and large, so that a wrong scale shows."""

    @cache
    def make(alpha: float) -> Finished:
        folder = tmp_path_factory.mktemp("runs") / "my-run"
        config = tiny_config(lora={"rank": 4, "alpha": alpha, "layers": EVERY_LAYER}, rounds=1)
        with Tuner(config, folder) as tuner:
            batch = tuner.ask()
            tuner.tell(Feedback.from_good(batch, batch.ids[::2], batch.ids[2]))
            randomise_lora(tuner.policy, 0.1)
            tuner.learner.save()
            tuner.learner.publish()
            policy: Any = tuner.policy
            return Finished(folder, predicted(policy.pipeline.unet))

    return make


@pytest.fixture
def run(finished: Callable[[float], Finished]) -> Path:
    return finished(1.0).path


def predicted(unet: Any) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 8, 8, generator=source)
    embeddings = torch.randn(2, 5, unet.config.cross_attention_dim, generator=source)
    with torch.no_grad():
        return unet(latents, torch.tensor([10, 500]), encoder_hidden_states=embeddings).sample


def text_encoder_bytes(pipeline: Any) -> str:
    digest = hashlib.sha256()
    for _, value in sorted(pipeline.text_encoder.state_dict().items()):
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------- the file is the policy


@pytest.mark.parametrize("alpha", [4.0, 1.0], ids=["alpha=rank", "alpha≠rank"])
def test_the_librarys_own_loader_gives_the_policys_output(
    alpha: float, finished: Callable[[float], Finished], random_pipeline: Path, tmp_path: Path
) -> None:
    run, wanted = finished(alpha)
    pipeline = StableDiffusionPipeline.from_pretrained(random_pipeline)
    base, text = predicted(pipeline.unet), text_encoder_bytes(pipeline)
    assert (wanted - base).abs().max() > 0.05
    for format_, name in (("diffusers", "lora"), ("kohya", "lora.safetensors")):
        pipeline.load_lora_weights(export(run, format_, tmp_path / name))
        torch.testing.assert_close(predicted(pipeline.unet), wanted, atol=1e-5, rtol=1e-5)
        assert text_encoder_bytes(pipeline) == text
        assert not any("lora" in name for name, _ in pipeline.text_encoder.named_parameters())
        pipeline.unload_lora_weights()
        assert torch.equal(predicted(pipeline.unet), base)


def test_a_fused_pipeline_is_a_plain_one_with_the_policys_output(
    finished: Callable[[float], Finished], random_pipeline: Path, tmp_path: Path
) -> None:
    run, wanted = finished(1.0)
    pipeline = StableDiffusionPipeline.from_pretrained(export(run, "fused", tmp_path / "fused"))
    plain = StableDiffusionPipeline.from_pretrained(random_pipeline)
    assert pipeline.unet.state_dict().keys() == plain.unet.state_dict().keys()
    assert type(pipeline.scheduler) is type(plain.scheduler)
    torch.testing.assert_close(predicted(pipeline.unet), wanted, atol=1e-5, rtol=1e-5)
    assert text_encoder_bytes(pipeline) == text_encoder_bytes(plain)


def test_others_may_read_what_is_for_other_programs(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("as open as the umask lets it be")
    for format_, name in (("diffusers", "folder"), ("kohya", "lora.safetensors"), ("fused", "pipeline")):
        export(run, format_, tmp_path / name)
    given = [*tmp_path.rglob("*.safetensors"), *(run / "lora").iterdir(), run / "refined_noise.safetensors"]
    assert len(given) >= 8
    assert {file.stat().st_mode for file in given} == {(tmp_path / "a-file").stat().st_mode}


def test_exporting_twice_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    def written(out: Path) -> dict[str, bytes]:
        if out.is_file():
            return {"file": out.read_bytes(), "card": out.with_suffix(".md").read_bytes()}
        return {p.name: p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}

    for format_ in OF_ANY_RUN:
        name = "lora.safetensors" if format_ == "kohya" else "lora"
        first, second = (export(run, format_, tmp_path / format_ / side / name) for side in "ab")
        assert written(first) == written(second), format_


# ---------------------------------------------------------------------------------------------- names


LAYERS_OF_ORIGINAL_STABLE_DIFFUSION = {
    # Facts of the original UNet (two layers a block): diffusers' layer → the original's, as A1111 and ComfyUI map it.
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q": "input_blocks.2.1.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
    "down_blocks.2.resnets.1.conv1": "input_blocks.8.0.in_layers.2",
    "mid_block.attentions.0.proj_in": "middle_block.1.proj_in",
    "mid_block.resnets.1.conv2": "middle_block.2.out_layers.3",
    "up_blocks.0.resnets.2.conv2": "output_blocks.2.0.out_layers.3",
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0": (
        "output_blocks.3.1.transformer_blocks.0.attn2.to_out.0"
    ),
    "up_blocks.2.attentions.2.transformer_blocks.0.ff.net.0.proj": (
        "output_blocks.8.1.transformer_blocks.0.ff.net.0.proj"
    ),
}


def pair(layer: str, rank: int, out: int, into: int, seed: int = 0) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {
        f"{layer}.lora_A.weight": torch.randn(rank, into, generator=source),
        f"{layer}.lora_B.weight": torch.randn(out, rank, generator=source),
    }


def names(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    return {key.partition(".")[0] for key in tensors}


def delta(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """What a loader adds to the weight of `name`: alpha / rank · up·down."""
    down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
    return tensors[f"{name}.alpha"] / len(down) * up @ down


def test_names_of_stable_diffusion_are_those_of_diffusers_and_of_xl_those_of_the_original() -> None:
    config = {"layers_per_block": 2}
    for layer, original in LAYERS_OF_ORIGINAL_STABLE_DIFFUSION.items():
        lora = pair(layer, 2, 3, 4)
        for family, name in (("StableDiffusionPipeline", layer), ("StableDiffusionXLPipeline", original)):
            tensors = kohya_tensors(lora, 2.0, family, config)
            key = "lora_unet_" + name.replace(".", "_")
            assert sorted(tensors) == [f"{key}.alpha", f"{key}.lora_down.weight", f"{key}.lora_up.weight"]


SDXL = {
    "block_out_channels": (8, 16),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (1, 2),
    "transformer_layers_per_block": (1, 2),
    "cross_attention_dim": 12,
    "norm_num_groups": 4,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 32,
    "sample_size": 8,
}


def random_lora(model: Any, layers: Mapping[str, tuple[str, ...]], alpha: float = 1.0) -> dict[str, torch.Tensor]:
    """Puts a random LoRA of rank 2 on `model`; returns its weights."""
    add_lora(model, LoraConfig(rank=2, alpha=alpha, layers=tuple(layers)), layers, seed=0)  # type: ignore[arg-type]
    source = torch.Generator().manual_seed(0)
    for _, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=source)
    return {key: value.detach().clone() for key, value in get_peft_model_state_dict(model).items()}


def test_a_kohya_file_of_xl_is_read_back_by_the_librarys_loader(tmp_path: Path) -> None:
    def model() -> Any:
        torch.manual_seed(0)
        return UNet2DConditionModel(**SDXL).eval()

    def output(unet: Any) -> torch.Tensor:
        source = torch.Generator().manual_seed(1)
        added = {"text_embeds": torch.randn(1, 8, generator=source), "time_ids": torch.ones(1, 6)}
        latents, text = torch.randn(1, 4, 8, 8, generator=source), torch.randn(1, 3, 12, generator=source)
        with torch.no_grad():
            return unet(latents, 10, encoder_hidden_states=text, added_cond_kwargs=added).sample

    trained, fresh = model(), model()
    lora = random_lora(trained, UNET_LAYERS)
    tensors = kohya_tensors(lora, 1.0, "StableDiffusionXLPipeline", trained.config)
    original = ("lora_unet_input_blocks_", "lora_unet_middle_block_", "lora_unet_output_blocks_")
    assert all(name.startswith(original) for name in names(tensors))
    save_file(tensors, tmp_path / "xl.safetensors")
    state, alphas = StableDiffusionXLPipeline.lora_state_dict(tmp_path / "xl.safetensors", unet_config=fresh.config)
    StableDiffusionXLPipeline.load_lora_into_unet(state, alphas, fresh)
    assert (output(model()) - output(trained)).abs().max() > 1e-2
    torch.testing.assert_close(output(fresh), output(trained), atol=1e-5, rtol=1e-5)


def test_a_kohya_file_of_flux_is_read_back_by_the_librarys_loader(tmp_path: Path) -> None:
    """Double blocks through a small transformer; single ones at the real width, the only one that the loader takes."""

    def model() -> Any:
        torch.manual_seed(0)
        small = {"num_layers": 2, "num_single_layers": 0, "attention_head_dim": 8, "num_attention_heads": 2}
        return FluxTransformer2DModel(
            in_channels=4, joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4), **small
        ).eval()

    def output(transformer: Any) -> torch.Tensor:
        source = torch.Generator().manual_seed(1)
        tokens, text = torch.randn(1, 4, 4, generator=source), torch.randn(1, 3, 8, generator=source)
        with torch.no_grad():
            return transformer(
                tokens,
                encoder_hidden_states=text,
                pooled_projections=torch.randn(1, 8, generator=source),
                timestep=torch.tensor([0.5]),
                img_ids=torch.zeros(4, 3),
                txt_ids=torch.zeros(3, 3),
                return_dict=False,
            )[0]

    layers = {
        "attention": ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_v_proj", "to_add_out"),
        "feed-forward": ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    }
    trained, fresh = model(), model()
    tensors = kohya_tensors(random_lora(trained, layers), 1.0, "FluxPipeline", trained.config)
    save_file(tensors, tmp_path / "flux.safetensors")
    state, alphas = FluxPipeline.lora_state_dict(tmp_path / "flux.safetensors", return_alphas=True)
    FluxPipeline.load_lora_into_transformer(state, alphas, fresh)
    assert (output(model()) - output(trained)).abs().max() > 1e-2
    torch.testing.assert_close(output(fresh), output(trained), atol=1e-5, rtol=1e-5)

    width = 3072
    block = "single_transformer_blocks.3"
    for present in ({"attn.to_q": 1, "attn.to_v": 1}, {"attn.to_q": 1, "attn.to_k": 1, "attn.to_v": 1, "proj_mlp": 4}):
        lora = {}
        for seed, (name, share) in enumerate(present.items()):
            lora |= pair(f"{block}.{name}", 2, share * width, width, seed)
        save_file(kohya_tensors(lora, 1.0, "FluxPipeline", {}), tmp_path / "single.safetensors")
        back = FluxPipeline.lora_state_dict(tmp_path / "single.safetensors")
        for name in present:
            wanted = 0.5 * lora[f"{block}.{name}.lora_B.weight"] @ lora[f"{block}.{name}.lora_A.weight"]
            prefix = f"transformer.{block}.{name}"
            read = back[f"{prefix}.lora_B.weight"] @ back[f"{prefix}.lora_A.weight"]
            torch.testing.assert_close(read, wanted)


def test_kohyas_names_of_stable_diffusion_3() -> None:
    """diffusers has no kohya loader for it: names and rows are checked against the original model's layers."""
    block = "transformer_blocks.7"
    lora = pair(f"{block}.attn.to_q", 2, 6, 5, 0) | pair(f"{block}.attn.to_v", 2, 6, 5, 1)
    lora |= pair(f"{block}.attn.add_k_proj", 2, 6, 5, 2) | pair(f"{block}.attn2.to_k", 2, 6, 5, 3)
    singles = {
        "attn.to_out.0": "x_block_attn_proj",
        "attn2.to_out.0": "x_block_attn2_proj",
        "attn.to_add_out": "context_block_attn_proj",
        "ff.net.0.proj": "x_block_mlp_fc1",
        "ff.net.2": "x_block_mlp_fc2",
        "ff_context.net.0.proj": "context_block_mlp_fc1",
        "ff_context.net.2": "context_block_mlp_fc2",
    }
    for layer in singles:
        lora |= pair(f"{block}.{layer}", 2, 6, 5, 4)
    tensors = kohya_tensors(lora, 1.0, "StableDiffusion3Pipeline", {})
    root = "lora_unet_joint_blocks_7"
    fused = {"x_block_attn_qkv", "x_block_attn2_qkv", "context_block_attn_qkv"}
    assert names(tensors) == {f"{root}_{name}" for name in {*singles.values(), *fused}}

    def update(layer: str) -> torch.Tensor:
        return 0.5 * lora[f"{block}.{layer}.lora_B.weight"] @ lora[f"{block}.{layer}.lora_A.weight"]

    nothing = torch.zeros(6, 5)
    for name, parts in {
        "x_block_attn_qkv": [update("attn.to_q"), nothing, update("attn.to_v")],
        "x_block_attn2_qkv": [nothing, update("attn2.to_k"), nothing],
        "context_block_attn_qkv": [nothing, update("attn.add_k_proj"), nothing],
    }.items():
        torch.testing.assert_close(delta(tensors, f"{root}_{name}"), torch.cat(parts))
    for layer, name in singles.items():
        torch.testing.assert_close(delta(tensors, f"{root}_{name}"), update(layer))


def test_a_model_or_layer_without_names_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"not known for NewPipeline .*--format diffusers"):
        kohya_tensors(pair("a", 1, 1, 1), 1.0, "NewPipeline", {})
    for family in ("StableDiffusionXLPipeline", "FluxPipeline"):
        with pytest.raises(ConfigError, match="the layer strange"):
            kohya_tensors(pair("strange.layer", 1, 1, 1), 1.0, family, {"layers_per_block": 2})


# ---------------------------------------------------------------------------------------------- metadata and cards


def test_the_header_says_what_the_file_is(run: Path, tmp_path: Path) -> None:
    out = export(run, "kohya", tmp_path / "lora.safetensors")
    with safe_open(out, framework="pt") as file:
        about = file.metadata()
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert about["modelspec.sai_model_spec"] == "1.0.0"
    assert about["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert about["modelspec.title"] == "my-run"
    assert about["ss_output_name"] == "lora"  # browsers call a file by it
    assert about["modelspec.resolution"] == "32x32"
    assert about["modelspec.trigger_phrase"] == "1 hand"
    assert about["modelspec.prediction_type"] == "epsilon"
    assert about["modelspec.date"].endswith("+00:00")
    data = out.read_bytes()
    content = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()
    assert about["modelspec.hash_sha256"] == f"0x{content}"
    assert about["sshs_model_hash"] == content
    with urllib.request.urlopen(about["modelspec.thumbnail"]) as picture:
        assert Image.open(io.BytesIO(picture.read())).size == (32, 32)
    (cover,) = json.loads(about["ssmd_cover_images"])
    assert Image.open(io.BytesIO(base64.b64decode(cover))).size == (32, 32)
    tensors = load_file(out)
    scale = {float(value) for key, value in tensors.items() if key.endswith(".alpha")}
    assert scale == {float(about["ss_network_alpha"])}
    assert {len(v) for k, v in tensors.items() if "lora_down" in k} == {int(about["ss_network_dim"])}
    assert json.loads(about["ss_network_args"])["conv_dim"] == about["ss_network_dim"]
    assert about["ss_num_train_images"] == str(line["labels"])
    (counted,) = json.loads(about["ss_dataset_dirs"]).values()
    assert counted == {"n_repeats": 1, "img_count": line["labels"]}
    (bucket,) = json.loads(about["ss_bucket_info"])["buckets"].values()
    assert bucket == {"resolution": [32, 32], "count": line["labels"]}
    assert 0 < int(about["ss_training_started_at"]) <= int(about["ss_training_finished_at"])
    assert about["ss_base_model_version"] == "sd_v1"
    assert about["ss_v2"] == "False"
    assert str(tmp_path) not in json.dumps(about)


def test_browsers_find_a_picture_and_the_prompt_beside_the_file(run: Path, tmp_path: Path) -> None:
    out = export(run, "kohya", tmp_path / "a.b.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.b.json", "a.b.md", "a.b.preview.png", "a.b.safetensors"]
    assert Image.open(tmp_path / "a.b.preview.png").size == (32, 32)
    told = json.loads((tmp_path / "a.b.json").read_text(encoding="utf-8"))
    assert (told["activation text"], told["sd version"]) == ("1 hand", "SD1")
    assert out == tmp_path / "a.b.safetensors"


@pytest.mark.parametrize(
    ("family", "told"),
    [
        ("FluxPipeline", "https://github.com/black-forest-labs/flux"),
        ("StableDiffusionXLPipeline", "https://github.com/Stability-AI/generative-models"),
        ("StableDiffusionPipeline", "diffusers"),
    ],
)
def test_a_model_is_told_by_the_names_that_browsers_know(family: str, told: str, run: Path) -> None:
    facts = ModelFacts(family, {"guidance_embeds": True}, {})
    about = kohya_metadata(read_result(run), facts, {}, "name")
    assert about["modelspec.implementation"] == told
    assert not any("hero" in key for key in about)


def test_a_weaker_export_is_weaker_in_every_format(
    finished: Callable[[float], Finished], random_pipeline: Path, tmp_path: Path
) -> None:
    run, full = finished(1.0)
    base = predicted(StableDiffusionPipeline.from_pretrained(random_pipeline).unet)
    for format_, name in (("diffusers", "lora"), ("kohya", "lora.safetensors"), ("fused", "pipeline")):
        out = export(run, format_, tmp_path / name, weight=0.5)
        pipeline = StableDiffusionPipeline.from_pretrained(out if format_ == "fused" else random_pipeline)
        if format_ != "fused":
            pipeline.load_lora_weights(export(run, format_, tmp_path / "full" / name))
            pipeline.set_adapters(pipeline.get_active_adapters(), 0.5)
            wanted = predicted(pipeline.unet)
            pipeline.unload_lora_weights()
            pipeline.load_lora_weights(out)
        torch.testing.assert_close(predicted(pipeline.unet), wanted, atol=1e-5, rtol=1e-5)
        assert (wanted - base).abs().max() > 0.01
        assert (wanted - full).abs().max() > 0.01
        card = (out / "README.md" if out.is_dir() else out.with_suffix(".md")).read_text()
        assert "at 0.5 of the strength" in card
    with pytest.raises(ConfigError, match="not a finite number"):
        export(run, "kohya", tmp_path / "x.safetensors", weight=float("nan"))


@pytest.mark.parametrize("format_", OF_ANY_RUN)
def test_the_card_has_the_runs_figures(format_: str, run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    sets = {"base": 0.25, "tuned_fresh": 0.5, "tuned_refined": None}
    evaluation = {"task": "custom", "images": 8, "labels": 6, "success": sets, "drift": 0.0123}
    evaluation |= {"success_interval": {"base": [0.1, 0.4], "tuned_fresh": [0.3, 0.7], "tuned_refined": None}}
    evaluation |= {"diversity": {"base": 1.0, "tuned_fresh": 0.9, "tuned_refined": None}}
    (run / "evaluation").mkdir()
    (run / "evaluation" / "result.json").write_text(json.dumps(evaluation))
    out = export(run, format_, tmp_path / ("my.safetensors" if format_ == "kohya" else "out"))
    card = ModelCard.load(out / "README.md" if out.is_dir() else out.with_suffix(".md"))
    assert card.data.library_name == "diffusers"
    assert ("lora" in card.data.tags) == (format_ in ("diffusers", "kohya"))
    (figure,) = card.data.eval_results
    assert (figure.metric_type, figure.metric_value) == ("success", 0.5)
    named = f"*Refined noise: {out.name}*" if format_ == "comfyui" else f'"{out.name}"'
    for said in ("6 images, in 1 rounds", "50% (30% to 70%)", "| 0.90 |", "0.012", "1 hand", named):
        assert said in card.text, said


def test_the_optimizer_is_the_one_that_was_used(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    config = (run / "config.toml").read_text()
    assert config.count('optimizer = "adamw"') == 1
    said = []
    for name in ("adamw", "adamw-8bit"):
        (run / "config.toml").write_text(config.replace('optimizer = "adamw"', f'optimizer = "{name}"'))
        out = export(run, "kohya", tmp_path / f"{name}.safetensors")
        with safe_open(out, framework="pt") as file:
            said.append(file.metadata()["ss_optimizer"])
        assert (
            f"| optimizer | AdamW{' in 8 bits' if name == 'adamw-8bit' else ''}, " in out.with_suffix(".md").read_text()
        )
    assert said == ["torch.optim.adamw.AdamW", "bitsandbytes.optim.adamw.AdamW8bit"]


def test_an_evaluation_of_another_lora_is_not_in_the_card(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    (run / "evaluation").mkdir()
    (run / "evaluation" / "result.json").write_text(json.dumps({"labels": 99, "success": {}}))
    card = ModelCard.load(export(run, "diffusers", tmp_path / "out") / "README.md")
    assert card.data.eval_results is None
    assert "## Figures" not in card.text


# ---------------------------------------------------------------------------------------------- refined noise


def test_the_documented_recipe_draws_from_refined_noise_in_a_plain_pipeline(
    run: Path, random_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = export(run, "diffusers", tmp_path / "lora")
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "export.md").read_text(encoding="utf-8")
    recipe = page.split("## Refined noise")[1].split("```python\n")[1].split("```")[0]
    code = [line for line in recipe.splitlines() if line.startswith(("best", "latents"))]
    assert len(code) == 2
    assert all(line.replace("my-lora", "lora") in (out / "README.md").read_text() for line in code)
    recipe = recipe.replace("my-lora", "lora")

    pipeline = StableDiffusionPipeline.from_pretrained(random_pipeline)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    given: list[torch.Tensor] = []

    def watched(**arguments: Any) -> Any:
        given.append(arguments["latents"])
        return pipeline(**arguments | {"height": 32, "width": 32, "num_inference_steps": 2})

    torch.manual_seed(0)
    scope: dict[str, Any] = {"pipeline": watched}
    exec(recipe, scope)
    assert len(scope["images"]) == 4
    best = load_file(out / "refined_noise.safetensors")["best.0"]
    near = torch.nn.functional.cosine_similarity(given[0].flatten(1), best.flatten()[None])
    assert (near > 0.98).all()
    assert abs(float(given[0].std()) - float(best.std())) < 0.05


def load_node(folder: Path) -> Any:
    """The node of an export, imported as ComfyUI does: a package at a path."""
    spec = importlib.util.spec_from_file_location(folder.name, folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(module.NODE_CLASS_MAPPINGS) == set(module.NODE_DISPLAY_NAME_MAPPINGS)
    (node,) = module.NODE_CLASS_MAPPINGS.values()
    return node


def test_the_comfyui_node_gives_noise_near_the_refined_one(run: Path, tmp_path: Path) -> None:
    out = export(run, "comfyui", tmp_path / "hand")
    assert "custom_nodes" in (out / "README.md").read_text()
    node = load_node(out)
    assert node.RETURN_TYPES == ("NOISE",)
    asked = node.INPUT_TYPES()["required"]
    assert asked["prompt"] == (["1 hand"],)
    assert asked["near"][1]["default"] == 0.1
    best = load_file(run / "refined_noise.safetensors")["best.0"].float()
    (noise,) = getattr(node(), node.FUNCTION)("1 hand", 0.1, 7)
    assert noise.seed == 7
    given = noise.generate_noise({"samples": torch.zeros(3, *best.shape)})
    near = torch.nn.functional.cosine_similarity(given.flatten(1), best.flatten()[None])
    assert (near > 0.98).all()
    assert (near < 1).all()
    assert not torch.equal(given[0], given[1])
    assert torch.equal(given, noise.generate_noise({"samples": torch.ones(3, *best.shape)}))
    (itself,) = node().make("1 hand", 0.0, 1)
    assert torch.equal(itself.generate_noise({"samples": torch.zeros(1, *best.shape)})[0], best)
    with_frames = itself.generate_noise({"samples": torch.zeros(2, len(best), 1, *best.shape[1:])})  # Qwen-Image's
    assert torch.equal(with_frames[1, :, 0], best)
    with pytest.raises(
        ValueError, match=r"the refined noise is for latents of \(4, 8, 8\), and this one has \(4, 9, 8\)"
    ):
        itself.generate_noise({"samples": torch.zeros(1, 4, 9, 8)})


def test_the_comfyui_node_offers_the_prompts_that_have_a_best_image(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    noises = {"best.1": torch.ones(4, 8, 8), "good.0": torch.zeros(1, 4, 8, 8)}
    save_file(noises, tmp_path / "run" / "refined_noise.safetensors")
    config = (tmp_path / "run" / "config.toml").read_text()
    prompt = 'prompts = [\n    "1 hand",\n]'
    assert prompt in config
    strange = 'a "blue" rose \u2028'
    (tmp_path / "run" / "config.toml").write_text(
        config.replace(prompt, f"prompts = [{json.dumps('1 hand')}, {json.dumps(strange)}]")
    )
    node = load_node(export(tmp_path / "run", "comfyui", tmp_path / "node"))
    assert node.INPUT_TYPES()["required"]["prompt"] == ([strange],)
    (noise,) = node().make(strange, 0.0, 0)
    assert torch.equal(noise.generate_noise({"samples": torch.zeros(1, 4, 8, 8)}), torch.ones(1, 4, 8, 8))
    (tmp_path / "run" / "refined_noise.safetensors").unlink()
    with pytest.raises(RunError, match="run has no refined noise; it comes with the first best image"):
        export(tmp_path / "run", "comfyui", tmp_path / "other")
    with pytest.raises(ConfigError, match=r"--weight 0\.5: a comfyui export holds noise and no LoRA"):
        export(run, "comfyui", tmp_path / "other", weight=0.5)
    assert not (tmp_path / "other").exists()


# ---------------------------------------------------------------------------------------------- while a run goes on


def test_the_newest_lora_is_published_and_older_ones_of_the_run_go(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "my-run-r0000.safetensors"  # the user's, although it is called like one of the run's
    save_file({"a": torch.ones(1)}, mine)
    publisher = Publisher(run, tmp_path, keep=2)
    for round_ in (1, 2, 3, 3):
        assert publisher(round_) == tmp_path / f"my-run-r{round_:04d}.safetensors"
    kept = {f"my-run-r{k:04d}{end}" for k in (2, 3) for end in (".safetensors", ".md", ".json", ".preview.png")}
    assert {p.name for p in tmp_path.iterdir()} == kept | {mine.name}
    with pytest.raises(ConfigError, match=r"--publish .*nowhere: there is no such folder"):
        Publisher(run, tmp_path / "nowhere", keep=2)


def test_training_publishes_each_round_and_goes_on_without(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    folder = tmp_path / "loras"
    folder.mkdir()
    said = io.StringIO()
    console = Console(file=said, width=400)
    run = tmp_path / "a-run"
    tuner = Tuner(tiny_config(rounds=2), run)
    publish = publisher_of(run, folder, 1, console)
    assert publish is not None

    def evaluate(batch: ImageBatch) -> Feedback:
        if tuner.round == 2:
            assert (folder / "a-run-r0001.safetensors").is_file()
            (folder / "a-run-r0002.md").write_text("mine")  # in the way of the next one
        return Feedback.from_good(batch, batch.ids[::2], batch.ids[2])

    history = train_to_end(tuner, evaluate, console, publish)
    assert history is not None
    assert len(history) == 2
    assert "published" in said.getvalue()
    assert "not published: " in said.getvalue()
    assert (folder / "a-run-r0001.safetensors").is_file()
    assert publisher_of(run, None, 1, console) is None


# ---------------------------------------------------------------------------------------------- what it refuses


def test_bad_requests_say_what_to_do(run: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    (tmp_path / "taken.safetensors").write_text("mine")
    for ending in (".md", ".json", ".preview.png"):
        (tmp_path / f"cup{ending}").write_text("mine")
        with pytest.raises(RunError, match=f"cup{re.escape(ending)} exists; choose another --out"):
            export(run, "kohya", tmp_path / "cup.safetensors")
        assert (tmp_path / f"cup{ending}").read_text() == "mine"
        (tmp_path / f"cup{ending}").unlink()
    cases: list[tuple[str, Path, str]] = [
        ("onnx", tmp_path / "x", "unknown format 'onnx'.*comfyui, diffusers, fused, kohya"),
        ("kohya", tmp_path / "x", "ends in .safetensors"),
        ("kohya", tmp_path / "taken.safetensors", "exists; choose another --out"),
        ("diffusers", taken, "not an empty folder"),
    ]
    for format_, out, said in cases:
        with pytest.raises(HeroError, match=said):
            export(run, format_, out)
    with pytest.raises(RunError, match="there is no run"):
        export(tmp_path / "nothing", "diffusers", tmp_path / "x")
    assert {p.name for p in tmp_path.iterdir()} == {"taken", "taken.safetensors"}


def test_the_folder_where_one_is_can_be_filled_if_it_is_empty(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export(run, "diffusers", ".")
    assert Path("pytorch_lora_weights.safetensors").is_file()  # still the folder where the user is
    with pytest.raises(RunError, match=r"^\. exists and is not an empty folder"):
        export(run, "diffusers", ".")
    with pytest.raises(ConfigError, match=r"--out \.: kohya is one file"):
        export(run, "kohya", ".")


@pytest.mark.parametrize("format_", OF_ANY_RUN)
def test_a_disk_that_is_full_or_may_not_be_written_ends_in_a_sentence(
    format_: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write after the first fails: what the disk says when it is full."""
    opened = []

    def full(real: Callable[..., Any]) -> Callable[..., Any]:
        def opening(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
            if "w" in mode and tmp_path in Path(file).parents:
                opened.append(file)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(file, mode, *arguments, **named)

        return opening

    monkeypatch.setattr(Path, "open", full(Path.open))
    monkeypatch.setattr(builtins, "open", full(open))  # as diffusers writes
    out = tmp_path / ("x.safetensors" if format_ == "kohya" else "x")
    with pytest.raises(RunError, match=rf"cannot write {re.escape(str(out))}: No space left on device; choose"):
        export(run, format_, out)
    assert opened
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*: (File exists|Not a directory); choose"):
        export(run, format_, tmp_path / "file" / out.name)
    for made in (tmp_path / "file").parent.iterdir():
        assert made.name == "file"


def test_the_command_prints_where_it_wrote(run: Path, tmp_path: Path) -> None:
    def hero(*arguments: str | Path) -> Any:
        return CliRunner().invoke(app, ["export", *map(str, arguments)])

    done = hero(run, "--format", "kohya", "--out", tmp_path / "deep" / "my.safetensors")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(tmp_path / "deep" / "my.safetensors")
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == [
        "my.json",
        "my.md",
        "my.preview.png",
        "my.safetensors",
    ]
    again = hero(run, "--format", "kohya", "--out", tmp_path / "deep" / "my.safetensors")
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)


def test_a_lora_file_that_is_not_of_the_newest_checkpoint_is_refused(run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    file = run / "lora" / "pytorch_lora_weights.safetensors"
    with safe_open(file, framework="pt") as opened:
        about = opened.metadata()
    save_file({key: value + 1 for key, value in load_file(file).items()}, file, metadata=about)
    with pytest.raises(RunError, match=r"older than the newest checkpoint; `hero resume .*` writes it again"):
        export(run, "diffusers", tmp_path / "x")
    file.unlink()
    with pytest.raises(RunError, match="cannot read"):
        export(run, "kohya", tmp_path / "x.safetensors")
