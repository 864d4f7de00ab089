"""A run that starts from somebody else's LoRA: every layout is read whole, and what is trained on is that file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from conftest import TINY, randomise_lora
from hero import Feedback, Tuner
from hero.bench.miniatures import MINIATURES, save_miniature
from hero.cli import app
from hero.config import Config, LoraConfig, load_toml, merge
from hero.errors import ConfigError, ModelError
from hero.export import export
from hero.export.kohya import kohya_encoder_tensors, kohya_tensors
from hero.methods import configure
from hero.policies import Policy, family_of, load_policy
from hero.policies.fusing import by_name
from hero.policies.lora import add_lora, load_lora_state_dict, lora_state_dict, save_lora
from hero.policies.lora_file import encoder_parts, read_lora_file
from hero.policies.lora_start import Pairs, StartLora, read_start
from hero.policies.original import ORIGINAL, swapped_rows
from hero.trained import TrainedRun

RANK, ALPHA = 2, 5.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniatures")
    for name in MINIATURES:
        save_miniature(name, folder / name)
    return folder


def random_lora(pipeline: Any) -> dict[str, torch.Tensor]:
    """Puts a LoRA on every kind of layer of the denoiser; returns its matrices under PEFT's names."""
    family = family_of(type(pipeline).__name__)
    denoiser = getattr(pipeline, family.denoiser)
    add_lora(denoiser, LoraConfig(rank=RANK, alpha=ALPHA, layers=tuple(family.layers)), family.layers, seed=0)
    source = torch.Generator().manual_seed(0)
    state = {key: torch.randn(value.shape, generator=source) for key, value in lora_state_dict(denoiser).items()}
    load_lora_state_dict(denoiser, state)
    return state


def products(pairs: Pairs, factor: float = 1.0) -> dict[str, torch.Tensor]:
    return {layer: factor * up.flatten(1) @ down.flatten(1) for layer, (down, up) in pairs.items()}


def pairs_of(state: dict[str, torch.Tensor]) -> Pairs:
    layers = {key.rsplit(".lora_", 1)[0] for key in state}
    return {layer: (state[f"{layer}.lora_A.weight"], state[f"{layer}.lora_B.weight"]) for layer in layers}


def comfy_tensors(state: dict[str, torch.Tensor], family: str, config: Any) -> dict[str, torch.Tensor]:
    """As trainers for ComfyUI write it: the original layers, dotted, q, k and v with one A between them."""
    tensors: dict[str, torch.Tensor] = {}
    for layer, (down, up) in pairs_of(state).items():
        place = ORIGINAL[family](layer, config)
        if place.shares == (1,):
            tensors[f"diffusion_model.{place.name}.lora_A.weight"] = down
            tensors[f"diffusion_model.{place.name}.lora_B.weight"] = swapped_rows(up, place)
            tensors[f"diffusion_model.{place.name}.alpha"] = torch.tensor(ALPHA)
    return tensors


