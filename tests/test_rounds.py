"""Earlier rounds of a run: kept, listed, evaluated, exported, drawn with and gone back to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from typer.testing import CliRunner

from hero import Feedback, ImageBatch, Tuner
from hero.cli import app
from hero.config import Config, load_toml
from hero.errors import ConfigError, RunError
from hero.export import export
from hero.feedback.store import LabelStore
from hero.run import RunDirectory
from hero.run.branch import branch
from hero.run.finished import FinishedRun
from hero.trained import TrainedRun

ROUNDS = 5


def by_brightness(batch: ImageBatch) -> Feedback:
    means = {i: sum(image.convert("L").histogram()[128:]) for i, image, _ in batch}
    ranked = sorted(means, key=lambda i: (means[i], i), reverse=True)
    return Feedback.from_good(batch, ranked[: len(ranked) // 2], ranked[0])


@pytest.fixture(scope="module")
def original(tiny_config: Callable[..., Config], tmp_path_factory: Any) -> Path:
    """A run of five rounds that keeps every second one."""
    run: Path = tmp_path_factory.mktemp("runs") / "one"
    with Tuner(tiny_config(rounds=ROUNDS, run={"keep_loras": 2}), run) as tuner:
        tuner.run(by_brightness)
    return run


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "one"))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != ".lock"}


def test_every_nth_round_is_kept_beside_the_newest(original: Path) -> None:
    assert FinishedRun(original).kept_rounds == [2, 4, 5]
    assert sorted(f.name for f in (original / "checkpoints").iterdir())[:3] == ["0002-told", "0004-asked", "0004-told"]


def test_without_the_setting_only_the_newest_are_kept(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    with Tuner(tiny_config(rounds=3, method="noise-only"), tmp_path / "run") as tuner:
        tuner.run(by_brightness)
    assert FinishedRun(tmp_path / "run").kept_rounds == [2, 3]


def test_a_round_is_read_as_the_run_was_then(original: Path) -> None:
    then = FinishedRun(original, round_=2)
    assert [stats.round for stats in then.history] == [1, 2]
    assert then.labels == 12
    assert then.checkpoint().path.name == "0002-told"
    assert len(then.label_dates) < len(FinishedRun(original).label_dates)
    assert then.evaluation_folder.name == "evaluation-0002"
    for missing in (3, 9):
        with pytest.raises(RunError, match=rf"round {missing} of .* is not kept \(kept: 2, 4, 5\).*run\.keep_loras"):
            FinishedRun(original, round_=missing)


def test_a_round_is_drawn_with_evaluated_and_exported(run: Path, tmp_path: Path) -> None:
    then, now = TrainedRun(run, round_=2), TrainedRun(run)
    assert then.labels == 12
    told = FinishedRun(run, round_=2).checkpoint().tensors
    assert all(torch.equal(value, told["lora"][key]) for key, value in then.policy.state_dict().items())
    for noise in ("fresh", "refined"):
        pictures = [trained.generate(images=1, noise=noise)[0].tobytes() for trained in (then, now)]
        assert pictures[0] != pictures[1]
    then.evaluate(images=2)
    assert not (run / "evaluation").exists()
    assert json.loads((run / "evaluation-0002" / "result.json").read_text())["labels"] == 12
    assert FinishedRun(run, round_=2).current_evaluation is not None
    assert FinishedRun(run, round_=4).evaluation is None

    export(run, "diffusers", tmp_path / "then", round_=2)
    export(run, "kohya", tmp_path / "then.safetensors", round_=2)
    pipeline = StableDiffusionPipeline.from_pretrained(now.config.model.path)
    pipeline.load_lora_weights(tmp_path / "then")
    latents = torch.randn(1, *then.policy.latent_shape, generator=torch.Generator().manual_seed(0))
    rows = then.policy.encode(["1 hand"]).rows(torch.zeros(1, dtype=torch.int64))
    with torch.no_grad():
        wanted = then.policy.predict(latents, torch.tensor([0.5]), rows, guided=False)
        time = then.policy.steps.times_at(torch.tensor([0.5]))
        found = pipeline.unet(latents, time, encoder_hidden_states=rows.positive["embeddings"]).sample
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    refined = {}
    for name, file in (
        ("then", tmp_path / "then" / "refined_noise.safetensors"),
        ("now", now.path / "refined_noise.safetensors"),
    ):
        with safe_open(file, framework="pt") as opened:
            refined[name] = opened.get_tensor("best.0")
    assert torch.equal(refined["then"], told["memory"]["best_noise.0"])
    with safe_open(tmp_path / "then.safetensors", framework="pt") as opened:
        assert opened.metadata()["ss_epoch"] == "2"


def test_going_back_gives_the_same_run_again_and_leaves_the_other_as_it_was(run: Path, tmp_path: Path) -> None:
    before = everything(run)
    branch(run, 2, tmp_path / "again")
    with Tuner.resume(tmp_path / "again") as tuner:
        assert tuner.round == 3
        tuner.run(by_brightness)
    assert everything(run) == before
    for file in ("lora/pytorch_lora_weights.safetensors", "refined_noise.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (run / file).read_bytes()
    with LabelStore(run / "feedback.db") as old, LabelStore(tmp_path / "again" / "feedback.db") as new:
        for round_ in range(1, ROUNDS + 1):
            assert old.answer(round_) == new.answer(round_)
            assert old.submitters(round_) == new.submitters(round_)
        assert [label.created_at for label in old.labels(2)] == [label.created_at for label in new.labels(2)]


def test_going_back_and_judging_otherwise_ends_elsewhere(run: Path, tmp_path: Path) -> None:
    made = branch(run, 2, tmp_path / "other")
    assert FinishedRun(made.path).labels == 12
    with LabelStore(made.path / "feedback.db") as store:
        assert store.submitted_rounds() == (1, 2)
    assert sorted(f.name for f in (made.path / "rounds").iterdir()) == ["0001", "0002"]
    with Tuner.resume(made.path, {"rounds": 3}) as tuner:
        batch = tuner.ask()
        tuner.tell(Feedback.from_good(batch, batch.ids[:1], batch.ids[0]))
        assert tuner.done
    assert FinishedRun(run, round_=2).labels == 12
    assert (made.path / "lora" / "pytorch_lora_weights.safetensors").is_file()


def test_a_shared_store_s_labels_go_into_the_new_run_s_own(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    config = tiny_config(rounds=2, method="noise-only", evaluator={"store": shared})
    with Tuner(config, tmp_path / "run") as tuner:
        tuner.run(by_brightness)
    made = branch(tmp_path / "run", 1, tmp_path / "new")
    assert RunDirectory.open(made.path).config.evaluator.store is None
    with LabelStore(made.path / "feedback.db") as store:
        assert store.submitted_rounds() == (1,)
    with Tuner.resume(made.path) as tuner:
        tuner.run(by_brightness)
    with LabelStore(shared) as store:
        assert store.submitted_rounds() == (1, 2)


def test_going_back_into_something_or_to_what_is_gone_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not an empty folder"):
        branch(run, 2, tmp_path / "full")
    with pytest.raises(RunError, match="already holds a run"):
        branch(run, 2, run)
    with pytest.raises(RunError, match=r"round 3 of .* is not kept"):
        branch(run, 3, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (run / "rounds" / "0001" / "images" / "r0001-i0000.png").chmod(0)
    unreadable = not _can_read(run / "rounds" / "0001" / "images" / "r0001-i0000.png")
    if unreadable:
        with pytest.raises(RunError, match="cannot write"):
            branch(run, 2, tmp_path / "new")
        assert not (tmp_path / "new").exists()


def _can_read(file: Path) -> bool:
    try:
        file.read_bytes()
    except PermissionError:
        return False
    return True


def test_the_commands_take_a_round(run: Path, tmp_path: Path) -> None:
    invoke = CliRunner().invoke
    listed = json.loads(invoke(app, ["rounds", str(run), "--json"]).stdout)
    assert [line["round"] for line in listed if line["kept"]] == [2, 4, 5]
    assert listed[1] == {"round": 2, "labels": 12, "images": 6, "good": 3, "kept": True, "success": None}
    assert "3 of 6" in invoke(app, ["rounds", str(run)]).stdout
    done = invoke(app, ["generate", str(run), "--round", "4", "--images", "1", "--out", str(tmp_path / "images")])
    assert done.exit_code == 0, done.output
    done = invoke(app, ["evaluate", str(run), "--round", "4", "--images", "1", "--json"])
    assert json.loads(done.stdout)["labels"] == 24
    done = invoke(app, ["export", str(run), "--round", "4", "--out", str(tmp_path / "lora")])
    assert done.exit_code == 0, done.output
    for command in ("export", "generate"):
        done = invoke(app, [command, str(run), "--round", "3", "--out", str(tmp_path / "none")])
        assert "is not kept (kept: 2, 4, 5)" in " ".join(done.stderr.split())
    done = invoke(app, ["resume", str(run), "--out", str(tmp_path / "x")])
    assert "--out is for --from-round" in " ".join(done.stderr.split())
    config = run / "config.toml"
    config.write_text(config.read_text().replace('name = "oracle"', 'name = "test_cli:every_other"'))
    back = ["resume", str(run), "--from-round", "4", "--set", "evaluation.after_training=false", "--set"]
    assert invoke(app, [*back, "seed=9"]).exit_code == 2
    assert not (tmp_path / "one-from-0004").exists()
    done = invoke(app, [*back, "run.keep_loras=1"])
    assert done.exit_code == 0, done.output
    assert load_toml(tmp_path / "one-from-0004" / "config.toml")["run"]["keep_loras"] == 1
    assert FinishedRun(tmp_path / "one-from-0004").kept_rounds == [2, 4, 5]
    with pytest.raises(ConfigError):
        Tuner.resume(run, {"run": {"keep_loras": -1}})
