"""The recipes of docs/extending.md: each is a module outside the package, which nothing else has to be touched for."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from hero import Feedback, ImageBatch
from hero.config import Config
from hero.errors import ConfigError
from hero.noise import fresh_noise
from hero.policies import FAMILIES, load_policy
from hero.registry import NOISES, REWARDS, SELECTORS, UPDATES
from hero.rollout import rollout
from hero.tuner import Tuner

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
MODULES = dict(re.findall(r"`(my_\w+)\.py`:\n\n```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M))


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The modules of the page, written down as a reader would, and imported."""
    assert sorted(MODULES) == ["my_family", "my_forward", "my_objective", "my_reward", "my_start"]
    folder = tmp_path_factory.mktemp("plugins")
    families = dict(FAMILIES)
    before = [dict(registry._choices) for registry in (NOISES, REWARDS, SELECTORS, UPDATES)]
    sys.path.insert(0, str(folder))
    for name, text in MODULES.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        importlib.import_module(name)
    yield folder
    sys.path.remove(str(folder))
    for registry, choices in zip((NOISES, REWARDS, SELECTORS, UPDATES), before, strict=True):
        registry._choices = choices
    FAMILIES.clear()
    FAMILIES.update(families)


def answer(batch: ImageBatch) -> Feedback:
    """Bright images are good."""
    shade = {i: sum(image.convert("L").tobytes()) for i, image, _ in batch}
    good = sorted(batch.ids, key=lambda i: shade[i])[len(batch) // 2 :]
    return Feedback.from_good(batch, good, good[-1])


def lora_moved(tuner: Tuner) -> bool:
    return any(bool(value.any()) for name, value in tuner.policy.state_dict().items() if "lora_B" in name)


CASES: dict[str, dict[str, Any]] = {
    "objective": {"reward": {"kind": "label"}, "update": {"kind": "pairwise", "pairwise": {"timesteps_per_image": 2}}},
    "forward": {"reward": {"kind": "label"}, "update": {"kind": "good-only"}, "sampling": {"eta": 0.0}},
    "reward": {"reward": {"kind": "nearest-mean"}},
    "start": {"noise": {"kind": "one-noise"}, "selection": {"kind": "highest-score", "drawn": 12}},
    "together": {
        "noise": {"kind": "one-noise"},
        "reward": {"kind": "nearest-mean"},
        "selection": {"kind": "highest-score", "drawn": 10},
        "update": {"kind": "pairwise", "pairwise": {"timesteps_per_image": 2}},
    },
}


@pytest.mark.parametrize("name", CASES)
def test_a_round_with_each_and_a_resume(name: str, tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    """Three rounds at one go, and with a stop before the last, end with the same weights."""
    config = tiny_config(rounds=3, **CASES[name])
    with Tuner(config, tmp_path / "one") as tuner:
        tuner.run(answer)
        assert lora_moved(tuner)
        whole = tuner.policy.state_dict()
        figures = [set(stats.figures) for stats in tuner.history]
    with Tuner(config, tmp_path / "two") as tuner:
        for _ in range(2):
            tuner.tell(answer(tuner.ask()))
        shown = tuner.ask()
    with Tuner.resume(tmp_path / "two") as tuner:
        assert tuner.ask().ids == shown.ids
        tuner.run(answer)
        assert all(torch.equal(value, whole[key]) for key, value in tuner.policy.state_dict().items())
    own = {"objective": "margin", "forward": "pull", "reward": "distance", "together": "distance"}.get(name)
    assert own is None or own in figures[-1]
    if name in ("reward", "together"):
        assert "auc" in figures[-1]
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [set(line["figures"]) for line in lines] == figures


def test_a_selector_shows_some_of_what_was_drawn_under_the_names_that_it_has_there(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny_config(rounds=2, prompts=("1 hand", "a quiet lake"), selection={"kind": "random", "drawn": 12})
    with Tuner(config, tmp_path / "run") as tuner:
        chunks: list[Any] = []
        batch = tuner.ask(chunks.append)
        assert len(batch) == config.sampling.images_per_round == 6
        indexes = [int(i[-4:]) for i in batch.ids]
        assert indexes == sorted(set(indexes))
        assert max(indexes) > 5  # not simply the first ones
        assert list(batch.prompts) == [config.task.prompts[k % 2] for k in indexes]
        assert batch.prompts.count("1 hand") == 3
        assert [i for chunk in chunks for i in chunk.ids] == list(batch.ids)
        files = sorted(file.stem for file in (tmp_path / "run").glob("rounds/0001/images/*.png"))
        assert files == sorted(batch.ids)
        stats = tuner.tell(answer(batch))
        assert (stats.images, stats.labels) == (6, 6)  # what was drawn and not shown costs no label


def test_the_command_line_takes_a_module_of_one_s_own(modules: Path, tmp_path: Path) -> None:
    train = ["train", "--out", str(tmp_path / "run"), "--rounds", "1", "--images-per-round", "4", "--no-evaluate"]
    train += ["--set", "sampling.num_steps=3", "--set", "update.kind=pairwise", "--set", "update.pairwise.beta=0.5"]
    train += [
        "--set",
        "update.pairwise.timesteps_per_image=2",
        "--set",
        "reward.kind=label",
        "--set",
        "model.threads=1",
    ]
    hero = [sys.executable, "-m", "hero"]
    done = subprocess.run([*hero, "--plugin", "my_objective", *train], cwd=modules, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[update.pairwise]\ntimesteps_per_image = 2" in (tmp_path / "run" / "config.toml").read_text()
    resume = [*hero, "resume", str(tmp_path / "run"), "--rounds", "2"]
    refused = subprocess.run(resume, cwd=modules, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "update.kind = 'pairwise'" in refused.stderr
    assert "hero --plugin MODULE" in refused.stderr
    missing = subprocess.run([*hero, "--plugin", "nowhere", "tasks"], cwd=modules, capture_output=True, text=True)
    assert missing.returncode == 2
    assert "--plugin nowhere: no module named 'nowhere'" in missing.stderr


def test_a_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ConfigError, match="'ppo' exists already"):
        UPDATES.add("ppo", object)


def test_a_table_must_be_of_the_project_s_settings() -> None:
    with pytest.raises(ConfigError, match=r"its table must be a subclass of hero\.registry\.Settings"):
        REWARDS.add("odd", object, settings=BaseModel)  # type: ignore[arg-type]


def test_a_family_of_one_s_own_is_loaded_and_draws(
    random_pipeline: Path, tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(random_pipeline, model)
    index = json.loads((model / "model_index.json").read_text())
    (model / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionPAGPipeline"}))
    config = tiny_config(path=model, sampling={"eta": 0.0}, update={"kind": "none"})
    policy = load_policy(config)
    assert type(policy.pipeline).__name__ == "StableDiffusionPAGPipeline"
    noise = fresh_noise(2, policy.latent_shape, seed=0)
    index_of = torch.zeros(2, dtype=torch.int64)
    (chunk,) = rollout(policy, policy.encode(["1 hand"]), index_of, noise, seed=0, round_=0, micro_batch=2)
    assert (chunk.trajectory.final_latents - policy.library_latents(["1 hand"] * 2, noise)).abs().max() < 1e-4


def test_an_error_of_one_s_own_code_is_told_though_a_checkpoint_cannot_be_taken_over_after_it(
    tiny_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Tuner(tiny_config(rounds=2), tmp_path / "run") as tuner:
        batch = tuner.ask()

        def broken(*_: Any) -> Any:
            raise TypeError("mine")

        def unfit(*_: Any) -> bool:
            raise ConfigError("does not fit")

        monkeypatch.setattr(tuner.learner.reward, "fit", broken)
        monkeypatch.setattr(tuner.learner, "load", unfit)
        with pytest.raises(TypeError, match="mine") as failure:
            tuner.tell(answer(batch))
        assert "could not be taken over: does not fit" in failure.value.__notes__[0]
