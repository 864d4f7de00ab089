"""Labels out of a run and into another: every mark survives, Parquet needs pyarrow alone, runs start from labels."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hero.cli import app
from hero.config import Config
from hero.errors import ConfigError, FeedbackError, RunError
from hero.feedback.agreement import measure_agreement
from hero.feedback.export import export_feedback
from hero.feedback.foreign import LABELS_FILE, read_any
from hero.feedback.importing import read_labels
from hero.feedback.marks import Mark
from hero.feedback.parquet import pairs_of
from hero.feedback.starting import Started, start_from_labels
from hero.feedback.store import LabelStore
from hero.run import RunDirectory
from hero.tuner import Tuner
from hero.types import Feedback, ImageBatch, image_id

PROMPTS = ("1 hand", "a black cat")


def _good(batch: ImageBatch) -> Feedback:
    """The first four of six images are good, two of each prompt; the first of each prompt is best."""
    return Feedback.from_good(batch, batch.ids[:4], batch.ids[:2])


@pytest.fixture(scope="module")
def trained(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two rounds and two prompts; ann marked part of round 2 too, with a change of mind and a suggestion."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    with Tuner(tiny_config(prompts=PROMPTS, rounds=2), folder) as tuner:
        tuner.run(_good)
        ids = [image_id(2, i) for i in range(6)]
        tuner.store.mark(2, "ann", Mark(ids[0], "verdict", "good", suggested="good", seconds=1.5))
        tuner.store.mark(2, "ann", Mark(ids[0], "verdict", "bad", seconds=0.5), Mark(ids[1], "verdict", "good"))
    return folder


def _labels(folder: Path) -> list[tuple[Any, ...]]:
    with LabelStore(folder / "feedback.db") as store:
        return [tuple(vars(label).values())[1:] for label in store.labels()]


# ---------------------------------------------------------------------------------------------- export


def test_json_lines_hold_every_mark_with_its_image(trained: Path, tmp_path: Path) -> None:
    exported = export_feedback(trained, "jsonl", tmp_path / "out")
    rows = [json.loads(line) for line in exported.file.read_text().splitlines()]
    assert (exported.file, exported.rows, exported.missing) == (tmp_path / "out" / LABELS_FILE, len(rows), ())
    marks = [row for row in rows if row["kind"] in ("verdict", "best")]
    assert len(marks) == 2 * 8 + 3
    keys = ("round", "evaluator", "image_id", "kind", "value", "other", "suggested", "seconds", "created_at")
    stored = [(*label[:-1], label[-1].isoformat(timespec="microseconds")) for label in _labels(trained)]
    assert [tuple(row[key] for key in keys) for row in marks] == stored
    for row in marks:
        name = row["image_id"]
        assert row["prompt"] == PROMPTS[int(name[-4:]) % 2]
        shown = trained / "rounds" / name[1:5] / "images" / f"{name}.png"
        assert (tmp_path / "out" / row["image"]).read_bytes() == shown.read_bytes()
    assert [(r["round"], r["evaluator"]) for r in rows if r["kind"] == "submission"] == [(1, "_good"), (2, "_good")]
    answers = [row for row in rows if row["kind"] == "answer"]
    assert [row["feedback"]["best"] for row in answers] == [[image_id(r, 0), image_id(r, 1)] for r in (1, 2)]


def test_a_folder_of_json_lines_has_a_flat_row_for_each_image_and_evaluator(trained: Path, tmp_path: Path) -> None:
    out = export_feedback(trained, "jsonl", tmp_path / "out").file.parent
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 12 + 2
    assert all((out / row["file_name"]).is_file() for row in rows)
    assert all(not isinstance(value, dict | list) for row in rows for value in row.values())
    (first,) = [r for r in rows if (r["image_id"], r["evaluator"]) == (image_id(2, 0), "ann")]
    assert (first["verdict"], first["best"], first["prompt"], first["round"]) == ("bad", False, "1 hand", 2)


def test_pairs_do_not_say_where_the_model_lies(trained: Path, tmp_path: Path) -> None:
    path = Path(RunDirectory.open(trained).config.model.path)
    exported = export_feedback(trained, "pickapic", tmp_path / "out")
    assert {row[f"model_{side}"] for row in pq.read_table(exported.file).to_pylist() for side in (0, 1)} == {path.name}
    assert path.is_absolute()


def test_parquet_has_an_image_a_row_and_opens_with_pyarrow_alone(trained: Path, tmp_path: Path) -> None:
    exported = export_feedback(trained, "parquet", tmp_path / "out")
    table = pq.read_table(exported.file)
    assert exported.rows == table.num_rows == 12
    rows = table.to_pylist()
    for row in rows:
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            assert image.size == (32, 32)
        assert row["image"]["path"] == f"{row['image_id']}.png"
    by_id = {row["image_id"]: row for row in rows}
    first = by_id[image_id(2, 0)]
    assert (first["round"], first["prompt"], first["verdict"], first["best"]) == (2, "1 hand", "good", True)
    assert [(v["evaluator"], v["verdict"], v["best"]) for v in first["votes"]] == [
        ("_good", "good", True),
        ("ann", "bad", False),
    ]
    assert [v["verdict"] for v in by_id[image_id(2, 5)]["votes"]] == ["bad", None]
    # What the datasets library reads to show images as images.
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert set(features) == set(table.column_names)
    assert {f.name for f in table.schema.field("image").type} == {"bytes", "path"}


def test_pickapic_has_its_columns_and_the_pairs_of_each_submitted_answer(trained: Path, tmp_path: Path) -> None:
    exported = export_feedback(trained, "pickapic", tmp_path / "out")
    rows = pq.read_table(exported.file).to_pylist()
    assert set(rows[0]) == {
        *("are_different", "best_image_uid", "caption", "created_at", "has_label", "image_0_uid", "image_0_url"),
        *("image_1_uid", "image_1_url", "jpg_0", "jpg_1", "label_0", "label_1", "model_0", "model_1"),
        *("ranking_id", "user_id", "num_example_per_prompt"),
    }
    # Per round and prompt: 2 good × 1 bad, and best over the other good one. Ann has submitted nothing.
    assert exported.rows == len(rows) == 2 * 2 * 3
    assert {row["num_example_per_prompt"] for row in rows} == {6}
    assert sorted(row["ranking_id"] for row in rows) == list(range(12))
    assert {row["user_id"] for row in rows} == {0}
    assert {row["label_0"] for row in rows} == {0.0, 1.0}
    for row in rows:
        assert row["label_0"] + row["label_1"] == 1
        winner = row["image_0_uid"] if row["label_0"] == 1 else row["image_1_uid"]
        assert row["best_image_uid"] == winner
        assert row["has_label"]
        assert row["are_different"]
        places = [uid.rpartition("/")[2] for uid in (row["image_0_uid"], row["image_1_uid"])]
        assert {PROMPTS[int(name[-4:]) % 2] for name in places} == {row["caption"]}
        for side in (0, 1):
            with Image.open(io.BytesIO(row[f"jpg_{side}"])) as image:
                assert (image.format, image.size) == ("JPEG", (32, 32))


def test_a_best_kept_from_before_wins_over_the_good_ones_of_its_prompt() -> None:
    prompt_of = {"old": "a", "x": "a", "y": "a", "z": "b"}
    feedback = Feedback({"x": "good", "y": "bad", "z": "good"}, best="old", pairs=[("y", "x")])
    assert pairs_of(feedback, prompt_of) == [("x", "y"), ("old", "x"), ("y", "x")]


def test_images_that_are_gone_are_named_not_invented(trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    gone = image_id(1, 2)
    (run / "rounds/0001/images" / f"{gone}.png").unlink()
    jsonl = export_feedback(run, "jsonl", tmp_path / "jsonl")
    assert jsonl.missing == (gone,)
    lines = [json.loads(line) for line in jsonl.file.read_text().splitlines()]
    assert [row["image"] for row in lines if row.get("image_id") == gone] == [None]
    parquet = export_feedback(run, "parquet", tmp_path / "parquet")
    images = {row["image_id"]: row["image"] for row in pq.read_table(parquet.file).to_pylist()}
    assert (parquet.missing, images[gone]) == ((gone,), None)
    pairs = export_feedback(run, "pickapic", tmp_path / "pickapic")
    assert (pairs.missing, pairs.rows) == ((gone,), 12 - 2)


def test_export_refuses_what_it_cannot_do(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="did you mean 'parquet'"):
        export_feedback(trained, "parket", tmp_path / "out")
    with pytest.raises(RunError, match="not an empty folder"):
        export_feedback(trained, "jsonl", trained)
    with pytest.raises(RunError, match="no run in"):
        export_feedback(tmp_path, "jsonl", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'hero-diffusion\[parquet\]'"):
        export_feedback(trained, "parquet", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_the_folder_where_one_is_can_be_filled_if_it_is_empty(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export_feedback(trained, "jsonl", Path(".")).file.is_file()
    assert (tmp_path / "images").is_dir()
    with pytest.raises(RunError, match=r"^\. exists and is not an empty folder"):
        export_feedback(trained, "parquet", Path("."))
    assert {p.name for p in tmp_path.iterdir()} == {LABELS_FILE, "metadata.jsonl", "images", "config.toml"}


def test_an_export_of_labels_on_a_full_disk_ends_in_a_sentence_and_takes_no_file_of_the_users(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / ".out.partial"
    mine.mkdir()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(RunError, match=r"cannot write .*out: No space left on device; choose another --out"):
        export_feedback(trained, "jsonl", tmp_path / "out")
    assert list(tmp_path.iterdir()) == [mine]


def test_images_and_a_report_go_where_one_is_or_say_why_not(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    drawn = CliRunner().invoke(app, ["generate", str(trained), "--out", ".", "--images", "1"])
    assert drawn.exit_code == 0, drawn.output
    assert [p.name for p in tmp_path.iterdir()] == ["0000.png"]
    report = CliRunner().invoke(app, ["report", str(trained), "--out", "."])
    assert report.exit_code == 2
    assert "Is a directory; name another file with --out" in " ".join(report.stderr.split())
    assert [p.name for p in tmp_path.iterdir()] == ["0000.png"]


# ---------------------------------------------------------------------------------------------- import


def test_a_folder_of_an_export_is_read_with_the_settings_in_it(trained: Path, tmp_path: Path) -> None:
    exported = export_feedback(trained, "jsonl", tmp_path / "out")
    assert read_any(tmp_path / "out") == read_labels(exported.file)
    settings = (tmp_path / "out" / "config.toml").read_text()
    (tmp_path / "out" / "config.toml").write_text(settings.replace("a black cat", "a dog").replace("1 hand", "a bird"))
    done = CliRunner().invoke(app, ["feedback", "import", str(tmp_path / "out"), "--out", str(tmp_path / "again")])
    assert done.exit_code == 2
    assert "with a prompt of this run ('a bird', 'a dog')" in " ".join(done.stderr.split())
    assert not (tmp_path / "again").exists()


def test_a_run_that_draws_the_labelled_images_learns_from_them_as_if_labelled_now(
    trained: Path, tmp_path: Path
) -> None:
    file = export_feedback(trained, "jsonl", tmp_path / "out").file
    config = RunDirectory.open(trained).config.model_copy(update={"rounds": 3})
    told: list[int] = []
    started = start_from_labels(read_labels(file), config, tmp_path / "again", on_round=told.append)
    assert (started, told) == (Started(2, 0, 0), [1, 2])
    assert _labels(tmp_path / "again") == _labels(trained)
    assert _tensors(tmp_path / "again") == _tensors(trained)
    with Tuner.resume(tmp_path / "again") as tuner:
        assert tuner.round == 3


def _tensors(run: Path) -> dict[str, bytes]:
    checkpoint = RunDirectory.open(run).load_checkpoint("told")
    assert checkpoint is not None
    return {
        f"{name}/{key}": value.numpy().tobytes()
        for name, values in checkpoint.tensors.items()
        for key, value in values.items()
    }


def test_labels_of_other_images_fit_the_representation_and_give_the_best(
    trained: Path, tmp_path: Path, tiny_config: Callable[..., Config]
) -> None:
    file = export_feedback(trained, "jsonl", tmp_path / "out").file
    config = tiny_config(prompts=(PROMPTS[1], "a snowman"), seed=5, rounds=1)
    started = start_from_labels(read_labels(file), config, tmp_path / "new")
    assert started == Started(0, 6, 6)  # the other six are of the prompt that this run has not
    with Tuner.resume(tmp_path / "new") as tuner:
        assert tuner.learner.reward.ready
        (best,) = tuner.best
        assert (best.id, best.prompt) == ("r0000-i0006", PROMPTS[1])  # image 3 of its prompt: round 2's best
        with Image.open(trained / "rounds/0002/images/r0002-i0001.png") as original:
            assert np.array_equal(np.asarray(best.image), np.asarray(original))
        batch = tuner.ask()
        assert batch.best == tuner.best
        stats = tuner.tell(Feedback.from_good(batch, batch.ids[:2], [best.id]))
        assert stats.steps > 0
        labels = list(tuner.store.labels(0))
    assert {label.evaluator for label in labels} == {"_good", "ann"}
    assert {int(label.image_id[-4:]) % 2 for label in labels} == {0}


def test_a_decoded_image_goes_back_to_its_latents(tiny_policy: Callable[..., Any]) -> None:
    policy = tiny_policy()
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    latents = policy.latents_of(images)
    assert latents.shape == (2, *policy.latent_shape)
    pixels = policy.pipeline.image_processor.preprocess(images)
    wanted = policy.pipeline.vae.encode(pixels).latent_dist.mean * policy.pipeline.vae.config.scaling_factor
    assert torch.allclose(latents, wanted)


def test_a_file_written_by_hand_is_enough(tmp_path: Path, tiny_config: Callable[..., Config]) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for k in range(4):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
        kind = {"kind": "verdict", "value": "good" if k < 2 else "bad"}
        lines.append({"image": f"{k}.png", "prompt": "1 hand", **kind})
    lines.append({"image": "0.png", "prompt": "1 hand", "kind": "best", "value": "yes"})
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    assert start_from_labels(read_labels(file), tiny_config(rounds=1), tmp_path / "run") == Started(0, 4, 0)
    with pytest.raises(FeedbackError, match="no label is for an image with a prompt of this run"):
        start_from_labels(read_labels(file), tiny_config(prompts=("a cat",)), tmp_path / "other")


def _by_hand(folder: Path, *images: Image.Image) -> Path:
    """A file in which the first image is good and best, and the others are bad."""
    lines = []
    for k, image in enumerate(images):
        image.save(folder / f"{k}.png", exif=image.getexif())
        verdict = {"kind": "verdict", "value": "good" if k == 0 else "bad"}
        lines.append({"image": f"{k}.png", "prompt": "1 hand", **verdict})
    lines.append({"image": "0.png", "prompt": "1 hand", "kind": "best", "value": "yes"})
    (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "mine.jsonl"


def test_images_of_other_sizes_are_turned_upright_and_fitted_without_distortion(
    tmp_path: Path, tiny_config: Callable[..., Config]
) -> None:
    wide = Image.new("RGB", (96, 32), "blue")
    wide.paste("red", (32, 0, 64, 32))  # the middle, a square: all that fits
    turned = Image.new("RGB", (32, 32), "white")
    turned.paste("black", (0, 0, 16, 32))
    turned.getexif()[0x0112] = 6  # to be turned by 90° clockwise: the black half comes to the top
    file = _by_hand(tmp_path, wide, turned, Image.new("RGB", (32, 32), "green"))
    config = tiny_config(rounds=1, sampling={"micro_batch": 2})
    assert start_from_labels(read_labels(file), config, tmp_path / "run") == Started(0, 3, 0, fitted=1)
    shown = [np.asarray(Image.open(tmp_path / f"run/rounds/0000/images/r0000-i000{k}.png")) for k in range(2)]
    assert shown[0].shape == (32, 32, 3)
    assert (shown[0][8:24, 8:24] == (255, 0, 0)).all()
    assert (shown[1][:16] == 0).all()
    assert (shown[1][16:] == 255).all()


def test_a_failed_import_leaves_nothing_behind(
    tmp_path: Path, tiny_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _by_hand(tmp_path, *(Image.new("RGB", (64, 64)) for _ in range(2)))
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for out in ("new", "empty"):
        with pytest.raises(RunError, match=r"0\.png has too many pixels to be opened safely"):
            start_from_labels(read_labels(file), tiny_config(rounds=1), tmp_path / out)
    monkeypatch.undo()
    (tmp_path / "1.png").write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"1\.png cannot be read"):
        start_from_labels(read_labels(file), tiny_config(rounds=1), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ("[]", "not a JSON object"),
        ('{"kind": "verdict", "value": "good", "image": "a.png"}', "it has no 'prompt'"),
        ('{"kind": "verdict", "value": "fine", "image": "a.png", "prompt": "x"}', "'fine' is not a value of a verdict"),
        ('{"kind": "verdict", "value": "good", "image": "gone.png", "prompt": "x"}', "there is no image"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(f"\n{line}\n")
    with pytest.raises(FeedbackError, match="line 2") as caught:
        read_labels(file)
    assert said in str(caught.value)


# ---------------------------------------------------------------------------------------------- agreement


def test_krippendorffs_published_example_of_nominal_data() -> None:
    """Krippendorff (2011), example B: two observers, ten binary units, alpha = .095."""
    first = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    second = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    words = ("bad", "good")
    answers = {
        name: Feedback({f"i{k}": words[v] for k, v in enumerate(values)})
        for name, values in (("a", first), ("b", second))
    }
    found = measure_agreement(answers)
    assert found is not None
    assert found.alpha == pytest.approx(0.095, abs=5e-4)
    assert (found.images, found.full_share, found.disputed) == (10, 0.6, ("i0", "i2", "i5", "i8"))


def test_agreement_leaves_images_out_that_only_one_judged_and_knows_when_there_is_none() -> None:
    both = {"a": Feedback({"x": "good", "y": "bad"}), "b": Feedback({"y": "bad", "z": "good"})}
    found = measure_agreement(both)
    assert found is not None
    assert (found.images, found.full_share, found.alpha, found.disputed) == (1, 1.0, None, ())
    assert measure_agreement({"a": Feedback({"x": "good"})}) is None
    assert measure_agreement({}) is None
