"""The guard before every route checks who asks (token), by which name (Host), from which page (Origin), and how much.

It also puts the security headers on every answer, errors and images included, and takes off the path prefix of a proxy
that passes it on. See docs/api.md, "Security".
"""

from __future__ import annotations

import hashlib
import hmac
import html
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero.web.errors import ApiError, error_response, unexpected
from hero.web.listening import ANY_ADDRESS

__all__ = ["HEADERS", "MOST_BYTES", "Access", "Guard"]

MOST_BYTES = 256 * 1024
"""Largest body of a request; 1024 marks need about half of it."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_COOKIE_SECONDS = 30 * 24 * 3600
_PREFIX = re.compile(r"(/[A-Za-z0-9._~@%-]+){1,20}")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@\s]+)(:[0-9]{1,5})?")
_SAFE = ("GET", "HEAD", "OPTIONS")
_OWN = ("same-origin", "none")


@dataclass(frozen=True)
class Access:
    """Who may use the server.

    Attributes:
        token: the secret that every request carries.
        hosts: names, in lower case and without a port, by which clients may address the server; one that begins with a
            dot stands for every name that ends so.
        any_address: whether they may also use any IP address, since an address cannot be rebound to another machine.
        cookie: name of the cookie that carries the token.
        named: those of `hosts` that the user named: a page of that name is this server's own behind a proxy.
        prefix: path that a proxy passes on before the server's own paths; "" for none.
    """

    token: str
    hosts: frozenset[str]
    any_address: bool = False
    cookie: str = "hero"
    named: frozenset[str] = frozenset()
    prefix: str = ""

    @classmethod
    def of(cls, token: str, host: str, port: int, names: Iterable[str] = (), prefix: str = "") -> Access:
        """Access to a server that listens on `host`; `names` are other names, of this machine or of a proxy.

        Cookies are shared by all ports of a machine: the port in the cookie's name keeps two servers apart.
        """
        named = frozenset(name.lower() for name in names)
        machine = socket.gethostname().lower()
        own = {"localhost", "127.0.0.1", "[::1]", machine, f"{machine}.local", *named}
        if host not in ANY_ADDRESS:
            own.add(f"[{host}]".lower() if ":" in host else host.lower())
        return cls(token, frozenset(own), host in ANY_ADDRESS, f"hero_{port}", named, prefix)

    def knows(self, host: str) -> bool:
        """Whether `host`, the Host header, names this server."""
        match = _HOST.fullmatch(host.lower())
        if match is None:
            return False
        name = match[1]
        return _is_among(name, self.hosts) or (self.any_address and _is_address(name.strip("[]")))

    def owns(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` is this server's own, addressed as `host`: of the same name, or of one that the
        user gave, since a proxy may put a Host of its own in its place."""
        scheme, _, place = origin.lower().partition("://")
        if scheme not in ("http", "https"):
            return False
        match = _HOST.fullmatch(place)
        return place == host.lower() or (match is not None and _is_among(match[1], self.named))

    def admits(self, token: str) -> bool:
        """Whether `token` is the secret, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(_digest(token), _digest(self.token))


class Guard:
    """ASGI middleware: refuses what `access` does not allow, and puts the security headers on every answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        scope = self._placed(scope)
        started = False

        async def guarded_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            answer = self._answer(scope)
            if answer is None:
                await self._app(scope, _limited(receive), guarded_send)
                return
        except Exception as error:
            if started:
                raise  # the answer is half sent; the broken connection signals the failure
            answer = unexpected(error, scope["path"])
        await answer(scope, receive, guarded_send)

    def _placed(self, scope: Scope) -> Scope:
        """`scope` with the prefix of a proxy as its root, where the path begins with it."""
        prefix, root = self._access.prefix, scope.get("root_path", "")
        path = scope["path"].removeprefix(root)
        if not prefix or not (path == prefix or path.startswith(f"{prefix}/")):
            return scope
        return {**scope, "root_path": root + prefix}

    def _answer(self, scope: Scope) -> Response | None:
        """What the guard itself answers; None if the request may proceed."""
        headers = Headers(scope=scope)
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        at_entry = path in ("", "/") and scope["method"] == "GET"
        try:
            self._check_host(headers)
            if at_entry and (given := parse_qs(scope["query_string"].decode("latin-1")).get("token")):
                if not self._access.admits(given[-1]):
                    raise _token_required()
                return self._let_in(scope, headers)
            self._check_token(headers)
            self._check_page(scope["method"], headers, at_entry)
            if at_entry and not path:
                return RedirectResponse(_entry(scope), 303)
            if scope["method"] == "POST":
                _check_body(headers)
        except ApiError as error:
            return _refusal_page(error) if at_entry else error_response(error)
        return None

    def _check_host(self, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        if not self._access.knows(host):
            name = match[1] if (match := _HOST.fullmatch(host)) else "NAME"
            message = (
                f"This server does not go by the name {name[:100]}; open the address it printed, or start it again "
                f"with --allow-host {name[:100]}."
            )
            raise ApiError(403, "host-not-allowed", message)

    def _check_token(self, headers: Headers) -> None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme:
            admitted = scheme.lower() == "bearer" and self._access.admits(given.strip())
        else:
            admitted = self._access.admits(cookie_parser(headers.get("cookie", "")).get(self._access.cookie, ""))
        if not admitted:
            raise _token_required()

    def _let_in(self, scope: Scope, headers: Headers) -> Response:
        """The token moves from the address into a cookie, so that no later address carries it.

        Where the browser then goes is said relative to where it is: a proxy may serve this below a path of its own.
        """
        answer: Response
        entry = _entry(scope)
        if headers.get("sec-fetch-site") == "cross-site":
            # Followed from another site's page: a redirect would still count as cross-site, and lose the strict cookie.
            refresh = f'<meta http-equiv="refresh" content="0;url={html.escape(entry)}">'
            answer = HTMLResponse(f"<!doctype html>{refresh}<title>hero</title>")
        else:
            answer = RedirectResponse(entry, 303)
        forwarded = headers.get("x-forwarded-prefix", "").rstrip("/")
        root = scope.get("root_path", "") or (forwarded if _PREFIX.fullmatch(forwarded) else "")
        answer.set_cookie(
            self._access.cookie,
            self._access.token,
            max_age=_COOKIE_SECONDS,
            path=f"{root}/",
            httponly=True,
            samesite="strict",
            secure="https" in (scope.get("scheme"), headers.get("x-forwarded-proto", "").partition(",")[0].strip()),
        )
        return answer

    def _check_page(self, method: str, headers: Headers, at_entry: bool) -> None:
        """Only this server's own page may make a browser send requests; but any page may link to the entry page."""
        origin = headers.get("origin")
        if method not in _SAFE and origin is not None and not self._access.owns(origin, headers.get("host", "")):
            raise _foreign_page()
        if not at_entry and headers.get("sec-fetch-site", "none") not in _OWN:
            raise _foreign_page()


def _entry(scope: Scope) -> str:
    """The entry page relative to the address asked for, which may lack its slash."""
    path = str(scope["path"])
    return "./" if path.endswith("/") else f"{path.rpartition('/')[2]}/"


def _check_body(headers: Headers) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "not-json", "Send the body as JSON, with the header Content-Type: application/json.")
    if int(headers.get("content-length", "0")) > MOST_BYTES:
        raise _too_large()


