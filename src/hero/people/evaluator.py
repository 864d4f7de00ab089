"""People as evaluators: their pages show every image, and the run waits until enough of them have submitted.

Everything goes through the label store: events out, labels and commands in. A command is carried out when the run
next checks for one: between two chunks of images, between two steps of learning, or while it waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from hero.config import EvaluatorConfig
from hero.errors import HeroError
from hero.feedback.channel import Channel, Command
from hero.feedback.combine import combine, lead_of
from hero.feedback.store import LabelStore
from hero.types import Answer, ImageBatch, ImageChunk, RoundStart

__all__ = ["People", "Phase", "RunStopped"]

Phase = Literal["starting", "drawing", "waiting", "learning", "paused", "evaluating", "finished", "stopped", "failed"]

_POLL = 0.2
"""Seconds between two checks of the store while waiting."""
_THROTTLE = 0.4
"""Seconds between two events that report progress in the same phase; each is a durable write."""


class RunStopped(Exception):
    """An evaluator asked the run to end. Everything learnt is kept, and the open round stays open."""


class People:
    """The evaluators who label in `store`, as one live evaluator.

    Args:
        store: where they label, and where events and commands are.
        settings: how many must submit a round, and how their answers are combined.

    Attributes:
        channel: events and commands.
        more_rounds: called with the number of rounds that an evaluator asks to add; if None, the request is refused.
        released: whether somebody ended the run from their page, and stays to see the result.
        on_phase: called with what is said to the pages: phase, step, done and total.
    """

    name = "web"

    def __init__(self, store: LabelStore, settings: EvaluatorConfig) -> None:
        self.channel = Channel(store)
        self.more_rounds: Callable[[int], object] | None = None
        self.on_phase: Callable[[Phase, str, int, int], object] | None = None
        self._store = store
        self._settings = settings
        self._start: RoundStart | None = None
        self._chunks: list[ImageChunk] = []
        self._phase: dict[str, Any] = {}
        self._round = 0
        self._published_at = self._began_at = float("-inf")
        self._complete_since = float("inf")
        self._paused = self._stopping = self._lingering = self._extended = False
        self.released = False
        self._seen_command = 0
        self._refuse_old_commands()

    # ------------------------------------------------------------------ one round (LiveEvaluator)

    def begin(self, start: RoundStart) -> None:
        """Shows an empty round."""
        self._start, self._chunks, self._round = start, [], start.round
        best = [{"id": best.id, "prompt": best.prompt} for best in start.best]
        # A round that begins again (after a kill, say) is shown again from its first image.
        fresh = {"drawn": 0, "images": [], "suggestions": None}
        self.channel.publish("round", start.round, {"total": start.total, "best": best, **fresh})
        self.say("drawing", done=0, total=start.total)
        self.carry_out_commands()

    def show(self, chunk: ImageChunk) -> None:
        """Shows more images, whose files already exist."""
        self._chunks.append(chunk)
        drawn = sum(len(shown.ids) for shown in self._chunks)
        images = [{"id": i, "prompt": prompt} for i, prompt in zip(chunk.ids, chunk.prompts, strict=True)]
        self.channel.publish("chunk", chunk.round, {"images": images, "drawn": drawn, "total": chunk.total})
        self.say("drawing", done=drawn, total=chunk.total)
        self.carry_out_commands()

    def collect(self) -> Answer:
        """Waits until enough evaluators have submitted, under a lead the lead too, and had time to take it back.

        Raises:
            RunStopped: somebody stopped the run.
        """
        self.say("waiting")
        self.carry_out_commands()
        self._complete_since = float("inf")
        while not self._settled():
            time.sleep(_POLL)
            self.carry_out_commands()
        answer = combine(self._store.submissions(self._round), self._batch(), self._settings.rule)
        self.say_answer(self._round, answer)
        return answer

    def _settled(self) -> bool:
        """Whether the answer is complete, and has been for as long as it can be taken back."""
        if not self._complete():
            if self._complete_since < float("inf"):
                self.say("waiting")  # somebody took theirs back
            self._complete_since = float("inf")
            return False
        now = time.monotonic()
        self._complete_since = min(self._complete_since, now)
        left = self._complete_since + self._settings.undo_seconds - now
        if left > 0:
            self.say("waiting", "settling")
        return left <= 0

    def _complete(self) -> bool:
        submitted = self._store.submitters(self._round)
        lead = lead_of(self._settings.rule)
        return len(submitted) >= self._settings.people and (lead is None or lead in submitted)

    def _batch(self) -> ImageBatch:
        assert self._start is not None
        ids = tuple(i for chunk in self._chunks for i in chunk.ids)
        images = tuple(image for chunk in self._chunks for image in chunk.images)
        prompts = tuple(prompt for chunk in self._chunks for prompt in chunk.prompts)
        return ImageBatch(self._round, ids, images, prompts, self._start.best, self._start.criterion)

    # ------------------------------------------------------------------ what the run publishes to the pages

    def say(self, phase: Phase, step: str = "", *, done: int = 0, total: int = 0, message: str = "") -> None:
        """Tells the pages what the run is doing; mere progress in a phase is published a few times a second at most."""
        same = (self._phase.get("phase"), self._phase.get("step")) == (phase, step)
        now = time.monotonic()
        if self.on_phase is not None:
            self.on_phase(phase, step, done, total)
        if not same:
            self._began_at = now
        elif step == "settling" or (done < total and now - self._published_at < _THROTTLE):
            return
        elapsed = now - self._began_at
        left = elapsed / done * (total - done) if 0 < done < total and elapsed > 0 else None
        self._phase = {
            "phase": phase,
            "round": self._round,
            "step": step,
            "done": done,
            "total": total,
            "eta_seconds": left,
            "message": message,
        }
        self._published_at = now
        self.channel.publish("phase", self._round, self._phase)

    def say_answer(self, round_: int, answer: Answer) -> None:
        """Tells the pages what the run learns from in a round."""
        body = {
            "evaluators": list(answer.evaluators),
            "rule": answer.rule,
            "good": len(answer.good),
            "bad": len(answer.bad),
            "best": list(answer.best),
            "disagreements": list(answer.disagreements),
        }
        self.channel.publish("answer", round_, body)

    def say_result(self, evaluation: Mapping[str, Any] | None, *, report: bool) -> None:
        """Tells the pages what the run has achieved, from the object of `hero evaluate --json`."""
        shown = ("images", "labels", "success", "success_interval", "diversity", "drift")
        figures = {key: evaluation[key] for key in shown} if evaluation is not None else {}
        people = None if evaluation is None else evaluation.get("people")
        judged = None if people is None else {key: people[key] for key in (*shown[:1], *shown[2:4], "evaluators")}
        self.channel.publish("result", 0, {**figures, "people": judged, "report": report})

    def learning(self, step: str, done: int, total: int) -> None:
        """Progress of learning (an `OnStep`); a pause suspends it, a stop does not cut it short."""
        due = time.monotonic() - self._published_at >= _THROTTLE
        self.say("learning", step, done=done, total=total)
        if due:
            self._wait_out_commands()

    def evaluating(self, done: int, total: int) -> None:
        """Progress of the evaluation after training."""
        self.say("evaluating", "evaluation", done=done, total=total)

    # ------------------------------------------------------------------ what the pages ask for

    def carry_out_commands(self) -> None:
        """Carries out the commands of evaluators, and waits while the run is paused.

        Raises:
            RunStopped: they asked the run to end.
        """
        self._wait_out_commands()
        if self._stopping:
            raise RunStopped

    def linger(self, message: str) -> bool:
        """After the last round: waits until more rounds are asked for (True), or for the end (False).

        The end is a `finish`, or `settings.linger` seconds without a command.

        Raises:
            RunStopped: somebody stopped the run.
        """
        self.say("finished", message=message)
        self._stay()
        return self._extended

    def rest(self, message: str) -> None:
        """Says that the run is over. Where somebody stays to see the result, so does their page: until they send
        another `finish`, or for `settings.linger` seconds."""
        self.more_rounds = None
        self.say("stopped", "complete", message=message)
        if self.released:
            self._stay()

    def _stay(self) -> None:
        self._lingering, self._extended = True, False
        until = time.monotonic() + self._settings.linger
        while self._lingering and not self._extended and time.monotonic() < until:
            self.carry_out_commands()
            time.sleep(_POLL)
        self._lingering = False

    def _wait_out_commands(self) -> None:
        if self._carry_out_new():
            before = self._phase
            self.say("paused", step=before.get("step", ""), done=before.get("done", 0), total=before.get("total", 0))
            while self._carry_out_new():
                time.sleep(_POLL)
            self._phase, self._began_at = {**before, "eta_seconds": None}, time.monotonic()
            self.channel.publish("phase", self._round, self._phase)

    def _carry_out_new(self) -> bool:
        """Carries out new commands; returns whether the run is paused after them."""
        for command in self.channel.commands(self._seen_command):
            self._seen_command = command.id
            done, message = self._carry_out(command)
            self.channel.publish("command", self._round, {"id": command.id, "done": done, "message": message})
        return self._paused

    def _carry_out(self, command: Command) -> tuple[bool, str]:
        """Whether it could be done, and a message for the page."""
        match command.kind:
            case "pause":
                self._paused = True
                return True, "Paused."
            case "resume":
                self._paused = False
                return True, "Resumed."
            case "stop":
                self._paused, self._stopping = False, True
                return True, "Stopping: what was learnt is saved."
            case "more-rounds" if self.more_rounds is not None:
                try:
                    self.more_rounds(command.body["rounds"])
                except HeroError as error:
                    return False, str(error)
                self._extended = True
                return True, f"{command.body['rounds']} more rounds."
            case "finish" if self._lingering:
                self._lingering, self.released = False, "stay" in command.body
                return True, "Finished."
            case "finish":
                return False, "There are rounds left; stop the run instead, it can be resumed."
        return False, f"The run cannot do this now: {command.kind}."

    def _refuse_old_commands(self) -> None:
        """Commands from before this process were for a run that had ended; nobody expects their effect any more."""
        answered: set[int] | None = None
        while commands := self.channel.commands(self._seen_command):
            self._seen_command = commands[-1].id
            answered = self._answered() if answered is None else answered
            for command in commands:
                if command.id not in answered:
                    message = "The run was not active at that time; please send the command again."
                    self.channel.publish("command", 0, {"id": command.id, "done": False, "message": message})

    def _answered(self) -> set[int]:
        found: set[int] = set()
        last = 0
        while events := self.channel.events(last):
            last = events[-1].id
            found |= {event.body["id"] for event in events if event.kind == "command"}
        return found
