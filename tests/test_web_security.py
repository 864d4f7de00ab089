"""Attacks on the labelling server: each is tried, is refused, and changes nothing."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from desks import BEARER, PORT, TOKEN, Run, assert_error, good, opened
from hero.errors import ConfigError
from hero.web.app import STATIC, create_app
from hero.web.desk import Desk
from hero.web.listening import Listening
from hero.web.security import HEADERS, MOST_BYTES, Access

HOME = f"127.0.0.1:{PORT}"
ROUTES = [
    ("GET", "/"),
    ("GET", "/static/js/main.js"),
    ("GET", "/static/nothing"),
    ("GET", "/api/health"),
    ("GET", "/api/state"),
    ("GET", "/api/rounds/1"),
    ("GET", "/api/events"),
    ("GET", "/api/images/r0001-i0000"),
    ("GET", "/api/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/redoc"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
    ("POST", "/api/rounds/1/marks"),
    ("POST", "/api/rounds/1/submit"),
    ("POST", "/api/rounds/1/reopen"),
    ("POST", "/api/commands"),
    ("GET", "/api/report"),
    ("GET", "/api/lora"),
]
STATE_CHANGES = [
    ("/api/rounds/1/marks", {"evaluator": "me", "marks": [good("r0001-i0000")]}),
    ("/api/rounds/1/submit", {"evaluator": "me", "seen_none_good": True}),
    ("/api/rounds/1/reopen", {"evaluator": "me"}),
    ("/api/commands", {"kind": "stop", "body": {}, "evaluator": "me"}),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    made = Run(tmp_path_factory.mktemp("desks") / "run")
    made.show(1)
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(run: Run) -> Iterator[TestClient]:
    with opened(run.folder) as client:
        client.headers.pop("Authorization")
        client.follow_redirects = False
        yield client


@pytest.fixture(autouse=True)
def nothing_changes(run: Run, client: TestClient) -> Iterator[None]:
    client.cookies.clear()
    yield
    assert run.store.count() == 0
    assert run.store.submitted_rounds() == ()
    assert run.channel.commands() == []


# ---------------------------------------------------------------------------------------------- the token


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_is_given_without_the_token(client: TestClient, method: str, path: str) -> None:
    wrong = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Cookie": f"hero_{PORT}=wrong"},
        {"Cookie": f"hero_{PORT + 1}={TOKEN}"},
        {"Cookie": f"hero_{PORT}={TOKEN}", "Authorization": "Bearer wrong"},
    ]
    for headers in wrong:
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 401, (headers, answer.text)
        assert answer.headers["www-authenticate"] == "Bearer"
        if path == "/":
            assert "the address that the server printed" in answer.text
            assert answer.headers["content-type"].startswith("text/html")
        else:
            assert_error(answer, 401, "token-required")
        assert TOKEN not in answer.text


def test_the_token_counts_in_the_address_of_the_page_alone(client: TestClient) -> None:
    for method, path in ROUTES[1:]:
        assert client.request(method, path, params={"token": TOKEN}).status_code == 401
    assert client.get("/", params={"token": "wrong"}).status_code == 401
    assert client.get("/", params={"token": "wröng\ud7ff"}).status_code == 401
    assert client.post("/", params={"token": TOKEN}).status_code == 401


def test_the_token_moves_into_a_cookie_and_out_of_every_later_address(client: TestClient) -> None:
    answer = client.get("/", params={"token": TOKEN})
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    cookie = answer.headers["set-cookie"]
    for part in (f"hero_{PORT}={TOKEN}", "HttpOnly", "SameSite=strict", "Path=/"):
        assert part in cookie
    page = client.get("/")
    assert page.status_code == 200
    assert TOKEN not in page.text
    assert client.get("/api/state").status_code == 200
    served = [path.read_text(encoding="utf-8") for path in STATIC.rglob("*.js")]
    assert not [text for text in served if re.search(r"[?&]token=|document\.cookie", text)]


def test_a_link_from_another_site_still_leads_to_the_page(client: TestClient) -> None:
    """A browser keeps a strict cookie back on a redirect that another site's link led to: the page itself goes on."""
    answer = client.get("/", params={"token": TOKEN}, headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 200
    assert "SameSite=strict" in answer.headers["set-cookie"]
    assert 'content="0;url=./"' in answer.text
    assert TOKEN not in answer.text


def test_tokens_are_compared_whatever_they_hold() -> None:
    access = Access.of(TOKEN, "127.0.0.1", PORT)
    assert access.admits(TOKEN)
    for wrong in ("", TOKEN.upper(), TOKEN + "\0", "é" * 30, "\udcff", TOKEN * 1000):
        assert not access.admits(wrong)


# ---------------------------------------------------------------------------------------------- the name


FOREIGN_HOSTS = (
    f"evil.example evil.example:{PORT} 127.0.0.1.evil.example localhost.evil.example 192.168.0.7 [::2] localhost. "
    "127.1 localhost@evil.example evil.example#localhost localhost:80:80 0.0.0.0 2130706433"
).split()


@pytest.mark.parametrize("host", ["", *FOREIGN_HOSTS])
def test_a_name_that_is_not_ours_is_refused_whoever_asks(client: TestClient, host: str) -> None:
    for path in ("/", "/api/state", "/api/images/r0001-i0000", "/static/js/main.js"):
        answer = client.get(path, headers={**BEARER, "Host": host})
        assert answer.status_code == 403
        assert "--allow-host" in answer.text
    answer = client.get("/", params={"token": TOKEN}, headers={"Host": host})
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)


