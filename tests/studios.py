"""Folders of runs for tests of the studio: runs as they lie on disk, made without a model, and a client."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.testclient import TestClient

from hero.config import Config
from hero.feedback.channel import Channel
from hero.feedback.marks import marks_of
from hero.feedback.store import LabelStore
from hero.ids import image_id, preview_id
from hero.methods import configure
from hero.run.directory import RunDirectory
from hero.studio.app import create_studio_app
from hero.studio.studio import Studio
from hero.types import Answer, Feedback, RoundStats, Verdict
from hero.web.security import Access

PORT = 8430
TOKEN = "a-token-for-the-studio-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def config_of(prompts: Sequence[str] = ("a red cup",), **given: Any) -> Config:
    named = {key: given.pop(key) for key in ("task", "evaluator", "rounds", "method", "criterion") if key in given}
    named = {"evaluator": "web", "rounds": 3, **named}
    asked: Sequence[str] = () if "task" in named else prompts
    return configure(prompts=asked, images_per_round=6, settings=given, **named)


class OnDisk:
    """A run as it lies on disk after so many rounds; no model has ever seen it."""

    def __init__(self, root: Path, name: str, rounds: int = 0, config: Config | None = None) -> None:
        self.path = root / name
        self.config = config or config_of()
        directory = RunDirectory.create(self.path, self.config)
        self.directory = directory
        self.history: list[RoundStats] = []
        for number in range(1, rounds + 1):
            self.add_round(number)
        directory.unlock()

    def add_round(self, number: int, good: int = 2, evaluators: Sequence[str] = ("me",)) -> None:
        total = self.config.sampling.images_per_round
        ids = [image_id(number, k) for k in range(total)]
        for k, one in enumerate(ids):
            self.picture(f"rounds/{number:04d}/images/{one}.png", k)
        for k in range(2):
            self.picture(f"rounds/{number:04d}/images/{preview_id(number, k)}.png", 40 * number)
        verdicts = {one: Verdict.GOOD if k < good else Verdict.BAD for k, one in enumerate(ids)}
        with LabelStore(self.path / "feedback.db") as store:
            for turn, who in enumerate(evaluators):
                other = {**verdicts, ids[-1]: Verdict.GOOD} if turn else verdicts
                store.mark(number, who, *marks_of(Feedback(other, (ids[0],))))
                store.submit(number, who, 1.0)
            disputed = (ids[-1],) if len(evaluators) > 1 else ()
            store.conclude(number, Answer(Feedback(verdicts, (ids[0],)), tuple(evaluators), "majority", disputed))
        labels = number * total
        stats = RoundStats(
            number, labels, total, good, total - good, (ids[0],), 0.5, 0.1, 4, 0.1, 0.2, {}, None, "", 1.0, 2.0, 3.0
        )
        self.history.append(stats)
        self.directory.write_metrics([one.to_dict() for one in self.history])
        lora = self.path / "lora" / "pytorch_lora_weights.safetensors"
        lora.parent.mkdir(exist_ok=True)
        lora.write_bytes(b"a LoRA")

    def picture(self, name: str, shade: int) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (160, 160), (shade * 5 % 256, 90, 160)).save(path)

    def say(self, phase: str, **more: Any) -> None:
        """What the run tells its pages."""
        body = {
            "phase": phase,
            "round": 1,
            "step": "",
            "done": 0,
            "total": 0,
            "eta_seconds": None,
            "message": "",
            **more,
        }
        with LabelStore(self.path / "feedback.db") as store:
            Channel(store).publish("phase", 1, body)

    def commands(self) -> list[tuple[str, dict[str, Any]]]:
        """What it was asked to do."""
        with LabelStore(self.path / "feedback.db") as store:
            return [(one.kind, one.body) for one in Channel(store).commands()]

    def evaluate(self, images: int = 4) -> None:
        """As if it had been measured."""
        for part in ("base", "tuned_fresh"):
            for k in range(images):
                self.picture(f"evaluation/{part}/{k:04d}.png", k + len(part))
        figures = {"base": 0.25, "tuned_fresh": 0.75, "tuned_refined": None}
        intervals = {"base": [0.05, 0.7], "tuned_fresh": [0.3, 0.95], "tuned_refined": None}
        result = {
            "task": self.config.task.name,
            "images": images,
            "labels": self.history[-1].labels,
            "success": figures,
            "success_interval": intervals,
            "diversity": {"base": 1.0, "tuned_fresh": 0.9, "tuned_refined": None},
            "drift": 0.05,
            "people": None,
            "details": {"prompts": ["a red cup"] * images},
        }
        (self.path / "evaluation" / "result.json").write_text(json.dumps(result))


@contextmanager
def studio_at(root: Path, *models: Path) -> Iterator[TestClient]:
    """A client of the studio of `root`, without a server."""
    app = create_studio_app(Studio(root, models), Access.of(TOKEN, "127.0.0.1", PORT))
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers=BEARER) as client:
        yield client
