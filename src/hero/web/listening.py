"""Where a labelling page listens, and by which names and below which path its clients reach it. No web library here."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass

from hero.errors import ConfigError

__all__ = ["ANY_ADDRESS", "LOOPBACK", "PORT", "Listening", "bind", "listen", "page_address"]

PORT = 8420
"""The default port; a page that always has the same address keeps what the browser stored for it."""
ANY_ADDRESS = ("", "0.0.0.0", "::")
"""Hosts that mean every interface of this machine."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Hosts that only programs of this machine reach."""

_NAME = re.compile(r"\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~@-]+)+")


@dataclass(frozen=True)
class Listening:
    """How a page is served.

    Attributes:
        host: address to listen on; any but a loopback one lets other machines in.
        port: None: the one that the desk had before, or the usual one, where they are free.
        browser: also open the page, where there is a browser.
        names: other names by which clients may address it (the Host header), such as that of a proxy before it;
            ".example.org" stands for every name that ends so.
        prefix: path below which a proxy passes requests on unchanged, such as "/hero"; one that takes the prefix off
            needs none.

    Raises:
        ConfigError: a name or prefix is not one.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    browser: bool = True
    names: tuple[str, ...] = ()
    prefix: str = ""

    def __post_init__(self) -> None:
        for name in self.names:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"--allow-host {name!r} is not a name; give it alone, without https://, port or path, e.g. "
                    "pod.example.org, or .example.org for every name that ends so"
                )
        if self.prefix and not _PREFIX.fullmatch(self.prefix):
            raise ConfigError(f"--prefix {self.prefix!r} is not a path; give it from the first slash on, e.g. /hero")

    @property
    def open_to_others(self) -> bool:
        """Whether other machines can reach it."""
        return self.host not in LOOPBACK

    def check(self) -> None:
        """Raises ConfigError if the port was named and cannot be had."""
        if self.port:
            bind(self.host, self.port).close()

    def is_free(self, port: int) -> bool:
        """Whether `port` can be had."""
        try:
            bind(self.host, port).close()
        except ConfigError:
            return False
        return True


def listen(host: str, port: int | None, usual: int = PORT) -> socket.socket:
    """A socket bound on `host`: to `port`, or to `usual` if that is free, or to any.

    Raises:
        ConfigError: the address or port is not available.
    """
    if port is not None:
        return bind(host, port)
    try:
        return bind(host, usual)
    except ConfigError:
        return bind(host, 0)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to that very port; 0: a free one.

    Raises:
        ConfigError: the address or port is not available.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another --host or --port") from None
    return listener


def page_address(host: str, port: int, prefix: str, token: str) -> str:
    """Where a browser opens the page."""
    if host in ANY_ADDRESS:
        host = _outward_address()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{prefix}/?token={token}"


def _outward_address() -> str:
    """This machine's address in its network; loopback if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: choosing a route is enough
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
