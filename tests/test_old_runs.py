"""Run directories of version 0.1 go on where they stopped; see tests/fixtures/README.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hero.config import load_run_config
from hero.errors import RunError
from hero.evaluators import make_evaluator
from hero.export import export
from hero.policies.lora_file import read_lora_file
from hero.registry import FeedbackNoiseSettings, PPOSettings, SimilaritySettings
from hero.report import write_report
from hero.run import RunDirectory
from hero.trained import TrainedRun
from hero.tuner import Tuner
from hero.types import RoundStats

FIXTURES = Path(__file__).parent / "fixtures"
LORA = "lora/pytorch_lora_weights.safetensors"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    run = tmp_path / "run-0.1"
    shutil.copytree(FIXTURES / "run-0.1", run)
    return run


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_its_settings_are_read_under_the_names_that_they_have_now() -> None:
    config = load_run_config(FIXTURES / "run-0.1" / "config.toml")
    assert config.update.table(PPOSettings) == PPOSettings(
        clip_range=0.002, timesteps_per_image=3, timestep_weight="std"
    )
    assert config.noise.table(FeedbackNoiseSettings) == FeedbackNoiseSettings(best_share=0.5, epsilon=0.1)
    similarity = config.reward.table(SimilaritySettings)
    assert (similarity.reference, similarity.width, similarity.epochs) == ("best", 16, 20)


@pytest.mark.learns
def test_it_goes_on_as_version_0_1_would_have(old: Path) -> None:
    shown = sorted(old.glob("rounds/0003/images/*.png"))
    before = [file.read_bytes() for file in shown]
    with Tuner.resume(old) as tuner:
        assert (tuner.round, len(tuner.history)) == (3, 2)
        batch = tuner.ask()  # it was shown already, and waits for its answer
        assert [f"{i}.png" for i in batch.ids] == [file.name for file in shown]
        assert [file.read_bytes() for file in shown] == before
        assert {best.id for best in batch.best} == {"r0002-i0003"}
        tuner.run(make_evaluator(tuner.config))
        assert tuner.done
    files = (old / LORA, FIXTURES / "run-0.1-resumed.safetensors")
    ours, theirs = (read_lora_file(file).lora for file in files)  # version 0.1 left the factor of alpha out
    assert ours.keys() == theirs.keys()
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 2e-4  # other processors round otherwise
    for now, then in zip(lines_of(old / "metrics.jsonl"), lines_of(FIXTURES / "run-0.1-resumed.jsonl"), strict=True):
        mine, old_line = RoundStats.from_dict(now).to_dict(), RoundStats.from_dict(then).to_dict()
        for key in ("labels", "good", "bad", "best", "steps", "note", "success_shown"):
            assert mine[key] == old_line[key]
        assert mine["reward_mean"] == pytest.approx(old_line["reward_mean"], abs=1e-3)
        assert (
            mine["figures"].items() >= {k: pytest.approx(v, abs=1e-3) for k, v in old_line["figures"].items()}.items()
        )


@pytest.mark.learns
def test_it_is_evaluated_reported_and_exported(old: Path, tmp_path: Path) -> None:
    trained = TrainedRun(old)
    assert trained.labels == 16
    assert trained.refined is not None
    assert trained.refined.knows(trained.config.task.prompts)
    assert len(trained.generate(images=2, noise="refined")) == 2
    assert trained.evaluate(images=4).labels == 16
    write_report(old)
    assert "16 labels" in (old / "report.html").read_text(encoding="utf-8")
    assert (export(old, "kohya", tmp_path / "old.safetensors")).is_file()


def test_a_checkpoint_of_a_later_version_is_refused_in_one_sentence(old: Path) -> None:
    state = old / "checkpoints" / "0002-told" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"format": 99}))
    with pytest.raises(RunError, match="written by a newer version of hero; update hero to resume this run"):
        RunDirectory.open(old).load_checkpoint("told")