@pytest.mark.parametrize("host", [HOME, "localhost", "LOCALHOST:9", "[::1]", f"[::1]:{PORT}", "127.0.0.1"])
def test_this_machine_has_these_names(client: TestClient, host: str) -> None:
    assert client.get("/api/health", headers={**BEARER, "Host": host}).status_code == 200


def test_further_names_and_addresses_are_known_when_they_were_given() -> None:
    named = Access.of(TOKEN, "127.0.0.1", PORT, ["Label.Example"])
    assert named.knows("label.example:443")
    assert not named.knows("other.example")
    assert not named.knows("192.168.0.7")
    assert Access.of(TOKEN, "192.168.0.7", PORT).knows("192.168.0.7:1")
    assert Access.of(TOKEN, "fe80::1", PORT).knows("[fe80::1]:1")
    everywhere = Access.of(TOKEN, "0.0.0.0", PORT)
    assert everywhere.knows("192.168.0.7:1")
    assert everywhere.knows("[fe80::1]")
    assert not everywhere.knows("evil.example"), "a name could be bound to this machine by anyone"


def test_names_may_be_given_by_their_end_and_this_machine_has_its_own() -> None:
    access = Access.of(TOKEN, "127.0.0.1", PORT, [".proxy.example"])
    assert access.knows("abc-8420.proxy.example")
    for other in ("proxy.example", "proxy.example.evil", "evilproxy.example", "a.proxy.example@evil"):
        assert not access.knows(other), other
    assert access.knows(f"{socket.gethostname()}:{PORT}")


