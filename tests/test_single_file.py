"""Models in one file, in the layout of their makers: taken as they are, and given back with what was learnt."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import TINY, randomise_lora
from hero import Feedback, Tuner
from hero.config import Config, ModelConfig, merge
from hero.errors import ConfigError, ModelError
from hero.export import export
from hero.methods import configure
from hero.model_index import check_single_file, pipeline_class
from hero.policies import Policy, load_policy
from hero.policies.fusing import by_name, fuse, stored_dtypes
from hero.policies.single_file import fuse_file
from hero.run import RunDirectory
from hero.run.model import fingerprint
from hero.trained import TrainedRun
from originals import distinct_pipeline, original_denoiser, original_tensors, write_original

FAMILIES = {"stable-diffusion": "stable-diffusion", "sdxl": "sdxl", "sd3": "sd3"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of each family NAME/, a pipeline folder; NAME.safetensors, the same as one file; NAME-small/, its small files."""
    folder = tmp_path_factory.mktemp("models")
    for name in FAMILIES:
        pipeline = distinct_pipeline(name)
        pipeline.save_pretrained(folder / name)
        write_original(pipeline, folder / f"{name}.safetensors")
        shutil.copytree(folder / name, folder / f"{name}-small", ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def config_of(model: Path, described: Path | None = None, **stages: Any) -> Config:
    sampling = {"height": 64, "width": 64, "images_per_round": 4, "num_steps": 4, "eta": 0.7, "guidance_scale": 3.0}
    own = {"config": None if described is None else str(described)}
    values = merge(TINY, {"sampling": sampling, "model": own}, stages)
    return configure(prompts=("1 hand",), model=str(model), rounds=1, settings=values)


def predicted(policy: Policy) -> torch.Tensor:
    rows = policy.encode(["1 hand"]).rows(torch.zeros(2, dtype=torch.int64))
    noise = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return policy.predict(noise, torch.tensor([0.3, 0.9]), rows, guided=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_one_file_is_the_model_that_its_folder_is(name: str, place: Path) -> None:
    config = config_of(place / f"{name}.safetensors", place / f"{name}-small")
    assert config.preset == FAMILIES[name]
    policy, same = load_policy(config), load_policy(config_of(place / name))
    torch.testing.assert_close(predicted(policy), predicted(same), atol=1e-5, rtol=1e-4)
    latents = torch.randn(1, *policy.latent_shape, generator=torch.Generator().manual_seed(1))
    assert policy.decode(latents)[0].tobytes() == same.decode(latents)[0].tobytes()


def test_names_of_flux_are_those_that_diffusers_takes_apart() -> None:
    """At the real model's width, for which diffusers' conversion is made; sizes alone, without memory."""
    with torch.device("meta"):
        denoiser = FluxTransformer2DModel(num_layers=2, num_single_layers=2, guidance_embeds=True)
    converted = convert_flux_transformer_checkpoint_to_diffusers(original_denoiser(denoiser, "FluxPipeline"))
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in denoiser.state_dict().items()}


def test_parts_that_a_file_lacks_come_from_the_configuration_s_folder(place: Path, tmp_path: Path) -> None:
    tensors = load_file(place / "sd3.safetensors")
    bare = {k: v for k, v in tensors.items() if not k.startswith("text_encoders.")}
    save_file(bare, tmp_path / "bare.safetensors")
    whole = load_policy(config_of(tmp_path / "bare.safetensors", place / "sd3"))
    torch.testing.assert_close(predicted(whole), predicted(load_policy(config_of(place / "sd3"))), atol=1e-5, rtol=1e-4)
    with pytest.raises(ModelError, match=r"it lacks text_encoder and text_encoder_2; set model\.config"):
        load_policy(config_of(tmp_path / "bare.safetensors", place / "sd3-small"))
    without = {k: v for k, v in tensors.items() if "t5xxl" not in k}
    save_file(without, tmp_path / "no-t5.safetensors")
    policy: Any = load_policy(config_of(tmp_path / "no-t5.safetensors", place / "sd3-small"))
    assert policy.pipeline.text_encoder_3 is None
    assert predicted(policy).isfinite().all()


def test_without_a_configuration_one_is_told_what_to_do(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"without a network, set model\.config to a pipeline folder"):
        load_policy(config_of(place / "sdxl.safetensors"))
    with pytest.raises(ModelError, match="there is no model folder"):
        load_policy(config_of(place / "sdxl.safetensors", tmp_path / "none"))
    with pytest.raises(ModelError, match=r"model\.config is for one-file models"):
        load_policy(config_of(place / "sdxl", place / "sdxl"))


def file_with(folder: Path, *names: str, ending: str = "safetensors") -> Path:
    file = folder / f"x.{ending}"
    save_file({name: torch.zeros(2, 2) for name in names}, file)
    return file


UNET = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ((UNET, "cond_stage_model.x"), "StableDiffusionPipeline"),
        ((UNET,), "StableDiffusionPipeline"),
        ((UNET, "conditioner.embedders.0.x", "conditioner.embedders.1.x"), "StableDiffusionXLPipeline"),
        ((UNET, "model.diffusion_model.label_emb.0.0.weight"), "StableDiffusionXLPipeline"),
        (("joint_blocks.0.x_block.attn.qkv.weight",), "StableDiffusion3Pipeline"),
        (("model.diffusion_model.double_blocks.0.img_attn.qkv.weight",), "FluxPipeline"),
        (("double_blocks.0.img_attn.qkv.weight", "vae.x"), "FluxPipeline"),
    ],
)
def test_a_file_is_told_by_the_names_of_its_tensors(names: tuple[str, ...], kind: str, tmp_path: Path) -> None:
    file = file_with(tmp_path, *names)
    assert check_single_file(file) == pipeline_class(str(file)) == kind


