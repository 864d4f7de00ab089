"""The Parquet forms of an export: one image per row, or one pair per row under Pick-a-Pic's column names.

Image columns are structs of `bytes` and `path`, declared in the file's metadata as the `datasets` library expects;
any Parquet reader reads the same. There is one row group per round, so that memory holds only one round.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from hero.feedback.labelled import LabelledRun, Written
from hero.feedback.tables import import_pyarrow
from hero.ids import round_of
from hero.model_index import is_folder
from hero.types import Feedback, ImageId

__all__ = ["FILE", "pairs_of", "write_images", "write_pairs"]

FILE = "train-00000-of-00001.parquet"
"""A name that `datasets.load_dataset(FOLDER)` takes for its training split."""

_DICTIONARY = 1 << 30
"""Bytes up to which a column's repeated images are written only once per round."""


def write_images(labelled: LabelledRun, folder: Path) -> Written:
    """One row for each image that was marked, with the verdict learnt from and every evaluator's own."""
    pa = import_pyarrow()
    vote = pa.struct(
        [("evaluator", pa.string()), ("verdict", pa.string()), ("best", pa.bool_()), ("score", pa.float64())]
    )
    fields = {
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        "image_id": pa.string(),
        "round": pa.int64(),
        "prompt": pa.string(),
        "verdict": pa.string(),
        "best": pa.bool_(),
        "votes": pa.list_(vote),
    }
    features = {
        "image": {"_type": "Image"},
        **{name: {"dtype": "string", "_type": "Value"} for name in ("image_id", "prompt", "verdict")},
        "round": {"dtype": "int64", "_type": "Value"},
        "best": {"dtype": "bool", "_type": "Value"},
        "votes": [
            {
                **{name: {"dtype": "string", "_type": "Value"} for name in ("evaluator", "verdict")},
                "best": {"dtype": "bool", "_type": "Value"},
                "score": {"dtype": "float64", "_type": "Value"},
            }
        ],
    }
    missing: list[ImageId] = []

    def rows(round_: int) -> Iterator[Mapping[str, Any]]:
        given, answer = labelled.given(round_), labelled.answer(round_)
        # A best kept from an earlier round has its row there; this round's votes for it are in labels.jsonl.
        images = {i for feedback in given.values() for i in (*feedback.verdicts, *feedback.best, *feedback.scores)}
        for image in sorted(i for i in images if round_of(i) == round_):
            file = labelled.image_file(image)
            if not file.is_file():
                missing.append(image)
            yield {
                "image": {"bytes": file.read_bytes(), "path": f"{image}.png"} if file.is_file() else None,
                "image_id": image,
                "round": round_,
                "prompt": labelled.prompt(image),
                "verdict": None if answer is None else _verdict(answer, image),
                "best": answer is not None and image in answer.best,
                "votes": [
                    {
                        "evaluator": name,
                        "verdict": _verdict(feedback, image),
                        "best": image in feedback.best,
                        "score": feedback.scores.get(image),
                    }
                    for name, feedback in given.items()
                ],
            }

    schema = pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    written = _write(pa, folder / FILE, schema, (list(rows(round_)) for round_ in labelled.rounds))
    return FILE, written, tuple(missing)


def _verdict(feedback: Feedback, image: ImageId) -> str | None:
    return str(feedback.verdicts[image]) if image in feedback.verdicts else None


def pairs_of(feedback: Feedback, prompt_of: Mapping[ImageId, str]) -> list[tuple[ImageId, ImageId]]:
    """(winner, loser) that an answer amounts to, each once: good over bad and best over every other good image of one
    prompt, and the pairs that were stated."""
    pairs = [(good, bad) for good in feedback.good for bad in feedback.bad]
    pairs += [(best, good) for best in feedback.best for good in feedback.good if good not in feedback.best]
    same_prompt = [pair for pair in pairs if prompt_of[pair[0]] == prompt_of[pair[1]]]
    return list(dict.fromkeys([*same_prompt, *feedback.pairs]))


