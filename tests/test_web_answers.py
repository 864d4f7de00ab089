"""Images, errors and the documentation of the JSON API."""

from __future__ import annotations

import io
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from PIL import Image
from starlette.testclient import TestClient

from desks import Run, assert_error, good, mark, opened

ROOT = Path(__file__).parent.parent
API = ROOT / "docs" / "api.md"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path / "run", size=(300, 200))
    yield made
    made.close()


@pytest.fixture
def client(run: Run) -> Iterator[TestClient]:
    with opened(run.folder) as client:
        yield client


# ---------------------------------------------------------------------------------------------- images


def test_an_image_comes_as_it_is_or_small_and_never_larger(run: Run, client: TestClient) -> None:
    (name, *_) = run.show(1, total=1)
    whole = client.get(f"/api/images/{name}")
    assert whole.content == (run.folder / f"rounds/0001/images/{name}.png").read_bytes()
    assert whole.headers["content-type"] == "image/png"
    small = client.get(f"/api/images/{name}", params={"width": 128})
    assert small.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).size == (128, 85)
    assert client.get(f"/api/images/{name}", params={"width": 512}).content == whole.content
    assert client.get(f"/api/images/{name}", params={"width": 128}).content == small.content


def test_an_image_is_sent_again_only_when_it_has_changed(run: Run, client: TestClient) -> None:
    (name, *_) = run.show(1)
    first = client.get(f"/api/images/{name}", params={"width": 128})
    assert first.headers["cache-control"] == "private, no-cache"
    tag = {"If-None-Match": first.headers["etag"]}
    again = client.get(f"/api/images/{name}", params={"width": 128}, headers=tag)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag["If-None-Match"])
    path = run.write_image(name)
    Image.new("RGB", (9, 9), "white").save(path)
    changed = client.get(f"/api/images/{name}", params={"width": 128}, headers=tag)
    assert Image.open(io.BytesIO(changed.content)).size == (9, 9)


def test_only_images_that_the_run_has_told_of_are_served(run: Run, client: TestClient) -> None:
    (name, *_) = run.show(1)
    run.write_image("r0001-i0050")
    run.write_image("p0001-i0000")
    for unknown in ("r0001-i0050", "p0001-i0000"):
        assert_error(client.get(f"/api/images/{unknown}"), 404, "image-not-found")
    run.channel.publish("preview", 1, {"images": [{"id": "p0001-i0000", "prompt": "a cat"}]})
    assert client.get("/api/images/p0001-i0000").status_code == 200
    path = run.write_image(name)
    path.write_bytes(b"not an image")
    assert_error(client.get(f"/api/images/{name}"), 404, "image-not-found")
    path.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    assert_error(client.get(f"/api/images/{name}?width=128"), 404, "image-not-found")
    path.unlink()
    assert_error(client.get(f"/api/images/{name}"), 404, "image-not-found")


# ---------------------------------------------------------------------------------------------- errors


def test_every_error_has_the_one_shape(run: Run, client: TestClient) -> None:
    assert_error(client.get("/api/nothing"), 404, "not-found")
    assert_error(client.get("/static/nothing.js"), 404, "not-found")
    assert_error(client.post("/api/state", json={}), 405, "method-not-allowed")
    assert_error(client.delete("/api/state"), 405, "method-not-allowed")
    assert_error(client.get("/api/rounds/one"), 422, "invalid-request", "round")
    assert_error(client.get("/api/state", params={"evaluator": "x" * 41}), 422, "invalid-request", "evaluator")
    json_ = {"Content-Type": "application/json"}
    assert_error(client.post("/api/rounds/1/marks", content=b"{", headers=json_), 422, "invalid-request")
    deep = b"[" * 100_000
    assert client.post("/api/rounds/1/marks", content=deep, headers=json_).status_code in (400, 422)
    assert_error(client.post("/api/rounds/1/marks", content=b"\xff", headers=json_), 400, "bad-request")
    answer = client.post(
        "/api/rounds/1/marks", json={"evaluator": "me", "marks": [{**good("r0001-i0000"), "seconds": -1}]}
    )
    assert_error(answer, 422, "invalid-request", "marks.0.seconds")


def test_what_fails_unforeseen_is_told_in_the_same_shape(run: Run, client: TestClient) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("secret detail")

    client.app.router.routes.insert(0, APIRoute("/api/fail", fail, methods=["GET"]))  # type: ignore[attr-defined]
    answer = client.get("/api/fail")
    assert_error(answer, 500, "internal-error")
    assert "secret" not in answer.text
    assert "Content-Security-Policy" in answer.headers


def test_a_store_that_cannot_be_written_is_told_and_nothing_is_acknowledged(run: Run, client: TestClient) -> None:
    ids = run.show(1)
    assert mark(client, 1, good(ids[0])).status_code == 200
    for table in ("labels", "submissions"):
        with sqlite3.connect(run.folder / "feedback.db") as other:
            other.execute(f"ALTER TABLE {table} RENAME TO away")
        other.close()
        assert_error(mark(client, 1, good(ids[1])), 503, "store-unavailable")
        with sqlite3.connect(run.folder / "feedback.db") as other:
            other.execute(f"ALTER TABLE away RENAME TO {table}")
        other.close()
    assert mark(client, 1, good(ids[1])).json()["mine"]["marks"] == {ids[0]: "good", ids[1]: "good"}


# ---------------------------------------------------------------------------------------------- the whole


def every_route(routes: Iterable[Any]) -> Iterator[Any]:
    """Routes, those of included routers in their place."""
    for route in routes:
        router = getattr(route, "original_router", None)
        if router is None:
            yield route
        else:
            yield from every_route(router.routes)


def test_the_documentation_lists_every_route_and_no_other(client: TestClient) -> None:
    text = API.read_text(encoding="utf-8")
    documented = set(re.findall(r"^### `([A-Z]+) (/[^`?]*)", text, re.M))
    real = {
        (method, route.path)
        for route in every_route(client.app.routes)  # type: ignore[attr-defined]
        for method in (getattr(route, "methods", None) or {"GET"}) - {"HEAD"}
    }
    named = {(method, path.replace("...", "").rstrip("/") or "/") for method, path in documented}
    assert named == real


def test_every_error_code_is_documented() -> None:
    text = API.read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| \d{3} \| `([a-z-]+)` \|", text, re.M))
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/hero/web").glob("*.py"))
    real = set(re.findall(r"ApiError\(\s*\d{3},\s*\"([a-z-]+)\"", source))
    real |= set(re.findall(r"\d{3}: \(\"([a-z-]+)\"", source))
    assert documented == real


def test_the_examples_of_the_documentation_are_json() -> None:
    text = API.read_text(encoding="utf-8")
    blocks = re.findall(r"^```json\n(.*?)^```", text, re.S | re.M)
    assert len(blocks) >= 8
    assert all(json.loads(block) for block in blocks)


def test_the_machine_readable_description_is_there(client: TestClient) -> None:
    described = client.get("/api/openapi.json").json()
    assert "/api/rounds/{round}/marks" in described["paths"]
    assert "ErrorAnswer" in described["components"]["schemas"]
