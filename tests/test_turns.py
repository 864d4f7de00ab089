"""Many prompts, of which each round shows a share: which image has which is known everywhere, and counted right."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from hero import Feedback, ImageBatch, Tuner
from hero.cli import app
from hero.config import Config, load_toml, validate
from hero.errors import ConfigError
from hero.export import export
from hero.feedback.export import export_feedback
from hero.feedback.labelled import LabelledRun
from hero.ids import image_id
from hero.policies import load_policy
from hero.run.finished import FinishedRun
from hero.turns import prompt_indices, prompt_of, round_prompts
from hero.types import RoundStart

COLOURS = ("red", "blue", "green", "black", "white", "grey", "pink")
PROMPTS = tuple(f"a {colour} hand" for colour in COLOURS)


def every_other(batch: ImageBatch) -> Feedback:
    return Feedback.from_good(batch, batch.ids[::2], batch.ids[0])


@pytest.fixture(scope="module")
def config(tiny_config: Callable[..., Config]) -> Config:
    task = {"prompts_per_round": 3}
    return tiny_config(prompts=PROMPTS, rounds=5, task=task, reward={"min_group": 2})


def test_without_a_share_every_round_has_all_prompts_in_their_order(tiny_config: Callable[..., Config]) -> None:
    plain = tiny_config(prompts=PROMPTS[:3])
    assert round_prompts(plain, 1) == round_prompts(plain, 9) == (0, 1, 2)
    assert prompt_indices(plain, 4, 7) == [0, 1, 2, 0, 1, 2, 0]
    more = tiny_config(prompts=PROMPTS[:3], task={"prompts_per_round": 5})
    assert round_prompts(more, 2) == (0, 1, 2)


def test_prompts_take_turns_over_the_rounds_and_none_gets_ahead(config: Config) -> None:
    shown: Counter[int] = Counter()
    for round_ in range(1, 30):
        chosen = round_prompts(config, round_)
        assert len(set(chosen)) == 3
        shown.update(chosen)
        counts = [shown[k] for k in range(len(PROMPTS))]
        assert max(counts) - min(counts) <= 1
    assert round_prompts(config, 0) == tuple(range(len(PROMPTS)))  # imported images may have any
    assert prompt_indices(config, 2, 7) == [*(round_prompts(config, 2) * 2), round_prompts(config, 2)[0]]
    assert prompt_of(config, image_id(2, 4)) == PROMPTS[round_prompts(config, 2)[1]]


def test_their_order_is_a_function_of_the_seed(config: Config) -> None:
    orders = {seed: round_prompts(config.model_copy(update={"seed": seed}), 1) for seed in range(6)}
    assert round_prompts(config, 1) == orders[config.seed]
    assert len(set(orders.values())) > 1


class Watching:
    """An evaluator that is told of each round, and keeps what it is told and shown."""

    def __init__(self) -> None:
        self.starts: list[RoundStart] = []
        self.batches: list[ImageBatch] = []

    def __call__(self, batch: ImageBatch) -> Feedback:
        self.batches.append(batch)
        return every_other(batch)


@pytest.fixture(scope="module")
def trained(config: Config, tmp_path_factory: Any) -> tuple[Path, list[ImageBatch]]:
    """A run of five rounds, stopped and resumed after each, and what was shown."""
    run, watching = tmp_path_factory.mktemp("runs") / "many", Watching()
    Tuner(config, run).close()
    for _ in range(5):
        with Tuner.resume(run) as tuner:
            drawn = tuner.ask()
        with Tuner.resume(run) as tuner:
            again = tuner.ask()
            assert (again.ids, again.prompts) == (drawn.ids, drawn.prompts)
            assert [i.tobytes() for i in again.images] == [i.tobytes() for i in drawn.images]
            start = tuner._round_start()
            assert set(start.prompts) == set(drawn.prompts)
            assert {best.prompt for best in drawn.best} <= set(drawn.prompts)
            tuner.tell(watching(again))
    return run, watching.batches


def test_a_round_s_images_have_its_prompts(config: Config, trained: tuple[Path, list[ImageBatch]]) -> None:
    run, batches = trained
    for batch in batches:
        assert list(batch.prompts) == [PROMPTS[k] for k in prompt_indices(config, batch.round, len(batch))]
        assert Counter(batch.prompts) == dict.fromkeys(batch.prompts, 2)
        told = FinishedRun(run).directory.load_checkpoint("asked", batch.round)
        if told is not None:
            assert told.tensors["trajectory"]["prompt_index"].tolist() == prompt_indices(config, batch.round, 6)
    assert {p for batch in batches for p in batch.prompts} == set(PROMPTS)
    assert batches[4].best  # of prompts that were shown before


def test_what_is_counted_per_prompt_is_what_was_shown(trained: tuple[Path, list[ImageBatch]], tmp_path: Path) -> None:
    run, batches = trained
    by_prompt = Counter(prompt for batch in batches for prompt in batch.prompts)
    labelled = LabelledRun(run)
    for batch in batches:
        assert tuple(map(labelled.prompt, batch.ids)) == batch.prompts
    labelled.close()
    export_feedback(run, "jsonl", tmp_path / "labels")
    lines = [json.loads(line) for line in (tmp_path / "labels" / "labels.jsonl").read_text().splitlines()]
    verdicts = {line["image_id"]: line["prompt"] for line in lines if line["kind"] == "verdict"}
    assert Counter(verdicts.values()) == by_prompt
    export(run, "kohya", tmp_path / "lora.safetensors")
    with safe_open(tmp_path / "lora.safetensors", framework="pt") as opened:
        ((_, counted),) = json.loads(opened.metadata()["ss_tag_frequency"]).items()
    assert {prompt: n for prompt, n in counted.items() if n} == by_prompt
    told = FinishedRun(run).checkpoint()
    bests = {int(k): i for k, i in told.state["best_id"].items()}
    assert all(prompt_of(FinishedRun(run).config, i) == PROMPTS[k] for k, i in bests.items())
    assert len(bests) > 3


def test_the_share_cannot_change_and_must_fit(trained: tuple[Path, list[ImageBatch]], config: Config) -> None:
    with pytest.raises(
        ConfigError, match=r"task\.prompts_per_round cannot change .*which prompt an image was drawn for"
    ):
        Tuner.resume(trained[0], {"task": {"prompts_per_round": 2}})
    with pytest.raises(ConfigError, match=r"with task\.prompts_per_round each round has a share"):
        validate(config.model_dump() | {"task": {"prompts": list(map(str, range(9)))}})


def test_practice_draws_for_the_round_s_prompts(tiny_config: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny_config(
        prompts=PROMPTS, rounds=2, method="heron", task={"prompts_per_round": 2}, practice={"draws": 4, "images": 4}
    )
    asked: list[list[int]] = []
    with Tuner(config, tmp_path / "run") as tuner:
        learner: Any = tuner.learner
        practice = learner.reward.practice

        def watched(unlabelled: Any) -> Any:
            asked.append(unlabelled.prompt_index.tolist())
            return practice(unlabelled)

        learner.reward.practice = watched
        tuner.run(every_other)
    assert asked
    assert all(chosen in ([*(round_prompts(config, 1) * 2)], [*(round_prompts(config, 2) * 2)]) for chosen in asked)


# ---------------------------------------------------------------------------------------------- prompts and settings


def test_a_file_of_prompts_is_read_by_the_command(random_pipeline: Path, tmp_path: Path) -> None:
    file, run = tmp_path / "prompts.txt", tmp_path / "run"
    file.write_text("\ufeff" + "\r\n".join([*PROMPTS, "", "  # 1 hand  "]), encoding="utf-8")
    command = ["train", "--model", str(random_pipeline), "--evaluator", "test_cli:every_other", "--rounds", "1"]
    command += ["--no-evaluate", "--out", str(run), "--prompts", str(file)]
    for setting in ("num_steps=5", "height=32", "width=32"):
        command += ["--set", f"sampling.{setting}"]
    result = CliRunner().invoke(app, [*command, "--prompts-per-round", "2", "--images-per-round", "4"])
    assert result.exit_code == 0, result.output
    task = load_toml(run / "config.toml")["task"]
    assert (task["prompts"], task["prompts_per_round"]) == ([*PROMPTS, "# 1 hand"], 2)
    file.write_text("\n \n")
    for name, said in (("prompts.txt", "it holds no prompt"), ("none.txt", "cannot be read")):
        result = CliRunner().invoke(app, [*command, "--prompts", str(tmp_path / name)])
        assert result.exit_code == 2
        assert said in " ".join(result.stderr.split())


def test_a_long_negative_prompt_is_cut_and_said_to_be(tiny_config: Callable[..., Config]) -> None:
    policy = load_policy(tiny_config(sampling={"negative_prompt": "hand " * 80}))
    (cut,) = policy.cut(["1 hand"])
    assert cut.prompt.startswith("hand hand")


def test_an_evaluation_is_of_the_prompting_that_it_was_made_with(tiny_config: Callable[..., Config]) -> None:
    plain, skipping = tiny_config().sampling, tiny_config(sampling={"clip_skip": 1, "negative_prompt": "x"}).sampling
    assert plain.sampler.keys() == {"num_steps", "eta", "guidance_scale"}  # as evaluations of older versions have it
    assert skipping.sampler == {**plain.sampler, "clip_skip": 1, "negative_prompt": "x"}
