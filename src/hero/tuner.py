"""The whole road: noise → rollout → images → feedback → rewards → update → refit noise. The only module that knows it.

`Tuner.ask` gives the images of a round, `Tuner.tell` takes the feedback and learns; `Tuner.run` is the loop of
both. Each is on disk before it returns, so that a run continues after a kill as if nothing had happened.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from hero.config import Config
from hero.errors import ConfigError, FeedbackError, RunError
from hero.evaluators import Evaluator, LiveEvaluator
from hero.feedback.store import LabelStore
from hero.memory import Memory
from hero.noise import FeedbackNoise, make_noise
from hero.policies import Policy, load_policy
from hero.representation import Representation, triplet_groups
from hero.rewards import compute_rewards
from hero.rollout import concatenate, rollout
from hero.run import Checkpoint, RunDirectory
from hero.tasks import judge_for
from hero.types import (
    BestImage,
    Feedback,
    ImageBatch,
    ImageChunk,
    Rewards,
    RoundStart,
    RoundStats,
    Trajectory,
    UpdateStats,
    image_id,
)
from hero.update import make_update

__all__ = ["Tuner"]

OnChunk = Callable[[ImageChunk], None]


@dataclass(frozen=True)
class _Asked:
    """A batch that was shown, with what is needed to learn from the answer."""

    batch: ImageBatch
    trajectory: Trajectory
    seconds: float


class Tuner:
    """Fine-tunes a diffusion model from feedback, one round at a time.

    Args:
        config: see `hero.configure`.
        out: the run directory to make.

    Raises:
        RunError: `out` already holds a run or other files.
        ModelError: the model cannot be loaded or used.
    """

    def __init__(self, config: Config, out: str | Path) -> None:
        RunDirectory.check_free(out)
        policy = load_policy(config)
        directory = RunDirectory.create(out, config)
        with _unlocked_on_failure(directory):
            self._attach(directory, policy)
            self._save_told()

    @classmethod
    def resume(cls, out: str | Path, settings: Mapping[str, Any] | None = None) -> Self:
        """Continues the run in `out`, with `settings` (nested dicts) laid over its own.

        Feedback that was stored but not yet learnt from when the run stopped is learnt from now. A batch that was
        shown but not answered is drawn anew where `settings` change how images are drawn.

        Raises:
            RunError: there is no run in `out`, another process trains it, or no checkpoint can be read.
            ConfigError: `settings` do not fit what the run has learnt or been answered; nothing was changed.
        """
        directory = RunDirectory.open(out, settings)
        directory.lock()
        with _unlocked_on_failure(directory):
            tuner = cls.__new__(cls)
            tuner._attach(directory, load_policy(directory.config))
            tuner._restore()
            if settings:
                directory.write_text("config.toml", directory.config.to_toml())
            tuner._publish()
            while not tuner.done and (stored := tuner.store.submission(tuner.round)) is not None:
                tuner.ask()
                tuner._learn(stored, seconds_waiting=0.0)
        return tuner

    def _attach(self, directory: RunDirectory, policy: Policy) -> None:
        config = directory.config
        self.config = config
        self.directory = directory
        self.policy = policy
        self.store = LabelStore(directory.path / "feedback.db")
        self.conditioning = policy.encode(config.task.prompts)
        self.noise = make_noise(config.noise, config.task.prompts)
        self.representation = Representation(
            policy.latent_shape, config.representation, seed=config.seed, device=policy.device
        )
        self.update = make_update(policy, config.update, seed=config.seed)
        self.memory = Memory.empty()
        self.history: list[RoundStats] = []
        self._asked: _Asked | None = None
        self._asked_at = time.monotonic()

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
        prompts = self.config.task.prompts
        return tuple(
            BestImage(best, self.directory.read_image(int(best[1:5]), best), prompts[k])
            for k, best in sorted(self.memory.best_id.items())
        )

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
            on_chunk(ImageChunk(batch.round, batch.ids, batch.images, batch.prompts, len(batch)))
        return self._asked.batch

    def _draw(self, on_chunk: OnChunk | None) -> _Asked:
        started = time.monotonic()
        config, round_, n = self.config, self.round, self.config.sampling.images_per_round
        prompt_index = torch.arange(n) % len(config.task.prompts)
        prompts = [config.task.prompts[k] for k in prompt_index.tolist()]
        ids = tuple(image_id(round_, i) for i in range(n))

        initial_noise = self.noise.sample(prompts, self.policy.latent_shape, seed=config.seed, round_=round_)
        trajectories, images = [], []
        for chunk in rollout(
            self.policy,
            self.conditioning,
            prompt_index,
            initial_noise,
            seed=config.seed,
            round_=round_,
            micro_batch=config.sampling.micro_batch,
        ):
            trajectories.append(chunk.trajectory)
            images += chunk.images
            rows = slice(chunk.indices.start, chunk.indices.stop)
            self.directory.write_images(round_, dict(zip(ids[rows], chunk.images, strict=True)))
            if on_chunk is not None:
                on_chunk(ImageChunk(round_, ids[rows], tuple(chunk.images), tuple(prompts[rows]), n))

        batch = ImageBatch(round_, ids, tuple(images), tuple(prompts), self.best, config.task.criterion)
        asked = _Asked(batch, concatenate(trajectories), time.monotonic() - started)
        self._save_asked(asked)
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
            feedback: names images by id.
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
        feedback.check(self._asked.batch)
        waited = time.monotonic() - self._asked_at if seconds_waiting is None else seconds_waiting
        self.store.record(self.round, feedback, evaluator, waited)
        return self._learn(feedback, waited)

    def _learn(self, feedback: Feedback, seconds_waiting: float) -> RoundStats:
        try:
            stats = self._learn_in_memory(feedback, seconds_waiting)
            self.history.append(stats)
            self._save_told()
        except BaseException:
            self._restore()  # half a round is never kept, in memory either
            raise
        self._publish()
        return stats

    def _learn_in_memory(self, feedback: Feedback, seconds_waiting: float) -> RoundStats:
        assert self._asked is not None
        started = time.monotonic()
        batch, trajectory = self._asked.batch, self._asked.trajectory
        latents, index, round_ = trajectory.final_latents, trajectory.prompt_index, self.round

        # 1. The best image so far, per prompt.
        self.memory.update_best(latents, batch.ids, index, feedback)

        # 2. Feedback-aligned representation.
        groups = triplet_groups(latents, batch.ids, index, feedback, self.memory)
        uses_representation = self.config.reward.kind.startswith("similarity")
        triplet_loss = self.representation.fit(groups, round_) if groups and uses_representation else None

        # 3. A reward and an advantage per image.
        rewards = compute_rewards(
            self.config.reward, self.representation, latents, batch.ids, index, feedback, self.memory
        )

        # 4. Update of the LoRA; a representation that was never fitted gives no reward worth following.
        update = None
        if self.update is not None and (self.representation.fitted or not uses_representation):
            update = self.update.step(trajectory, self.conditioning, rewards, round_)

        # 5. Feedback-guided initial noise for the next round.
        self.noise.refit(trajectory.initial_noise, batch.ids, batch.prompts, feedback)
        self.memory.update_good(latents, batch.ids, index, feedback)

        seconds = (self._asked.seconds, seconds_waiting, time.monotonic() - started)
        return self._stats(batch, feedback, rewards, triplet_loss, update, seconds)

    def _stats(
        self,
        batch: ImageBatch,
        feedback: Feedback,
        rewards: Rewards,
        triplet_loss: float | None,
        update: UpdateStats | None,
        seconds: tuple[float, float, float],
    ) -> RoundStats:
        known = rewards.rewards[~rewards.rewards.isnan()]
        judge = judge_for(self.config.task.name, self.config.model.path)
        success = [judge(image).success for image in batch.images] if judge else None
        return RoundStats(
            round=batch.round,
            labels=sum(stats.images for stats in self.history) + len(batch),
            images=len(batch),
            good=len(feedback.good),
            bad=len(feedback.bad),
            best=tuple(best for _, best in sorted(self.memory.best_id.items())),
            reward_mean=float(known.mean()) if len(known) else None,
            reward_std=float(known.std(correction=0)) if len(known) else None,
            triplet_loss=triplet_loss,
            steps=update.steps if update else 0,
            loss=update.loss if update else None,
            ratio_mean=update.ratio_mean if update else None,
            first_ratio_deviation=update.first_ratio_deviation if update else None,
            kl=update.kl if update else None,
            clip_fraction=update.clip_fraction if update else None,
            grad_norm=update.grad_norm if update else None,
            success_shown=sum(success) / len(success) if success else None,
            note=self._note(feedback, rewards, update),
            seconds_sampling=seconds[0],
            seconds_waiting=seconds[1],
            seconds_updating=seconds[2],
        )

    def _note(self, feedback: Feedback, rewards: Rewards, update: UpdateStats | None) -> str:
        """Why a thin round taught less than a full one; "" otherwise."""
        if self.update is None:
            return ""
        if not self.memory.best and self.config.reward.kind.startswith("similarity"):
            return "no best image yet: nothing learnt, fresh noise again"
        if bool(rewards.rewards.isnan().all()):
            return "no image has a reward (no verdicts or scores): no update"
        if update is None and not rewards.advantages.any():
            return "all rewards are equal: no update"
        if update is None:
            return "no good image besides the best, or no bad one, in any round yet: no update"
        if not feedback.bad:
            return "no bad image: the representation was kept as it is"
        return ""

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

    def close(self) -> None:
        """Closes the label store and lets another process train the run; a closed tuner cannot go on."""
        self.store.close()
        self.directory.unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def save_lora(self, folder: str | Path) -> Path:
        """Writes the LoRA as pytorch_lora_weights.safetensors into `folder`; returns the file."""
        return self.policy.save_lora(Path(folder))

    # ------------------------------------------------------------------ what is on disk

    def _save_asked(self, asked: _Asked) -> None:
        trajectory = asked.trajectory
        tensors = {"latents": trajectory.latents, "log_probs": trajectory.log_probs}
        tensors |= {"trainable": trajectory.trainable, "prompt_index": trajectory.prompt_index}
        state = {"seconds": asked.seconds, "drawn_with": self._drawn_with}
        self.directory.save_checkpoint(asked.batch.round, "asked", state, {"trajectory": tensors})

    @property
    def _drawn_with(self) -> dict[str, Any]:
        """The settings that images and log-probabilities depend on."""
        chosen = self.config.model_dump(mode="json", include={"seed", "model", "lora", "sampling", "noise"})
        for stage, name in (("model", "device"), ("model", "threads"), ("sampling", "micro_batch")):
            del chosen[stage][name]
        return {**chosen, "prompts": list(self.config.task.prompts)}

    def _save_told(self) -> None:
        state = {
            "history": [stats.to_dict() for stats in self.history],
            "best_id": {str(k): v for k, v in self.memory.best_id.items()},
        }
        tensors = {
            "lora": self.policy.state_dict(),
            "noise": self.noise.state_dict(),
            "memory": self.memory.tensors(),
            "representation": self.representation.state_dict(),
            "update": self.update.state_dict() if self.update else {},
        }
        self.directory.save_checkpoint(len(self.history), "told", state, tensors)
        self._asked = None

    def _restore(self) -> None:
        """Takes over the newest checkpoint, and the batch that was shown after it if there is one."""
        told = self.directory.load_checkpoint("told")
        if told is None:
            if self.store.submitted_rounds():
                raise RunError(f"{self.directory.path} holds labels but no checkpoint; start a new run")
            self._save_told()  # stopped before its first checkpoint: as good as new
            return
        self.history = [RoundStats.from_dict(values) for values in told.state["history"]]
        try:
            self._take_over(told)
        except (IndexError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{told.path} does not fit these settings ({reason}); resume without them") from error
        self._asked = None
        asked = None if self.done else self.directory.load_checkpoint("asked", self.round)
        if asked is not None and asked.state["drawn_with"] == self._drawn_with:
            self._asked = self._shown(asked)
            self._asked_at = time.monotonic()
        elif asked is not None and self.store.submission(self.round) is not None:
            raise ConfigError(
                f"round {self.round} was drawn with other settings and is answered already; resume without them, so "
                "that it is learnt from, then change them"
            )

    def _take_over(self, told: Checkpoint) -> None:
        best_id = {int(k): v for k, v in told.state["best_id"].items()}
        self.memory = Memory.from_tensors(told.tensors["memory"], best_id)
        self.policy.load_state_dict(told.tensors["lora"])
        self.noise.load_state_dict(told.tensors["noise"])
        self.representation.load_state_dict(told.tensors["representation"])
        if self.update is not None:
            self.update.load_state_dict(told.tensors["update"])

    def _shown(self, asked: Checkpoint) -> _Asked | None:
        """The batch in `asked`; None where an image of it is gone, so that it is drawn again, the same."""
        trajectory = Trajectory(**asked.tensors["trajectory"])
        ids = tuple(image_id(self.round, i) for i in range(len(trajectory)))
        prompts = tuple(self.config.task.prompts[k] for k in trajectory.prompt_index.tolist())
        try:
            images = tuple(self.directory.read_image(self.round, i) for i in ids)
        except RunError:
            return None
        batch = ImageBatch(self.round, ids, images, prompts, self.best, self.config.task.criterion)
        return _Asked(batch, trajectory, asked.state["seconds"])

    def _publish(self) -> None:
        """Writes the files that are derived from the checkpoint: metrics, LoRA, refined noise."""
        self.directory.write_metrics([stats.to_dict() for stats in self.history])
        self.directory.write_folder("lora", self.policy.save_lora)
        if isinstance(self.noise, FeedbackNoise) and self.noise.fitted:
            self.directory.write_file("refined_noise.safetensors", self.noise.save)


@contextmanager
def _unlocked_on_failure(directory: RunDirectory) -> Iterator[None]:
    try:
        yield
    except BaseException:
        directory.unlock()
        raise