@pytest.mark.parametrize(
    ("names", "ending", "said"),
    [
        ((UNET,), "ckpt", "may run code when it is opened.*convert it to .safetensors"),
        ((UNET,), "pt", "convert it to .safetensors"),
        ((UNET,), "bin", "convert it to .safetensors"),
        ((UNET,), "gguf", "quantised"),
        (("scaled_fp8", "double_blocks.0.img_attn.qkv.weight"), "safetensors", "scaled 8-bit"),
        ((UNET, "conditioner.embedders.0.model.x"), "safetensors", "the refiner of Stable Diffusion XL, which is not"),
        (
            ("double_stream_modulation_img.lin.weight", "double_blocks.0.x"),
            "safetensors",
            r"FLUX\.2, which is not taken",
        ),
        (("cap_embedder.0.weight", "layers.0.x"), "safetensors", "Z-Image or Lumina, which is not taken"),
        (("txt_norm.weight", "img_in.weight", "transformer_blocks.0.x"), "safetensors", "Qwen-Image, which is not"),
        (("lora_unet_x.lora_down.weight",), "safetensors", "a LoRA goes to --lora"),
        (("conv_in.weight", "down_blocks.0.x"), "safetensors", "no whole model that is known here"),
    ],
)
def test_files_that_are_not_taken_say_why(names: tuple[str, ...], ending: str, said: str, tmp_path: Path) -> None:
    file = file_with(tmp_path, *names, ending=ending)
    with pytest.raises(ModelError, match=said):
        load_policy(config_of(file))


def test_a_damaged_and_a_missing_file_say_so(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 100)
    for file, said in (("x", "download it again"), ("none", "there is no model file")):
        with pytest.raises(ModelError, match=said):
            load_policy(config_of(tmp_path / f"{file}.safetensors"))


# ---------------------------------------------------------------------------------------------- and back


