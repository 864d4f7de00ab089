"""Attacks on the studio: each is tried, is refused, and neither starts a process nor changes a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from desks import assert_error
from hero.studio.settings import may_set
from hero.web.security import HEADERS
from studios import BEARER, PORT, OnDisk, config_of, studio_at

ROUTES = [
    ("GET", "/"),
    ("GET", "/static/js/main.js"),
    ("GET", "/page/css/tokens.css"),
    ("GET", "/api/health"),
    ("GET", "/api/options"),
    ("GET", "/api/runs"),
    ("GET", "/api/runs/cup"),
    ("GET", "/api/runs/cup/form"),
    ("GET", "/api/runs/cup/log"),
    ("GET", "/api/runs/cup/rounds/1"),
    ("GET", "/api/runs/cup/images/r0001-i0000"),
    ("GET", "/api/runs/cup/report"),
    ("GET", "/api/runs/cup/files/lora"),
    ("GET", "/api/runs/cup/exports/labels/all.zip"),
    ("GET", "/api/changes"),
    ("GET", "/api/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/runs/cup/label/"),
    ("GET", "/runs/cup/label/api/state"),
    ("POST", "/api/check"),
    ("POST", "/api/memory"),
    ("POST", "/api/runs"),
    ("POST", "/api/runs/cup/do"),
    ("POST", "/api/queue"),
    ("POST", "/api/runs/cup/draws"),
    ("POST", "/api/runs/cup/exports"),
    ("POST", "/api/runs/cup/evaluate"),
    ("POST", "/api/runs/cup/stop-job"),
    ("POST", "/runs/cup/label/api/commands"),
]
CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("/api/runs", {"wish": {"name": "new", "prompts": ["a cup"]}}),
    ("/api/runs/cup/do", {"do": "delete"}),
    ("/api/runs/cup/do", {"do": "start"}),
    ("/api/runs/cup/draws", {"prompts": ["a cup"]}),
    ("/api/runs/cup/exports", {"kind": "kohya"}),
    ("/api/runs/cup/evaluate", {}),
    ("/runs/cup/label/api/commands", {"kind": "stop", "body": {}, "evaluator": "me"}),
]
PATHS = ("..", "../runs/cup", "/etc", "cup/../cup", "cup/.", "..\\cup", ".studio", ".trash", "cup\0", "", "~")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("studio") / "runs"
    OnDisk(root, "cup", rounds=1)
    OnDisk(root.parent, "outside", rounds=1)
    return root


@pytest.fixture(scope="module")
def client(root: Path) -> Iterator[TestClient]:
    with studio_at(root) as client:
        client.headers.pop("Authorization")
        client.follow_redirects = False
        yield client


def state_of(root: Path) -> set[str]:
    """Every file but those of databases, which reading opens; and what runs were asked to do."""
    files = {str(p.relative_to(root.parent)) for p in root.parent.rglob("*") if "feedback.db" not in p.name}
    return files - {"runs/.studio/.lock"}


@pytest.fixture(autouse=True)
def nothing_changes(root: Path, client: TestClient) -> Iterator[None]:
    client.cookies.clear()
    before = state_of(root)
    yield
    assert state_of(root) == before
    assert not client.app.state.studio.jobs.any_running  # type: ignore[attr-defined]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_is_given_without_the_token(client: TestClient, method: str, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": f"hero_{PORT}=wrong"}):
        answer = client.request(method, path, headers=headers, json={} if method == "POST" else None)
        assert answer.status_code == 401
        assert set(HEADERS) <= {name.title() for name in answer.headers} | set(HEADERS)
        assert all(answer.headers[name] == value for name, value in HEADERS.items())


@pytest.mark.parametrize(("path", "body"), CHANGES)
@pytest.mark.parametrize(
    "foreign",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{PORT + 1}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "elsewhere.example"},
    ],
)
def test_other_sites_pages_change_nothing(
    client: TestClient, path: str, body: dict[str, Any], foreign: dict[str, str]
) -> None:
    assert client.post(path, json=body, headers={**BEARER, **foreign}).status_code == 403


@pytest.mark.parametrize(("path", "body"), CHANGES)
def test_a_form_of_another_site_is_no_request(client: TestClient, path: str, body: dict[str, Any]) -> None:
    answer = client.post(path, content=b"{}", headers={**BEARER, "Content-Type": "text/plain"})
    assert_error(answer, 415, "not-json")


@pytest.mark.parametrize("name", PATHS)
def test_a_run_is_named_and_never_a_path(client: TestClient, name: str) -> None:
    asked = quote(name, safe="")
    for method, path in ROUTES:
        if "/cup" in path:
            body = {"do": "delete"} if path.endswith("/do") else {"prompts": ["a"], "kind": "report"}
            answer = client.request(
                method, path.replace("cup", asked), headers=BEARER, json=body if method == "POST" else None
            )
            assert answer.status_code in (404, 405, 307, 422), (path, answer.text)
            assert "red cup" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/api/runs/cup/images/..%2F..%2F..%2Foutside%2Fconfig.toml",
        "/api/runs/cup/images/r0001-i0000%00",
        "/api/runs/cup/evaluation/..%2Frounds/0",
        "/api/runs/cup/evaluation/base/-1",
        "/api/runs/cup/files/..%2Fconfig.toml",
        "/api/runs/cup/files/feedback.db",
        "/api/runs/cup/draws/..%2F../1/0",
        "/api/runs/cup/exports/..%2F..%2F/config.toml",
        "/api/runs/cup/rounds/-1",
        "/static/..%2Fapp.py",
        "/page/..%2Fsecurity.py",
        "/runs/cup/label/static/..%2F..%2Fapp.py",
        "/runs/..%2Foutside/label/",
        "/runs/cup/label/..%2F..%2F..%2Fapi/runs",
    ],
)
def test_no_file_is_given_out_by_a_path(client: TestClient, path: str) -> None:
    answer = client.get(path, headers=BEARER)
    assert answer.status_code in (404, 422), answer.text


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"judge": "my_module:evaluate"}, "judge"),
        ({"judge": "os:system"}, "judge"),
        ({"judge": "python"}, "judge"),
        ({"judge": "clip:/tmp/model,threshold=1"}, "judge"),
        ({"settings": {"evaluator.name": "os:system"}}, "evaluator.name"),
        ({"settings": {"evaluator": {"name": "os:system"}}}, "evaluator"),
        ({"settings": {"evaluator.store": "sqlite:////tmp/other.db"}}, "evaluator.store"),
        ({"settings": {"model.path": "/etc"}}, "model.path"),
        ({"settings": {"model": {"path": "/etc"}}}, "model"),
        ({"settings": {"task.name": "hand"}}, "task.name"),
        ({"settings": {"reward.kind": "my_module:Reward"}}, "reward.kind"),
        ({"settings": {"update.my_module": {}}}, "update.my_module"),
        ({"method": "my_module:method"}, "method"),
        ({"model": "/etc"}, "model"),
        ({"model": "../outside"}, "model"),
        ({"model": "."}, "model"),
        ({"model": "~/models"}, "model"),
        ({"model": "file:///etc/passwd"}, "model"),
        ({"model": "owner/name/../../x"}, "model"),
    ],
)
def test_a_page_names_neither_code_nor_paths(client: TestClient, wish: dict[str, Any], field: str) -> None:
    body = {"name": "new", "prompts": ["a cup"], **wish}
    checked = client.post("/api/check", json=body, headers=BEARER)
    assert [problem["field"] for problem in checked.json()["problems"]] == [field]
    assert_error(client.post("/api/runs", json={"wish": body}, headers=BEARER), 422, "bad-wish", field)
    assert client.post("/api/memory", json=body, headers=BEARER).status_code == 422


@pytest.mark.parametrize("name", ["..", "../new", "/tmp/new", "a/b", ".studio", "-o", ""])
def test_a_new_run_lies_directly_in_the_folder(client: TestClient, name: str) -> None:
    body = {"wish": {"name": name, "prompts": ["a cup"]}}
    assert_error(client.post("/api/runs", json=body, headers=BEARER), 422, "bad-name", "name")


def test_a_run_whose_evaluator_is_code_is_not_started_from_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("open('imported', 'w')\n")
    OnDisk(tmp_path / "runs", "cup", config=config_of(evaluator="mine:judge"))
    with studio_at(tmp_path / "runs") as client:
        assert_error(client.post("/api/runs/cup/do", json={"do": "start"}), 409, "needs-terminal")
        wish = client.get("/api/runs/cup/form").json()
        assert wish["judge"] == "web"
    assert not (tmp_path / "imported").exists()


def test_a_model_of_another_run_is_allowed_for_its_copy_alone(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    OnDisk(tmp_path / "runs", "cup", config=config_of(model={"path": str(model)}))
    with studio_at(tmp_path / "runs") as client:
        body = {"name": "new", "prompts": ["a cup"], "model": str(model)}
        assert [p["field"] for p in client.post("/api/check", json=body).json()["problems"]] == ["model"]
        assert client.post("/api/check", json={**body, "like": "cup"}).json()["problems"] == []
        assert client.post("/api/check", json={**body, "like": "../outside"}).status_code == 404
    with studio_at(tmp_path / "runs", tmp_path) as client:
        assert client.get("/api/options").json()["models"] == [
            {"path": str(model), "name": "model", "pipeline": "StableDiffusionPipeline"}
        ]
        assert client.post("/api/check", json=body).json()["problems"] == []


def test_free_text_that_a_page_may_set_names_no_file_or_module() -> None:
    """A new setting of free text is refused until it is put on this list, by somebody who has thought about it."""
    from hero.studio.settings import described

    stages = described()
    fields = [field for stage in stages for field in stage["fields"]]
    fields += [field for stage in stages for kind in stage.get("kinds", {}).values() for field in kind["fields"]]
    assert {field["key"] for field in fields if field["type"] in ("text", "lines")} == {
        "evaluation.drift_prompts",
        "evaluator.rule",
        "model.device",
        "model.revision",
        "model.variant",
        "tracking.project",
    }
    assert {field["key"] for field in fields} == may_set()


def test_what_is_drawn_is_no_option_of_a_command(
    client: TestClient, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    jobs = client.app.state.studio.jobs  # type: ignore[attr-defined]
    monkeypatch.setattr(jobs, "start", lambda job, arguments, about: started.append(arguments))
    body = {"prompts": ["--out=/tmp/elsewhere", "-h"], "strengths": [0, 1]}
    assert client.post("/api/runs/cup/draws", json=body, headers=BEARER).status_code == 200
    (arguments,) = started
    assert [word for word in arguments if word.startswith("--out")] == ["--out"]
    assert arguments[-4:-2] == ["--prompt=--out=/tmp/elsewhere", "--prompt=-h"]
    assert client.post("/api/runs/cup/draws", json={"prompts": [""]}, headers=BEARER).status_code == 422
    assert client.post("/api/runs/cup/exports", json={"kind": "../x"}, headers=BEARER).status_code == 422
    stop = {"job": "../../outside"}
    assert client.post("/api/runs/cup/stop-job", json=stop, headers=BEARER).status_code == 422
