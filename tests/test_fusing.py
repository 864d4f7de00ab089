"""Adding a LoRA to weights: the sum is exact in fp32, and what a lower precision costs is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hero.config import ModelConfig
from hero.policies.fusing import fuse, stored_dtypes


class Denoiser(torch.nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(64, 48).to(dtype)
        self.conv = torch.nn.Conv2d(8, 16, 3).to(dtype)
        self.other = torch.nn.Linear(8, 8).to(dtype)
        self.dtype = dtype


def lora(size: float) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    shapes = {"linear": ((4, 64), (48, 4)), "conv": ((4, 8, 3, 3), (16, 4, 1, 1))}
    return {
        f"{name}.lora_{side}.weight": size * torch.randn(shape, generator=source)
        for name, pair in shapes.items()
        for side, shape in zip("AB", pair, strict=True)
    }


def test_the_sum_is_the_lora_s_own_product() -> None:
    model, matrices = Denoiser(torch.float32), lora(0.1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, image = torch.randn(2, 64), torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        a, b = matrices["linear.lora_A.weight"], matrices["linear.lora_B.weight"]
        wanted = model.linear(x) + 0.5 * x @ a.T @ b.T
        down = torch.nn.functional.conv2d(image, matrices["conv.lora_A.weight"])
        drawn = model.conv(image) + 0.5 * torch.nn.functional.conv2d(down, matrices["conv.lora_B.weight"])
        cost = fuse(model, matrices, 0.5)
        torch.testing.assert_close(model.linear(x), wanted)
        torch.testing.assert_close(model.conv(image), drawn)
    assert torch.equal(model.other.weight, before["other.weight"])
    assert cost.dtype == "float32"
    assert cost.unchanged < 0.01
    assert cost.lost < 1e-3


def test_a_small_change_rounds_away_in_bfloat16_and_is_said_to() -> None:
    model, matrices = Denoiser(torch.bfloat16), lora(0.01)
    before = model.linear.weight.detach().clone()
    exact = before.float() + 0.5 * matrices["linear.lora_B.weight"] @ matrices["linear.lora_A.weight"]
    cost = fuse(model, matrices, 0.5)
    assert torch.equal(model.linear.weight, exact.bfloat16())
    assert cost.dtype == "bfloat16"
    unchanged = (model.linear.weight == before).float().mean()
    assert cost.unchanged == pytest.approx(float(unchanged), abs=0.1)
    assert cost.unchanged > 0.2
    assert cost.lost > 0.2


def test_dtypes_are_those_of_the_files(tmp_path: Path) -> None:
    for part, dtype in (("unet", torch.bfloat16), ("vae", torch.float32)):
        (tmp_path / part).mkdir()
        save_file(
            {"a": torch.zeros(2, dtype=torch.int64), "b": torch.zeros(2, dtype=dtype)},
            tmp_path / part / "x.safetensors",
        )
    (tmp_path / "model_index.json").write_text(json.dumps({}))
    found = stored_dtypes(ModelConfig(path=str(tmp_path)))
    assert found == {"default": torch.float32, "unet": torch.bfloat16, "vae": torch.float32}
