"""Combines several evaluators' submissions into the answer that the run learns from: majority, unanimity or a lead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from hero.types import Answer, Feedback, ImageBatch, ImageId, Verdict

__all__ = ["LEAD", "combine", "lead_of"]

LEAD = "lead:"
"""Prefix of a rule that names the evaluator whose answer decides, e.g. "lead:ada"."""


def lead_of(rule: str) -> str | None:
    """The evaluator that `rule` names; None for majority and unanimity."""
    return rule.removeprefix(LEAD) if rule.startswith(LEAD) else None


def combine(submissions: Mapping[str, Feedback], batch: ImageBatch, rule: str = "majority") -> Answer:
    """One answer in the order of `batch`, whatever the order of submission.

    An image is good if, of those who gave a verdict on it,

    - "majority": more marked it good than bad; a tie is bad;
    - "unanimity": all marked it good;
    - "lead:NAME": NAME marked it good; where NAME gave no verdict, the majority decides.

    The best of a prompt is the one that most evaluators named, among those that are good by the rule or were kept from
    before; under a lead, the lead's if they named one. A tie goes to the kept one, else to the first of the batch.
    Scores are averaged, comparisons are pooled; under a lead they are the lead's if there are any.

    Args:
        submissions: evaluator → feedback that answers `batch`; at least one.
        rule: see above; a lead must be among the evaluators.
    """
    names = sorted(submissions)
    answers = {name: submissions[name].ordered(batch) for name in names}
    lead = lead_of(rule)
    votes = {i: [answers[name].verdicts[i] for name in names if i in answers[name].verdicts] for i in batch.ids}
    verdicts = {i: _verdict(given, rule) for i, given in votes.items() if given}
    if lead is not None:
        verdicts |= answers[lead].verdicts
    allowed = {best.id for best in batch.best} | {i for i, verdict in verdicts.items() if verdict is Verdict.GOOD}
    # A lead comes first, so that its choice comes before all others.
    sources = [answers[lead], *answers.values()] if lead is not None else list(answers.values())
    feedback = Feedback(
        verdicts,
        _bests(sources, batch, allowed, first_decides=lead is not None),
        next((f.scores for f in sources if f.scores), {}) if lead is not None else _mean_scores(sources, batch.ids),
        next((f.pairs for f in sources if f.pairs), ()) if lead is not None else [p for f in sources for p in f.pairs],
    )
    disagreements = [i for i, given in votes.items() if len(set(given)) > 1]
    return Answer(feedback.ordered(batch), names, rule, disagreements)


def _verdict(given: Sequence[Verdict], rule: str) -> Verdict:
    good = sum(verdict is Verdict.GOOD for verdict in given)
    needed = len(given) if rule == "unanimity" else len(given) // 2 + 1
    return Verdict.GOOD if good >= needed else Verdict.BAD


def _bests(
    sources: Sequence[Feedback], batch: ImageBatch, allowed: set[ImageId], *, first_decides: bool
) -> list[ImageId]:
    """The best of each prompt that has one that is `allowed`."""
    prompt_of = {best.id: best.prompt for best in batch.best} | dict(zip(batch.ids, batch.prompts, strict=True))
    place = {i: k for k, i in enumerate(prompt_of)}  # kept ones come first
    bests = []
    for prompt in dict.fromkeys(prompt_of.values()):
        named = [[i for i in f.best if prompt_of[i] == prompt and i in allowed] for f in sources]
        decisive = named[:1] if first_decides and named[0] else named
        bests += _most_named([i for ids in decisive for i in ids], place)
    return bests


def _most_named(named: Iterable[ImageId], place: Mapping[ImageId, int]) -> list[ImageId]:
    counts = Counter(named)
    return [min(counts, key=lambda i: (-counts[i], place[i]))] if counts else []


def _mean_scores(sources: Sequence[Feedback], ids: Sequence[ImageId]) -> dict[ImageId, float]:
    given = {i: [f.scores[i] for f in sources if i in f.scores] for i in ids}
    return {i: sum(values) / len(values) for i, values in given.items() if values}
