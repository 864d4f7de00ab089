"""`hero doctor`: all is well with a good model and evaluator, and each fault is named with its remedy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hero import Feedback, ImageBatch
from hero.cli import app
from hero.config import Config
from hero.doctor import Check, _last_steps, _noise_left, _precision, _prompts, _scheduler, diagnose
from hero.policies import Policy
from hero.policies.steps import Steps


def good_evaluator(batch: ImageBatch) -> Feedback:
    return Feedback.from_good(batch, batch.ids[:3], batch.ids[0])


def forgetful_evaluator(batch: ImageBatch) -> Feedback:
    return Feedback.from_good(batch, batch.ids[:3])


def silent_evaluator(batch: ImageBatch) -> None:
    return None


@pytest.fixture(scope="module")
def checks() -> dict[str, Check]:
    """Of the bundled model: a random one gives no picture back, and rightly fails."""
    return {check.name: check for check in diagnose("tinyworld", "test_doctor:good_evaluator")}


def test_a_good_model_and_evaluator_pass_every_check(checks: dict[str, Check]) -> None:
    assert [check for check in checks.values() if not check.ok] == []
    assert {"python", "torch", "diffusers", "device", "disk", "model loads"} <= set(checks)


def test_the_model_is_tried_against_the_library_and_for_ratio_one(checks: dict[str, Check]) -> None:
    assert "pipeline's own call" in checks["same as the library"].detail
    assert float(checks["same as the library"].detail.split()[-1]) <= 1e-4
    assert float(checks["ratio one"].detail.split()[-1]) <= 1e-6


def test_the_memory_of_a_run_is_estimated(checks: dict[str, Check]) -> None:
    assert "weights" in checks["memory"].detail
    assert "in main memory" in checks["memory"].detail


def test_what_makes_images_worth_labelling_is_checked(checks: dict[str, Check]) -> None:
    names = {"prompts", "pictures", "precision", "scheduler", "last steps", "noise left"}
    assert {name for name in names if checks[name].ok} == names
    assert "20 steps from noise level" in checks["scheduler"].detail
    assert checks["noise left"].detail.startswith("0.029 of the initial noise")
    assert "σ of the last two is 0.0" in checks["last steps"].detail


def faults_of(policy: Policy, config: Config) -> dict[str, Check]:
    """The checks that need no second load of the model."""
    steps: list[Steps] = []
    found = [_prompts(policy, config), _precision(policy), _scheduler(steps, policy, config)]
    for schedule in steps:
        found += [_last_steps(schedule, policy, config), _noise_left(schedule)]
    return {check.name: check for check in found}


def test_a_text_encoder_that_says_the_same_of_every_prompt_is_found(
    tiny_policy: Callable[..., Policy], tiny_config: Callable[..., Config]
) -> None:
    config = tiny_config(sampling={"eta": 0.0, "num_steps": 4}, update={"kind": "none"})
    policy = tiny_policy(sampling={"eta": 0.0, "num_steps": 4}, update={"kind": "none"})
    assert all(check.ok for check in faults_of(policy, config).values())
    embedding = policy.pipeline.text_encoder.get_input_embeddings().weight
    kept = embedding.detach().clone()
    embedding.data[:] = kept[:1]  # as if the tokenizer gave one token for everything
    check = faults_of(policy, config)["prompts"]
    embedding.data[:] = kept
    assert not check.ok
    assert "tokenizers" in check.remedy


def test_embeddings_that_overflow_and_a_schedule_that_starts_late_are_found(
    tiny_policy: Callable[..., Policy], tiny_config: Callable[..., Config]
) -> None:
    policy = tiny_policy()
    embedding = policy.pipeline.text_encoder.get_input_embeddings().weight
    kept = embedding.detach().clone()
    embedding.data[:] = float("inf")
    check = _precision(policy)
    embedding.data[:] = kept
    assert not check.ok
    assert "embeddings" in check.detail
    late = _scheduler([], policy, tiny_config(sampling={"num_steps": 2}))  # the first of two steps begins in the middle
    assert not late.ok
    assert "noise level 0.50" in late.detail


def test_a_density_narrower_than_the_precision_is_found(
    tiny_policy: Callable[..., Policy], tiny_config: Callable[..., Config]
) -> None:
    policy, config = tiny_policy(model={"dtype": "bfloat16"}), tiny_config(sampling={"eta": 0.02})
    check = faults_of(policy, config)["last steps"]
    assert not check.ok
    assert "rounds away" in check.detail


def test_a_run_that_does_not_fit_is_told_what_makes_it_fit(
    random_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hero.doctor.device_memory", lambda device: 2**28)
    settings = {"sampling": {"micro_batch": 64, "height": 128, "width": 128}, "reward": {"similarity": {"width": 64}}}
    check = {c.name: c for c in diagnose(str(random_pipeline), settings=settings)}["memory"]
    assert not check.ok
    assert check.remedy.startswith("add --set ")


def test_the_evaluator_is_asked(checks: dict[str, Check]) -> None:
    assert "8 images" in checks["evaluator test_doctor:good_evaluator"].detail


def test_a_missing_model_is_named_with_a_remedy() -> None:
    check = {check.name: check for check in diagnose("./no-such-model")}["model loads"]
    assert not check.ok
    assert "no-such-model" in check.detail
    assert "--model" in check.remedy


def test_a_model_whose_steps_are_not_gaussian_is_refused(random_pipeline: Path, tmp_path: Path) -> None:
    model = tmp_path / "thresholding"
    shutil.copytree(random_pipeline, model)
    settings = model / "scheduler" / "scheduler_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"thresholding": True}))
    check = {check.name: check for check in diagnose(str(model))}["model loads"]
    assert not check.ok
    assert "thresholding" in check.detail


@pytest.mark.parametrize(
    ("evaluator", "said"),
    [
        ("test_doctor:silent_evaluator", "returned a NoneType"),
        ("test_doctor:forgetful_evaluator", "none is the best"),
        ("test_doctor:no_such", "has no 'no_such'"),
        ("no_such_module:judge", "no_such_module"),
    ],
)
def test_a_bad_evaluator_fails_the_command(evaluator: str, said: str) -> None:
    result = CliRunner().invoke(app, ["doctor", "--model", "./none", "--evaluator", evaluator])
    assert result.exit_code == 1
    fault = [line for line in result.stdout.splitlines() if line.startswith(f"✗ evaluator {evaluator}")]
    assert len(fault) == 1
    assert said in fault[0]


def test_the_command_prints_one_json_object() -> None:
    result = CliRunner().invoke(app, ["doctor", "--model", "./none", "--json"])
    answer = json.loads(result.stdout)
    assert result.exit_code == 1
    assert answer["ok"] is False
    faults = [check for check in answer["checks"] if not check["ok"]]
    assert [check["name"] for check in faults] == ["model loads"]
    assert set(faults[0]) == {"name", "ok", "detail", "remedy"}
