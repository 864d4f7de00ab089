"""What the run has published so far: its newest state and every image ever shown, updated from new events only."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from hero.feedback.channel import Channel, DeskState
from hero.feedback.store import LabelStore
from hero.types import ImageId

__all__ = ["RoundView", "View"]


@dataclass
class RoundView:
    """One round as the run published it: prompts of the images drawn so far, and of the best ones kept from before."""

    number: int
    total: int = 0
    images: dict[ImageId, str] = field(default_factory=dict)
    best: dict[ImageId, str] = field(default_factory=dict)
    answer: dict[str, Any] | None = None

    @property
    def drawn(self) -> bool:
        """Whether every image has been drawn."""
        return 0 < self.total <= len(self.images)

    def rivals(self, image: ImageId) -> list[ImageId]:
        """The other images that could be the best of the same prompt."""
        shown = {**self.best, **self.images}
        return [other for other, prompt in shown.items() if prompt == shown[image] and other != image]


class View:
    """A fold over the events of a desk; safe to use from several threads.

    Attributes:
        lock: to be held for any read of `state` or `rounds` that has more than one step.
        state: the state after the events so far.
        rounds: every round, by number.
    """

    def __init__(self, store: LabelStore) -> None:
        self.lock = threading.RLock()
        self.state = DeskState()
        self.rounds: dict[int, RoundView] = {}
        self._known: set[ImageId] = set()
        self._channel = Channel(store)

    @property
    def current(self) -> RoundView | None:
        """The newest round."""
        return None if self.state.round is None else self.rounds[self.state.round["round"]]

    @property
    def evaluation(self) -> bool:
        """Whether images are only judged: no best one, no suggestions."""
        return self.state.run is not None and self.state.run.get("mode") == "evaluation"

    def knows(self, image: ImageId) -> bool:
        """Whether an event named this image."""
        if image not in self._known:
            self.refresh()
        return image in self._known

    def refresh(self) -> None:
        """Takes in what the run has published since the last call."""
        with self.lock:
            while new := self._channel.events(self.state.last_event):
                for event in new:
                    self.state.apply(event)
                    self._archive(event.kind, event.round, event.body)

    def _archive(self, kind: str, number: int, body: dict[str, Any]) -> None:
        if kind == "round":
            best = {image["id"]: image["prompt"] for image in body.get("best", [])}
            answer = self.rounds[number].answer if number in self.rounds else None
            self.rounds[number] = RoundView(number, body["total"], {}, best, answer)
            self._known.update(best)
        elif kind == "chunk" and number in self.rounds:
            self.rounds[number].images |= {image["id"]: image["prompt"] for image in body["images"]}
            self.rounds[number].total = body["total"]
            self._known.update(image["id"] for image in body["images"])
        elif kind == "answer" and number in self.rounds:
            self.rounds[number].answer = {"round": number, **body}
        elif kind == "preview":
            self._known.update(image["id"] for image in body["images"])
