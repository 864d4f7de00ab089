"""`hero bench speed` and the families' benchmark, on small models; the full-size architecture behind `slow`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hero.bench.families import check_family, families_table
from hero.bench.speed import measure_speed, model_folder, peak_flops
from hero.cli import app
from hero.config import Config
from hero.errors import ConfigError
from hero.methods import configure
from hero.tuner import Tuner
from hero.types import Feedback

SMALL: dict[str, Any] = {
    "model": {"device": "cpu", "threads": 1},
    "sampling": {"num_steps": 2, "height": 64, "width": 64, "images_per_round": 4, "micro_batch": 4},
    "update": {"images_per_step": 4, "micro_batch": 4, "ppo": {"timesteps_per_image": 1}},
}


def test_speed_is_measured_against_the_device_s_peak(tiny_config: Callable[..., Config]) -> None:
    speed = measure_speed(tiny_config(), "tiny")
    assert speed.images == 6
    assert (speed.height, speed.width) == (32, 32)
    assert speed.images_per_second > 0
    assert speed.steps_per_second > 0
    assert 0 < speed.peak_share < 1
    assert speed.peak_memory > 2**20
    assert peak_flops(torch.device("cpu"), torch.float32) > 1e8


def flat(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted name → value."""
    found: dict[str, Any] = {}
    for key, value in tables.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_the_command_writes_its_table(random_pipeline: Path, tmp_path: Path) -> None:
    sets = [f"{name}={json.dumps(value)}" for name, value in flat(SMALL).items()]
    options = [word for setting in sets for word in ("--set", setting)]
    done = CliRunner().invoke(
        app,
        ["bench", "speed", "--model", str(random_pipeline), "--images", "2", "--out", str(tmp_path / "b"), *options],
    )
    assert done.exit_code == 0, done.output
    assert "of peak" in done.output
    assert json.loads((tmp_path / "b" / "speed.json").read_text())["images"] == 2


def test_an_architecture_that_is_not_known_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sd16-random: no such architecture; known: .*sd15-random"):
        model_folder("sd16-random", tmp_path)
    assert model_folder("./mine", tmp_path) == "./mine"


def test_the_families_benchmark_measures_what_the_page_shows(tmp_path: Path) -> None:
    result = check_family("flux", tmp_path)
    assert result.pipeline == "FluxPipeline"
    assert result.fidelity <= 1e-4
    assert result.ratio <= 1e-5
    assert result.round_trip <= 1e-4
    assert "| `flux` | `FluxPipeline` |" in families_table([result], [])


@pytest.mark.slow
def test_a_round_of_the_full_size_architecture_runs(tmp_path: Path) -> None:
    model = model_folder("sd15-random", tmp_path)
    config = configure("hand", model=str(model), method="ddpo", rounds=1, settings=SMALL)
    with Tuner(config, tmp_path / "run") as tuner:
        assert 855e6 < sum(p.numel() for n, p in tuner.policy.denoiser.named_parameters() if "lora" not in n) < 865e6
        (stats,) = tuner.run(lambda batch: Feedback.from_good(batch, batch.ids[:2], batch.ids[0]))
    assert stats.steps == 1
    speed = measure_speed(config, "sd15-random")
    assert speed.images == 4
