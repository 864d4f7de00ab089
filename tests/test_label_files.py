"""Files of labels as people and other systems write them: what is read, what is refused, what survives a round trip."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from hero.cli import app
from hero.errors import ConfigError, FeedbackError
from hero.feedback.collected import verdicts_of
from hero.feedback.foreign import read_any
from hero.feedback.importing import ImportedLabels, read_labels


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


def files_of(labels: ImportedLabels) -> dict[str, Path]:
    return {name: picture for name, picture in labels.images.items() if isinstance(picture, Path)}


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    """With a byte order mark, CRLF, and backslashes between folders."""
    file = written(tmp_path, line(), line(image="sub\\cup3.png"), start=b"\xef\xbb\xbf")
    labels = read_labels(file)
    assert {file.relative_to(tmp_path).as_posix() for file in files_of(labels).values()} == {"cup1.png", "sub/cup3.png"}


def test_one_image_under_two_prompts_is_two_labels(tmp_path: Path) -> None:
    lines = [line(), line(prompt="a mug", value="bad"), line(image="cup2.png", prompt="a mug")]
    lines.append(line(image="cup2.png", prompt="a mug", kind="pair", value="yes", other="cup1.png"))
    labels = read_labels(written(tmp_path, *lines))
    (feedback,) = labels.feedback().values()
    files = files_of(labels)
    said = {(files[i].name, labels.prompts[i], str(v)) for i, v in feedback.verdicts.items()}
    assert said == {("cup1.png", "a cup", "good"), ("cup1.png", "a mug", "bad"), ("cup2.png", "a mug", "good")}
    ((winner, loser),) = feedback.pairs
    assert [(files[i].name, labels.prompts[i]) for i in (winner, loser)] == [
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
    with pytest.raises(FeedbackError, match="has no folder good or bad, no labels"):
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
    files = {name: file.relative_to(tmp_path).as_posix() for name, file in files_of(labels).items()}
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
        ([task("1.png", choice("fine"), prompt="x")], "item 1: the choice 'fine' is none of good, bad and best"),
        ([task("gone.png", choice("good"), prompt="x")], r"item 1: there is no image gone\.png"),
        ([{"data": {}}], "item 1: it has no 'image'"),
        ([], "holds no label"),
    ):
        (tmp_path / "export.json").write_text(json.dumps(broken))
        with pytest.raises(FeedbackError, match=said):
            read_any(tmp_path / "export.json")


# ---------------------------------------------------------------------------------------------- comparisons


def drawn(shade: int) -> bytes:
    """A PNG file."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "PNG")
    return buffer.getvalue()


def written_as_parquet(file: Path, rows: list[dict[str, Any]], **types: pa.DataType) -> Path:
    table = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, table.column(index).cast(kind, safe=False))
    pq.write_table(table, file)
    return file


def said_of(labels: ImportedLabels) -> tuple[dict[str, str], set[str], set[tuple[str, str]]]:
    """Verdicts, best images and pairs."""
    (feedback,) = labels.feedback().values()
    return {i: str(v) for i, v in feedback.verdicts.items()}, set(feedback.best), set(feedback.pairs)


def test_an_image_that_wins_at_least_as_often_as_it_loses_is_good_and_the_first_of_the_best_is_best() -> None:
    prompt_of = {"a": "x", "b": "x", "c": "x", "d": "y", "e": "y"}
    pairs = [("a", "b"), ("b", "c"), ("a", "c"), ("d", "e"), ("e", "d")]
    verdicts, best = verdicts_of(pairs, prompt_of)
    assert verdicts == {"a": "good", "b": "good", "c": "bad", "d": "good", "e": "good"}
    assert best == ["a", "d"]
    assert verdicts_of([], {}) == ({}, [])