@pytest.mark.parametrize("wrong", ["https://a.example", "a.example:80", "a.example/x", "", "*", "."])
def test_a_name_that_is_none_is_refused_with_an_example(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a name.*pod\.example\.org"):
        Listening(names=(wrong,))
    with pytest.raises(ConfigError, match="is not a path"):
        Listening(prefix="hero/")


# ---------------------------------------------------------------------------------------------- proxies


BEHIND = {"Host": "hub.example", "X-Forwarded-Proto": "https", "Sec-Fetch-Site": "none"}


@pytest.fixture
def behind_a_proxy(run: Run) -> Iterator[TestClient]:
    """A client of a server that a proxy of the name hub.example serves below /user/ada/hero, which it passes on."""
    with opened(run.folder, names=["hub.example"], prefix="/user/ada/hero") as client:
        client.headers.pop("Authorization")
        client.follow_redirects = False
        yield client


def test_a_prefix_that_is_passed_on_is_taken_off(behind_a_proxy: TestClient) -> None:
    for asked, goes_on in (("/user/ada/hero/", "./"), ("/user/ada/hero", "hero/")):
        answer = behind_a_proxy.get(asked, params={"token": TOKEN}, headers=BEHIND)
        assert (answer.status_code, answer.headers["location"]) == (303, goes_on)
        cookie = answer.headers["set-cookie"]
        assert "Path=/user/ada/hero/;" in cookie, "other programs behind the proxy do not get the token"
        assert "Secure" in cookie
        behind_a_proxy.cookies.clear()
    credentials = {**BEHIND, **BEARER}
    for path in ("/", "/static/js/main.js", "/api/state", "/api/images/r0001-i0000", "/api/openapi.json"):
        assert behind_a_proxy.get(f"/user/ada/hero{path}", headers=credentials).status_code == 200, path
        assert behind_a_proxy.get(path, headers=credentials).status_code == 200, "one that takes it off works, too"
    assert behind_a_proxy.get("/user/ada/hero", headers=credentials).headers["location"] == "hero/"
    assert behind_a_proxy.get("/user/ada/heroes/api/state", headers=credentials).status_code == 404
    for path in ("/user/ada/hero/api/state", "/user/ada/hero/"):
        assert behind_a_proxy.get(path, headers=BEHIND).status_code == 401
    assert behind_a_proxy.get("/user/ada/hero/", params={"token": "wrong"}, headers=BEHIND).status_code == 401


def test_a_proxy_that_takes_the_prefix_off_may_say_what_it_was(client: TestClient) -> None:
    for forwarded, path in (("/user/ada/proxy/8420", "Path=/user/ada/proxy/8420/"), ("/x; Domain=evil", "Path=/;")):
        answer = client.get("/", params={"token": TOKEN}, headers={"X-Forwarded-Prefix": forwarded})
        assert path in answer.headers["set-cookie"]
        assert "Domain" not in answer.headers["set-cookie"]
        assert "Secure" not in answer.headers["set-cookie"], "a cookie that plain HTTP would not send back"
        client.cookies.clear()


def test_a_proxy_may_put_a_host_of_its_own_before_ours(behind_a_proxy: TestClient) -> None:
    wanted = {"kind": "pause", "body": {"x": 1}, "evaluator": "me"}  # refused by its form, so nothing changes
    for name, status in (("hub.example", 422), ("evil.example", 403), ("sub.hub.example", 403)):
        answer = behind_a_proxy.post("/api/commands", json=wanted, headers={**BEARER, "Origin": f"https://{name}"})
        assert answer.status_code == status, name


def test_another_program_may_mount_the_page(run: Run) -> None:
    """Below a path of its own, as the page of several runs would."""
    inner = create_app(Desk(run.folder), Access.of(TOKEN, "127.0.0.1", PORT))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    outer = Starlette(routes=[Mount("/runs/hand", inner)], lifespan=lifespan)
    with TestClient(outer, base_url=f"http://{HOME}", follow_redirects=False) as client:
        answer = client.get("/runs/hand/", params={"token": TOKEN})
        assert (answer.status_code, answer.headers["location"]) == (303, "./")
        assert "Path=/runs/hand/;" in answer.headers["set-cookie"]
        for path in ("", "static/js/main.js", "api/state", "api/images/r0001-i0000"):
            assert client.get(f"/runs/hand/{path}").status_code == 200, path


# ---------------------------------------------------------------------------------------------- other pages


@pytest.mark.parametrize(("path", "body"), STATE_CHANGES)
def test_another_site_s_page_changes_nothing(client: TestClient, path: str, body: Any) -> None:
    foreign: list[dict[str, str]] = [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": f"http://{HOME}.evil.example"},
        {"Origin": f"ftp://{HOME}"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": f"http://{HOME}"},
    ]
    for headers in foreign:
        for credentials in (BEARER, {"Cookie": f"hero_{PORT}={TOKEN}"}):
            answer = client.post(path, json=body, headers={**credentials, **headers})
            assert_error(answer, 403, "foreign-page")


def test_forms_of_other_sites_cannot_send_json(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx", ""):
        for path, _ in STATE_CHANGES:
            answer = client.post(path, content=b"{}", headers={**BEARER, "Content-Type": kind})
            assert_error(answer, 415, "not-json")


def test_other_pages_cannot_read_or_embed(client: TestClient) -> None:
    for site in ("cross-site", "same-site"):
        for path in ("/api/state", "/api/images/r0001-i0000", "/static/js/main.js"):
            assert_error(client.get(path, headers={**BEARER, "Sec-Fetch-Site": site}), 403, "foreign-page")
    answer = client.get("/api/state", headers={**BEARER, "Origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    preflight = client.options("/api/commands", headers={**BEARER, "Origin": "http://evil.example"})
    assert preflight.status_code == 405
    assert client.get("/", headers={**BEARER, "Sec-Fetch-Site": "cross-site"}).status_code == 200, (
        "a link may lead here"
    )


# ---------------------------------------------------------------------------------------------- headers, page


@pytest.mark.parametrize(("method", "path"), ROUTES[:6] + ROUTES[7:])
def test_every_answer_carries_the_security_headers(client: TestClient, method: str, path: str) -> None:
    for headers in (BEARER, {}, {**BEARER, "Host": "evil.example"}):
        answer = client.request(method, path, headers=headers)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert "server" not in answer.headers
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'self'" in policy
    assert "default-src 'self'" in policy


class Inline(HTMLParser):
    """Collects what a policy without inline code would refuse, and whatever is loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if (tag == "script" and "src" not in given) or tag in ("style", "base", "iframe", "object", "embed"):
            self.found.append(tag)
        self.found += [name for name in given if name.startswith("on") or name == "style"]
        self.found += [str(url) for url in (given.get("src"), given.get("href")) if url and re.match(r"\w+:|//", url)]


def test_the_page_has_no_inline_code_and_loads_nothing_from_elsewhere(client: TestClient) -> None:
    for page in (client.get("/", headers=BEARER), client.get("/")):
        parser = Inline()
        parser.feed(page.text)
        assert parser.found == []
    for path in [*STATIC.rglob("*.js"), *STATIC.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\beval\(|new Function|innerHTML|document\.write|@import|url\(\s*['\"]?\w+:", text), (
            path.name
        )
        assert "https://" not in text, path.name


# ---------------------------------------------------------------------------------------------- paths, sizes, bodies


TRAVERSALS = [
    "/api/images/../../feedback.db",
    "/api/images/..%2f..%2ffeedback.db",
    "/api/images/%2e%2e%2ffeedback.db",
    "/api/images//etc/passwd",
    "/api/images/r0001-i0000.png",
    "/api/images/r0001-i0000%00",
    "/api/images/r0001-i000",
    "/api/images/r0001-i0000%0a",
    "/api/images/R0001-i0000",
    "/api/images/r٠٠٠١-i0000",
    "/api/images/x0001-i0000",
    "/api/images/r0001-i0000?width=129",
    "/api/images/r0001-i0000?width=-1",
    "/api/images/r0001-i0000?width=../1",
    "/static/../app.py",
    "/static/..%2fapp.py",
    "/static/%00",
    "/static/%2e%2e/security.py",
    "/static//etc/passwd",
    "/static/js/..%2f..%2f..%2fapp.py",
    "/static/..%5capp.py",
    "/static",
    "/static/js",
]


@pytest.mark.parametrize("path", [*TRAVERSALS, "/static/" + "a" * 5000], ids=lambda path: path[:40])
def test_no_path_leads_out_of_what_is_served(client: TestClient, path: str) -> None:
    answer = client.get(path, headers=BEARER)
    assert answer.status_code in (404, 405, 422), (path, answer.status_code)
    assert set(answer.json()) == {"error"}
    assert b"SQLite" not in answer.content
    assert b"import" not in answer.content


def test_bodies_that_are_too_large_are_refused_whether_announced_or_not(client: TestClient) -> None:
    json_ = {**BEARER, "Content-Type": "application/json"}
    large = b'{"evaluator": "' + b"x" * MOST_BYTES + b'"}'

    def piece_by_piece() -> Iterator[bytes]:
        for _ in range(2 * MOST_BYTES // 4096):
            yield b" " * 4096

    for path, _ in STATE_CHANGES:
        assert_error(client.post(path, content=large, headers=json_), 413, "body-too-large")
        assert_error(client.post(path, content=piece_by_piece(), headers=json_), 413, "body-too-large")
    many = {"evaluator": "me", "marks": [{**good("r0001-i0000"), "seconds": 1.5}] * 1025}
    assert_error(client.post("/api/rounds/1/marks", json=many, headers=BEARER), 422, "invalid-request", "marks")


SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
JSON = SCALAR | st.lists(SCALAR, max_size=2) | st.dictionaries(st.text(max_size=5), SCALAR, max_size=2)
NAMES = st.sampled_from(["me", "", " me", "x" * 41, "a\nb", "a\0b", "<script>", "\ud800", "é", None, 7])
IDS = st.sampled_from(["r0001-i0099", "r0002-i0000", "", "../x", "r0001-i0000\n", "p0001-i0000", None, 3, {}]) | JSON
MARKS = st.fixed_dictionaries(
    {"image_id": IDS, "kind": st.sampled_from(["verdict", "best", "score", "pair", None, 1]), "value": JSON},
    optional={"suggested": JSON, "seconds": JSON, "extra": JSON},
)
BODIES = JSON | st.fixed_dictionaries(
    {},
    optional={"evaluator": NAMES, "marks": st.lists(MARKS, max_size=3), "seconds": JSON, "kind": JSON, "body": JSON},
)
MADE_UP = ["/api/images/", "/api/rounds/", "/static/", "/", "/api/state?evaluator=", "/api/events?after="]
quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@quick
@given(path=st.sampled_from([path for path, _ in STATE_CHANGES]), body=BODIES)
def test_whatever_is_posted_is_refused_and_stored_nowhere(client: TestClient, path: str, body: Any) -> None:
    text = json.dumps(body).encode("utf-8", "surrogatepass")
    answer = client.post(path, content=text, headers={**BEARER, "Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()["error"]) == {"code", "message", "field"}


@quick
@given(body=st.binary(max_size=300), round_=st.integers() | st.text(max_size=8))
def test_whatever_bytes_are_posted_wherever_are_refused(client: TestClient, body: bytes, round_: Any) -> None:
    path = f"/api/rounds/{quote(str(round_), safe='')}/marks"
    answer = client.post(path, content=body, headers={**BEARER, "Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()) == {"error"}


@quick
@given(
    path=st.sampled_from(MADE_UP),
    name=st.text(max_size=30),
    width=st.none() | st.text(max_size=5),
)
def test_whatever_is_asked_for_by_a_made_up_name_is_refused(
    client: TestClient, path: str, name: str, width: str | None
) -> None:
    asked = path + quote(name or "-", safe="") + ("" if width is None else f"?width={quote(width, safe='')}")
    if "evaluator" in path or "after" in path:
        asked = path + "%00" + quote(name, safe="")
    answer = client.get(asked, headers=BEARER)
    assert 400 <= answer.status_code < 500, (asked, answer.text)
    assert set(answer.json()) == {"error"}


def test_the_files_of_this_test_are_where_they_should_be(run: Run) -> None:
    assert (run.folder / "feedback.db").read_bytes().startswith(b"SQLite"), "what the attacks look for is really there"
    assert Path(STATIC.parent / "app.py").exists()
