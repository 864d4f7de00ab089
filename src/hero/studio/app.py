"""The routes of the studio. Each one reads the request, calls the studio, and writes the answer."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, FastAPI, Request
from fastapi import Path as InPath
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from hero import __version__
from hero.errors import HeroError
from hero.run.directory import REPORT_FILE, image_file
from hero.studio.archive import zipped
from hero.studio.changes import Changes
from hero.studio.desks import Desks
from hero.studio.messages import AnyDeed, Draw, Evaluate, Export, GoBack, More, NewRun, Order, Rename, Start, StopJob
from hero.studio.results import FILES, SETS, draw_folder, export_files, round_of_run, whole
from hero.studio.standing import training_of
from hero.studio.studio import Studio
from hero.studio.wish import Wish
from hero.web.app import STATIC as PAGE
from hero.web.errors import ApiError, ErrorAnswer, install_handlers
from hero.web.images import Pictures
from hero.web.messages import ImageName
from hero.web.security import Access, Guard

__all__ = ["create_studio_app"]

STATIC = Path(__file__).parent / "static"
_UNCACHED = {"Cache-Control": "no-cache"}
_TICK = 1.0
_PATIENCE = 900.0
"""Seconds that an estimate of memory may take: the model is loaded for it."""
_REPORT_POLICY = (
    "sandbox allow-popups; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)
"""A report holds its own styles and pictures, and no script; in a sandbox it has no rights here."""

_log = logging.getLogger("hero.studio")


def create_studio_app(studio: Studio, access: Access) -> FastAPI:
    """The application for `studio`, which it closes when it shuts down."""
    desks = Desks(studio.runs, access)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        changes = app.state.broadcast = Changes(studio.overview.traces, desks.end_streams)
        app.state.wake, app.state.loop = asyncio.Event(), asyncio.get_running_loop()
        tasks = [asyncio.create_task(changes.run()), asyncio.create_task(_watch(studio, app.state.wake))]
        try:
            yield
        finally:
            changes.close()
            for task in tasks:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await desks.close()
            studio.close()

    app = FastAPI(
        title="hero studio",
        version=__version__,
        description="The JSON API behind the studio's page.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.studio = studio
    app.state.desks = desks
    app.state.pictures = Pictures()
    app.state.estimating = asyncio.Lock()
    app.include_router(_routes, responses={"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}})
    app.mount("/static", _Static(directory=STATIC), name="static")
    app.mount("/page", _Static(directory=PAGE), name="page")
    app.mount("/runs", desks, name="runs")
    install_handlers(app)
    app.add_middleware(Guard, access=access)
    return app


async def _watch(studio: Studio, wake: asyncio.Event) -> None:
    """Gives those that wait their turn; sleeps while nobody waits and nothing runs."""
    while True:
        try:
            await asyncio.to_thread(studio.tick)
        except (OSError, HeroError) as error:  # a full disk, say; the next turn may succeed
            _log.warning("%s", error)
        if await asyncio.to_thread(lambda: studio.has_to_watch):
            await asyncio.sleep(_TICK)
        else:
            await wake.wait()
            wake.clear()


async def _studio(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


_routes = APIRouter()
_OfStudio = Annotated[Studio, Depends(_studio)]
_Name = Annotated[str, InPath(max_length=255)]
_Round = Annotated[int, InPath(ge=0, le=9999)]
_Width = Literal["128", "256", "512", "1024"] | None


@_routes.get("/", include_in_schema=False)
async def page() -> Response:
    """The studio's page."""
    return FileResponse(STATIC / "index.html", headers=_UNCACHED)


@_routes.get("/api/health")
def health() -> dict[str, Any]:
    """Whether the server answers."""
    return {"ok": True, "version": __version__}


@_routes.get("/api/options")
def options(studio: _OfStudio) -> dict[str, Any]:
    """Tasks, methods, models and settings that a form can offer."""
    return studio.options()


@_routes.get("/api/runs")
def runs(studio: _OfStudio) -> dict[str, Any]:
    """The card of every run, and the names of those that wait, in order."""
    return {"runs": studio.overview.cards(), "waiting": [one.run for one in studio.queue.waiting]}


@_routes.get("/api/runs/{name}")
def run(studio: _OfStudio, name: _Name) -> dict[str, Any]:
    """Everything about one run."""
    card = studio.overview.card(name)
    try:
        return {**card, **whole(studio.runs.path(name))}
    except HeroError as error:
        return {**card, "broken": card["broken"] or str(error)}


@_routes.get("/api/runs/{name}/form")
def form(studio: _OfStudio, name: _Name) -> Wish:
    """The form that would make a run like this one."""
    return studio.form(name)


