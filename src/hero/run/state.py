"""Everything that a run learns, and how it goes into a checkpoint and comes back.

The LoRA, the initial noise, the representation, the optimizers, and what is remembered of earlier rounds. A batch
that was shown and waits for its answer is kept beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hero.config import Config
from hero.distributed import Helper, Work, Workers
from hero.errors import ConfigError, ModelError, RunError
from hero.memory import Memory
from hero.noise import FeedbackNoise, make_noise
from hero.policies import Conditioning, Policy, load_policy
from hero.reward.representation import Representation
from hero.rollout import draw
from hero.run import Checkpoint, RunDirectory
from hero.run.directory import NOISE_FILE
from hero.run.trackers import Trackers
from hero.types import BestImage, ImageBatch, RoundStats, Trajectory, image_id
from hero.update import ReplayUpdate, make_update

__all__ = ["Asked", "Learner", "help_main"]


@dataclass(frozen=True)
class Asked:
    """A batch that was shown, with what is needed to learn from the answer; `seconds` it took to draw."""

    batch: ImageBatch
    trajectory: Trajectory
    seconds: float


class Learner:
    """The state of a run as of its newest finished round.

    Attributes:
        policy, noise, representation, update, memory: each learns; `update` is None for frozen weights.
        conditioning: one row per prompt of the run, computed once.
        history: the figures of every finished round.
        workers: the processes that draw and differentiate.
        trackers: are told of the figures.
    """

    def __init__(self, config: Config, directory: RunDirectory, policy: Policy, workers: Workers) -> None:
        self.config = config
        self.directory = directory
        self.policy = policy
        self.conditioning = policy.encode(config.task.prompts)
        self.noise = make_noise(config.noise, config.task.prompts)
        self.representation = Representation(
            policy.latent_shape, config.representation, seed=config.seed, device=policy.device
        )
        self.update = make_update(policy, config.update, seed=config.seed)
        self.workers = workers
        self.workers.prepare(_tasks(policy, self.conditioning, self.update), policy.parameters())
        self.memory = Memory.empty()
        self.history: list[RoundStats] = []
        self.trackers = Trackers(config, directory)

    @property
    def best(self) -> tuple[BestImage, ...]:
        """The best image so far of each prompt that has one, read from the run directory."""
        prompts = self.config.task.prompts
        return tuple(
            BestImage(best, self.directory.read_image(best), prompts[k])
            for k, best in sorted(self.memory.best_id.items())
        )

    def save(self) -> None:
        """Writes the checkpoint of the newest finished round.

        Raises:
            RunError: it cannot be written; the one before is intact.
        """
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

    def load(self) -> bool:
        """Takes over the newest checkpoint; False where there is none.

        Raises:
            RunError: there are checkpoints, but none can be read.
            ConfigError: it does not fit the settings.
        """
        told = self.directory.load_checkpoint("told")
        if told is None:
            return False
        self.history = [RoundStats.from_dict(values) for values in told.state["history"]]
        try:
            self._take_over(told)
        except (IndexError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{told.path} does not fit these settings ({reason}); resume without them") from error
        return True

    def _take_over(self, told: Checkpoint) -> None:
        best_id = {int(k): v for k, v in told.state["best_id"].items()}
        self.memory = Memory.from_tensors(told.tensors["memory"], best_id)
        self.policy.load_state_dict(told.tensors["lora"])
        self.noise.load_state_dict(told.tensors["noise"])
        self.representation.load_state_dict(told.tensors["representation"])
        if self.update is not None:
            self.update.load_state_dict(told.tensors["update"])

    def publish(self) -> None:
        """Writes what is derived from the checkpoint: metrics, LoRA, refined noise; tells trackers what is new."""
        self.directory.write_metrics([stats.to_dict() for stats in self.history])
        self.directory.write_folder("lora", self.policy.save_lora)
        if isinstance(self.noise, FeedbackNoise) and self.noise.fitted:
            self.directory.write_file(NOISE_FILE, self.noise.save)
        self.trackers.publish(self.history)

    def save_asked(self, asked: Asked) -> None:
        """Writes the batch that was shown; its images are in the run directory already."""
        trajectory = asked.trajectory
        tensors = {"latents": trajectory.latents, "log_probs": trajectory.log_probs}
        tensors |= {"trainable": trajectory.trainable, "prompt_index": trajectory.prompt_index}
        state = {"seconds": asked.seconds, "drawn_with": _drawn_with(self.config)}
        self.directory.save_checkpoint(asked.batch.round, "asked", state, {"trajectory": tensors})

    def load_asked(self, *, labelled: bool) -> Asked | None:
        """The batch that was shown after the newest finished round; None where it has to be drawn (again).

        It is drawn again where the settings that it depends on have changed, or a file of it is gone.

        Raises:
            ConfigError: those settings have changed, but the batch is `labelled` already.
        """
        round_ = len(self.history) + 1
        stored = self.directory.load_checkpoint("asked", round_)
        # Where the drawing was cut short, the images so far may have labels already.
        before = _drawn_with(RunDirectory.open(self.directory.path).config)
        if (before if stored is None else stored.state["drawn_with"]) != _drawn_with(self.config):
            if labelled:
                raise ConfigError(
                    f"round {round_} was drawn with other settings and has labels already; resume without them, so "
                    "that it is learnt from, then change them"
                )
            return None
        if stored is None:
            return None
        trajectory = Trajectory(**stored.tensors["trajectory"])
        ids = tuple(image_id(round_, i) for i in range(len(trajectory)))
        prompts = tuple(self.config.task.prompts[k] for k in trajectory.prompt_index.tolist())
        try:
            images = tuple(self.directory.read_image(i) for i in ids)
        except RunError:
            return None
        batch = ImageBatch(round_, ids, images, prompts, self.best, self.config.task.criterion)
        return Asked(batch, trajectory, stored.state["seconds"])

    def shown_latents(self, round_: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Final latents (N, C, h, w) and prompt indexes (N,) of an earlier round; None where they are gone."""
        stored = self.directory.load_checkpoint("asked", round_)
        if stored is None:
            return None
        trajectory = stored.tensors["trajectory"]
        return trajectory["latents"][:, -1].clone(), trajectory["prompt_index"]


def help_main() -> None:
    """What a process other than the main one does: it draws and differentiates for it until the run is done.

    Raises:
        TrainingError: the main process is gone.
        ModelError: the model cannot be loaded here.
    """
    helper = Helper()
    config = helper.config
    try:
        policy = load_policy(config, helper.mesh)
    except ModelError as error:
        helper.refuse(str(error))
        raise
    update = make_update(policy, config.update, seed=config.seed)
    helper.serve(_tasks(policy, policy.encode(config.task.prompts), update), policy.parameters())


def _tasks(policy: Policy, conditioning: Conditioning, update: ReplayUpdate | None) -> Mapping[str, Work]:
    """What every process of a run can do with a micro-batch."""
    return {"draw": partial(draw, policy, conditioning), **(update.tasks(conditioning) if update else {})}


def _drawn_with(config: Config) -> dict[str, Any]:
    """The settings that images and log-probabilities depend on."""
    chosen = config.model_dump(mode="json", include={"seed", "model", "lora", "sampling", "noise"})
    for name in ("device", "threads", "gradient_checkpointing", "offload", "vae_slicing"):
        del chosen["model"][name]
    del chosen["sampling"]["micro_batch"]
    return {**chosen, "prompts": list(config.task.prompts)}
