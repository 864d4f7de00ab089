"""Files of labels as people and other systems write them: what is read, what is refused, what survives a round trip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hero.errors import ConfigError, FeedbackError
from hero.feedback.foreign import read_any
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


# ---------------------------------------------------------------------------------------------- of other programs


def picture(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(file)
    return file


def test_a_folder_of_good_and_bad_images_is_read(tmp_path: Path) -> None:
    for name in ("good/1.png", "good/2.jpg", "bad/1.png"):
        picture(tmp_path / name)
    (tmp_path / "bad" / "notes.txt").write_text("no image")
    labels = read_any(tmp_path, "a cup")
    (feedback,) = labels.feedback().values()
    assert (list(feedback.good), list(feedback.bad)) == (["good/1.png", "good/2.jpg"], ["bad/1.png"])
    assert set(labels.prompts.values()) == {"a cup"}
    assert labels.images["bad/1.png"] == tmp_path / "bad" / "1.png"
    with pytest.raises(ConfigError, match=r"1\.png has no prompt of its own; give --prompt"):
        read_any(tmp_path)
    with pytest.raises(FeedbackError, match="no folder good or bad"):
        read_any(tmp_path / "good", "a cup")


def task(image: str, *results: dict[str, object], **data: str) -> dict[str, object]:
    annotation = {"completed_by": {"id": 3, "email": "ann@x"}, "result": list(results)}
    cancelled = {"completed_by": 4, "was_cancelled": True, "result": [choice("bad")]}
    return {"data": {"image": image, **data}, "annotations": [annotation, cancelled]}


def choice(*words: str) -> dict[str, object]:
    return {"type": "choices", "value": {"choices": list(words)}}


def test_choices_and_ratings_of_label_studio_are_read(tmp_path: Path) -> None:
    for name in ("1.png", "images/2.png", "3.png", "sub/4.png"):
        picture(tmp_path / name)
    stars = [{"type": "rating", "value": {"rating": n}} for n in (4, 2)]
    tasks = [
        task("/data/upload/1/0a1b2c3d-1.png", choice("Good", "best"), prompt="a cup"),
        task("/data/upload/1/2.png", choice("bad"), prompt="a cup"),
        task("3.png", stars[0], {"type": "textarea", "value": {"text": ["nice"]}}, caption="a mug"),
        task("/data/local-files/?d=sub%5C4.png", stars[1]),
    ]
    (tmp_path / "export.json").write_text(json.dumps(tasks), encoding="utf-8-sig")
    labels = read_any(tmp_path / "export.json", "a cup")
    (feedback,) = labels.feedback().values()
    files = {name: path.relative_to(tmp_path).as_posix() for name, path in labels.images.items()}
    assert {files[i]: str(v) for i, v in feedback.verdicts.items()} == {
        "1.png": "good",
        "images/2.png": "bad",
        "3.png": "good",
        "sub/4.png": "bad",
    }
    assert [files[i] for i in feedback.best] == ["1.png"]
    assert sorted(feedback.scores.values()) == [2.0, 4.0]
    assert [labels.prompts[i] for i in labels.images] == ["a cup", "a cup", "a mug", "a cup"]
    assert {mark.evaluator for mark in labels.marks} == {"ann@x"}
    for broken, said in (
        ([task("1.png", choice("fine"), prompt="x")], "task 1: the choice 'fine' is none of good, bad and best"),
        ([task("gone.png", choice("good"), prompt="x")], r"task 1: there is no image gone\.png"),
        ([{"data": {}}], "task 1: not as Label Studio writes it"),
        ([], "holds no label"),
    ):
        (tmp_path / "export.json").write_text(json.dumps(broken))
        with pytest.raises(FeedbackError, match=said):
            read_any(tmp_path / "export.json")


@pytest.mark.parametrize("name", ["cat.png", "labels.jsonl", "export.json"])
def test_a_file_that_is_no_text_is_refused_in_words(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(FeedbackError, match=rf"{name} is not text: give labels\.jsonl") as refused:
        read_any(tmp_path / name)
    assert "codec" not in str(refused.value)
