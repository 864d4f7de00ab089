"""Everything that a run learns, and how it is saved to a checkpoint and loaded from it.

The LoRA, the initial noise, the representation, the optimizers, and the memory of earlier rounds. A batch that was
shown and is waiting for its answer is stored beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import torch

from hero.config import Config, LoraConfig, ModelConfig, SamplingConfig, SelectionConfig, upgraded
from hero.distributed import Alone, Helper, Work, Workers
from hero.errors import ConfigError, ModelError, RunError
from hero.features import extract
from hero.ids import image_id, index_of
from hero.memory import Memory
from hero.noise import InitialNoise, make_noise
from hero.policies import Conditioning, Policy, load_policy
from hero.reward import Reward, RewardContext, make_reward
from hero.rollout import draw_micro_batch
from hero.run import Checkpoint, RunDirectory
from hero.run.directory import CUT_FILE, NOISE_FILE
from hero.run.trackers import Trackers
from hero.selection import make_selector
from hero.turns import round_prompts
from hero.types import BestImage, Feedback, ImageBatch, ImageId, Labelled, RoundStats, Trajectory
from hero.update import Update, make_update

__all__ = ["Asked", "Learner", "help_main", "labelled_round", "remembered", "restored_noise", "restored_reward"]


@dataclass(frozen=True)
class Asked:
    """A batch that was shown, with what is needed to learn from the answer; `seconds` is how long it took to draw."""

    batch: ImageBatch
    trajectory: Trajectory
    seconds: float


class Learner:
    """The state of a run as of its newest finished round.

    Attributes:
        policy, noise, reward, update, memory: what learns; `update` is None for frozen weights.
        selector: which of the drawn images are shown.
        conditioning: one row per prompt of the run, computed once.
        cut: what text encoders do not see of the prompts, in a sentence each; usually empty.
        history: the figures of every finished round.
        workers: the processes that draw and differentiate.
        trackers: receive the figures.
    """

    def __init__(self, config: Config, directory: RunDirectory, policy: Policy, workers: Workers) -> None:
        self.config = config
        self.directory = directory
        self.policy = policy
        self.conditioning = policy.encode(config.task.prompts)
        self.cut = tuple(map(str, policy.cut(config.task.prompts)))
        if self.cut:
            _check_different(config.task.prompts, self.conditioning)
            directory.write_text(CUT_FILE, json.dumps(self.cut, indent=1, ensure_ascii=False) + "\n")
        self.noise = make_noise(config.noise, config.task.prompts)
        self.selector = make_selector(config.selection)
        self.workers = workers
        self.memory = Memory()
        context = RewardContext(policy, self.conditioning, self.memory, config.seed, workers)
        self.reward = make_reward(config.reward, context)
        self.update = make_update(policy, config.update, seed=config.seed)
        tasks = _tasks(policy, self.conditioning, self.reward, self.update)
        self.workers.prepare(tasks, _shared_weights(policy, self.update))
        self.history: list[RoundStats] = []
        self.trackers = Trackers(config, directory)

    def reward_before(self, round_: int) -> Reward | None:
        """The reward as it was when the images of `round_` were drawn; None if that is not known."""
        told = self.directory.load_checkpoint("told", round_ - 1)
        if told is None:
            return None
        return restored_reward(self.config, told, self.policy, self.conditioning, self.workers)

    @property
    def best(self) -> tuple[BestImage, ...]:
        """The best image so far of each prompt that has one, read from the run directory; none whose file is gone."""
        prompts, found = self.config.task.prompts, []
        for k, best in sorted(self.memory.best_id.items()):
            with suppress(RunError):  # somebody may have deleted its round; what was learnt from it is kept
                found.append(BestImage(best, self.directory.read_image(best), prompts[k]))
        return tuple(found)

    def best_of(self, round_: int) -> tuple[BestImage, ...]:
        """Those of `best` whose prompts the round has."""
        asked = {self.config.task.prompts[k] for k in round_prompts(self.config, round_)}
        return tuple(best for best in self.best if best.prompt in asked)

    def save(self) -> None:
        """Writes the checkpoint of the newest finished round.

        Raises:
            RunError: it cannot be written; the previous one is intact.
        """
        state = {
            "kinds": {"reward": self.config.reward.kind, "update": self.config.update.kind},
            "history": [stats.to_dict() for stats in self.history],
            "best_id": {str(k): v for k, v in self.memory.best_id.items()},
        }
        tensors = {
            "lora": self.policy.state_dict(),
            "noise": self.noise.state_dict(),
            "memory": self.memory.tensors(),
            "reward": self.reward.state_dict(),
            "update": self.update.state_dict() if self.update else {},
        }
        self.directory.save_checkpoint(len(self.history), "told", state, tensors)

    def save_part(self, round_: int, state: Mapping[str, Any]) -> None:
        """Writes what the update has learnt so far in a round that is not finished, with JSON-ready `state`.

        Raises:
            RunError: it cannot be written; earlier checkpoints are intact.
        """
        assert self.update is not None
        tensors = {"lora": self.policy.state_dict(), "update": self.update.state_dict()}
        self.directory.save_checkpoint(round_, "part", {**state, "learns_with": _learns_with(self.config)}, tensors)

    def load_part(self, round_: int) -> dict[str, Any] | None:
        """Takes over what `save_part` wrote for this round; returns its state, None where there is none.

        It is ignored if the settings that it was learnt with have changed since.
        """
        stored = self.directory.load_checkpoint("part", round_)
        if stored is None or self.update is None or stored.state["learns_with"] != _learns_with(self.config):
            return None
        self.policy.load_state_dict(stored.tensors["lora"])
        self.update.load_state_dict(stored.tensors["update"])
        return stored.state

    def load(self) -> bool:
        """Loads the newest checkpoint; returns False if there is none.

        Raises:
            RunError: there are checkpoints, but none can be read.
            ConfigError: it does not fit the settings.
        """
        told = self.directory.load_checkpoint("told")
        if told is None:
            return False
        self.history = [RoundStats.from_dict(values) for values in told.state["history"]]
        if reason := self._why_unfit(told):
            raise ConfigError(f"{told.path} does not fit these settings ({reason}); resume without them")
        self.memory.load(*remembered(told))
        self.policy.load_state_dict(told.tensors["lora"])
        self.noise.load_state_dict(told.tensors["noise"])
        self.noise.refit(self.memory)
        # What another kind of reward or update has learnt means nothing to this one, which starts from scratch.
        if _same_kind("reward", self.config, told):
            try:
                self.reward.load_state_dict(told.tensors["reward"])
            except ValueError as error:
                raise ConfigError(f"{told.path} does not fit these settings ({error}); resume without them") from error
        if self.update is not None and _same_kind("update", self.config, told):
            self.update.load_state_dict(told.tensors["update"])
        return True

    def _why_unfit(self, told: Checkpoint) -> str:
        """How a checkpoint fails to fit these settings; "" if it fits."""
        lora = self.policy.state_dict()
        if told.tensors["lora"].keys() != lora.keys():
            return "the LoRA is on other layers"
        for name, tensor in lora.items():
            if (there := told.tensors["lora"][name].shape) != tensor.shape:
                return f"the LoRA has {tuple(there)} and not {tuple(tensor.shape)} as {name}"
        prompts, shape = len(self.config.task.prompts), self.policy.latent_shape
        for key, tensor in told.tensors["memory"].items():
            prompt = int(key.split(".")[1])
            if prompt >= prompts:
                return f"it remembers images of prompt {prompt + 1}, and there are {prompts}"
            if tuple(tensor.shape[-3:]) != shape:
                return f"it remembers latents {tuple(tensor.shape[-3:])}, the model has {shape}"
        return ""

    def publish(self) -> None:
        """Writes what is derived from the checkpoint (metrics, LoRA, refined noise) and sends trackers what is new."""
        self.directory.write_metrics([stats.to_dict() for stats in self.history])
        self.directory.write_folder("lora", self.policy.save_lora)
        if self.noise.fitted:
            self.directory.write_file(NOISE_FILE, self.noise.save)
        self.trackers.publish(self.history)

    def save_asked(self, asked: Asked) -> None:
        """Writes the batch that was shown; its images are in the run directory already."""
        trajectory = asked.trajectory
        tensors = {"latents": trajectory.latents, "log_probs": trajectory.log_probs}
        tensors |= {"trainable": trajectory.trainable, "prompt_index": trajectory.prompt_index}
        indexes = [index_of(i) for i in asked.batch.ids]
        state = {"seconds": asked.seconds, "drawn_with": _drawn_with(self.config), "indexes": indexes}
        self.directory.save_checkpoint(asked.batch.round, "asked", state, {"trajectory": tensors})

    def load_asked(self, *, labelled: bool) -> Asked | None:
        """The batch that was shown after the newest finished round; None if it has to be drawn (again).

        It is drawn again if the settings that it depends on have changed, or one of its files is missing.

        Raises:
            ConfigError: those settings have changed, but the batch is already `labelled`.
        """
        round_ = len(self.history) + 1
        stored = self.directory.load_checkpoint("asked", round_)
        # If drawing was interrupted, the images so far may already have labels.
        before = _drawn_with(RunDirectory.open(self.directory.path).config)
        if (before if stored is None else _upgraded_drawn_with(stored.state["drawn_with"])) != _drawn_with(self.config):
            if labelled:
                raise ConfigError(
                    f"round {round_} was drawn with other settings and already has labels; resume without the new "
                    "settings, so that the run learns from it, then change them"
                )
            return None
        if stored is None:
            return None
        trajectory = Trajectory(**stored.tensors["trajectory"])
        indexes = stored.state.get("indexes", range(len(trajectory)))  # version 0.1 showed every image
        ids = tuple(image_id(round_, i) for i in indexes)
        prompts = tuple(self.config.task.prompts[k] for k in trajectory.prompt_index.tolist())
        try:
            images = tuple(self.directory.read_image(i) for i in ids)
        except RunError:
            return None
        batch = ImageBatch(round_, ids, images, prompts, self.best_of(round_), self.config.task.criterion)
        return Asked(batch, trajectory, stored.state["seconds"])

    def labelled(self, round_: int, feedback: Feedback) -> Labelled | None:
        """An earlier round with its answer; None if its latents are no longer stored."""
        stored = self.directory.load_checkpoint("asked", round_)
        if stored is None:
            return None
        trajectory = Trajectory(**stored.tensors["trajectory"])
        indexes = stored.state.get("indexes", range(len(trajectory)))
        return labelled_round(round_, tuple(image_id(round_, i) for i in indexes), trajectory, feedback)


def help_main() -> None:
    """What every other process does: it draws and differentiates for the main one until the run is done.

    Raises:
        TrainingError: the main process has ended.
        ModelError: the model cannot be loaded here.
    """
    helper = Helper()
    config = helper.config
    try:
        policy = load_policy(config, helper.mesh)
    except ModelError as error:
        helper.refuse(str(error))
        raise
    conditioning = policy.encode(config.task.prompts)
    context = RewardContext(policy, conditioning, Memory(), config.seed, Alone())
    reward, update = make_reward(config.reward, context), make_update(policy, config.update, seed=config.seed)
    helper.serve(_tasks(policy, conditioning, reward, update), _shared_weights(policy, update))


def _check_different(prompts: Sequence[str], conditioning: Conditioning) -> None:
    """Raises ConfigError if two prompts are the same to the model, since they differ only where they are cut."""
    for a, b in combinations(range(len(prompts)), 2):
        if all(torch.equal(rows[a], rows[b]) for rows in conditioning.positive.values()):
            raise ConfigError(
                f"the prompts {prompts[a]!r} and {prompts[b]!r} are the same to the model, which cuts off the ends in "
                "which they differ; make them shorter"
            )


def labelled_round(round_: int, ids: tuple[ImageId, ...], trajectory: Trajectory, feedback: Feedback) -> Labelled:
    """What a reward learns from in a round."""
    return Labelled(round_, ids, trajectory.prompt_index, trajectory.final_latents, feedback, trajectory.initial_noise)


def _tasks(policy: Policy, conditioning: Conditioning, reward: Reward, update: Update | None) -> Mapping[str, Work]:
    """What every process of a run can do with a micro-batch."""
    own = update.tasks(conditioning) if update else {}
    shared: dict[str, Work] = {
        "draw": partial(draw_micro_batch, policy, conditioning),
        "features": partial(extract, policy, conditioning),
    }
    return {**shared, **reward.tasks(), **own}


def _shared_weights(policy: Policy, update: Update | None) -> list[torch.nn.Parameter]:
    """The weights that every process is given before it works."""
    return [p for adapter in (update.adapters() if update else ("current",)) for p in policy.parameters(adapter)]


def restored_reward(
    config: Config, told: Checkpoint, policy: Policy, conditioning: Conditioning, workers: Workers | None = None
) -> Reward:
    """The reward as of a checkpoint, with a memory of its own; one that has learnt nothing where the kind has changed.

    Args:
        conditioning: one row per prompt of the run.
        workers: the processes that run its tasks; None: this one.
    """
    memory, shared = Memory(), workers or Alone()
    memory.load(*remembered(told))
    reward = make_reward(config.reward, RewardContext(policy, conditioning, memory, config.seed, shared))
    if workers is None:
        shared.prepare(_tasks(policy, conditioning, reward, None), [])
    if _same_kind("reward", config, told):
        reward.load_state_dict(told.tensors["reward"])
    return reward


def restored_noise(config: Config, told: Checkpoint) -> InitialNoise | None:
    """The refined initial noise as of a checkpoint; None where the method has none or no best image was known yet."""
    memory, noise = Memory(), make_noise(config.noise, config.task.prompts)
    memory.load(*remembered(told))
    noise.load_state_dict(told.tensors["noise"])
    noise.refit(memory)
    return noise if noise.fitted else None


def _same_kind(stage: str, config: Config, told: Checkpoint) -> bool:
    kind = told.state["kinds"].get(stage)  # version 0.1 did not store it, and had one kind of each
    return kind is None or kind == getattr(config, stage).kind


def remembered(told: Checkpoint) -> tuple[dict[str, torch.Tensor], dict[int, ImageId]]:
    """The arguments of `Memory.load` from a checkpoint."""
    return told.tensors["memory"], {int(k): v for k, v in told.state["best_id"].items()}


def _upgraded_drawn_with(stored: Mapping[str, Any]) -> dict[str, Any]:
    """`stored` as `_drawn_with` would write it now: under present names, and with the settings that came later."""
    given = upgraded(stored)
    stages = {
        "model": ModelConfig(),
        "lora": LoraConfig(),
        "sampling": SamplingConfig(),
        "selection": SelectionConfig(),
    }
    later = {name: {**stage.model_dump(mode="json"), **given.get(name, {})} for name, stage in stages.items()}
    return _without_places({"prompts_per_round": None, **given, **later})


def _learns_with(config: Config) -> dict[str, Any]:
    """The settings that a round's learning depends on."""
    return {**_drawn_with(config), **config.model_dump(mode="json", include={"reward", "update", "practice"})}


def _drawn_with(config: Config) -> dict[str, Any]:
    """The settings that images and log-probabilities depend on."""
    chosen = config.model_dump(mode="json", include={"seed", "model", "lora", "sampling", "noise", "selection"})
    task = {"prompts": list(config.task.prompts), "prompts_per_round": config.task.prompts_per_round}
    return _without_places({**chosen, **task})


_NOT_IN_PICTURES = {
    "model": ("path", "config", "device", "threads", "gradient_checkpointing", "offload", "vae_slicing"),
    "sampling": ("micro_batch",),
    "lora": ("start",),
}
"""Settings that pictures do not depend on. Files may have moved; what they hold is fixed (`hero.run.fixed`)."""


def _without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {k: v for k, v in stage.items() if k not in _NOT_IN_PICTURES[name]} if name in _NOT_IN_PICTURES else stage
        for name, stage in settings.items()
    }
