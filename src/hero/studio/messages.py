"""What the page may ask of the studio, as pydantic models; unknown fields, wrong types and values are refused."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from hero.feedback.channel import MOST_ROUNDS
from hero.studio.wish import Wish

__all__ = ["AnyDeed", "Draw", "Evaluate", "Export", "ExportKind", "NewRun", "Order", "StopJob"]

Name = Annotated[str, Field(min_length=1, max_length=255)]
Prompt = Annotated[str, Field(min_length=1, max_length=4000)]
Strength = Annotated[float, Field(ge=-2, le=3, allow_inf_nan=False)]
ExportKind = Literal["kohya", "diffusers", "fused", "labels", "report"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NewRun(BaseModel):
    """A wish that shall become a run."""

    model_config = ConfigDict(extra="forbid")

    wish: Wish
    start: bool = True


class PlainDeed(_Request):
    """Something to do with a run that needs no details."""

    do: Literal["stop", "kill", "pause", "go-on", "finish", "archive", "unarchive", "delete", "unqueue"]


class Start(_Request):
    """Goes on with a run when its turn comes; `now`: whatever else is going on."""

    do: Literal["start"]
    now: bool = False


class More(_Request):
    """Adds rounds, and goes on."""

    do: Literal["more-rounds"]
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)]


class Rename(_Request):
    """Another name."""

    do: Literal["rename"]
    name: Name


class GoBack(_Request):
    """A new run, `name`, as this one was after `round`."""

    do: Literal["go-back"]
    round: Annotated[int, Field(ge=0, le=9999)]
    name: Name


AnyDeed = Annotated[PlainDeed | Start | More | Rename | GoBack, Field(discriminator="do")]


class Order(_Request):
    """The order in which runs wait."""

    order: Annotated[list[Name], Field(max_length=1000)]


class Draw(_Request):
    """Draws `prompts`, `images` images in turn, from the same noises at each of the strengths."""

    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=16)]
    images: Annotated[int, Field(ge=1, le=64)] = 4
    strengths: Annotated[list[Strength], Field(min_length=1, max_length=13)] = [0.0, 1.0]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Export(_Request):
    """Makes files for other programs."""

    kind: ExportKind


class Evaluate(_Request):
    """Measures the run against its base model; `blind`: people judge, at its page."""

    blind: bool = False


class StopJob(_Request):
    """Interrupts a job of the run: `evaluate`, or a drawing or export by its folder."""

    job: Annotated[str, Field(pattern=r"^(evaluate|draws/[0-9]{4}|exports/[a-z]{1,20})$")]
