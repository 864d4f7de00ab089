"""The API's requests and responses as pydantic models; unknown fields, wrong types and values are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from hero.feedback.channel import MOST_ROUNDS
from hero.feedback.marks import LONGEST_REASON

__all__ = [
    "MOST_MARKS",
    "AnyCommand",
    "CommandTaken",
    "EvaluatorName",
    "Health",
    "Image",
    "ImageName",
    "Mine",
    "PastRound",
    "Reopening",
    "RoundNumber",
    "Shown",
    "State",
    "Stored",
    "Submission",
    "Submitted",
    "WantedMark",
    "WantedMarks",
]

MOST_MARKS = 1024
"""Most marks in one request."""

EvaluatorName = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=40, pattern=r"^[\p{L}\p{N}._@\-]([\p{L}\p{N} ._@\-]*[\p{L}\p{N}._@\-])?$"
    ),
]
"""1 to 40 letters, digits and . _ - @, with spaces inside."""
ImageName = Annotated[str, StringConstraints(pattern=r"^[rpe][0-9]{4}-i[0-9]{4}$")]
RoundNumber = Annotated[int, Field(ge=1, le=9999)]
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class WantedMark(_Request):
    """One statement about one image; null withdraws the earlier one.

    `suggested` is the verdict that the page suggested, `seconds` the time that the mark took.
    """

    image_id: ImageName
    kind: Literal["verdict", "best", "unsure", "reason"]
    value: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_REASON)] | None
    suggested: Literal["good", "bad"] | None = None
    seconds: Seconds | None = None

    @model_validator(mode="after")
    def _value_fits_kind(self) -> WantedMark:
        allowed = {"verdict": ("good", "bad"), "best": ("yes",), "unsure": ("yes",)}.get(self.kind)
        if self.value is not None and allowed is not None and self.value not in allowed:
            raise ValueError(
                'value must be "good", "bad" or null for a verdict, "yes" or null for best and unsure, words or null '
                "for a reason"
            )
        if self.value is not None and not self.value.strip():
            raise ValueError("a reason is words; null takes it back")
        return self


class WantedMarks(_Request):
    """Marks of one evaluator; all are stored, or none."""

    evaluator: EvaluatorName
    marks: Annotated[list[WantedMark], Field(min_length=1, max_length=MOST_MARKS)]


_ImageNames = Annotated[list[ImageName], Field(max_length=10_000)]


class Shown(_Request):
    """The marks that the evaluator saw when they submitted, in any order."""

    good: _ImageNames
    bad: _ImageNames
    best: _ImageNames
    unsure: _ImageNames = Field(default_factory=list)


class Submission(_Request):
    """Closes a round: every image that is neither marked nor unsure becomes bad.

    `shown`: refuse if other marks are stored, from another window, say. `unseen`: images that were never in view.
    """

    evaluator: EvaluatorName
    seconds: Seconds | None = None
    seen_none_good: bool = False
    shown: Shown | None = None
    unseen: _ImageNames = Field(default_factory=list)


class Reopening(_Request):
    """Takes back a submission."""

    evaluator: EvaluatorName


class _Nothing(_Request):
    """An empty object."""


class _MoreRounds(_Request):
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)]


class PlainCommand(_Request):
    """A command without details."""

    kind: Literal["pause", "resume", "stop"]
    body: _Nothing = _Nothing()
    evaluator: EvaluatorName


class MoreRounds(_Request):
    """A command for more rounds."""

    kind: Literal["more-rounds"]
    body: _MoreRounds
    evaluator: EvaluatorName


class _Finishing(_Request):
    stay: bool = False


class Finish(_Request):
    """A command to wait no longer for more rounds; `stay`: and then to show the result for a while."""

    kind: Literal["finish"]
    body: _Finishing = _Finishing()
    evaluator: EvaluatorName


AnyCommand = Annotated[PlainCommand | Finish | MoreRounds, Field(discriminator="kind")]


class Mine(BaseModel):
    """One evaluator's own answer to a round so far; `revision` grows with every change of it."""

    marks: dict[str, Literal["good", "bad"]] = {}
    best: list[str] = []
    unsure: list[str] = []
    reasons: dict[str, str] = {}
    submitted: bool = False
    revision: int = 0


class Image(BaseModel):
    """An image by id, and the prompt it was drawn for."""

    id: str
    prompt: str


class Stored(BaseModel):
    """How many rows were written (0 if nothing was new), and what the answer amounts to now."""

    stored: int
    mine: Mine


class Submitted(BaseModel):
    """A closed round, in numbers; `best` are ids."""

    submitted: Literal[True] = True
    good: int
    bad: int
    best: list[str]
    unsure: int


class CommandTaken(BaseModel):
    """The id that the run's `command` event will contain."""

    id: int


class Health(BaseModel):
    """The server answers."""

    ok: Literal[True] = True
    version: str


class EvaluatorProgress(BaseModel):
    """How far an evaluator has got in the current round (`marked`: images with a verdict); never their verdicts."""

    name: str
    marked: int
    submitted: bool


class State(BaseModel):
    """Everything that the page shows; the parts are described in docs/api.md."""

    desk: str | None
    run: dict[str, Any] | None
    phase: dict[str, Any] | None
    round: dict[str, Any] | None
    mine: Mine
    evaluators: list[EvaluatorProgress]
    learned: list[dict[str, Any]]
    previews: list[dict[str, Any]]
    answers: list[dict[str, Any]]
    result: dict[str, Any] | None
    last_event: int


class PastRound(BaseModel):
    """One round; `verdicts` is null until this evaluator has submitted it or the run has learnt from it."""

    round: int
    images: list[Image]
    best: list[Image]
    mine: Mine
    answer: dict[str, Any] | None
    verdicts: dict[str, dict[Literal["good", "bad"], int]] | None
