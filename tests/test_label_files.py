"""Files of labels as people and other systems write them: what is read, what is refused, what survives a round trip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hero.errors import FeedbackError
from hero.feedback.importing import read_labels


def line(**values: object) -> str:
    return json.dumps({"image": "cup1.png", "prompt": "a cup", "kind": "verdict", "value": "good"} | values)


def written(folder: Path, *lines: str, start: bytes = b"") -> Path:
    for name in ("cup1.png", "cup2.png"):
        Image.new("RGB", (8, 8)).save(folder / name)
    (folder / "sub").mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / "sub" / "cup3.png")
    file = folder / "labels.jsonl"
    file.write_bytes(start + "\r\n".join(lines).encode())
    return file


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    """With a byte order mark, CRLF, and backslashes between folders."""
    file = written(tmp_path, line(), line(image="sub\\cup3.png"), start=b"\xef\xbb\xbf")
    labels = read_labels(file)
    assert {path.relative_to(tmp_path).as_posix() for path in labels.images.values()} == {"cup1.png", "sub/cup3.png"}


def test_one_image_under_two_prompts_is_two_labels(tmp_path: Path) -> None:
    lines = [line(), line(prompt="a mug", value="bad"), line(image="cup2.png", prompt="a mug")]
    lines.append(line(image="cup2.png", prompt="a mug", kind="pair", value="yes", other="cup1.png"))
    labels = read_labels(written(tmp_path, *lines))
    (feedback,) = labels.feedback().values()
    said = {(labels.images[i].name, labels.prompts[i], str(v)) for i, v in feedback.verdicts.items()}
    assert said == {("cup1.png", "a cup", "good"), ("cup1.png", "a mug", "bad"), ("cup2.png", "a mug", "good")}
    ((winner, loser),) = feedback.pairs
    assert [(labels.images[i].name, labels.prompts[i]) for i in (winner, loser)] == [
        ("cup2.png", "a mug"),
        ("cup1.png", "a mug"),
    ]
    told = [line(image_id="x"), line(image_id="x", prompt="a mug")]
    with pytest.raises(FeedbackError, match=r"line 2: x has the prompt 'a cup' in an earlier line"):
        read_labels(written(tmp_path, *told))


@settings(max_examples=50, deadline=None)
@given(prompt=st.text(min_size=1), evaluator=st.text(min_size=1))
def test_whatever_a_prompt_or_a_name_holds_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, evaluator: str
) -> None:
    """Line separators of every kind among them, written raw, as other programs do."""
    folder = tmp_path_factory.mktemp("labels")
    row = json.loads(line(prompt=prompt, evaluator=evaluator))
    try:
        labels = read_labels(written(folder, json.dumps(row, ensure_ascii=False)))
    except UnicodeEncodeError:  # half a surrogate pair cannot be written raw
        labels = read_labels(written(folder, json.dumps(row)))
    assert set(labels.prompts.values()) == {prompt}
    assert [mark.evaluator for mark in labels.marks] == [evaluator]
