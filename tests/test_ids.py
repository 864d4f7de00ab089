"""Ids of images: made and taken apart in one place, and nowhere else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hero
from hero.errors import FeedbackError
from hero.ids import LARGEST, blind_id, image_id, index_of, preview_id, prompt_index_of, prompts_in_turn, round_of

PACKAGE = Path(hero.__file__).parent
number = st.integers(0, LARGEST)


@given(round_=number, index=number)
def test_what_was_made_is_taken_apart(round_: int, index: int) -> None:
    names = [make(round_, index) for make in (image_id, preview_id, blind_id)]
    assert len(set(names)) == 3
    assert {(round_of(name), index_of(name)) for name in names} == {(round_, index)}


def test_ids_are_ordered_as_the_images_are() -> None:
    names = [image_id(round_, index) for round_ in (0, 1, 10, LARGEST) for index in (0, 9, 10, LARGEST)]
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("r0000-i0000", "r9999-i9999")


@pytest.mark.parametrize(
    "name", ["", "r1-i2", "x0001-i0002", "r0001-i00021", "../r0001-i0002", "r0001_i0002", "r0001-i0002\n"]
)
def test_what_is_no_id_is_refused(name: str) -> None:
    with pytest.raises(FeedbackError, match="is not an image id"):
        round_of(name)


@pytest.mark.parametrize(("round_", "index"), [(-1, 0), (0, -1), (LARGEST + 1, 0), (0, LARGEST + 1)])
def test_there_is_no_id_beyond_four_digits(round_: int, index: int) -> None:
    with pytest.raises(ValueError, match="has no id"):
        image_id(round_, index)


def test_prompts_take_turns() -> None:
    assert prompts_in_turn("abc", 7) == list("abcabca")
    assert [prompt_index_of(i, 3) for i in range(4)] == [0, 1, 2, 0]


def test_no_other_module_makes_or_cuts_up_ids_or_shares_out_prompts() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "ids.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.JoinedStr | ast.Subscript | ast.BinOp | ast.Call) else ""
            if (
                re.match(r"f['\"][rpe]\{.*-i\{", text)  # an id put together
                or re.search(r"\[1:5\]$|\.rpartition\('i'\)|\.split\('-i'\)", text)  # an id cut up
                or re.search(r" % len\((?:\w+\.)*_?prompts\)$", text)  # whose prompt is it
            ):
                wrong.append(f"{path.relative_to(PACKAGE)}: {text}")
    assert wrong == []
