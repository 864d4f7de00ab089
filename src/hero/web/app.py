"""The routes. Each one reads the request, calls the desk, and writes the answer; docs/api.md describes them all."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Depends, FastAPI, Header, Query, Request
from fastapi import Path as InPath
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from hero import __version__
from hero.web.desk import Desk
from hero.web.errors import ErrorAnswer, install_handlers
from hero.web.events import Broadcast
from hero.web.images import ImageFile
from hero.web.messages import (
    AnyCommand,
    CommandTaken,
    EvaluatorName,
    Health,
    ImageName,
    Mine,
    PastRound,
    Reopening,
    RoundNumber,
    State,
    Stored,
    Submission,
    Submitted,
    WantedMarks,
)
from hero.web.security import Access, Guard

__all__ = ["create_app"]

STATIC = Path(__file__).parent / "static"
_UNCACHED = {"Cache-Control": "no-cache"}
_REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; sandbox allow-popups"
)
"""The report has its style and pictures inside it and runs no script; in a sandbox, its page has no rights here."""
_MOST_EVENTS = 2**63 - 1

# The media types that Python knows differ between versions and systems; JavaScript modules need this one.
mimetypes.add_type("text/javascript", ".js")


def create_app(desk: Desk, access: Access) -> FastAPI:
    """The application for `desk`, which it closes when it shuts down."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        broadcast = app.state.broadcast = Broadcast(desk)
        following = asyncio.create_task(broadcast.run())
        try:
            yield
        finally:
            broadcast.close()
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await asyncio.to_thread(desk.close)

    app = FastAPI(
        title="hero",
        version=__version__,
        description="The JSON API behind the labelling page.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.desk = desk
    app.include_router(_routes, responses={"4XX": {"model": ErrorAnswer}, "5XX": {"model": ErrorAnswer}})
    app.mount("/static", _Static(directory=STATIC), name="static")
    install_handlers(app)
    app.add_middleware(Guard, access=access)
    return app


async def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


_routes = APIRouter()
_OfDesk = Annotated[Desk, Depends(_desk)]
_Evaluator = Annotated[EvaluatorName, Query()]
_Round = Annotated[RoundNumber, InPath(alias="round")]


@_routes.get("/", include_in_schema=False)
async def page() -> Response:
    """The labelling page."""
    return FileResponse(STATIC / "index.html", headers=_UNCACHED)


@_routes.get("/api/health", response_model=Health)
def health(desk: _OfDesk) -> Response:
    """Whether the server and its store answer."""
    return _json(desk.health())


@_routes.get("/api/state", response_model=State)
def state(desk: _OfDesk, evaluator: _Evaluator = "me") -> Response:
    """Everything that the page shows to one evaluator."""
    return _json(desk.state(evaluator))


@_routes.get("/api/rounds/{round}", response_model=PastRound)
def past_round(desk: _OfDesk, number: _Round, evaluator: _Evaluator = "me") -> Response:
    """One round, past or current."""
    return _json(desk.past(number, evaluator))


@_routes.post("/api/rounds/{round}/marks", response_model=Stored)
async def post_marks(desk: _OfDesk, number: _Round, wanted: WantedMarks) -> Response:
    """Stores marks; they are on disk when this answers."""
    return _json(await desk.mark(number, wanted.evaluator, wanted.marks))


@_routes.post("/api/rounds/{round}/submit", response_model=Submitted)
async def post_submission(desk: _OfDesk, number: _Round, submission: Submission) -> Response:
    """Closes a round for one evaluator."""
    return _json(await desk.submit(number, submission))


@_routes.post("/api/rounds/{round}/reopen", response_model=Mine)
async def post_reopening(desk: _OfDesk, number: _Round, reopening: Reopening) -> Response:
    """Takes back a submission, until the run has taken the round's answer."""
    return _json(await run_in_threadpool(desk.reopen, number, reopening.evaluator))


@_routes.post("/api/commands", response_model=CommandTaken)
def post_command(desk: _OfDesk, command: Annotated[AnyCommand, Body()]) -> Response:
    """Hands a command to the run, which answers with an event."""
    return _json(CommandTaken(id=desk.command(command)))


@_routes.get("/api/events", response_class=StreamingResponse)
async def events(
    request: Request,
    after: Annotated[int, Query(ge=0, le=_MOST_EVENTS)] = 0,
    evaluator: Annotated[EvaluatorName | None, Query()] = None,
    last_event_id: Annotated[int | None, Header(ge=0, le=_MOST_EVENTS)] = None,
) -> Response:
    """What happens, as server-sent events, starting after `Last-Event-ID` or `after`."""
    broadcast: Broadcast = request.app.state.broadcast
    start = after if last_event_id is None else last_event_id
    return StreamingResponse(
        broadcast.follow(start, evaluator), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
    )


@_routes.get("/api/images/{image}", response_class=Response)
async def image(
    request: Request, desk: _OfDesk, image: ImageName, width: Literal["128", "256", "512", "1024"] | None = None
) -> Response:
    """An image by id, at most `width` pixels wide."""
    wide = None if width is None else int(width)
    headers = {"Cache-Control": "private, no-cache", "ETag": await run_in_threadpool(desk.images.tag, image, wide)}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    loop = asyncio.get_running_loop()
    found: ImageFile = await loop.run_in_executor(desk.images.pool, desk.images.load, image, wide)
    return Response(found.data, media_type=found.media_type, headers={**headers, "ETag": found.tag})


@_routes.get("/api/report", response_class=Response)
def report(desk: _OfDesk) -> Response:
    """The run's report: a page that stands alone, shown without access to this server."""
    headers = {**_UNCACHED, "Content-Security-Policy": _REPORT_POLICY}
    return FileResponse(desk.report(), media_type="text/html", headers=headers)


@_routes.get("/api/lora", response_class=Response)
def lora(desk: _OfDesk) -> Response:
    """The run's LoRA file, in diffusers' layout."""
    name = f"{(desk.view.state.run or {}).get('name', 'lora')}.safetensors"
    return FileResponse(desk.lora(), media_type="application/octet-stream", filename=name, headers=_UNCACHED)


class _Static(StaticFiles):
    """The page's modules: always revalidated, so that an upgrade shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        answer.headers.update(_UNCACHED)
        return answer


def _json(answer: Health | State | PastRound | Stored | Submitted | Mine | CommandTaken) -> Response:
    return JSONResponse(answer.model_dump(mode="json"))
