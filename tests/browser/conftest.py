"""A real browser, and servers of desks for it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from .desk import DESKTOP, ROOT, Desk, PrefixProxy, Served

SCREENSHOTS = ROOT / "build" / "screenshots"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW = "no Chromium found; `make browser` installs it on Debian and Ubuntu, elsewhere put chromium on PATH"
PATIENCE = 60_000
"""Milliseconds: a busy machine is no failure."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="package")  # its event loop must be gone when tests elsewhere start theirs
def browser() -> Iterator[Browser]:
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(HOW)
        pytest.skip(HOW)
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=FLAGS, timeout=2 * PATIENCE)
        yield launched
        launched.close()


@pytest.fixture
def make_desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(**run: Any) -> Desk:
        made.append(Desk(tmp_path / f"desk{len(made)}", **run))
        return made[-1]

    yield make
    for desk in made:
        desk.store.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    running: list[Served] = []

    def start(desk: Desk, port: int = 0, **options: str) -> Served:
        running.append(Served("hero.web", str(desk.folder), "--port", str(port), **options))
        return running[-1]

    yield start
    for served in running:
        served.kill()


@pytest.fixture
def prefixed() -> Iterator[Callable[..., str]]:
    """`prefixed(served, prefix)`: the page's address at a proxy that serves it below `prefix`, which it takes off."""
    proxies: list[PrefixProxy] = []

    def start(served: Served, prefix: str) -> str:
        proxies.append(PrefixProxy(served.port, prefix))
        return f"http://127.0.0.1:{proxies[-1].port}{prefix}/{served.address.split('/')[-1]}"

    yield start
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """`visit(address, **context)`: a page in a browser of its own; an error in its scripts fails the test."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    def open_page(address: str, **options: Any) -> Page:
        context = browser.new_context(**{**DESKTOP, "reduced_motion": "reduce", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if "Content Security" in line.text else None)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def shoot() -> Callable[..., None]:
    """Writes a screenshot to build/screenshots, once every picture in view is there."""

    def take(page: Page, name: str, *, full: bool = False) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.evaluate(
            "Promise.race([Promise.all([...document.images].filter(i => i.src && !i.complete)"
            ".map(i => new Promise(r => { i.onload = i.onerror = r; }))), new Promise(r => setTimeout(r, 5000))])"
        )
        page.wait_for_timeout(60)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=full)

    return take
