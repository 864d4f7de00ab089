"""People, or any evaluator, as judges of success: they see the images blind; their verdicts stand beside the oracle's.

Each round's answer is on disk before the next round is asked, so that an interrupted evaluation continues where it
stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Self

from hero.errors import FeedbackError, RunError
from hero.evaluation.blind import BlindPlan
from hero.evaluation.stored import DESK, QUESTION, VERDICTS, agreement_figures, people_said
from hero.evaluators.protocols import Evaluator, LiveEvaluator, ask_about, evaluator_name
from hero.feedback.agreement import measure_agreement
from hero.feedback.store import LabelStore
from hero.run import RunDirectory
from hero.run.directory import RESULT_FILE, STORE_FILE
from hero.run.finished import FinishedRun, read_json
from hero.tasks import TASKS
from hero.types import Answer, Feedback, ImageBatch, Verdict

__all__ = ["PEOPLE_IMAGES", "BlindDesk"]

PEOPLE_IMAGES = 48
"""Images of each set that people judge, unless told otherwise: 144 clicks at most."""

_AS_ASKED = "The image shows what its prompt asks for, no more and no less."


class BlindDesk:
    """The desk at which the first `images` images of each set of the evaluation in `run` are judged.

    Like a run directory, it is a folder with a label store and images that a labelling page can serve.

    Args:
        judge: how the evaluator was named, e.g. "web" or "my_judge:evaluate".

    Attributes:
        path: its folder. An interrupted evaluation by the same judge of the same images is continued there; any other
            one was moved aside.
        store: its labels.
        config: the run's settings.
        rounds: how many rounds there are; each has at most 48 images, with ids such as "e0001-i0007".

    Raises:
        RunError: `run` holds no evaluation of that many images.
    """

    def __init__(self, run: FinishedRun, judge: str, images: int = PEOPLE_IMAGES) -> None:
        self.config = run.config
        self._run = run
        self._judge = judge
        result = run.evaluation
        if result is None:
            raise RunError(f"{run.path} holds no evaluation; run `hero evaluate {run.path}`")
        self._result = result
        self._plan = BlindPlan(run, result, images)
        self._desk = _open_desk(run, self._plan, judge)
        self.path = self._desk.path
        self.store = LabelStore(self.path / STORE_FILE)
        self.rounds = len(self._plan.rounds)

    def judge(
        self, evaluator: Evaluator | LiveEvaluator, on_round: Callable[[int, int], None] | None = None
    ) -> dict[str, Any]:
        """Lets `evaluator` judge what is not judged yet; only its verdicts count, images left out do not.

        `on_round` is called with (rounds answered, rounds in all). Returns the object of evaluation/result.json,
        rewritten with the verdicts under "people".

        Raises:
            FeedbackError: an answer names other images, or has no verdict; nothing of that answer was stored.
        """
        verdicts: dict[str, bool] = {}
        given: dict[str, dict[str, Verdict]] = {}
        for round_ in range(1, self.rounds + 1):
            answer: Feedback | None = self.store.answer(round_)
            if answer is None:
                batch = self._plan.batch(round_, self._criterion())
                self._desk.write_images(dict(zip(batch.ids, batch.images, strict=True)))
                answer = self._ask(evaluator, batch)
            verdicts |= {name: verdict is Verdict.GOOD for name, verdict in answer.verdicts.items()}
            for name, own in self.store.submissions(round_).items():
                given.setdefault(name, {}).update(own.verdicts)
            if on_round is not None:
                on_round(round_, self.rounds)
        between = measure_agreement({name: Feedback(own) for name, own in given.items()})
        found = {
            "judge": self._judge,
            "evaluators": sorted(given),
            "images": self._plan.images,
            "agreement_between": agreement_figures(between),
            "verdicts": self._plan.sorted_verdicts(verdicts),
        }
        self._desk.write_text(VERDICTS, json.dumps(found, indent=1) + "\n")
        complete = {**self._result, "people": people_said(self._run, self._result)}
        folder = RunDirectory(self._run.evaluation_folder, self.config)
        folder.write_text(RESULT_FILE, json.dumps(complete, indent=1) + "\n")
        return complete

    def _ask(self, evaluator: Evaluator | LiveEvaluator, batch: ImageBatch) -> Feedback:
        started = time.monotonic()
        answer = ask_about(evaluator, batch)
        if not isinstance(answer, Feedback):
            raise FeedbackError(f"an evaluator must return hero.Feedback, not {type(answer).__name__}")
        answer.check(batch)
        if not answer.verdicts:
            raise FeedbackError(f"the evaluator {self._judge} gave no verdict; mark each image good or bad")
        verdicts = Feedback(answer.verdicts)
        if isinstance(answer, Answer):  # its labels are already in the store
            self.store.conclude(batch.round, Answer(verdicts, answer.evaluators, answer.rule, answer.disagreements))
        else:
            self.store.record(batch.round, verdicts, evaluator_name(evaluator), time.monotonic() - started)
        return verdicts

    def description(self) -> dict[str, Any]:
        """What a page shows about the evaluation: the body of a `run` event. It does not mention the sets."""
        config = self.config
        task = TASKS.get(config.task.name)
        return {
            "name": self._run.name,
            "mode": "evaluation",
            "task": config.task.name,
            "criterion": self._criterion(),
            "prompts": sorted({item.prompt for round_ in self._plan.rounds for item in round_}),
            "sensitive": task is not None and task.sensitive,
            "rounds": self.rounds,
            "images_per_round": max(map(len, self._plan.rounds)),
            "method": "",
            "model": "",
            "evaluators": config.evaluator.people,
            "rule": config.evaluator.rule,
            "folder": str(self._run.path.resolve()),
            "lora": None,
        }

    def _criterion(self) -> str:
        """The task's, unless a prompt asks for something else and has its own judge."""
        about = self._run.config.task
        known = TASKS.get(about.name)
        prompts = {item.prompt for round_ in self._plan.rounds for item in round_}
        return _AS_ASKED if known is not None and prompts & set(known.transfer_judges) else about.criterion

    def close(self) -> None:
        """Closes the store."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _open_desk(run: FinishedRun, plan: BlindPlan, judge: str) -> RunDirectory:
    """The desk of an interrupted evaluation that asks the same; any other one is moved aside with its labels."""
    folder = run.evaluation_folder / DESK
    question = {"judge": judge, "images": plan.images, "fingerprint": plan.fingerprint()}
    unfinished = not (folder / VERDICTS).is_file()
    if folder.exists() and not (unfinished and read_json(folder / QUESTION) == question):
        taken = (folder.with_name(f"{folder.name}-{number:03d}") for number in range(1, 1000))
        folder.rename(next(path for path in taken if not path.exists()))
    desk = RunDirectory(folder, run.config)
    desk.write_text(QUESTION, json.dumps(question, indent=1) + "\n")
    return desk
