"""Desks for the browser's tests: folders of real images with a label store, fed through the channel as a run would."""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from hero.feedback import LabelStore
from hero.feedback.channel import Channel

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-for-tests-0123456789"
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
DESKTOP = {"viewport": {"width": 1440, "height": 900}}


def sheet_images(task: str) -> list[Image.Image]:
    """The 48 images of the tiny world that docs/results/base shows for a task."""
    with Image.open(ROOT / "docs" / "results" / "base" / f"{task}.png") as sheet:
        return [sheet.crop((68 * x + 2, 68 * y + 2, 68 * x + 66, 68 * y + 66)) for y in range(3) for x in range(16)]


class Desk:
    """A run directory without a run: whatever a run would tell the pages, a test tells them."""

    def __init__(self, folder: Path, /, **run: Any) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.store = LabelStore(folder / "feedback.db")
        self.channel = Channel(self.store)
        self.run = {
            "name": "hand-hero-s0",
            "mode": "train",
            "task": "hand",
            "criterion": "The hand has exactly five whole fingers, and no finger is torn off.",
            "prompts": ["1 hand"],
            "sensitive": False,
            "rounds": 6,
            "images_per_round": 12,
            "method": "hero",
            "model": "tinyworld",
            "evaluators": 1,
            "rule": "majority",
            "lora": None,
            **run,
        }
        self._sheet = sheet_images(self.run["task"])
        self.tell("run", 0, **self.run)

    def tell(self, kind: Any, round_: int, **body: Any) -> None:
        self.channel.publish(kind, round_, body)

    def phase(self, name: str, round_: int, **more: Any) -> None:
        body = {"step": "", "done": 0, "total": 0, "eta_seconds": None, "message": "", **more}
        self.tell("phase", round_, phase=name, round=round_, **body)

    def begin(self, round_: int, total: int, best: tuple[str, ...] = ()) -> None:
        self.tell("round", round_, total=total, best=[{"id": one, "prompt": self.run["prompts"][0]} for one in best])
        self.phase("drawing", round_, total=total)

    def draw(self, round_: int, first: int, last: int, total: int, *, letter: str = "r", size: int = 64) -> list[str]:
        """Images `first` up to `last`, which is not drawn; their ids."""
        prompts = self.run["prompts"]
        ids = [f"{letter}{round_:04d}-i{index:04d}" for index in range(first, last)]
        for index, name in enumerate(ids, start=first):
            self.save(round_, name, index + 13 * round_, size)
        images = [{"id": one, "prompt": prompts[k % len(prompts)]} for k, one in enumerate(ids, start=first)]
        self.tell("chunk", round_, images=images, drawn=last, total=total)
        if last == total:
            self.phase("waiting", round_, done=total, total=total)
        return ids

    def save(self, round_: int, name: str, index: int, size: int) -> None:
        folder = self.folder / "rounds" / f"{round_:04d}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        picture = self._sheet[index % len(self._sheet)]
        picture.resize((size, size), Image.Resampling.LANCZOS).save(folder / f"{name}.png")

    def previews(self, round_: int, count: int = 8) -> None:
        ids = [f"p{round_:04d}-i{index:04d}" for index in range(count)]
        for index, name in enumerate(ids):
            # The sheets begin with the images that succeed: later rounds take more of them.
            self.save(round_, name, index if index < 2 * round_ else 40 - index, 64)
        self.tell("preview", round_, images=[{"id": one, "prompt": self.run["prompts"][0]} for one in ids])

    def learn(self, round_: int, good: int, bad: int, best: tuple[str, ...] = (), **answer: Any) -> None:
        """The run has taken the answer, and learnt from it."""
        body = {"evaluators": ["me"], "rule": "majority", "disagreements": [], **answer}
        self.tell("answer", round_, good=good, bad=bad, best=list(best), **body)
        stats = {"round": round_, "labels": round_ * (good + bad), "images": good + bad, "good": good, "bad": bad}
        self.tell("learned", round_, stats={**stats, "best": list(best), "note": ""})

    def verdicts(self, round_: int, evaluator: str = "me") -> dict[str, str]:
        """What is on disk."""
        verdicts = {}
        for label in self.store.labels(round_, evaluator):
            if label.kind == "verdict":
                verdicts[label.image_id] = label.value
        return {image: value for image, value in verdicts.items() if value is not None}

    def best(self, round_: int, evaluator: str = "me") -> set[str]:
        best = {}
        for label in self.store.labels(round_, evaluator):
            if label.kind == "best":
                best[label.image_id] = label.value
        return {image for image, value in best.items() if value is not None}

    def submitters(self, round_: int) -> set[str]:
        return set(self.store.submitters(round_))


class Served:
    """A process with a page: the server of a desk, or a whole run (`command`)."""

    def __init__(self, *command: str, token: str = TOKEN) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**os.environ, "HERO_WEB_TOKEN": token, "PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.address = printed_address(self.process)
        self.port = int(self.address.split("/?")[0].rsplit(":", 1)[1])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class PrefixProxy:
    """A reverse proxy that serves what listens on a port below a path, as nginx or a notebook's server does."""

    def __init__(self, port: int, prefix: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._pass_on(None)

            def do_POST(self) -> None:
                self._pass_on(self.rfile.read(int(self.headers["Content-Length"])))

            def _pass_on(self, body: bytes | None) -> None:
                if not self.path.startswith(f"{prefix}/"):
                    self.send_error(404, "outside the proxy's path")
                    return
                behind = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                behind.request(self.command, self.path.removeprefix(prefix), body, dict(self.headers))
                answer = behind.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Connection", "close")
                self.end_headers()
                with contextlib.suppress(OSError, http.client.HTTPException):
                    while piece := answer.read1(65536):  # events as they come
                        self.wfile.write(piece)
                        self.wfile.flush()
                behind.close()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def printed_address(process: subprocess.Popen[str], seconds: float = 1200) -> str:
    """The address with the token, from what the process prints."""
    assert process.stdout is not None
    output = process.stdout
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=lambda: [lines.put(line) for line in output], daemon=True).start()
    until, seen = time.monotonic() + seconds, ""
    while time.monotonic() < until:
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            if process.poll() is not None:
                break
            continue
        seen += line
        if "/?token=" in line:
            return next(word for word in line.split() if "/?token=" in word)
    raise AssertionError(f"no address was printed: {seen}")
