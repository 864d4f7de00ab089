"""Labels that travel: out of a run in each format, through the `datasets` library, and back, whatever they hold."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import datasets
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from hero.config import Config
from hero.feedback.export import export_feedback
from hero.feedback.foreign import read_any
from hero.feedback.importing import ImportedLabels, open_picture
from hero.feedback.marks import marks_of
from hero.feedback.starting import Started, start_from_labels
from hero.feedback.store import LabelStore
from hero.run import RunDirectory, image_file
from hero.tuner import Tuner
from hero.types import Answer, Feedback, ImageBatch, ImageId, image_id

Labels = tuple[Feedback, dict[str, Feedback]]
"""What a run learnt, and what each evaluator said."""

NASTY = ("2024-05-05 10:00:00", "null", "1e5", "\ufeffx\x00", '",\\\r\n\u2028\x85', "../😀\u202e𝒳")
DATES = ("2024-05-05", "2024-05-06", "2024-05-07 10:00:00")
TEXTS = st.lists(st.text(min_size=1).filter(str.strip), min_size=3, max_size=3, unique=True)


@pytest.fixture(scope="module")
def new_run(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`new_run(prompts, evaluators)`: a folder with round 1 of a run, judged, and what was said."""

    def make(prompts: list[str], evaluators: list[str]) -> tuple[Path, Labels]:
        folder = tmp_path_factory.mktemp("travel") / "run"
        RunDirectory.create(folder, tiny_config(prompts=prompts))
        ids = [image_id(1, i) for i in range(3 * len(prompts))]
        for shade, name in enumerate(ids):
            file = folder / "rounds" / "0001" / "images" / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (20 * shade, 0, 0)).save(file)
        good, said = ids[: 2 * len(prompts)], {}
        for k, evaluator in enumerate(evaluators):  # who is later is stricter
            verdicts = {name: "good" if name in good[: len(good) - k] else "bad" for name in ids}
            said[evaluator] = Feedback(
                verdicts, best=ids[: len(prompts)], scores={name: i / 7 for i, name in enumerate(ids)}
            )
        learnt = said[evaluators[0]]
        with LabelStore(folder / "feedback.db") as store:
            for evaluator, feedback in said.items():
                store.mark(1, evaluator, *marks_of(feedback))
                store.submit(1, evaluator, seconds=1.0)
            store.conclude(1, Answer(learnt, evaluators))
        return folder, (learnt, said)

    return make


def through_datasets(folder: Path, format_: str) -> Path:
    """What `datasets` makes of an export, written by it as Parquet."""
    kind = "imagefolder" if format_ == "jsonl" else "parquet"
    found = datasets.load_dataset(kind, data_dir=str(folder), cache_dir=str(folder.parent / "cache"), split="train")
    file = folder.parent / f"again-{format_}.parquet"
    found.to_parquet(str(file))
    return file