@_routes.get("/api/runs/{name}/log")
def log(studio: _OfStudio, name: _Name) -> Response:
    """The end of what its training has printed."""
    return PlainTextResponse(training_of(studio.runs.path(name)).log(), headers={"Cache-Control": "no-store"})


@_routes.get("/api/runs/{name}/rounds/{round}")
def one_round(studio: _OfStudio, name: _Name, number: Annotated[int, InPath(alias="round", ge=1, le=9999)]) -> Any:
    """The images of a round, with everybody's marks."""
    return round_of_run(studio.runs.path(name), number)


@_routes.get("/api/runs/{name}/images/{image}", response_class=Response)
def image(request: Request, studio: _OfStudio, name: _Name, image: ImageName, width: _Width = None) -> Response:
    """An image of a round, or a preview, by id."""
    return _picture(request, image_file(studio.runs.path(name), image), width)


@_routes.get("/api/runs/{name}/evaluation/{part}/{index}", response_class=Response)
def evaluated(
    request: Request, studio: _OfStudio, name: _Name, part: str, index: _Round, width: _Width = None
) -> Response:
    """An image of the evaluation."""
    if part not in SETS:
        raise ApiError(404, "image-not-found", "An evaluation has no such images.")
    return _picture(request, studio.runs.path(name) / "evaluation" / part / f"{index:04d}.png", width)


@_routes.get("/api/runs/{name}/draws/{draw}/{strength}/{index}", response_class=Response)
def drawn(
    request: Request, studio: _OfStudio, name: _Name, draw: str, strength: str, index: _Round, width: _Width = None
) -> Response:
    """An image that was drawn for somebody's own prompt."""
    return _picture(request, draw_folder(studio.runs.path(name), draw, strength) / f"{index:04d}.png", width)


@_routes.get("/api/runs/{name}/report", response_class=Response)
def report(studio: _OfStudio, name: _Name) -> Response:
    """The run's report."""
    answer = _file(studio.runs.path(name) / REPORT_FILE, None)
    answer.headers["Content-Security-Policy"] = _REPORT_POLICY
    return answer


@_routes.get("/api/runs/{name}/files/{kind}", response_class=Response)
def file(studio: _OfStudio, name: _Name, kind: str) -> Response:
    """A file of the run as it lies there: its LoRA, report, figures or settings."""
    if kind not in FILES:
        raise ApiError(404, "file-not-found", f"A run gives out {', '.join(FILES)}.")
    source = Path(FILES[kind])
    return _file(studio.runs.path(name) / source, f"{name}-{kind}{source.suffix}")


@_routes.get("/api/runs/{name}/exports/{kind}/{file}", response_class=Response)
def exported(studio: _OfStudio, name: _Name, kind: str, file: str) -> Response:
    """A file that was exported; `all.zip` is all of them."""
    folder, names = export_files(studio.runs.path(name), kind)
    if file == "all.zip":
        headers = {"Content-Disposition": _attached(f"{name}-{kind}.zip")}
        return StreamingResponse(zipped(folder, names, f"{name}-{kind}"), media_type="application/zip", headers=headers)
    if file not in names:
        raise ApiError(404, "file-not-found", "That was not exported.")
    return _file(folder / file, file)