def _limited(receive: Receive) -> Receive:
    """`receive`, but failing when a body, announced or not, grows too large."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > MOST_BYTES:
            raise _too_large()
        return message

    return limited


def _refusal_page(error: ApiError) -> Response:
    """What a person who opens the page without the right address sees."""
    words = html.escape(error.message)
    page = f"<!doctype html><html lang=en><title>hero</title><h1>Access denied</h1><p>{words}</p></html>"
    return HTMLResponse(page, error.status_code, error.headers)


def _token_required() -> ApiError:
    message = "The token is missing or wrong; open the address that the server printed, the one with ?token= in it."
    return ApiError(401, "token-required", message, headers={"WWW-Authenticate": "Bearer"})


def _foreign_page() -> ApiError:
    return ApiError(403, "foreign-page", "Another site's page made this request; use the labelling page itself.")


def _too_large() -> ApiError:
    message = f"The body is larger than {MOST_BYTES // 1024} KiB; send fewer marks at once."
    return ApiError(413, "body-too-large", message, headers={"Connection": "close"})


def _is_among(name: str, names: Iterable[str]) -> bool:
    return any(name == known or (known.startswith(".") and name.endswith(known)) for known in names)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(token: str) -> bytes:
    """Of the same length for every `token`, so that every comparison takes the same time."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