def only_dates(texts: list[str]) -> bool:
    """Whether `datasets` takes a column of these in JSON for one of times, as docs/feedback.md says."""
    return all(re.fullmatch(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d.*)?", text) for text in texts)


def by_evaluator(labels: ImportedLabels) -> dict[str, dict[str, dict[ImageId, str]]]:
    """Evaluator → kind of mark → image → value."""
    said: dict[str, dict[str, dict[ImageId, str]]] = {}
    for mark in labels.marks:
        assert mark.mark.value is not None
        said.setdefault(mark.evaluator, {}).setdefault(mark.mark.kind, {})[mark.mark.image_id] = mark.mark.value
    return said


def expected(said: dict[str, Feedback]) -> dict[str, dict[str, dict[ImageId, str]]]:
    return {
        evaluator: {
            "verdict": {i: str(v) for i, v in given.verdicts.items()},
            "best": dict.fromkeys(given.best, "yes"),
            "score": {i: repr(v) for i, v in given.scores.items()},
        }
        for evaluator, given in said.items()
    }


def same_pictures(labels: ImportedLabels, run: Path) -> None:
    for image, picture in labels.images.items():
        name = image.rpartition("/")[2]
        with open_picture(picture) as got, Image.open(run / "rounds" / "0001" / "images" / f"{name}.png") as sent:
            assert abs(got.convert("RGB").getpixel((4, 4))[0] - sent.getpixel((4, 4))[0]) <= 3  # JPEG in pairs


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(prompts=list(NASTY[:3]), evaluators=list(NASTY[3:]))
@example(prompts=list(NASTY[3:]), evaluators=list(NASTY[:3]))
@example(prompts=list(DATES), evaluators=list(DATES))
@given(prompts=TEXTS, evaluators=TEXTS)
def test_whatever_a_prompt_or_a_name_holds_survives_every_format(
    new_run: Callable[..., Any], prompts: list[str], evaluators: list[str]
) -> None:
    run, (learnt, said) = new_run(prompts, evaluators)
    wanted = expected(said)
    places = [prompts[i % len(prompts)] for i in range(9)]
    dated = only_dates(prompts) or only_dates(evaluators)
    for format_ in ("jsonl", "parquet", "pickapic"):
        out = export_feedback(run, format_, run.parent / format_).file.parent
        read = [out] if dated and format_ == "jsonl" else [out, through_datasets(out, format_)]
        if format_ == "jsonl":
            read.append(out / "metadata.jsonl")
        for place in read:
            labels = read_any(place)
            names = [name.rpartition("/")[2] for name in labels.prompts]
            assert dict(zip(names, labels.prompts.values(), strict=True)) == {
                image_id(1, i): prompt for i, prompt in enumerate(places)
            }
            same_pictures(labels, run)
            if format_ != "pickapic":  # its users are numbers
                assert by_evaluator(labels) == wanted, place
    (feedback,) = read_any(run.parent / "parquet").feedback().values()
    assert (feedback.verdicts, feedback.best) == (learnt.verdicts, learnt.best)


def ann(batch: ImageBatch) -> Feedback:
    return Feedback.from_good(batch, batch.ids[:4], batch.ids[:2])


@pytest.fixture(scope="module")
def judged(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one round, in which the first four of six images were good and the first of each prompt best."""
    folder = tmp_path_factory.mktemp("judged") / "run"
    with Tuner(tiny_config(prompts=("1 hand", "a cat"), rounds=1), folder) as tuner:
        tuner.run(ann)
    return folder


@pytest.mark.parametrize(
    ("format_", "done"), [("jsonl", Started(1, 0, 0)), ("parquet", Started(0, 6, 0)), ("pickapic", Started(0, 6, 0))]
)
def test_labels_come_back_into_a_run_from_every_format(
    format_: str, done: Started, judged: Path, tmp_path: Path
) -> None:
    """Flat rows know their round: a run that draws the same images learns from them as if they were given now."""
    out = export_feedback(judged, format_, tmp_path / "out").file.parent
    labels = read_any(through_datasets(out, format_))
    config = RunDirectory.open(judged).config.model_copy(update={"rounds": 2})
    assert start_from_labels(labels, config, tmp_path / "again") == done
    with Tuner.resume(tmp_path / "again") as tuner, LabelStore(judged / "feedback.db") as store:
        best = [best.id for best in tuner.best]
        learnt = tuner.store.given(done.replayed, "imported" if format_ == "pickapic" else "ann")
        sent = store.given(1, "ann")
    shown = {i: origin(tmp_path / "again", i, judged) for i in learnt.verdicts}
    assert {shown[i]: v for i, v in learnt.verdicts.items()} == sent.verdicts
    assert {shown[i] for i in learnt.best} == {shown[i] for i in best} == set(sent.best)


def origin(again: Path, image: ImageId, run: Path) -> ImageId:
    """The image of `run`'s first round that looks most like one of the run `again`."""

    def pixels(file: Path) -> Any:
        return np.asarray(Image.open(file).convert("RGB"), dtype=float)

    mine = pixels(image_file(again, image))
    files = sorted((run / "rounds" / "0001" / "images").glob("*.png"))
    return min(files, key=lambda file: float(np.abs(pixels(file) - mine).mean())).stem


def test_pairs_run_through_the_preprocessing_of_a_preference_trainer(judged: Path, tmp_path: Path) -> None:
    """As Diffusion-DPO's do it: decode both images, and put the one with the greater label first."""
    out = export_feedback(judged, "pickapic", tmp_path / "out").file.parent
    found = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"), split="train")
    for row in found:
        pictures = [Image.open(io.BytesIO(row[f"jpg_{side}"])).convert("RGB") for side in (0, 1)]
        assert [picture.size for picture in pictures] == [(32, 32)] * 2
        winner = row["image_0_uid"] if row["label_0"] == 1 else row["image_1_uid"]
        assert winner == row["best_image_uid"]
