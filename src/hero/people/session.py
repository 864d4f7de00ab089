"""A run that people attend: the tuner's loop, reported to their pages and controlled from them.

Besides the images, the pages show previews from the same fixed noises after each round, suggestions from what the run
has learnt so far, progress, and figures. People may pause the run, end it, and add rounds.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from hero.ids import preview_id, prompt_index_of, prompts_in_turn
from hero.noise import fresh_noise
from hero.people.evaluator import People, RunStopped
from hero.people.suggestions import Suggester
from hero.rollout import rollout
from hero.run.directory import LORA_FILE
from hero.seeding import Stage
from hero.tasks import TASKS
from hero.tuner import Tuner
from hero.types import Answer, ImageChunk, RoundStart, RoundStats

__all__ = ["train_with_people"]


def train_with_people(
    tuner: Tuner,
    people: People,
    *,
    on_chunk: Callable[[ImageChunk], None] | None = None,
    on_round: Callable[[RoundStats], None] | None = None,
) -> bool:
    """`Tuner.run` with people: until all rounds are done and nobody asks for more, or somebody stops it.

    Args:
        people: must use the label store of `tuner`.
        on_chunk, on_round: called with progress, as by `Tuner.run`.

    Returns:
        Whether the rounds are done; False if somebody stopped the run, which can be resumed.
    """
    run = _Attended(tuner, people)

    def finished_round(stats: RoundStats) -> None:
        if on_round is not None:
            on_round(stats)
        run.learnt(stats)

    people.more_rounds, tuner.on_step = run.extend, people.learning
    try:
        run.open()
        while True:
            tuner.run(run, on_chunk=on_chunk, on_round=finished_round)
            try:
                more = people.linger(f"All {tuner.config.rounds} rounds are done; the LoRA is on disk.")
            except KeyboardInterrupt:  # nothing is left to interrupt: it means that no more rounds are wanted
                more = False
            if not more:
                return True
    except RunStopped:
        tuner.learner.publish()
        people.say("stopped", message=f"Everything is saved; `hero resume {tuner.directory.path}` continues the run.")
        return False
    except KeyboardInterrupt:
        people.say("stopped", message=f"Interrupted; `hero resume {tuner.directory.path}` continues the run.")
        raise
    except Exception as error:
        people.say("failed", message=str(error))
        raise
    finally:
        people.more_rounds = None


class _Attended:
    """`people` as a live evaluator of `tuner` that also shows them previews, suggestions and figures."""

    name = People.name

    def __init__(self, tuner: Tuner, people: People) -> None:
        self._tuner = tuner
        self._people = people
        self._channel = people.channel
        self._suggest = Suggester(tuner.learner, tuner.store)
        self._previewed: set[int] = set()
        self._unsuggested: list[ImageChunk] = []
        self._refined = False

    def open(self) -> None:
        """Tells the pages what the run is, and what it has learnt before if they do not have that yet."""
        self._say_run()
        if not self._tuner.done:
            self._people.say("starting")
        state = self._channel.state()
        self._previewed = {preview["round"] for preview in state.previews}
        learned, answered = {s["round"] for s in state.learned}, {a["round"] for a in state.answers}
        for stats in self._tuner.history:
            answer = self._tuner.store.answer(stats.round)
            if stats.round not in answered and answer is not None:
                self._people.say_answer(stats.round, answer)
            if stats.round not in learned:
                self._channel.publish("learned", stats.round, {"stats": stats.to_dict()})

    def begin(self, start: RoundStart) -> None:
        self._unsuggested.clear()
        self._people.begin(start)

    def show(self, chunk: ImageChunk) -> None:
        self._people.show(chunk)
        self._unsuggested.append(chunk)
        if self._tuner.learner.workers.size == 1:  # else the processes are drawing, and cannot judge images as well
            self._suggest_for_shown()

    def _suggest_for_shown(self) -> None:
        for chunk in self._unsuggested:
            if chunk.final_latents is not None:
                suggested = self._suggest(chunk.round, chunk.ids, chunk.final_latents, chunk.prompts)
                if suggested:
                    self._channel.publish("suggestions", chunk.round, {"images": suggested})
        self._unsuggested.clear()

    def collect(self) -> Answer:
        self._people.say("waiting")
        self._suggest_for_shown()
        self._preview()  # the first one, or one that a kill prevented: people are busy now, the machine is not
        return self._people.collect()

    def learnt(self, stats: RoundStats) -> None:
        """Publishes the figures and previews of a round that the run has learnt from."""
        self._channel.publish("learned", stats.round, {"stats": stats.to_dict()})
        if stats.round == 1 or self._refined != self._tuner.learner.noise.fitted:
            self._say_run()  # there is a LoRA now, or the next images start elsewhere
        self._people.carry_out_commands()
        self._people.learning("preview", 0, 1)
        self._preview()

    def extend(self, rounds: int) -> None:
        """Adds rounds to the run."""
        self._tuner.extend(rounds)
        self._say_run()

    def _say_run(self) -> None:
        config, run = self._tuner.config, self._tuner.directory.path
        task = TASKS.get(config.task.name)
        lora = run / LORA_FILE
        self._refined = self._tuner.learner.noise.fitted
        body = {
            "name": run.resolve().name,
            "mode": "train",
            "task": config.task.name,
            "criterion": config.task.criterion,
            "prompts": list(config.task.prompts),
            "cut": list(self._tuner.learner.cut),
            "sensitive": task is not None and task.sensitive,
            "rounds": config.rounds,
            "images_per_round": config.sampling.images_per_round,
            "method": config.method,
            "model": config.model.path,
            "evaluators": config.evaluator.people,
            "rule": config.evaluator.rule,
            "refined": self._refined,
            "folder": str(run.resolve()),
            "lora": str(lora.resolve()) if lora.is_file() else None,
        }
        self._channel.publish("run", 0, body)

    def _preview(self) -> None:
        """Publishes, once, samples from fixed noises by the model as of the newest finished round (0: none)."""
        tuner, round_ = self._tuner, len(self._tuner.history)
        config, count = tuner.config, tuner.config.evaluator.previews
        if count == 0 or round_ in self._previewed:
            return
        index = torch.tensor([prompt_index_of(k, len(config.task.prompts)) for k in range(count)])
        prompts = prompts_in_turn(config.task.prompts, count)
        noise = fresh_noise(count, tuner.policy.latent_shape, seed=config.seed, stage=Stage.PREVIEW_NOISE)
        chunks = rollout(
            tuner.policy,
            tuner.learner.conditioning,
            index,
            noise,
            seed=config.seed,
            round_=0,
            micro_batch=config.sampling.micro_batch,
            stage=Stage.PREVIEW_STEP_NOISE,
            merged=True,
            workers=tuner.learner.workers,
        )
        images = [image for chunk in chunks for image in chunk.images]
        ids = [preview_id(round_, k) for k in range(count)]
        tuner.directory.write_images(dict(zip(ids, images, strict=True)))
        shown = [{"id": i, "prompt": prompt} for i, prompt in zip(ids, prompts, strict=True)]
        self._channel.publish("preview", round_, {"images": shown})
        self._previewed.add(round_)