def test_pairs_of_pick_a_pic_are_read_with_who_said_them_and_when(tmp_path: Path) -> None:
    def row(left: int, right: int, label: float, **more: Any) -> dict[str, Any]:
        sides: dict[str, Any] = {f"jpg_{k}": drawn(shade) for k, shade in enumerate((left, right))}
        sides |= {f"image_{k}_uid": f"uid-{shade}" for k, shade in enumerate((left, right))}
        told = {"label_0": label, "label_1": 1 - label, "has_label": True, "user_id": 7}
        return {**sides, "caption": "a cup", "created_at": datetime(2023, 3, 1, 12, 30), **told, **more}

    rows = [
        row(1, 2, 1.0),
        row(2, 3, 0.0),
        row(3, 4, 0.5),
        row(4, 1, 0.0, has_label=False),
        row(5, 6, 1.0, caption="a mug"),
    ]
    file = written_as_parquet(tmp_path / "train-00000-of-00001.parquet", rows, created_at=pa.timestamp("ns"))
    for place in (file, tmp_path):  # a folder of such files, too
        labels = read_any(place)
        verdicts, best, pairs = said_of(labels)
        assert verdicts == {"uid-1": "good", "uid-2": "bad", "uid-3": "good", "uid-5": "good", "uid-6": "bad"}
        assert best == {"uid-1", "uid-5"}
        assert pairs == {("uid-1", "uid-2"), ("uid-3", "uid-2"), ("uid-5", "uid-6")}
        assert labels.prompts["uid-5"] == "a mug"
        assert labels.images["uid-4"] == drawn(4)
        stated = [mark for mark in labels.marks if mark.mark.kind == "pair"]
        assert {(mark.evaluator, mark.created_at[:16]) for mark in stated} == {("user 7", "2023-03-01T12:30")}
        assert {mark.evaluator for mark in labels.marks if mark.mark.kind != "pair"} == {"imported"}


def test_choices_and_ranks_of_hpd_are_read(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / "train" / f"{name}.jpg")
    listed = {"prompt": "a cup", "file_path": ["a.jpg", "b.jpg"]}
    for chosen in ([0, 1], 1):  # of the second version, of the first
        (tmp_path / "train.json").write_text(json.dumps([{**listed, "human_preference": chosen, "user_hash": "u1"}]))
        labels = read_any(tmp_path / "train.json")
        assert said_of(labels) == ({"b.jpg": "good", "a.jpg": "bad"}, {"b.jpg"}, {("b.jpg", "a.jpg")})
        assert labels.images["a.jpg"] == tmp_path / "train" / "a.jpg"
        assert labels.marks[0].evaluator == "u1"
    ranked = {"prompt": "a cup", "image_path": ["a.jpg", "b.jpg", "c.jpg"], "rank": [2, 1, 3]}
    (tmp_path / "test.json").write_text(json.dumps([ranked]))
    verdicts, best, pairs = said_of(read_any(tmp_path / "test.json"))
    assert verdicts == {"b.jpg": "good", "a.jpg": "good", "c.jpg": "bad"}
    assert best == {"b.jpg"}
    assert pairs == {("b.jpg", "a.jpg"), ("a.jpg", "c.jpg"), ("b.jpg", "c.jpg")}
    (tmp_path / "test.json").write_text(json.dumps([{**ranked, "rank": [1, 2]}]))
    with pytest.raises(FeedbackError, match="item 1: 3 images, but 2 values for them"):
        read_any(tmp_path / "test.json")
    (tmp_path / "test.json").write_text(json.dumps([{"prompt": "a cup", "rank": [1, 2]}]))
    with pytest.raises(FeedbackError, match="item 1: it has no 'image_path'"):
        read_any(tmp_path / "test.json")


