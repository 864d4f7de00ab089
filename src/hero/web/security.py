"""The guard before every route checks who asks (token), by which name (Host), from which page (Origin), and how much.

It also puts the security headers on every answer, errors and images included. See docs/api.md, "Security".
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hero.web.errors import ApiError, error_response, unexpected

__all__ = ["ANY_ADDRESS", "HEADERS", "MOST_BYTES", "Access", "Guard"]

MOST_BYTES = 256 * 1024
"""Largest body of a request; 1024 marks need about half of it."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_COOKIE_SECONDS = 30 * 24 * 3600
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]/@\s]+)(:[0-9]{1,5})?")
_SAFE = ("GET", "HEAD", "OPTIONS")
_OWN = ("same-origin", "none")
ANY_ADDRESS = ("", "0.0.0.0", "::")
"""Hosts that mean every interface of this machine."""


@dataclass(frozen=True)
class Access:
    """Who may use the server.

    Attributes:
        token: the secret that every request carries.
        hosts: names, in lower case and without a port, by which clients may address the server.
        any_address: whether they may also use any IP address, since an address cannot be rebound to another machine.
        cookie: name of the cookie that carries the token.
    """

    token: str
    hosts: frozenset[str]
    any_address: bool = False
    cookie: str = "hero"

    @classmethod
    def of(cls, token: str, host: str, port: int, names: Iterable[str] = ()) -> Access:
        """Access to a server that listens on `host`; `names` are other names of this machine.

        Cookies are shared by all ports of a machine: the port in the cookie's name keeps two servers apart.
        """
        own = {"localhost", "127.0.0.1", "[::1]", *(name.lower() for name in names)}
        if host not in ANY_ADDRESS:
            own.add(f"[{host}]".lower() if ":" in host else host.lower())
        return cls(token, frozenset(own), host in ANY_ADDRESS, f"hero_{port}")

    def knows(self, host: str) -> bool:
        """Whether `host`, the Host header, names this server."""
        match = _HOST.fullmatch(host.lower())
        if match is None:
            return False
        name = match[1]
        return name in self.hosts or (self.any_address and _is_address(name.strip("[]")))

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

    def _answer(self, scope: Scope) -> Response | None:
        """What the guard itself answers; None if the request may proceed."""
        headers = Headers(scope=scope)
        at_entry = scope["path"] == "/" and scope["method"] == "GET"
        try:
            self._check_host(headers)
            if at_entry and (given := parse_qs(scope["query_string"].decode("latin-1")).get("token")):
                if not self._access.admits(given[-1]):
                    raise _token_required()
                return self._let_in(headers)
            self._check_token(headers)
            _check_page(scope["method"], headers, at_entry)
            if scope["method"] == "POST":
                _check_body(headers)
        except ApiError as error:
            return _refusal_page(error) if at_entry else error_response(error)
        return None

    def _check_host(self, headers: Headers) -> None:
        if not self._access.knows(headers.get("host", "")):
            message = (
                "This server does not go by that name; open the address it printed, or start it with --allow-host NAME."
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

    def _let_in(self, headers: Headers) -> Response:
        """The token moves from the address into a cookie, so that no later address carries it."""
        answer: Response
        if headers.get("sec-fetch-site") == "cross-site":
            # Followed from another site's page: a redirect would still count as cross-site, and lose the strict cookie.
            answer = HTMLResponse('<!doctype html><meta http-equiv="refresh" content="0;url=/"><title>hero</title>')
        else:
            answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self._access.cookie,
            self._access.token,
            max_age=_COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
        )
        return answer


def _check_page(method: str, headers: Headers, at_entry: bool) -> None:
    """Only this server's own page may make a browser send requests; but any page may link to the entry page."""
    host, origin = headers.get("host", "").lower(), headers.get("origin")
    if method not in _SAFE and origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
        raise _foreign_page()
    if not at_entry and headers.get("sec-fetch-site", "none") not in _OWN:
        raise _foreign_page()


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
    page = f"<!doctype html><html lang=en><title>hero</title><h1>Access denied</h1><p>{error.message}</p></html>"
    return HTMLResponse(page, error.status_code, error.headers)


def _token_required() -> ApiError:
    message = "The token is missing or wrong; open the address that the server printed, the one with ?token= in it."
    return ApiError(401, "token-required", message, headers={"WWW-Authenticate": "Bearer"})


def _foreign_page() -> ApiError:
    return ApiError(403, "foreign-page", "Another site's page made this request; use the labelling page itself.")


def _too_large() -> ApiError:
    message = f"The body is larger than {MOST_BYTES // 1024} KiB; send fewer marks at once."
    return ApiError(413, "body-too-large", message, headers={"Connection": "close"})


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _digest(token: str) -> bytes:
    """Of the same length for every `token`, so that every comparison takes the same time."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
