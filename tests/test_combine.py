"""Several submissions into one answer: each rule on cases worked by hand, and what holds for all of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hero.feedback.combine import combine, lead_of
from hero.types import BestImage, Feedback, ImageBatch, Verdict, image_id

PICTURE = Image.new("RGB", (1, 1))
A, B, C, D = IDS = tuple(image_id(2, index) for index in range(4))
KEPT = image_id(1, 3)
BATCH = ImageBatch(2, IDS, (PICTURE,) * 4, ("hand",) * 4, (BestImage(KEPT, PICTURE, "hand"),))
TWO_PROMPTS = ImageBatch(2, IDS, (PICTURE,) * 4, ("hand", "rose") * 2)


def good(*ids: str, best: str | tuple[str, ...] | None = None) -> Feedback:
    return Feedback.from_good(BATCH, ids, best)


THREE = {
    "zoe": good(A, B, best=A),
    "ada": good(A, C, best=C),
    "bob": good(A, B, D, best=D),
}


@pytest.mark.parametrize(
    ("rule", "expected", "best"),
    [
        ("majority", (A, B), (A,)),  # every best has one vote: the first of those that are good
        ("unanimity", (A,), (A,)),
        ("lead:ada", (A, C), (C,)),
        ("lead:bob", (A, B, D), (D,)),
    ],
)
def test_the_rules(rule: str, expected: tuple[str, ...], best: tuple[str, ...]) -> None:
    answer = combine(THREE, BATCH, rule)
    assert (answer.good, answer.best) == (expected, best)
    assert (answer.evaluators, answer.rule, answer.disagreements) == (("ada", "bob", "zoe"), rule, (B, C, D))
    answer.check(BATCH)


def test_a_tie_is_bad_and_a_disagreement() -> None:
    answer = combine({"ada": good(A, B), "bob": good(A, C)}, BATCH)
    assert (answer.good, answer.bad, answer.disagreements) == ((A,), (B, C, D), (B, C))


def test_who_gave_no_verdict_has_no_vote() -> None:
    two = {"ada": Feedback({A: "good", B: "bad"}), "bob": Feedback({A: "good", C: "good"})}
    for rule in ("majority", "unanimity", "lead:ada"):
        answer = combine(two, BATCH, rule)
        assert (answer.good, answer.bad, answer.disagreements) == ((A, C), (B,), ())


def test_the_kept_best_stays_in_a_tie_and_goes_with_a_majority() -> None:
    keeps, names = good(A, B, best=KEPT), good(A, B, best=B)
    assert combine({"ada": names, "bob": keeps}, BATCH).best == (KEPT,)
    assert combine({"ada": names, "bob": keeps, "cid": names}, BATCH).best == (B,)
    assert combine({"ada": good(A), "bob": good(B)}, BATCH).best == ()


def test_the_best_is_good_by_the_rule_even_if_most_named_another() -> None:
    two = {"ada": good(A, B, best=B), "bob": good(A, best=A), "cid": good(A)}
    assert combine(two, BATCH).best == (A,)
    assert combine({"ada": good(B, best=B), "bob": good(A)}, BATCH).best == ()
    lead_without = {"ada": good(A), "bob": good(A, best=A)}
    assert combine(lead_without, BATCH, "lead:ada").best == (A,)


def test_there_is_a_best_for_each_prompt() -> None:
    one = Feedback.from_good(TWO_PROMPTS, IDS, (D, A))
    other = Feedback.from_good(TWO_PROMPTS, IDS, (C, D))
    assert combine({"ada": one, "bob": other}, TWO_PROMPTS).best == (A, D)


def test_scores_and_comparisons() -> None:
    two = {
        "ada": Feedback(scores={A: 1.0, B: 0.5}, pairs=[(B, A)]),
        "bob": Feedback(scores={A: 0.0}, pairs=[(A, C), (B, A)]),
    }
    answer = combine(two, BATCH)
    assert answer.scores == {A: 0.5, B: 0.5}
    assert answer.pairs == ((A, C), (B, A), (B, A))
    lead = combine(two, BATCH, "lead:bob")
    assert (lead.scores, lead.pairs) == ({A: 0.0}, ((A, C), (B, A)))


def test_a_lead_may_have_any_name() -> None:
    assert lead_of("lead:lead:x") == "lead:x"
    assert (lead_of("majority"), lead_of("unanimity")) == (None, None)


submitted = st.builds(
    lambda marks, best: Feedback(marks, best if marks.get(best) == "good" or best == KEPT else None),
    st.dictionaries(st.sampled_from(IDS), st.sampled_from(["good", "bad"])),
    st.sampled_from([*IDS, KEPT]),
)


@given(given=st.lists(submitted, min_size=1, max_size=4), rule=st.sampled_from(["majority", "unanimity", "lead:e0"]))
def test_an_answer_fits_its_batch_whoever_came_first(given: list[Feedback], rule: str) -> None:
    submissions = {f"e{k}": feedback for k, feedback in enumerate(given)}
    answer = combine(submissions, BATCH, rule)
    answer.check(BATCH)
    assert list(answer.verdicts) == [i for i in IDS if i in answer.verdicts]
    for order in itertools.permutations(submissions):
        assert combine({name: submissions[name] for name in order}, BATCH, rule) == answer
    if len(given) == 1:
        assert (answer.verdicts, answer.best) == (given[0].verdicts, given[0].best)
        assert answer.disagreements == ()
    if rule == "unanimity":
        for image in answer.good:
            assert not any(feedback.verdicts.get(image) is Verdict.BAD for feedback in given)