def write_pairs(labelled: LabelledRun, folder: Path) -> Written:
    """One row for each pair of each evaluator's submitted answer, under Pick-a-Pic v2's column names."""
    pa = import_pyarrow()
    schema = pa.schema(
        {
            "are_different": pa.bool_(),
            "best_image_uid": pa.string(),
            "caption": pa.string(),
            "created_at": pa.timestamp("ns"),
            "has_label": pa.bool_(),
            **{f"image_{side}_{what}": pa.string() for side in (0, 1) for what in ("uid", "url")},
            **{f"jpg_{side}": pa.binary() for side in (0, 1)},
            **{f"label_{side}": pa.float64() for side in (0, 1)},
            **{f"model_{side}": pa.string() for side in (0, 1)},
            "ranking_id": pa.int64(),
            "user_id": pa.int64(),
            "num_example_per_prompt": pa.int64(),
        }
    )
    submitted = {(s["round"], s["evaluator"]): s["created_at"] for s in labelled.submissions}
    users = {name: number for number, name in enumerate(sorted({name for _, name in submitted}))}
    missing: dict[ImageId, None] = {}
    found: dict[int, list[tuple[str, ImageId, ImageId]]] = {}
    for round_ in labelled.rounds:
        for name, feedback in labelled.store.submissions(round_).items():
            images = {*feedback.verdicts, *feedback.best}
            for winner, loser in pairs_of(feedback, {image: labelled.prompt(image) for image in images}):
                gone = [image for image in (winner, loser) if not labelled.image_file(image).is_file()]
                missing |= dict.fromkeys(gone)
                if not gone:
                    found.setdefault(round_, []).append((name, winner, loser))
    per_prompt = Counter(labelled.prompt(winner) for pairs in found.values() for _, winner, _ in pairs)
    number = 0
    path = labelled.config.model.path
    model = Path(path).expanduser().resolve().name if is_folder(path) else path  # where it lies is nobody's business

    def rows(round_: int) -> Iterator[Mapping[str, Any]]:
        nonlocal number
        jpegs: dict[ImageId, bytes] = {}
        for name, winner, loser in found[round_]:
            # The winner stands left or right by a coin that depends on the pair alone.
            left = hashlib.sha256(f"{winner}/{loser}".encode()).digest()[0] % 2 == 0
            images = (winner, loser) if left else (loser, winner)
            created = datetime.fromisoformat(submitted[round_, name]).astimezone(UTC).replace(tzinfo=None)
            row: dict[str, Any] = {
                "are_different": True,
                "best_image_uid": _uid(labelled, winner),
                "caption": labelled.prompt(winner),
                "created_at": created,
                "has_label": True,
                "ranking_id": number,
                "user_id": users[name],
                "num_example_per_prompt": per_prompt[labelled.prompt(winner)],
            }
            for side, image in enumerate(images):
                if image not in jpegs:
                    jpegs[image] = _jpeg(labelled.image_file(image))
                row |= {f"image_{side}_uid": _uid(labelled, image), f"image_{side}_url": ""}
                row |= {f"jpg_{side}": jpegs[image], f"label_{side}": float(image == winner)}
                row[f"model_{side}"] = model
            number += 1
            yield row

    written = _write(pa, folder / FILE, schema, (list(rows(round_)) for round_ in found))
    return FILE, written, tuple(missing)


def _uid(labelled: LabelledRun, image: ImageId) -> str:
    """An id that stays apart from other runs' when exports are put together."""
    return f"{labelled.folder.resolve().name}/{image}"


def _jpeg(file: Path) -> bytes:
    buffer = io.BytesIO()
    with Image.open(file) as image:
        image.convert("RGB").save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _write(pa: Any, file: Path, schema: Any, groups: Iterator[list[Mapping[str, Any]]]) -> int:
    """Writes a row group for each non-empty list; returns the total number of rows."""
    total = 0
    options = {"use_dictionary": True, "dictionary_pagesize_limit": _DICTIONARY}
    with pa.parquet.ParquetWriter(file, schema, **options) as writer:
        for rows in groups:
            if rows:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            total += len(rows)
    return total
