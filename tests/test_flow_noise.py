"""The benchmark of flow steps: the published ones end far from a known picture, these where they should."""

from __future__ import annotations

import pytest

from hero.bench.flow_noise import flow_noise_table, measure_flow_noise
from hero.methods import PRESETS


@pytest.mark.parametrize(("family", "preset"), [("Stable Diffusion 3.5", "sd3"), ("FLUX.1", "flux")])
def test_noise_stays_under_the_published_steps_and_not_under_these(family: str, preset: str) -> None:
    published, ours = measure_flow_noise(family)
    assert published.from_picture > published.from_picture_ode + 0.08
    assert ours.from_picture == pytest.approx(ours.from_picture_ode, abs=0.01)
    assert ours.from_picture < published.from_picture - 0.09
    assert published.last_two > 0.7 > ours.last_two
    assert ours.std[-1] == 0
    assert published.std[-1] > 0
    sampling = PRESETS[preset]["sampling"]
    assert ours.setting.startswith(f"{sampling['num_steps']} steps, a = {sampling['eta']}, ")
    assert f"| {family} | this project's |" in flow_noise_table([published, ours])