@pytest.mark.parametrize("name", [*FAMILIES, "flux"])
def test_a_lora_in_a_file_s_weights_is_the_one_in_the_pipeline_s(name: str, tmp_path: Path) -> None:
    """Every kind of layer, of text encoders too; in bf16 the same sums are rounded in the same way."""
    pipeline = distinct_pipeline(name).to(torch.bfloat16)
    component = "unet" if hasattr(pipeline, "unet") else "transformer"
    denoiser, source = getattr(pipeline, component), torch.Generator().manual_seed(0)

    def random_lora(module: Any, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
        pairs = {}
        for layer, each in module.named_modules():
            if isinstance(each, torch.nn.Linear | torch.nn.Conv2d) and wanted(layer):
                out, *rest = each.weight.shape
                down = 0.2 * torch.randn((2, *rest), generator=source)
                pairs[layer] = (down, 0.2 * torch.randn((out, 2, *[1] * (len(rest) - 1)), generator=source))
        return by_name(pairs)

    lora = {"": random_lora(denoiser, lambda layer: True)}
    if name != "flux":
        encoders = [n for n in ("text_encoder", "text_encoder_2") if getattr(pipeline, n, None) is not None]
        lora |= {n: random_lora(getattr(pipeline, n), lambda layer: "layers" in layer) for n in encoders}
    file = write_original(pipeline, tmp_path / "base.safetensors", torch.bfloat16)
    before = load_file(file)
    cost = fuse_file(file, tmp_path / "out.safetensors", lora, type(pipeline).__name__, denoiser.config, {"a": "b"})
    for part, matrices in lora.items():
        expected = fuse(getattr(pipeline, part or component), matrices, 1.0)
    wanted, found = original_tensors(pipeline), load_file(tmp_path / "out.safetensors")
    assert found.keys() == wanted.keys() == before.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value.reshape(found[key].shape)), key
    assert (cost.dtype, expected.dtype) == ("bfloat16", "bfloat16")
    assert 0 < cost.lost < 0.5
    with safe_open(tmp_path / "out.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"a": "b"}


def test_a_layer_that_the_file_lacks_is_named(tmp_path: Path) -> None:
    file = file_with(tmp_path, UNET)
    lora = {"": {"conv_out.lora_A.weight": torch.ones(1, 2), "conv_out.lora_B.weight": torch.ones(2, 1)}}
    with pytest.raises(ConfigError, match="has no weights of the denoiser's layer conv_out"):
        fuse_file(file, tmp_path / "out.safetensors", lora, "StableDiffusionPipeline", {"layers_per_block": 1}, {})


def test_a_run_on_one_file_gives_one_file_back(place: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "models").mkdir(parents=True)
    file = Path(shutil.copy(place / "sdxl.safetensors", project / "models" / "mine.safetensors"))
    small = Path(shutil.copytree(place / "sdxl-small", project / "models" / "small"))
    with Tuner(config_of(file, small), project / "run") as tuner:
        tuner.run(lambda batch: Feedback.from_good(batch, batch.ids[:2], batch.ids[0]))
        randomise_lora(tuner.policy, 0.1)
        tuner.learner.save()
        tuner.learner.publish()
        wanted = predicted(tuner.policy)
    run = project / "run"
    export(run, "single-file", tmp_path / "out.safetensors")
    export(run, "fused", tmp_path / "fused")
    export(run, "kohya", tmp_path / "lora.safetensors")
    again = load_policy(config_of(tmp_path / "out.safetensors", small))
    torch.testing.assert_close(predicted(again), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(predicted(load_policy(config_of(tmp_path / "fused"))), wanted, atol=1e-5, rtol=1e-5)
    export(run, "single-file", tmp_path / "b" / "out.safetensors")
    assert (tmp_path / "b" / "out.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()
    card = (tmp_path / "out.md").read_text()
    assert f'StableDiffusionXLPipeline.from_single_file("out.safetensors", config="{small}")' in card
    with safe_open(tmp_path / "out.safetensors", framework="pt") as opened:
        assert opened.metadata()["modelspec.title"] == "mine with run"

    kept = RunDirectory.open(run).config.model
    assert (kept.path, kept.config) == (str(file), str(small))
    shutil.move(project / "models", tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"there is no model file .*--set model\.path"):
        TrainedRun(run)
    moved = {"path": str(tmp_path / "elsewhere" / "mine.safetensors"), "config": str(tmp_path / "elsewhere" / "small")}
    Tuner.resume(run, {"model": moved}).close()
    torch.testing.assert_close(predicted(TrainedRun(run).policy), wanted, atol=0, rtol=0)
    before = fingerprint(ModelConfig(**moved))
    (tmp_path / "elsewhere" / "small" / "scheduler" / "scheduler_config.json").write_text("{}")
    assert fingerprint(ModelConfig(**moved)) != before
    shutil.move(tmp_path / "elsewhere" / "small", tmp_path / "changed")
    with pytest.raises(ConfigError, match="is another model"):
        Tuner.resume(run, {"model": {"config": str(tmp_path / "changed")}})


def test_a_folder_is_not_given_back_as_a_file_and_dtypes_are_the_file_s(
    place: Path, tmp_path: Path, tiny_config: Callable[..., Config]
) -> None:
    with Tuner(tiny_config(rounds=1), tmp_path / "run") as tuner:
        tuner.run(lambda batch: Feedback.from_good(batch, batch.ids[:2], batch.ids[0]))
    with pytest.raises(ConfigError, match="use --format fused"):
        export(tmp_path / "run", "single-file", tmp_path / "x.safetensors")
    write_original(distinct_pipeline("stable-diffusion"), tmp_path / "half.safetensors", torch.float16)
    assert stored_dtypes(ModelConfig(path=str(tmp_path / "half.safetensors"))) == {"default": torch.float16}