@_routes.get("/api/changes", response_class=StreamingResponse)
async def changes(request: Request) -> Response:
    """An event `changed` whenever something has, as server-sent events."""
    followed: Changes = request.app.state.broadcast
    return StreamingResponse(followed.follow(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


# ---------------------------------------------------------------------------------------------- what changes something


@_routes.post("/api/check")
def check(studio: _OfStudio, wish: Wish) -> dict[str, Any]:
    """What is wrong with a wish, or every setting that the run would have."""
    return studio.check(wish)


@_routes.post("/api/memory")
async def memory(request: Request, studio: _OfStudio, wish: Wish) -> Response:
    """How much memory a wish needs; a process of its own loads the model to find out. One at a time."""
    config = await asyncio.to_thread(studio.configuration, wish)
    lock: asyncio.Lock = request.app.state.estimating
    if lock.locked():
        raise ApiError(409, "estimating", "Another estimate is being made; wait for it.")
    async with lock:
        return JSONResponse(await _estimate(config.to_toml()))


@_routes.post("/api/runs")
def create(request: Request, studio: _OfStudio, new: NewRun) -> dict[str, Any]:
    """Makes a run, and starts it or lets it wait for its turn."""
    made = studio.create(new.wish, start=new.start)
    _wake(request)
    return studio.overview.card(made)


@_routes.post("/api/runs/{name}/do")
async def do(request: Request, studio: _OfStudio, name: _Name, deed: Annotated[AnyDeed, Body()]) -> dict[str, Any]:
    """Does something with a run; answers with its card, or with nothing if it is gone."""
    desks: Desks = request.app.state.desks
    if deed.do in ("rename", "delete"):
        studio.runs.path(name)
        await desks.close(name)
    now = await asyncio.to_thread(_done, studio, name, deed)
    _wake(request)
    return {} if now is None else await asyncio.to_thread(studio.overview.card, now)


@_routes.post("/api/queue")
def order(studio: _OfStudio, wanted: Order) -> dict[str, Any]:
    """Changes the order of those that wait."""
    studio.queue.order(wanted.order)
    return {"waiting": [one.run for one in studio.queue.waiting]}


@_routes.post("/api/runs/{name}/draws")
def draw(request: Request, studio: _OfStudio, name: _Name, wanted: Draw) -> dict[str, Any]:
    """Draws prompts of one's own with what the run has learnt."""
    made = studio.draw(name, wanted)
    _wake(request)
    return {"id": made}


@_routes.post("/api/runs/{name}/exports")
def export(request: Request, studio: _OfStudio, name: _Name, wanted: Export) -> dict[str, Any]:
    """Makes files of the run for other programs."""
    studio.export(name, wanted.kind)
    _wake(request)
    return {}


@_routes.post("/api/runs/{name}/evaluate")
def evaluate(request: Request, studio: _OfStudio, name: _Name, wanted: Evaluate) -> dict[str, Any]:
    """Measures the run against its base model."""
    studio.evaluate(name, blind=wanted.blind)
    _wake(request)
    return {}


@_routes.post("/api/runs/{name}/stop-job")
def stop_job(studio: _OfStudio, name: _Name, wanted: StopJob) -> dict[str, Any]:
    """Interrupts a drawing, an export or a measurement."""
    studio.stop_job(name, wanted.job)
    return {}


# ---------------------------------------------------------------------------------------------- parts


def _done(studio: Studio, name: str, deed: AnyDeed) -> str | None:
    """Does it; returns the name of the run that is to be shown, None if it is gone."""
    match deed:
        case Start():
            studio.start(name, now=deed.now)
        case More():
            studio.more_rounds(name, deed.rounds)
        case Rename():
            studio.rename(name, deed.name)
            return deed.name
        case GoBack():
            studio.go_back(name, deed.round, deed.name)
            return deed.name
        case _:
            match deed.do:
                case "stop":
                    studio.stop(name)
                case "kill":
                    studio.kill(name)
                case "pause":
                    studio.command(name, "pause")
                case "go-on":
                    studio.command(name, "resume")
                case "finish":
                    studio.command(name, "finish")
                case "archive" | "unarchive":
                    studio.runs.archive(name, deed.do == "archive")
                case "unqueue":
                    studio.queue.remove(name)
                case "delete":
                    studio.delete(name)
                    return None
    return name


async def _estimate(toml: str) -> dict[str, Any]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "hero.studio.memory",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    try:
        async with asyncio.timeout(_PATIENCE):
            answer, _ = await child.communicate(toml.encode())
    except TimeoutError:
        return {"error": "The model could not be loaded in time; `hero doctor --model` says more."}
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        found: dict[str, Any] = json.loads(answer)
    except ValueError:
        return {"error": "The model could not be loaded; `hero doctor --model` says why."}
    return found


def _wake(request: Request) -> None:
    """Has the watcher look, from whatever thread a route runs in."""
    app = request.app
    app.state.loop.call_soon_threadsafe(app.state.wake.set)


def _picture(request: Request, path: Path, width: _Width) -> Response:
    pictures: Pictures = request.app.state.pictures
    wide = None if width is None else int(width)
    try:
        headers = {"Cache-Control": "private, no-cache", "ETag": pictures.tag(path, wide)}
        if headers["ETag"] in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        found = pictures.load(path, wide)
    except (OSError, ValueError):
        raise ApiError(404, "image-not-found", f"There is no image {path.stem[:40]}.") from None
    return Response(found.data, media_type=found.media_type, headers={**headers, "ETag": found.tag})


def _file(path: Path, name: str | None) -> Response:
    if not path.is_file():
        raise ApiError(404, "file-not-found", f"The run has no {path.name} yet.")
    return FileResponse(path, filename=name, headers={"Cache-Control": "no-store"})


def _attached(name: str) -> str:
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "_" for c in name)
    return f'attachment; filename="{plain}"'


class _Static(StaticFiles):
    """Files of the page: always revalidated, so that an upgrade shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers.update(_UNCACHED)
        return answer