@pytest.mark.parametrize("name", list(MINIATURES))
def test_every_layout_of_every_family_is_read_as_it_is_meant(name: str, place: Path, tmp_path: Path) -> None:
    pipeline, fresh = (DiffusionPipeline.from_pretrained(place / name) for _ in range(2))
    state, kind = random_lora(pipeline), type(pipeline).__name__
    component = family_of(kind).denoiser
    denoiser = getattr(pipeline, component)
    wanted = products(pairs_of(state), ALPHA / RANK)

    def read(tensors: dict[str, torch.Tensor] | Path, metadata: dict[str, str] | None = None) -> StartLora:
        file = tensors if isinstance(tensors, Path) else tmp_path / "given.safetensors"
        if not isinstance(tensors, Path):
            save_file({k: v.contiguous() for k, v in tensors.items()}, file, metadata)
        return read_start(file, fresh, component)

    ours = read(save_lora(denoiser, tmp_path / "ours"))
    torch.testing.assert_close(products(ours.denoiser, ours.ratio), wanted)
    kohya = read(kohya_tensors(state, ALPHA, kind, denoiser.config))
    torch.testing.assert_close(products(kohya.denoiser, kohya.ratio), wanted)
    assert (kohya.rank, kohya.ratio) == (RANK, ALPHA / RANK)  # also where q, k and v are one layer there
    about = {f"{component}.r": RANK, f"{component}.lora_alpha": ALPHA}
    peft = read({f"{component}.{k}": v for k, v in state.items()}, {"lora_adapter_metadata": json.dumps(about)})
    torch.testing.assert_close(products(peft.denoiser, peft.ratio), wanted)
    assert (peft.rank, peft.ratio) == (RANK, ALPHA / RANK)
    bare = read({f"base_model.model.{k}": v for k, v in state.items()})  # alpha is the rank where nothing says it
    torch.testing.assert_close(products(bare.denoiser, bare.ratio), products(pairs_of(state)))
    comfy = comfy_tensors(state, kind, denoiser.config)
    read_back = read(comfy)
    torch.testing.assert_close(
        products(read_back.denoiser, read_back.ratio), {layer: wanted[layer] for layer in read_back.denoiser}
    )
    assert len(read_back.denoiser) == sum(key.endswith(".alpha") for key in comfy) > 0


def test_one_lora_on_q_k_and_v_together_is_one_on_each(place: Path, tmp_path: Path) -> None:
    fresh = DiffusionPipeline.from_pretrained(place / "flux")
    down, up = torch.randn(3, 32), torch.randn(96, 3)
    save_file(
        {
            "diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight": down,
            "diffusion_model.double_blocks.0.img_attn.qkv.lora_B.weight": up,
        },
        tmp_path / "x.safetensors",
    )
    found = read_start(tmp_path / "x.safetensors", fresh, "transformer")
    assert sorted(found.denoiser) == [f"transformer_blocks.0.attn.to_{x}" for x in "kqv"]
    whole = torch.cat([products(found.denoiser)[f"transformer_blocks.0.attn.to_{x}"] for x in "qkv"])
    torch.testing.assert_close(whole, up @ down)


def test_layers_outside_the_blocks_have_their_names(place: Path, tmp_path: Path) -> None:
    """LoRAs with convolutions have what halves and doubles the picture, and the time embeddings, too."""
    fresh = DiffusionPipeline.from_pretrained(place / "sdxl")
    shapes = {
        "input_blocks_2_0_op": (16, 16, 3),
        "output_blocks_1_2_conv": (32, 32, 3),
        "input_blocks_1_0_emb_layers_1": (16, 64, 0),
        "time_embed_0": (64, 16, 0),
        "label_emb_0_0": (64, 64, 0),
        "out_2": (4, 16, 3),
    }
    tensors = {}
    for name, (out, in_, kernel) in shapes.items():
        size = (kernel, kernel) if kernel else ()
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.randn(2, in_, *size)
        tensors[f"lora_unet_{name}.lora_up.weight"] = torch.randn(out, 2, *((1, 1) if kernel else ()))
    save_file(tensors, tmp_path / "x.safetensors")
    assert set(read_start(tmp_path / "x.safetensors", fresh, "unet").denoiser) == {
        "down_blocks.0.downsamplers.0.conv",
        "up_blocks.0.upsamplers.0.conv",
        "down_blocks.0.resnets.0.time_emb_proj",
        "time_embedding.linear_1",
        "add_embedding.linear_1",
        "conv_out",
    }


LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({f"{LAYER}.lora_A.weight": (2, 5), f"{LAYER}.lora_B.weight": (32, 2)}, "is for a layer"),
        ({f"{LAYER}.lora_A.weight": (2, 64)}, "only half"),
        ({f"{LAYER}.lora_A.weight": (2, 64), f"{LAYER}.dora_scale": (64,)}, "DoRA"),
        ({"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": (2, 2)}, "LoHa"),
        ({"lora_unet_mid_block_attentions_0_proj_in.lokr_w1": (2, 2)}, "LoKr"),
        (
            {"transformer.blocks.9.x.lora_A.weight": (2, 2), "transformer.blocks.9.x.lora_B.weight": (2, 2)},
            "another model",
        ),
        ({"model.weight": (2, 2)}, "no LoRA that is known"),
    ],
)
def test_what_cannot_be_used_whole_is_refused(
    tensors: dict[str, tuple[int, ...]], said: str, random_pipeline: Path, tmp_path: Path
) -> None:
    save_file({key: torch.ones(shape) for key, shape in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match=said):
        read_start(tmp_path / "x.safetensors", DiffusionPipeline.from_pretrained(random_pipeline), "unet")


def test_a_pickle_and_a_missing_file_are_refused(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    for name, said in (("style.pt", "convert it to .safetensors"), ("none.safetensors", "cannot read the LoRA")):
        with pytest.raises(ModelError, match=said):
            load_policy(tiny_config(lora={"start": str(tmp_path / name)}))
    with pytest.raises(ConfigError, match="nothing to merge"):
        tiny_config(lora={"merge_start": True})


# ---------------------------------------------------------------------------------------------- runs


def miniature_config(folder: Path, **stages: Any) -> Config:
    sampling = {"height": 64, "width": 64, "images_per_round": 4, "num_steps": 4, "eta": 0.7, "guidance_scale": 3.0}
    values = merge(TINY, {"sampling": sampling}, stages)
    return configure(prompts=("1 hand",), model=str(folder), rounds=1, settings=values)


@pytest.fixture(scope="module")
def style(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in kohya's layout for the miniature of SDXL, with parts on both text encoders, of two ranks."""
    pipeline = DiffusionPipeline.from_pretrained(place / "sdxl")
    kind, source = type(pipeline).__name__, torch.Generator().manual_seed(1)
    state = {key: 0.1 * value for key, value in random_lora(pipeline).items()}
    encoders: dict[str, Pairs] = {}
    for component in ("text_encoder", "text_encoder_2"):
        names = [n for n, m in getattr(pipeline, component).named_modules() if n.endswith(("_proj", ".fc1"))]
        for k, layer in enumerate(names):
            weight = getattr(pipeline, component).get_submodule(layer).weight
            rank = 1 + k % 2
            pair = [
                0.3 * torch.randn(size, generator=source) for size in ((rank, weight.shape[1]), (len(weight), rank))
            ]
            encoders.setdefault(component, {})[layer] = (pair[0], pair[1])
    tensors = kohya_tensors(state, 1.5, kind, pipeline.unet.config)
    tensors |= kohya_encoder_tensors(encoder_parts(encoders), kind)
    file = tmp_path_factory.mktemp("loras") / "style.safetensors"
    save_file(tensors, file)
    return file


def latents_of(policy: Policy) -> torch.Tensor:
    """What the policy's denoiser says of one noise, under one of the prompts."""
    rows = policy.encode(["1 hand"]).rows(torch.zeros(2, dtype=torch.int64))
    noise = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return policy.predict(noise, torch.tensor([0.3, 0.9]), rows, guided=True)


def library_policy(folder: Path, *files: Path, fused: bool = False) -> torch.Tensor:
    """The same of a plain pipeline that has loaded `files` with its own loader."""
    policy: Any = load_policy(miniature_config(folder))
    policy.denoiser.delete_adapters("default")
    policy._adapter = "current"
    for k, file in enumerate(files):
        policy.pipeline.load_lora_weights(file, adapter_name=f"a{k}")
    policy.pipeline.set_adapters([f"a{k}" for k in range(len(files))])
    return latents_of(policy)


def test_a_policy_starts_as_the_library_s_loader_would_have_it(place: Path, style: Path, tmp_path: Path) -> None:
    wanted = library_policy(place / "sdxl", style)
    plain = latents_of(load_policy(miniature_config(place / "sdxl")))
    assert not torch.allclose(plain, wanted, atol=1e-2)
    policy = load_policy(miniature_config(place / "sdxl", lora={"start": str(style)}))
    assert (policy.lora.rank, policy.lora.alpha) == (RANK, 1.5)
    assert "rank 2, alpha 1.5" in policy.starts[0]
    torch.testing.assert_close(latents_of(policy), wanted, atol=1e-4, rtol=1e-4)
    randomise_lora(policy, 0.1)
    with policy.using("base"):  # the start, whatever was learnt
        torch.testing.assert_close(latents_of(policy), wanted, atol=1e-4, rtol=1e-4)
    trained = latents_of(policy)
    assert not torch.allclose(trained, wanted, atol=1e-2)
    torch.testing.assert_close(
        library_policy(place / "sdxl", policy.save_lora(tmp_path)), trained, atol=1e-4, rtol=1e-4
    )

    merged = load_policy(miniature_config(place / "sdxl", lora={"start": str(style), "merge_start": True}))
    torch.testing.assert_close(latents_of(merged), wanted, atol=1e-4, rtol=1e-4)
    assert merged.lora.rank == TINY["lora"]["rank"]
    randomise_lora(merged, 0.1)
    with merged.using("base"):
        torch.testing.assert_close(latents_of(merged), wanted, atol=1e-4, rtol=1e-4)
    both = library_policy(place / "sdxl", style, merged.save_lora(tmp_path))
    torch.testing.assert_close(both, latents_of(merged), atol=1e-4, rtol=1e-4)


def test_only_the_trained_lora_gets_gradients_and_the_old_one_follows_it(place: Path, style: Path) -> None:
    policy: Any = load_policy(miniature_config(place / "sdxl", lora={"start": str(style)}))
    with policy.using("base"):
        assert not any(p.requires_grad for p in policy.denoiser.parameters())
    trained = {id(p) for p in policy.parameters()}
    assert {id(p) for p in policy.denoiser.parameters() if p.requires_grad} == trained
    policy.add_adapter("old")
    randomise_lora(policy, 0.1)
    with policy.using("old"), policy.using("base"):
        begun = latents_of(policy)
    with policy.using("old"):
        torch.testing.assert_close(latents_of(policy), begun)


@pytest.mark.parametrize("merged", [False, True], ids=["trained-on", "merged"])
def test_a_run_needs_the_file_once_and_its_exports_have_the_whole(
    merged: bool, place: Path, style: Path, tmp_path: Path
) -> None:
    given = Path(shutil.copy(style, tmp_path / "given.safetensors"))
    config = miniature_config(place / "sdxl", lora={"start": str(given), "merge_start": merged})
    with Tuner(config, tmp_path / "run") as tuner:
        tuner.run(lambda batch: Feedback.from_good(batch, batch.ids[:2], batch.ids[0]))
        randomise_lora(tuner.policy, 0.1)
        tuner.learner.save()
        tuner.learner.publish()
        wanted = latents_of(tuner.policy)
    given.unlink()
    run = tmp_path / "moved"
    shutil.move(tmp_path / "run", run)
    kept = load_toml(run / "config.toml")["lora"]
    assert kept["rank"] == RANK
    assert (run / "start_lora.safetensors").read_bytes() == style.read_bytes()
    if not merged:
        assert kept["alpha"] == 1.5
    trained = TrainedRun(run)
    torch.testing.assert_close(latents_of(trained.policy), wanted, atol=0, rtol=0)
    with trained.policy.frozen():
        torch.testing.assert_close(
            latents_of(trained.policy), library_policy(place / "sdxl", style), atol=1e-4, rtol=1e-4
        )
    with pytest.raises(ConfigError, match=r"lora\.start cannot change"):
        Tuner.resume(run, {"lora": {"start": str(style)}})
    Tuner.resume(run).close()

    export(run, "diffusers", tmp_path / "diffusers")
    export(run, "kohya", tmp_path / "one.safetensors")
    export(run, "fused", tmp_path / "fused")
    beside = [style] if merged else []
    for file in (tmp_path / "diffusers" / "pytorch_lora_weights.safetensors", tmp_path / "one.safetensors"):
        torch.testing.assert_close(library_policy(place / "sdxl", *beside, file), wanted, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        latents_of(load_policy(miniature_config(tmp_path / "fused"))), wanted, atol=1e-4, rtol=1e-4
    )
    card = (tmp_path / "diffusers" / "README.md").read_text()
    assert ("must be combined" in card) == merged
    assert ("holds the whole of it" in card) == (not merged)
    assert (tmp_path / "diffusers" / "start_lora.safetensors").is_file() == merged
    assert ("pipeline.fuse_lora()" in card) == merged
    if not merged:
        export(run, "fused", tmp_path / "none", weight=0.0)
        plain = latents_of(load_policy(miniature_config(place / "sdxl")))
        again = latents_of(load_policy(miniature_config(tmp_path / "none")))
        torch.testing.assert_close(again, plain, atol=1e-5, rtol=1e-5)


def test_layers_of_lower_rank_are_padded_and_learn_like_the_others(place: Path, tmp_path: Path) -> None:
    pipeline = DiffusionPipeline.from_pretrained(place / "flux")
    layers = {"proj_out": (1, 3.0), "single_transformer_blocks.0.proj_out": (3, 3.0), "x_embedder": (2, 1.0)}
    tensors: dict[str, torch.Tensor] = {}
    wanted: dict[str, torch.Tensor] = {}
    for layer, (rank, alpha) in layers.items():
        weight = pipeline.transformer.get_submodule(layer).weight
        down, up = torch.randn(rank, weight.shape[1]), torch.randn(len(weight), rank)
        key = f"lora_transformer_{layer.replace('.', '_')}"
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
        wanted[layer] = alpha / rank * up @ down
    save_file(tensors, tmp_path / "x.safetensors")
    policy = load_policy(miniature_config(place / "flux", lora={"start": str(tmp_path / "x.safetensors")}))
    assert (policy.lora.rank, policy.lora.alpha) == (3, 3.0)
    state = pairs_of(policy.state_dict())
    torch.testing.assert_close(products(state), wanted)  # and on no other layer, though one's name ends in another's
    down, up = state["proj_out"]
    assert down[1:].abs().min() > 0
    assert up[:, 1:].abs().max() == 0
    file = read_lora_file(policy.save_lora(tmp_path / "saved"))
    torch.testing.assert_close(products(pairs_of(file.lora)), wanted)
    torch.testing.assert_close(by_name(pairs_of(file.lora)), file.lora)


def test_the_command_takes_a_lora_and_says_what_it_is(random_pipeline: Path, tmp_path: Path) -> None:
    lora = {"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight": torch.randn(3, 96)}
    lora |= {key.replace("lora_A", "lora_B"): torch.randn(96, 3) for key in lora}
    save_file(lora, tmp_path / "style.safetensors")
    command = ["train", "--model", str(random_pipeline), "--prompt", "1 hand", "--evaluator", "test_cli:every_other"]
    command += [
        "--rounds",
        "1",
        "--no-evaluate",
        "--out",
        str(tmp_path / "run"),
        "--lora",
        str(tmp_path / "style.safetensors"),
    ]
    for key in ("num_steps=5", "height=32", "width=32", "images_per_round=2"):
        command += ["--set", f"sampling.{key}"]
    result = CliRunner().invoke(app, [*command, "--merge-lora", "--json"])
    assert "is part of the base model" in result.output + (result.stderr or ""), result.output
    shutil.rmtree(tmp_path / "run")
    result = CliRunner().invoke(app, [*command, "--json"])
    assert "is trained on: rank 3, alpha 3, 1 layers" in " ".join((result.output + (result.stderr or "")).split())
    assert load_toml(tmp_path / "run" / "config.toml")["lora"]["rank"] == 3
    assert set(load_file(tmp_path / "run" / "start_lora.safetensors")) == set(lora)
