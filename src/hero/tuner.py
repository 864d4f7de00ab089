"""The whole road: noise → rollout → images → feedback → rewards → update → refit noise. The only module that knows it.

`Tuner.ask` gives the images of a round, `Tuner.tell` takes the feedback and learns; `Tuner.run` is the loop of
both. Each is on disk before it returns, so that a run continues after a kill as if nothing had happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch

from hero.config import Config, merge, validate
from hero.distributed import Workers, connect
from hero.errors import FeedbackError, RunError
from hero.evaluators import Evaluator, LiveEvaluator
from hero.feedback.store import LabelStore
from hero.ids import image_id, prompt_index_of, prompts_in_turn
from hero.policies import Policy, load_policy
from hero.progress import OnStep, ignore
from hero.reward.advantages import compute_rewards
from hero.reward.representation import triplet_groups
from hero.rollout import concatenate, rollout
from hero.run import RunDirectory
from hero.run.metrics import round_stats
from hero.run.state import Asked, Learner
from hero.run.trackers import check_trackers
from hero.types import Answer, BestImage, Feedback, ImageBatch, ImageChunk, RoundStart, RoundStats

__all__ = ["Tuner"]

OnChunk = Callable[[ImageChunk], None]


class Tuner:
    """Fine-tunes a diffusion model from feedback, one round at a time.

    Args:
        config: see `hero.configure`.
        out: the run directory to make.

    Attributes:
        on_step: told of progress while learning; set it to watch.

    Raises:
        RunError: `out` already holds a run or other files, or the shared label store those of another run.
        ConfigError: a tracker is not installed.
        ModelError: the model cannot be loaded or used.
    """

    def __init__(self, config: Config, out: str | Path) -> None:
        RunDirectory.check_free(out)
        check_trackers(config.tracking)
        if config.evaluator.store is not None:
            LabelStore.check_free(config.evaluator.store)
        workers = connect(config)
        policy = load_policy(config, workers.mesh)
        directory = RunDirectory.create(out, config)
        with _unlocked_on_failure(directory):
            self._attach(directory, policy, workers)
            self.learner.save()

    @classmethod
    def resume(cls, out: str | Path, settings: Mapping[str, Any] | None = None) -> Self:
        """Continues the run in `out`, with `settings` (nested dicts) laid over its own.

        Feedback that was stored but not yet learnt from when the run stopped is learnt from now. A batch that was
        shown but not answered is drawn anew where `settings` change how images are drawn.

        Raises:
            RunError: there is no run in `out`, another process trains it, or no checkpoint can be read.
            ConfigError: `settings` do not fit what the run has learnt or been answered, or name a tracker that is not
                installed; nothing was changed.
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
            tuner.learner.publish()
            while not tuner.done and (stored := tuner.store.answer(tuner.round)) is not None:
                tuner.ask()
                tuner._learn(stored, seconds_waiting=0.0)
        return tuner

    def _attach(self, directory: RunDirectory, policy: Policy, workers: Workers) -> None:
        self.config = directory.config
        self.directory = directory
        self.store = LabelStore(directory.labels_at)
        self.learner = Learner(directory.config, directory, policy, workers)
        self._asked: Asked | None = None
        self._asked_at = time.monotonic()
        self.on_step: OnStep = ignore

    def _restore(self) -> None:
        """Takes over the newest checkpoint, and the batch that was shown after it if there is one."""
        self._asked = None
        if not self.learner.load():
            if self.store.submitted_rounds():
                raise RunError(f"{self.directory.path} holds labels but no checkpoint; start a new run")
            self.learner.save()  # stopped before its first checkpoint: as good as new
        elif not self.done:
            self._asked = self.learner.load_asked(labelled=self.store.count(self.round) > 0)
            self._asked_at = time.monotonic()

    @property
    def policy(self) -> Policy:
        """The model that is trained."""
        return self.learner.policy

    @property
    def history(self) -> list[RoundStats]:
        """The figures of every finished round."""
        return self.learner.history

    @property
    def done(self) -> bool:
        """Whether all rounds have been learnt from."""
        return len(self.history) >= self.config.rounds

    @property
    def round(self) -> int:
        """The round that is asked next or waits for an answer, from 1."""
        return len(self.history) + 1

    @property
    def best(self) -> tuple[BestImage, ...]:
        """The best image so far of each prompt that has one."""
        return self.learner.best

    # ------------------------------------------------------------------ ask: noise → rollout → images

    def ask(self, on_chunk: OnChunk | None = None) -> ImageBatch:
        """Draws the images of this round; asked again (also after a restart) it gives the very same ones.

        `on_chunk` is given the images of each micro-batch as soon as they are drawn.

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
        config, round_, n = self.config, self.round, self.config.sampling.images_per_round
        prompt_index = torch.tensor([prompt_index_of(i, len(config.task.prompts)) for i in range(n)])
        prompts = prompts_in_turn(config.task.prompts, n)
        ids = tuple(image_id(round_, i) for i in range(n))

        initial_noise = self.learner.noise.sample(prompts, self.policy.latent_shape, seed=config.seed, round_=round_)
        trajectories, images = [], []
        for chunk in rollout(
            self.policy,
            self.learner.conditioning,
            prompt_index,
            initial_noise,
            seed=config.seed,
            round_=round_,
            micro_batch=config.sampling.micro_batch,
            workers=self.learner.workers,
        ):
            trajectories.append(chunk.trajectory)
            images += chunk.images
            rows = slice(chunk.indices.start, chunk.indices.stop)
            self.directory.write_images(dict(zip(ids[rows], chunk.images, strict=True)))
            if on_chunk is not None:
                latents = chunk.trajectory.final_latents
                on_chunk(ImageChunk(round_, ids[rows], tuple(chunk.images), tuple(prompts[rows]), n, latents))

        batch = ImageBatch(round_, ids, tuple(images), tuple(prompts), self.best, config.task.criterion)
        asked = Asked(batch, concatenate(trajectories), time.monotonic() - started)
        self.learner.save_asked(asked)
        return asked

    # ------------------------------------------------------------------ tell: feedback → rewards → update → noise

    def tell(
        self, feedback: Feedback, *, evaluator: str = "python", seconds_waiting: float | None = None
    ) -> RoundStats:
        """Learns from the answer to the batch of this round.

        The labels are on disk before learning starts; what was learnt is in the checkpoint when this returns. If it
        raises, none of it is, and `resume` learns from the stored labels; only where the files made from the
        checkpoint (metrics, LoRA) could not be written it is, and `resume` writes them.

        Args:
            feedback: names images by id; an `Answer` was put together of labels that are stored already.
            evaluator: who answered, for the label store.
            seconds_waiting: how long the answer took; default: since `ask`.

        Raises:
            FeedbackError: `feedback` does not fit the batch; nothing was stored.
            RunError: nothing was asked, or the disk is full.
            TrainingError: a loss is not a number.
        """
        if self._asked is None:
            raise RunError("there is nothing to answer: call ask() before tell()")
        if not isinstance(feedback, Feedback):
            raise FeedbackError(f"an evaluator must return hero.Feedback, not {type(feedback).__name__}")
        if self.store.answer(self.round) is not None:  # stored, but learning from it failed
            raise RunError(
                f"round {self.round} is answered already; Tuner.resume({str(self.directory.path)!r}) learns from it"
            )
        feedback.check(self._asked.batch)
        waited = time.monotonic() - self._asked_at if seconds_waiting is None else seconds_waiting
        if isinstance(feedback, Answer):
            self.store.conclude(self.round, feedback)
        else:
            self.store.record(self.round, feedback, evaluator, waited)
        return self._learn(feedback, waited)

    def _learn(self, feedback: Feedback, seconds_waiting: float) -> RoundStats:
        assert self._asked is not None
        try:
            stats = self._learn_in_memory(self._asked, feedback.ordered(self._asked.batch), seconds_waiting)
            self.history.append(stats)
            self.learner.save()
            self._asked = None
        except BaseException:
            self._restore()  # half a round is never kept, in memory either
            raise
        self.learner.publish()
        return stats

    def _learn_in_memory(self, asked: Asked, feedback: Feedback, seconds_waiting: float) -> RoundStats:
        started = time.monotonic()
        learner, memory, round_ = self.learner, self.learner.memory, self.round
        batch, trajectory = asked.batch, asked.trajectory
        latents, index = trajectory.final_latents, trajectory.prompt_index

        # 1. The best image so far, per prompt.
        memory.update_best(latents, batch.ids, index, feedback)

        # 2. Feedback-aligned representation.
        groups = triplet_groups(latents, batch.ids, index, feedback, memory)
        uses_representation = self.config.reward.kind.startswith("similarity")
        triplet_loss = None
        if groups and uses_representation:
            triplet_loss = learner.representation.fit(groups, round_, self.on_step)

        # 3. A reward and an advantage per image.
        rewards = compute_rewards(
            self.config.reward, learner.representation, latents, batch.ids, index, feedback, memory
        )

        # 4. Update of the LoRA; a representation that was never fitted gives no reward worth following.
        update = None
        if learner.update is not None and (learner.representation.fitted or not uses_representation):
            update = learner.update.step(
                trajectory, learner.conditioning, rewards, round_, learner.workers, self.on_step
            )

        # 5. Feedback-guided initial noise for the next round.
        learner.noise.refit(trajectory.initial_noise, batch.ids, batch.prompts, feedback)
        replay_rounds = self.config.representation.replay_rounds
        memory.update_good(latents, batch.ids, index, feedback, replay_rounds=replay_rounds)

        return round_stats(
            self.config,
            self.history,
            batch,
            feedback,
            memory,
            rewards,
            triplet_loss,
            update,
            seconds_sampling=asked.seconds,
            seconds_waiting=seconds_waiting,
            seconds_updating=time.monotonic() - started,
        )

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
            evaluator: a callable ImageBatch → Feedback, or an object that sees images while they are drawn.
            on_chunk, on_round: told of progress.
        """
        name = getattr(evaluator, "name", None) or getattr(evaluator, "__name__", type(evaluator).__name__)
        while not self.done:
            if isinstance(evaluator, LiveEvaluator):
                feedback = self._show_live(evaluator, on_chunk)
            else:
                feedback = evaluator(self.ask(on_chunk))
            stats = self.tell(feedback, evaluator=str(name))
            if on_round is not None:
                on_round(stats)
        return self.history

    def _show_live(self, evaluator: LiveEvaluator, on_chunk: OnChunk | None) -> Feedback:
        def show(chunk: ImageChunk) -> None:
            evaluator.show(chunk)
            if on_chunk is not None:
                on_chunk(chunk)

        total, task = self.config.sampling.images_per_round, self.config.task
        evaluator.begin(RoundStart(self.round, total, task.prompts, self.best, task.criterion))
        self.ask(show)
        return evaluator.collect()

    def extend(self, rounds: int) -> None:
        """Lets the run go on for `rounds` more; on disk when this returns.

        Raises:
            ConfigError: that is more than a run can have.
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


@contextmanager
def _unlocked_on_failure(directory: RunDirectory) -> Iterator[None]:
    try:
        yield
    except BaseException:
        directory.unlock()
        raise
