"""The LoRA file in diffusers' layout: every reader applies it alike, whether or not it knows the adapter's metadata."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hero.bench.miniatures import MINIATURES, save_miniature
from hero.config import LoraConfig
from hero.errors import RunError
from hero.export.kohya import kohya_tensors
from hero.policies import family_of
from hero.policies.lora import add_lora, load_lora_state_dict, lora_state_dict, save_lora
from hero.policies.lora_file import LORA_NAME, LoraFile, read_lora_file, scaled, write_lora_file, write_sorted

KOHYA_IN_DIFFUSERS = {"stable-diffusion", "stable-diffusion-v", "sdxl", "qwen-image", "flux-2-klein"}
"""Those whose kohya file diffusers loads at any width; FLUX.1's it loads at the real model's alone."""

NOT_IN_DIFFUSERS = {"sd3"}
"""Those of whose kohya file it leaves out something, with at most a warning."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniatures")
    for name in MINIATURES:
        save_miniature(name, folder / name)
    return folder


def trained(pipeline: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """The denoiser with a random LoRA of rank 2 and alpha 5 on every kind of layer, and what is to be added to each."""
    family = family_of(type(pipeline).__name__)
    denoiser = getattr(pipeline, family.denoiser)
    add_lora(denoiser, LoraConfig(rank=2, alpha=5.0, layers=tuple(family.layers)), family.layers, seed=0)
    source = torch.Generator().manual_seed(0)
    state = {key: torch.randn(value.shape, generator=source) for key, value in lora_state_dict(denoiser).items()}
    load_lora_state_dict(denoiser, state)
    return denoiser, updates(state, 5.0 / 2)


def updates(lora: dict[str, torch.Tensor], factor: float = 1.0) -> dict[str, torch.Tensor]:
    """Layer → factor·B·A."""
    layers = {key.rsplit(".lora_", 1)[0] for key in lora}
    pairs = {layer: [lora[f"{layer}.lora_{side}.weight"].flatten(1) for side in "BA"] for layer in layers}
    return {layer: factor * up @ down for layer, (up, down) in pairs.items()}


def apply_by_the_library(folder: Path, file: Path) -> dict[str, torch.Tensor]:
    """What diffusers' own loader adds to each layer of the pipeline in `folder`."""
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(file)
    denoiser = getattr(pipeline, family_of(type(pipeline).__name__).denoiser)
    found: dict[str, torch.Tensor] = {}
    for name, module in denoiser.named_modules():
        if getattr(module, "scaling", None):
            (adapter,) = module.scaling
            up, down = (getattr(module, f"lora_{side}")[adapter].weight.detach().flatten(1) for side in "BA")
            found[name] = module.scaling[adapter] * up @ down
    return found


@pytest.mark.parametrize("name", list(MINIATURES))
def test_files_of_every_family_need_no_metadata_to_be_applied_as_trained(
    name: str, place: Path, tmp_path: Path
) -> None:
    pipeline = DiffusionPipeline.from_pretrained(place / name)
    denoiser, wanted = trained(pipeline)
    file = save_lora(denoiser, tmp_path / "lora")
    assert file.name == LORA_NAME
    with safe_open(file, framework="pt") as opened:
        about = json.loads(opened.metadata()["lora_adapter_metadata"])
    (alpha,), (rank,) = ([v for k, v in about.items() if k.endswith(end)] for end in (".lora_alpha", ".r"))
    assert alpha == rank == 2
    torch.testing.assert_close(updates(read_lora_file(file).lora), wanted)

    save_file(load_file(file), bare := tmp_path / "bare.safetensors")  # as a reader that knows only tensors has it
    for given in (file, bare):
        torch.testing.assert_close(apply_by_the_library(place / name, given), wanted)

    tensors = kohya_tensors(read_lora_file(file).lora, rank, type(pipeline).__name__, denoiser.config)
    for key, value in tensors.items():
        if key.endswith(".alpha"):
            assert float(value) == len(tensors[key.replace(".alpha", ".lora_down.weight")])
    write_sorted(tensors, kohya := tmp_path / "kohya.safetensors", {})
    if name in NOT_IN_DIFFUSERS:  # cards do not say that it loads
        assert len(apply_by_the_library(place / name, kohya)) < len(wanted)
    if name in KOHYA_IN_DIFFUSERS:
        torch.testing.assert_close(apply_by_the_library(place / name, kohya), wanted, atol=1e-4, rtol=1e-5)


def test_attention_of_a_unet_has_the_names_that_comfyui_and_forge_look_up(place: Path, tmp_path: Path) -> None:
    """Their maps: `.to_` becomes `.processor.to_`, and `to_out.0` becomes `to_out` (comfy/lora.py)."""
    denoiser, _ = trained(DiffusionPipeline.from_pretrained(place / "sdxl"))
    names = set(load_file(save_lora(denoiser, tmp_path)))
    block = "unet.mid_block.attentions.0.transformer_blocks.0"
    for part in ("to_q", "to_k", "to_v", "to_out"):
        assert f"{block}.attn1.processor.{part}_lora.down.weight" in names
        assert f"{block}.attn2.processor.{part}_lora.up.weight" in names
    assert f"{block}.ff.net.2.lora.up.weight" in names
    assert not any(re.search(r"lora_[AB]|to_out\.0", name) for name in names)


def test_a_file_with_another_alpha_or_peft_names_is_read_as_it_is_meant(tmp_path: Path) -> None:
    """As version 0.1 wrote them."""
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    lora = {f"{layer}.lora_A.weight": torch.randn(2, 3), f"{layer}.lora_B.weight": torch.randn(4, 2)}
    about = {"unet.r": 2, "unet.lora_alpha": 6.0}
    tensors = {f"unet.{key}": value for key, value in lora.items()}
    save_file(tensors, tmp_path / "old", metadata={"lora_adapter_metadata": json.dumps(about)})
    found = read_lora_file(tmp_path / "old")
    assert (found.component, found.rank) == ("unet", 2)
    torch.testing.assert_close(updates(found.lora), updates(lora, 3.0))
    write_lora_file(found, tmp_path / "new")
    again = read_lora_file(tmp_path / "new")
    assert again.lora.keys() == found.lora.keys()
    assert all(torch.equal(again.lora[key], found.lora[key]) for key in found.lora)


def test_equal_loras_give_equal_bytes_and_a_broken_file_is_told(tmp_path: Path) -> None:
    lora = {"a.lora_A.weight": torch.ones(1, 2), "a.lora_B.weight": torch.ones(2, 1)}
    content = LoraFile("transformer", lora, {"r": 1, "b": None, "a": ["x"]})
    for name in ("one", "two"):
        write_lora_file(content, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    (tmp_path / "bad").write_bytes((tmp_path / "one").read_bytes()[:40])
    save_file(lora, tmp_path / "bare")
    for name in ("bad", "bare", "none"):
        with pytest.raises(RunError, match=f"cannot read .*{name}"):
            read_lora_file(tmp_path / name)


def test_a_weaker_lora_has_a_weaker_update_and_full_weight_changes_no_bit() -> None:
    lora = {"a.lora_A.weight": torch.randn(2, 3), "a.lora_B.weight": torch.randn(4, 2)}
    torch.testing.assert_close(updates(scaled(lora, 0.8)), updates(lora, 0.8))
    assert all(torch.equal(scaled(lora, 1.0)[key], lora[key]) for key in lora)
