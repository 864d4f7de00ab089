"""How long it takes to store a click when many people label one round at once: a real server, real connections.

`python -m hero.bench.clicks --evaluators 20 --clicks 40 --out docs/results/clicks`
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hero import __version__
from hero.feedback.channel import Channel
from hero.feedback.store import LabelStore
from hero.types import image_id

__all__ = ["Clicked", "Server", "begin_round", "click", "main", "serving"]

IMAGES = 64


@dataclass(frozen=True)
class Server:
    """A running server: its port, its token, its process id."""

    port: int
    token: str
    pid: int

    def processor_seconds(self) -> float:
        """Processor time that it has used so far (Linux)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Clicked:
    """The outcome of the evaluators' clicks.

    Attributes:
        seconds: of each acknowledged click, from the first byte sent to the last received.
        acknowledged: (evaluator, image) → the last verdict that the server acknowledged.
        refused: bodies of answers other than 200.
    """

    seconds: list[float] = field(default_factory=list)
    acknowledged: dict[tuple[str, str], str] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    def quantile(self, share: float) -> float:
        """The time, in ms, that this share of the clicks does not exceed."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def begin_round(store: LabelStore, round_: int = 1, images: int = IMAGES) -> list[str]:
    """Publishes a round whose images are all drawn; returns their ids. (Clicks need no image files.)"""
    channel = Channel(store)
    ids = [image_id(round_, index) for index in range(images)]
    channel.publish("run", 0, {"name": "clicks", "mode": "train", "prompts": [""], "evaluators": 1, "rule": "majority"})
    channel.publish("round", round_, {"total": images, "best": []})
    shown = [{"id": image, "prompt": ""} for image in ids]
    channel.publish("chunk", round_, {"images": shown, "drawn": images, "total": images})
    return ids


@contextmanager
def serving(desk: Path, *arguments: str) -> Iterator[Server]:
    """The server of `desk` as a separate process, once it is ready."""
    token = secrets.token_urlsafe()
    process = subprocess.Popen(
        [sys.executable, "-m", "hero.web", str(desk), "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "HERO_WEB_TOKEN": token},
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield Server(int(line.split(":")[2].split("/")[0]), token, process.pid)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


async def click(server: Server, names: list[str], ids: list[str], *, clicks: int, pause: float = 0.0) -> Clicked:
    """Every evaluator of `names` clicks `clicks` times on images of `ids`, each on a separate connection.

    Args:
        server: the server to click on.
        names: the evaluators.
        ids: the images of the round.
        clicks: how many by each evaluator.
        pause: mean seconds of thought between two clicks, uniform from 0 to twice that; 0: clicks without a pause.
    """
    result = Clicked()
    await asyncio.gather(*(_evaluate(server, name, ids, clicks, pause, result) for name in names))
    return result


async def _evaluate(server: Server, name: str, ids: list[str], clicks: int, pause: float, result: Clicked) -> None:
    source = random.Random(name)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        for _ in range(clicks):
            if pause:
                await asyncio.sleep(source.uniform(0, 2 * pause))
            image, verdict = source.choice(ids), source.choice(("good", "bad"))
            mark = {"image_id": image, "kind": "verdict", "value": verdict, "suggested": None, "seconds": 0.5}
            start = time.perf_counter()
            status, body = await _post(reader, writer, server, {"evaluator": name, "marks": [mark]})
            if status == 200:
                result.seconds.append(time.perf_counter() - start)
                result.acknowledged[name, image] = verdict
            else:
                result.refused.append(body)
    finally:
        writer.close()


async def _post(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, server: Server, message: Mapping[str, Any]
) -> tuple[int, str]:
    body = json.dumps(message).encode()
    head = (
        f"POST /api/rounds/1/marks HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        f"Authorization: Bearer {server.token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    answer = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(answer.split("content-length:")[1].split("\r\n")[0])
    return int(answer.split()[1]), (await reader.readexactly(length)).decode()


def _measure(evaluators: int, clicks: int, pause: float, store: str | None) -> dict[str, Any]:
    names = [f"evaluator-{index}" for index in range(evaluators)]
    with tempfile.TemporaryDirectory() as folder, LabelStore(store or Path(folder) / "feedback.db") as labels:
        ids = begin_round(labels)
        with serving(Path(folder), *([] if store is None else ["--store", store])) as server:
            asyncio.run(click(server, names, ids, clicks=3))
            before, start = server.processor_seconds(), time.perf_counter()
            clicked = asyncio.run(click(server, names, ids, clicks=clicks, pause=pause))
            took, used = time.perf_counter() - start, server.processor_seconds() - before
        kept = {(name, image): str(v) for name in names for image, v in labels.given(1, name).verdicts.items()}
    lost = sum(kept.get(key) != verdict for key, verdict in clicked.acknowledged.items())
    return {
        "evaluators": evaluators,
        "pause_seconds": pause,
        "clicks": len(clicked.seconds),
        "clicks_per_second": round(len(clicked.seconds) / took, 1),
        "p50_ms": round(clicked.quantile(0.5), 1),
        "p99_ms": round(clicked.quantile(0.99), 1),
        "worst_ms": round(clicked.quantile(1.0), 1),
        "server_processor_ms_a_click": round(1000 * used / len(clicked.seconds), 2),
        "refused": len(clicked.refused),
        "lost": lost,
    }


def main() -> None:
    """The command line of this module: writes results.json and results.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--evaluators", type=int, default=20)
    parser.add_argument("--clicks", type=int, default=40, help="of each evaluator, for each row")
    parser.add_argument("--store", metavar="URL", help="an empty database; default: an SQLite file")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = [_measure(given.evaluators, given.clicks, pause, given.store) for pause in (0.5, 0.0)]
    given.out.mkdir(parents=True, exist_ok=True)
    machine = {"cpus": os.cpu_count(), "load_average": os.getloadavg()[0], "platform": platform.platform()}
    made = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "version": __version__, "machine": machine}
    (given.out / "results.json").write_text(json.dumps({**made, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    keys = list(rows[0])
    table = ["| " + " | ".join(keys) + " |", "|---" * len(keys) + "|"]
    table += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows]
    (given.out / "results.md").write_text("\n".join(table) + "\n", encoding="utf-8")
    print("\n".join(table))


if __name__ == "__main__":
    main()
