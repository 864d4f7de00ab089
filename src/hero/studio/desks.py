"""The labelling pages of runs below the studio's own address, so that one port is enough for everything.

`/runs/NAME/label/` is the page of a run, `/runs/NAME/blind/` that of its blind evaluation: the labelling page's own
application, asked as if it stood at the root. Its addresses are relative.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from hero.config import load_run_config
from hero.errors import HeroError
from hero.run.directory import EVALUATION, STORE_FILE
from hero.studio.folder import Runs
from hero.web.app import STATIC, create_app
from hero.web.desk import Desk
from hero.web.errors import ApiError, error_response
from hero.web.security import Access

__all__ = ["Desks"]

_MOST_OPEN = 8
_KINDS = ("label", "blind")
_UP = "../../../"
"""From a desk's page to the studio's."""

Opened = tuple[FastAPI, AbstractAsyncContextManager[object]]


class Desks:
    """An ASGI application for everything below `/runs/`.

    Args:
        access: the studio's, which has checked every request already; the pages check it again.
    """

    def __init__(self, runs: Runs, access: Access) -> None:
        self._runs = runs
        self._access = access
        self._open: OrderedDict[Path, Opened] = OrderedDict()
        self._opening = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: Response | None = None
        try:
            below = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
            name, _, rest = below.partition("/")
            kind, slash, inner = rest.partition("/")
            folder, store = self._desk(name, kind)
            if not slash:
                answer = RedirectResponse(f"{kind}/", 307)
            elif not inner and scope["method"] == "GET":
                answer = HTMLResponse(_page(), headers={"Cache-Control": "no-cache"})
            else:
                app = await self._app(folder, store)
                path = f"/{inner}"
                await app({**scope, "path": path, "raw_path": path.encode(), "root_path": ""}, receive, send)
        except ApiError as error:
            answer = error_response(error)
        except HeroError as error:
            answer = error_response(ApiError(503, "store-unavailable", str(error)))
        if answer is not None:
            await answer(scope, receive, send)

    def end_streams(self) -> None:
        """Ends every open stream of events, so that the server can stop."""
        for app, _ in self._open.values():
            app.state.broadcast.close()

    async def close(self, name: str | None = None) -> None:
        """Closes the pages of a run, or all; they open again when they are asked for."""
        async with self._opening:
            for folder in list(self._open):
                if name is None or folder.is_relative_to(self._runs.root / name):
                    await self._shut(folder)

    def _desk(self, name: str, kind: str) -> tuple[Path, str | None]:
        """The folder and the store of a desk.

        Raises:
            ApiError: 404, there is no such run, or it has no page of that kind.
            ConfigError: its settings cannot be read.
        """
        path = self._runs.path(name)
        if kind not in _KINDS:
            raise ApiError(404, "not-found", "A run has a page label/ and a page blind/.")
        evaluator = load_run_config(path / "config.toml").evaluator
        if kind == "blind":
            folder = path / EVALUATION / "people"
            if not (folder / STORE_FILE).is_file():
                raise ApiError(404, "not-judged", f"{name} has no blind evaluation yet; start one from its page.")
            return folder, None
        if evaluator.name != "web":
            raise ApiError(
                404, "not-labelled", f"{name} is not labelled by people: its evaluator is {evaluator.name!r}."
            )
        return path, evaluator.store

    async def _app(self, folder: Path, store: str | None) -> FastAPI:
        async with self._opening:
            if folder in self._open and not folder.is_dir():
                await self._shut(folder)  # it was moved by hand
            if folder not in self._open:
                while len(self._open) >= _MOST_OPEN:
                    await self._shut(next(iter(self._open)))
                app = create_app(await asyncio.to_thread(Desk, folder, store), self._access)
                life = app.router.lifespan_context(app)
                await life.__aenter__()
                self._open[folder] = (app, life)
            self._open.move_to_end(folder)
            return self._open[folder][0]

    async def _shut(self, folder: Path) -> None:
        _, life = self._open.pop(folder)
        await life.__aexit__(None, None, None)


def _page() -> str:
    """The labelling page with a way back to the studio."""
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    style = f'<link rel="stylesheet" href="{_UP}static/css/back.css">\n</head>'
    way = f'<nav class="studio-back" aria-label="Studio"><a href="{_UP}">All runs</a></nav>\n<div class="shell">'
    return page.replace("</head>", style, 1).replace('<div class="shell">', way, 1)