def test_ranks_as_imagereward_has_them_are_read(tmp_path: Path) -> None:
    for name in "abc":
        picture(tmp_path / "images" / f"{name}.webp")
    names = [f"{name}.webp" for name in "abc"]
    wanted = {("b.webp", "a.webp"), ("b.webp", "c.webp")}  # a and c share a rank
    (tmp_path / "test.json").write_text(json.dumps([{"prompt": "a cup", "generations": names, "ranking": [2, 1, 2]}]))
    assert said_of(read_any(tmp_path / "test.json"))[2] == wanted

    images = [{"prompt_id": "p1", "prompt": "a cup", "rank": rank, "overall_rating": 8 - rank} for rank in (2, 1, 2)]
    paths = [f"images/train/train_1/{name}" for name in names]
    (tmp_path / "rows.json").write_text(
        json.dumps([{**row, "image_path": path} for row, path in zip(images, paths, strict=True)])
    )
    labels = read_any(tmp_path / "rows.json")
    verdicts, best, pairs = said_of(labels)
    assert {(Path(w).name, Path(x).name) for w, x in pairs} == wanted
    assert {Path(i).name: v for i, v in verdicts.items()} == {"b.webp": "good", "a.webp": "bad", "c.webp": "bad"}
    assert {Path(i).name for i in best} == {"b.webp"}
    (feedback,) = labels.feedback().values()
    assert sorted(feedback.scores.values()) == [6.0, 6.0, 7.0]

    cells = [{"image": {"bytes": drawn(k), "path": f"{k}.webp"}, **row} for k, row in enumerate(images)]
    by_rank = read_any(written_as_parquet(tmp_path / "rows.parquet", cells))
    pair = {"prompt": "a cup", "img_better": {"bytes": drawn(1)}, "img_worse": {"bytes": drawn(0)}}
    by_pair = read_any(written_as_parquet(tmp_path / "pairs.parquet", [pair]))
    ((winner, loser),) = said_of(by_pair)[2]
    assert (winner, loser) in said_of(by_rank)[2]  # images without a name are called by their contents
    assert by_pair.images[winner] == drawn(1)


def test_a_table_of_verdicts_is_read(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        picture(tmp_path / name)
    with open(tmp_path / "mine.csv", "w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, ["image", "prompt", "verdict", "best", "score", "evaluator"])
        table.writeheader()
        table.writerow(
            {"image": "1.png", "prompt": 'a "red"\r\ncup', "verdict": "Good", "best": "True", "evaluator": "ann"}
        )
        table.writerow({"image": "2.png", "verdict": "bad", "best": "False", "score": "0.5"})
    labels = read_any(tmp_path / "mine.csv", "a cup")
    assert said_of(labels) == ({"1.png": "good", "2.png": "bad"}, {"1.png"}, set())
    assert labels.prompts == {"1.png": 'a "red"\r\ncup', "2.png": "a cup"}
    assert [mark.evaluator for mark in labels.marks] == ["ann", "ann", "imported", "imported"]


def test_what_is_no_file_of_labels_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"a": 1, "b": 2}]')
    with pytest.raises(FeedbackError, match=r"has columns of no known format \(a, b\); see docs"):
        read_any(tmp_path / "x.json")
    (tmp_path / "x.parquet").write_bytes(b"no table")
    with pytest.raises(FeedbackError, match=r"cannot read .*x\.parquet"):
        read_any(tmp_path / "x.parquet")
    row = {"prompt": "a cup", "image_id": "same", "verdict": "good"}
    rows = [{**row, "image": {"bytes": drawn(k), "path": None}} for k in (1, 2)]
    with pytest.raises(FeedbackError, match="row 2: two images are called same"):
        read_any(written_as_parquet(tmp_path / "two.parquet", rows))
    pairs = [{"jpg_0": drawn(1), "jpg_1": drawn(2), "caption": "a cup", "label_0": 1.0}]
    with pytest.raises(FeedbackError, match="row 1: it has no 'label_1'"):
        read_any(written_as_parquet(tmp_path / "pairs.parquet", pairs))


def test_of_labels_for_many_prompts_one_chooses_those_to_train_on(tmp_path: Path) -> None:
    picture(tmp_path / "1.png")
    (tmp_path / "many.csv").write_text(
        "image,prompt,verdict\n" + "".join(f"1.png,prompt {k},good\n" for k in range(100))
    )

    def said(*options: str) -> str:
        done = CliRunner().invoke(
            app, ["feedback", "import", str(tmp_path / "many.csv"), "--out", str(tmp_path), *options]
        )
        assert done.exit_code == 2
        return " ".join(done.stderr.split())

    assert "the labels are for 100 prompts: choose those to train on: --set 'task.prompts=" in said()
    assert "is not an empty folder" in said("--set", 'task.prompts=["prompt 3"]')  # it got as far as the folder


@pytest.mark.parametrize("name", ["cat.png", "labels.jsonl", "export.json"])
def test_a_file_that_is_no_text_is_refused_in_words(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(FeedbackError, match=rf"{name} is not text: give labels\.jsonl") as refused:
        read_any(tmp_path / name)
    assert "codec" not in str(refused.value)
