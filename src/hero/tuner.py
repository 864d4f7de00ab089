"""The whole loop: noise → rollout → images → feedback → reward → update → noise. The only module that knows all of it.

`Tuner.ask` returns the images of a round, `Tuner.tell` takes the feedback and learns; `Tuner.run` loops over
both. Each saves its result to disk before it returns, so that a run continues after a kill as if nothing had happened.
The steps of a round come first in this file; what stores them and holds them together comes after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image

from hero.config import Config, merge, validate
from hero.distributed import Workers, connect
from hero.errors import FeedbackError, HeroError, RunError
from hero.evaluators import Evaluator, LiveEvaluator, ask, evaluator_name
from hero.feedback.store import LabelStore
from hero.ids import ImageId, image_id
from hero.policies import Policy, load_policy
from hero.practice import Practised, good_enough, parts_of, practise
from hero.progress import OnStep, ignore
from hero.reward.advantages import foresight, judge_round
from hero.rollout import RolloutChunk, concatenate, rollout
from hero.run import RunDirectory
from hero.run.metrics import round_stats
from hero.run.model import MODEL_FILE, ModelRecord, read_record
from hero.run.state import Asked, Learner, labelled_round
from hero.run.trackers import check_trackers
from hero.turns import prompt_indices, round_prompts
from hero.types import Answer, BestImage, Feedback, ImageBatch, ImageChunk, RoundStart, RoundStats, UpdateStats

__all__ = ["Tuner"]

OnChunk = Callable[[ImageChunk], object]


class Tuner:
    """Fine-tunes a diffusion model from feedback, one round at a time.

    Args:
        config: see `hero.configure`.
        out: the run directory to make.

    Attributes:
        on_step: called with progress while learning; set it to watch.

    Raises:
        RunError: `out` already holds a run or other files, or the shared label store holds labels of another run.
        ConfigError: a tracker is not installed.
        ModelError: the model cannot be loaded or used.
    """

    on_step: OnStep
    _asked: Asked | None

    def __init__(self, config: Config, out: str | Path) -> None:
        RunDirectory.check_free(out)
        check_trackers(config.tracking)
        if config.evaluator.store is not None:
            LabelStore.check_free(config.evaluator.store)
        workers = connect(config)
        policy = load_policy(config, workers.mesh)
        directory = RunDirectory.create(out, config.model_copy(update={"lora": policy.lora}))
        with _unlocked_on_failure(directory):
            self._attach(directory, policy, workers)
            self._describe_model()
            self.learner.save()

    @property
    def policy(self) -> Policy:
        """The model being trained."""
        return self.learner.policy

    @property
    def history(self) -> list[RoundStats]:
        """The figures of every finished round."""
        return self.learner.history

    @property
    def done(self) -> bool:
        """Whether the run has learnt from all its rounds."""
        return len(self.history) >= self.config.rounds

    @property
    def round(self) -> int:
        """The round to be asked next, or the one waiting for an answer; from 1."""
        return len(self.history) + 1

    @property
    def best(self) -> tuple[BestImage, ...]:
        """The best image so far of each prompt that has one."""
        return self.learner.best

    # ------------------------------------------------------------------ the loop

    def run(
        self,
        evaluator: Evaluator | LiveEvaluator,
        *,
        on_chunk: OnChunk | None = None,
        on_round: Callable[[RoundStats], None] | None = None,
    ) -> list[RoundStats]:
        """Asks `evaluator` and learns until the run is done; returns every round's figures.

        Args:
            evaluator: a callable ImageBatch → Feedback, or an object that sees images as they are drawn.
            on_chunk, on_round: called with progress.
        """
        while not self.done:
            feedback = ask(evaluator, self._round_start(), lambda show: self.ask(_both(show, on_chunk)))
            stats = self.tell(feedback, evaluator=evaluator_name(evaluator))
            if on_round is not None:
                on_round(stats)
        return self.history

    # ------------------------------------------------------------------ ask: noise → rollout → images

    def ask(self, on_chunk: OnChunk | None = None) -> ImageBatch:
        """Draws the images of this round; called again (even after a restart) it returns the very same ones.

        `on_chunk` is called with the images of each micro-batch as soon as they are drawn.

        Raises:
            RunError: the run is finished, or the disk is full.
        """
        if self.done:
            raise RunError(f"the run in {self.directory.path} is finished after {self.config.rounds} rounds")
        if self._asked is None:
            self._asked = self._draw(on_chunk)
            self._asked_at = time.monotonic()
        elif on_chunk is not None:
            batch = self._asked.batch
            latents = self._asked.trajectory.final_latents
            on_chunk(ImageChunk(batch.round, batch.ids, batch.images, batch.prompts, len(batch), latents))
        return self._asked.batch

    def _draw(self, on_chunk: OnChunk | None) -> Asked:
        started = time.monotonic()
        config, round_, learner = self.config, self.round, self.learner
        places = prompt_indices(config, round_, config.drawn)
        prompts, index = [config.task.prompts[k] for k in places], torch.tensor(places)
        ids = tuple(image_id(round_, i) for i in range(config.drawn))

        noise = learner.noise.sample(prompts, self.policy.latent_shape, seed=config.seed, round_=round_)
        trajectories, images = [], []
        for chunk in self._rollout(index, noise):
            trajectories.append(chunk.trajectory)
            images += chunk.images
            if not config.selection.choice.narrows:  # every image is shown, and immediately
                rows = range(chunk.indices.start, chunk.indices.stop)
                self._show(rows, ids, chunk.images, prompts, chunk.trajectory.final_latents, on_chunk)
        trajectory = concatenate(trajectories)

        shown = list(range(config.drawn))
        if config.selection.choice.narrows:
            score = learner.reward.score(trajectory.final_latents, index)
            shown = learner.selector.select(
                score, index, config.sampling.images_per_round, seed=config.seed, round_=round_
            )
            trajectory = trajectory.rows(shown)
            chosen = [images[i] for i in shown]
            self._show(shown, ids, chosen, prompts, trajectory.final_latents, on_chunk)

        batch = ImageBatch(
            round_,
            tuple(ids[i] for i in shown),
            tuple(images[i] for i in shown),
            tuple(prompts[i] for i in shown),
            learner.best_of(round_),
            config.task.criterion,
        )
        asked = Asked(batch, trajectory, time.monotonic() - started)
        learner.save_asked(asked)
        return asked

    # ------------------------------------------------------------------ tell: feedback → rewards → update → noise

    def tell(
        self, feedback: Feedback, *, evaluator: str = "python", seconds_waiting: float | None = None
    ) -> RoundStats:
        """Learns from the answer to the batch of this round.

        The labels are on disk before learning starts; what was learnt is in the checkpoint when this returns. If it
        raises, nothing of this round is in the checkpoint, and `resume` learns from the stored labels. The one
        exception: if only the files derived from the checkpoint (metrics, LoRA) could not be written, what was learnt
        is kept, and `resume` writes those files.

        Args:
            feedback: refers to images by id; an `Answer` was combined from labels that are already stored.
            evaluator: who answered, for the label store.
            seconds_waiting: how long the answer took; default: since `ask`.

        Raises:
            FeedbackError: `feedback` does not fit the batch; nothing was stored.
            RunError: no batch was asked for, or the disk is full.
            TrainingError: a loss is not a number.
        """
        if self._asked is None:
            raise RunError("there is nothing to answer: call ask() before tell()")
        if not isinstance(feedback, Feedback):
            raise FeedbackError(f"an evaluator must return hero.Feedback, not {type(feedback).__name__}")
        if self.store.answer(self.round) is not None:  # stored, but learning from it failed
            raise RunError(
                f"round {self.round} is already answered; Tuner.resume({str(self.directory.path)!r}) learns from it"
            )
        feedback.check(self._asked.batch)
        waited = time.monotonic() - self._asked_at if seconds_waiting is None else seconds_waiting
        if isinstance(feedback, Answer):
            self.store.conclude(self.round, feedback)
        else:
            self.store.record(self.round, feedback, evaluator, waited)
        return self._learn_durably(feedback, waited)

    def _learn_round(self, asked: Asked, feedback: Feedback, seconds_waiting: float) -> RoundStats:
        started = time.monotonic()
        learner, round_ = self.learner, self.round
        reward, update, memory = learner.reward, learner.update, learner.memory
        labelled = labelled_round(round_, asked.batch.ids, asked.trajectory, feedback)

        # 1. How well what was learnt so far predicted these labels, and the best image so far of each prompt.
        figures = foresight(reward, labelled)
        memory.update_best(labelled)

        # 2. Feedback → a reward and an advantage per image.
        figures |= reward.fit(labelled, self.on_step)
        judged = judge_round(labelled, asked.trajectory, reward.rewards(labelled), self.config.reward)

        # 3. Update of the LoRA; a reward that was never fitted is not worth following.
        practice_began = time.monotonic()
        stats, practised = None, Practised()
        if update is not None and reward.ready:
            earlier = learner.load_part(round_)
            if earlier is not None:  # it was interrupted after that
                stats, practised = _from_part(earlier)
            elif not good_enough(feedback, self.config.practice):
                stats = update.step(judged, learner.conditioning, round_, learner.workers, self.on_step)

            # 4. Practice: images that nobody is asked about, judged by the reward alone.
            practice_began = time.monotonic()
            practised = self._practise(stats, practised)

        # 5. Where the next round starts from.
        memory.update_good(labelled, replay_rounds=reward.replay_rounds)
        learner.noise.refit(memory)

        return round_stats(
            self.config,
            self.history,
            asked.batch,
            feedback,
            [best for _, best in sorted(memory.best_id.items())],
            judged,
            figures,
            stats,
            practised,
            reward.note(labelled),
            seconds_sampling=asked.seconds,
            seconds_waiting=seconds_waiting,
            seconds_updating=practice_began - started,
        )

    def _practise(self, stats: UpdateStats | None, practised: Practised) -> Practised:
        """The parts of practice that `practised` lacks; each is on disk before the next begins."""
        learner, round_, config = self.learner, self.round, self.config.practice
        for images in islice(parts_of(config), practised.parts, None):
            if practised.enough or (config.seconds is not None and practised.seconds >= config.seconds):
                break
            learner.save_part(round_, {"stats": stats and asdict(stats), "practised": practised.to_dict()})
            self.on_step("practice", practised.draws, config.draws)
            practised = practise(
                learner, round_, practised, images, lambda drawn: self.on_step("practice", drawn, config.draws)
            )
        return practised

    # ------------------------------------------------------------------ below: what the steps above rest on

    def _rollout(self, prompt_index: torch.Tensor, noise: torch.Tensor) -> Iterator[RolloutChunk]:
        """The trajectories of this round, drawn with the adapter that the update learns from."""
        update = self.learner.update
        return rollout(
            self.policy,
            self.learner.conditioning,
            prompt_index,
            noise,
            seed=self.config.seed,
            round_=self.round,
            micro_batch=self.config.sampling.micro_batch,
            adapter=update.sampling() if update else None,
            merged=not self.config.update.needs_density,
            workers=self.learner.workers,
        )

    def _show(
        self,
        rows: Sequence[int],
        ids: Sequence[ImageId],
        images: Sequence[Image.Image],
        prompts: Sequence[str],
        latents: torch.Tensor,
        on_chunk: OnChunk | None,
    ) -> None:
        """Writes `images`, those of `rows`, to disk, and passes them to `on_chunk`."""
        named = {ids[row]: image for row, image in zip(rows, images, strict=True)}
        self.directory.write_images(named)
        if on_chunk is not None:
            shown = self.config.sampling.images_per_round
            asked_for = tuple(prompts[row] for row in rows)
            on_chunk(ImageChunk(self.round, tuple(named), tuple(images), asked_for, shown, latents))

    def _round_start(self) -> RoundStart:
        """What is about to be drawn."""
        total, task = self.config.sampling.images_per_round, self.config.task
        prompts = tuple(task.prompts[k] for k in sorted(round_prompts(self.config, self.round)))
        return RoundStart(self.round, total, prompts, self.learner.best_of(self.round), task.criterion)

    def _learn_durably(self, feedback: Feedback, seconds_waiting: float) -> RoundStats:
        assert self._asked is not None
        try:
            stats = self._learn_round(self._asked, feedback.ordered(self._asked.batch), seconds_waiting)
            self.history.append(stats)
            self.learner.save()
            self._asked = None
        except BaseException as error:
            try:
                self._restore()  # half a round is never kept, in memory either
            except HeroError as another:  # what went wrong first is what has to be mended
                error.add_note(f"After it the newest checkpoint could not be taken over: {another}")
            raise
        self.learner.publish()
        return stats

    @classmethod
    def resume(cls, out: str | Path, settings: Mapping[str, Any] | None = None) -> Self:
        """Continues the run in `out`, with `settings` (nested dicts) laid over its own.

        If the run stopped before it had learnt from stored feedback, it learns from it now. A batch that was shown but
        not answered is drawn again where `settings` change how images are drawn.

        Raises:
            RunError: there is no run in `out`, another process is training it, or no checkpoint can be read.
            ConfigError: `settings` change what is fixed (`hero.run.fixed.FIXED`), do not fit what the run has learnt or
                the answers it has, or name a tracker that is not installed; nothing was changed.
        """
        directory = RunDirectory.open(out, settings)
        check_trackers(directory.config.tracking)
        directory.lock()
        with _unlocked_on_failure(directory):
            tuner = cls.__new__(cls)
            workers = connect(directory.config)
            tuner._attach(directory, load_policy(directory.config, workers.mesh), workers)
            tuner._restore()
            if settings:
                directory.write_text("config.toml", directory.config.to_toml())
            if settings or read_record(directory.path) is None:
                tuner._describe_model()
            tuner.learner.publish()
            while not tuner.done and (stored := tuner.store.answer(tuner.round)) is not None:
                tuner.ask()
                tuner._learn_durably(stored, seconds_waiting=0.0)
        return tuner

    def _attach(self, directory: RunDirectory, policy: Policy, workers: Workers) -> None:
        self.config = directory.config
        self.directory = directory
        self.store = LabelStore(directory.labels_at)
        self.learner = Learner(directory.config, directory, policy, workers)
        self._asked = None
        self._asked_at = time.monotonic()
        self.on_step = ignore

    def _describe_model(self) -> None:
        """Writes down which model it is, so that it is known again at another place, and in exports without it."""
        policy, directory = self.policy, self.directory
        record = ModelRecord.of(directory.config.model, directory.path, policy.pipeline, policy.denoiser)
        directory.write_text(MODEL_FILE, record.to_json())

    def _restore(self) -> None:
        """Loads the newest checkpoint, and the batch that was shown after it if there is one."""
        self._asked = None
        if not self.learner.load():
            if self.store.submitted_rounds():
                raise RunError(f"{self.directory.path} holds labels but no checkpoint; start a new run")
            self.learner.save()  # stopped before its first checkpoint: as good as new
        elif not self.done:
            self._asked = self.learner.load_asked(labelled=self.store.count(self.round) > 0)
            self._asked_at = time.monotonic()

    def extend(self, rounds: int) -> None:
        """Extends the run by `rounds` rounds; on disk when this returns.

        Raises:
            ConfigError: that would be more rounds than a run can have.
        """
        config = validate(merge(self.config.model_dump(), {"rounds": self.config.rounds + rounds}))
        self.directory.write_text("config.toml", config.to_toml())
        self.config = self.directory.config = self.learner.config = config

    def close(self) -> None:
        """Closes the label store and lets another process train the run; a closed tuner cannot go on."""
        self.learner.workers.stop()
        self.learner.trackers.finish()
        self.store.close()
        self.directory.unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def save_lora(self, folder: str | Path) -> Path:
        """Writes the LoRA as pytorch_lora_weights.safetensors into `folder`; returns the file."""
        return self.policy.save_lora(Path(folder))


def _from_part(state: Mapping[str, Any]) -> tuple[UpdateStats | None, Practised]:
    """What a round had learnt when it was interrupted."""
    stats = state["stats"]
    return (UpdateStats(**stats) if stats else None), Practised.from_dict(state["practised"])


def _both(show: OnChunk, also: OnChunk | None) -> OnChunk:
    def show_both(chunk: ImageChunk) -> None:
        show(chunk)
        if also is not None:
            also(chunk)

    return show_both


@contextmanager
def _unlocked_on_failure(directory: RunDirectory) -> Iterator[None]:
    try:
        yield
    except BaseException:
        directory.unlock()
        raise
