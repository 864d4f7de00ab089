"""Prompts that are too long for a text encoder: what it does not see is said; prompts that become one are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hero import Feedback
from hero.bench.miniatures import MINIATURES
from hero.config import Config, SamplingConfig
from hero.errors import ConfigError
from hero.policies import Policy, family_of
from hero.policies.prompts import cut_prompts
from hero.report import write_report
from hero.run.finished import FinishedRun
from hero.tuner import Tuner

LONG = ("1 hand and " * 41).strip()


def test_what_is_cut_makes_no_difference_and_what_is_not_does(tiny_policy: Callable[..., Policy]) -> None:
    policy = tiny_policy()
    (cut,) = policy.cut([LONG, "1 hand"])
    assert (cut.prompt, cut.encoder) == (LONG, "text_encoder")
    kept = LONG[: -len(cut.cut)].strip()
    assert LONG.split() == [*kept.split(), *cut.cut.split()]
    one, same, other = policy.encode([LONG, f"{kept} {cut.cut} a person", kept.rsplit(" ", 1)[0]]).positive[
        "embeddings"
    ]
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert policy.cut([kept]) == []


@pytest.mark.parametrize("name", MINIATURES)
def test_every_family_says_how_much_its_text_encoders_are_given(name: str) -> None:
    """The first token that a family's own call does not see is the first one that is said to be cut."""
    pipeline = MINIATURES[name]()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # a new T5 has dropout
    sampling = SamplingConfig(num_steps=3, height=32, width=32)
    family = family_of(type(pipeline).__name__)(pipeline, sampling, torch.device("cpu"))
    limits = family.token_limits()
    assert limits.keys() == {n for n, part in pipeline.components.items() if n.startswith("tokenizer") and part}
    words = "hand " * 600
    cut = cut_prompts(pipeline, limits, [words, "1 hand"])
    assert {c.prompt for c in cut} == {words}
    assert len(cut) == len(limits)
    # Whatever follows what the most generous encoder cuts makes no difference.
    with torch.no_grad():
        shortest = min((c.cut for c in cut), key=len)
        kept = words.strip()[: -len(shortest)].rstrip()
        rows = family.encode([words, f"{kept} {'x' * len(shortest)}", "x" + words]).positive
    assert all(torch.equal(value[0], value[1]) for value in rows.values())
    assert any(not torch.equal(value[0], value[2]) for value in rows.values())


def test_a_run_says_what_is_cut_in_its_folder_and_in_its_report(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    with Tuner(tiny_config(prompts=("1 hand", LONG), rounds=1), tmp_path / "run") as tuner:
        (said,) = tuner.learner.cut
        assert said.startswith("text_encoder does not see the end of “1 hand and")
        batch = tuner.ask()
        tuner.tell(Feedback.from_good(batch, batch.ids[:2], batch.ids[0]))
    assert FinishedRun(tmp_path / "run").cut_prompts == [said]
    assert json.loads((tmp_path / "run" / "cut_prompts.json").read_text()) == [said]
    assert said in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_two_prompts_that_differ_only_where_they_are_cut_are_refused(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="are the same to the model, which cuts off the ends"):
        Tuner(tiny_config(prompts=(f"{LONG} a dog", f"{LONG} a cat")), tmp_path / "run")
