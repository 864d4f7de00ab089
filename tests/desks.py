"""Desks for tests of the labelling server: a run that writes as the real one does, and the server as a real process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.testclient import TestClient

from hero.feedback.channel import Channel
from hero.feedback.store import LabelStore
from hero.types import image_id
from hero.web.app import create_app
from hero.web.desk import Desk
from hero.web.security import Access

PORT = 8420
TOKEN = "a-token-for-the-tests-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Run:
    """What the run process does to its desk, without a model: rounds begin, images are drawn, answers are taken."""

    def __init__(self, folder: Path, store: str | None = None, *, size: tuple[int, int] = (8, 6), **told: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.store = LabelStore(store or folder / "feedback.db")
        self.channel = Channel(self.store)
        self._size = size
        run = {"name": "run", "mode": "train", "task": None, "criterion": "", "prompts": ["a cat"], "sensitive": False}
        more = {"rounds": 3, "images_per_round": 6, "method": "hero", "model": "tinyworld", "evaluators": 1}
        self.told = {**run, **more, "rule": "majority", "lora": None, **told}
        self.prompts: Sequence[str] = self.told["prompts"]
        self.channel.publish("run", 0, self.told)

    def begin(self, round_: int, total: int = 6, best: Mapping[str, str] | None = None) -> None:
        """A round begins; `best` is what was kept from before, id → prompt."""
        kept = [{"id": image, "prompt": prompt} for image, prompt in (best or {}).items()]
        self.channel.publish("round", round_, {"total": total, "best": kept})

    def draw(self, round_: int, indexes: Sequence[int], total: int = 6) -> list[str]:
        """A chunk is drawn: files first, then the event. Prompts take turns."""
        ids = [image_id(round_, index) for index in indexes]
        for name in ids:
            self.write_image(name)
        images = [
            {"id": name, "prompt": self.prompts[i % len(self.prompts)]} for name, i in zip(ids, indexes, strict=True)
        ]
        self.channel.publish("chunk", round_, {"images": images, "drawn": max(indexes) + 1, "total": total})
        return ids

    def show(self, round_: int, total: int = 6, best: Mapping[str, str] | None = None) -> list[str]:
        """A whole round is drawn."""
        self.begin(round_, total, best)
        return self.draw(round_, range(total), total)

    def answer(self, round_: int, evaluators: Sequence[str] = ("me",)) -> None:
        """The run takes an answer."""
        body = {
            "evaluators": list(evaluators),
            "rule": "majority",
            "good": 1,
            "bad": 5,
            "best": [],
            "disagreements": [],
        }
        self.channel.publish("answer", round_, body)

    def write_image(self, name: str) -> Path:
        """Draws the file of an image."""
        path = self.folder / "rounds" / name[1:5] / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", self._size, (int(name[-2:]) * 2 % 256, 90, 160)).save(path)
        return path

    def close(self) -> None:
        self.store.close()


def rows(store: LabelStore) -> list[tuple[str, str, str, str | None]]:
    """Stored marks as (evaluator, image, kind, value), oldest first."""
    return [(label.evaluator, label.image_id, label.kind, label.value) for label in store.labels()]


def good(image: str) -> dict[str, Any]:
    return {"image_id": image, "kind": "verdict", "value": "good"}


def bad(image: str) -> dict[str, Any]:
    return {"image_id": image, "kind": "verdict", "value": "bad"}


def unmarked(image: str) -> dict[str, Any]:
    return {"image_id": image, "kind": "verdict", "value": None}


def best(image: str) -> dict[str, Any]:
    return {"image_id": image, "kind": "best", "value": "yes"}


@contextmanager
def opened(
    folder: Path, store: str | None = None, *, names: Sequence[str] = (), prefix: str = ""
) -> Iterator[TestClient]:
    """A client of the application itself, without a server."""
    app = create_app(Desk(folder, store), Access.of(TOKEN, "127.0.0.1", PORT, names, prefix))
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers=BEARER) as client:
        yield client


def unsure(image: str) -> dict[str, Any]:
    return {"image_id": image, "kind": "unsure", "value": "yes"}


def own(marks: Mapping[str, str], best: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """An evaluator's answer as the API gives it, without its revision."""
    return {"marks": dict(marks), "best": list(best), "unsure": [], "reasons": {}, "submitted": False, **more}


def plain(mine: Mapping[str, Any]) -> dict[str, Any]:
    """An answer of the API without its revision."""
    return {key: value for key, value in mine.items() if key != "revision"}


def mark(client: TestClient, round_: int, *marks: dict[str, Any], evaluator: str = "me") -> Any:
    return client.post(f"/api/rounds/{round_}/marks", json={"evaluator": evaluator, "marks": marks})


def submit(client: TestClient, round_: int, evaluator: str = "me", **more: Any) -> Any:
    return client.post(f"/api/rounds/{round_}/submit", json={"evaluator": evaluator, **more})


def assert_error(answer: Any, status: int, code: str, field: str | None = None) -> None:
    """Whether `answer` is an error of the one shape."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    ((name, error),) = answer.json().items()
    assert (name, set(error), error["code"]) == ("error", {"code", "message", "field"}, code)
    assert error["message"].strip()
    if field is not None:
        assert error["field"] == field


class Served:
    """A server process: `ask` speaks HTTP to it, over one connection that is made anew where it broke."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self._connection: http.client.HTTPConnection | None = None

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = BEARER
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """(status, parsed JSON or bytes, headers)."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        sent = {**headers, **({} if body is None else {"Content-Type": "application/json"})}
        try:
            self._connection.request(method, path, None if body is None else json.dumps(body), sent)
            answer = self._connection.getresponse()
            data = answer.read()
        except BaseException:
            self._connection.close()
            self._connection = None
            raise
        is_json = answer.headers.get_content_type() == "application/json"
        return answer.status, json.loads(data) if is_json else data, answer.headers

    def stream(self, path: str, headers: Mapping[str, str] = BEARER) -> Iterator[dict[str, str]]:
        """Server-sent events as they come, each as its fields; comments as {"": text}."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        found: dict[str, str] = {}
        try:
            for line in answer:
                text = line.decode().rstrip("\n")
                if not text and found:
                    yield found
                    found = {}
                elif text:
                    name, _, value = text.partition(":")
                    found[name] = value.strip()
        finally:
            connection.close()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends the process by a signal; returns its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@contextmanager
def served(folder: Path, *arguments: str, env: Mapping[str, str] | None = None, port: int = 0) -> Iterator[Served]:
    """`python -m hero.web` on `folder`, from its ready line on; killed at the end if it still runs."""
    command = [sys.executable, "-m", "hero.web", str(folder), "--port", str(port), *arguments]
    environment = {**os.environ, "HERO_WEB_TOKEN": TOKEN, **(env or {})}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        if not line.startswith("serving http://"):
            raise AssertionError(f"the server did not start: {line}{process.stderr.read()}")
        yield Served(process, int(line.split(":")[2].split("/")[0]))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def wait_until(true: Any, seconds: float = 20.0) -> None:
    """Waits for `true()`; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)
