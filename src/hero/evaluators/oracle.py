"""The simulated evaluator: a task's judge, made as fallible as people by label noise, strictness and fatigue.

Every random draw is a pure function of (seed, round, index), so that asking again gives the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hero.config import EvaluatorConfig
from hero.seeding import Stage, generator
from hero.types import Feedback, ImageBatch, ImageId, Judge, Judgement, Verdict

__all__ = ["Oracle"]


class Oracle:
    """An evaluator that labels every image with `judge` and names at most one best per prompt.

    Args:
        judge: decides success and quality.
        settings: label noise, strictness (of one person, or of two), fatigue, and how the best is picked.
        seed: seed of its mistakes.
        total_rounds: rounds of the run, over which fatigue grows.
    """

    def __init__(self, judge: Judge, settings: EvaluatorConfig, seed: int, total_rounds: int) -> None:
        self._judge = judge
        self._settings = settings
        self._seed = seed
        self._total_rounds = total_rounds

    def __call__(self, batch: ImageBatch) -> Feedback:
        """Verdicts on all of `batch`, and the best of each prompt: a new one or the one kept so far."""
        judgements = {id_: self._judge(image) for id_, image in zip(batch.ids, batch.images, strict=True)}
        verdicts = {
            id_: self._verdict(judgement, batch.round, index, len(batch))
            for index, (id_, judgement) in enumerate(judgements.items())
        }
        return Feedback(verdicts, best=self._best(batch, judgements, verdicts))

    def _verdict(self, judgement: Judgement, round_: int, index: int, size: int) -> Verdict:
        good = self._accepts(judgement, self._strictness(round_, index))
        draw = torch.rand((), generator=generator(self._seed, Stage.ORACLE_FLIP, round_, index)).item()
        if draw < self._settings.label_noise + self._settings.fatigue * self._tiredness(round_, index, size):
            good = not good
        return Verdict.GOOD if good else Verdict.BAD

    def _strictness(self, round_: int, index: int) -> float:
        """Of the person who judges this image: the first, or the second if there is one."""
        first, second = self._settings.strictness, self._settings.second_strictness
        if second is None:
            return first
        return (
            second
            if torch.rand((), generator=generator(self._seed, Stage.ORACLE_PERSON, round_, index)) < 0.5
            else first
        )

    @staticmethod
    def _accepts(judgement: Judgement, strictness: float) -> bool:
        if judgement.success:
            return strictness <= 0 or judgement.quality >= strictness
        return strictness < 0 and judgement.quality >= 1 + strictness

    def _tiredness(self, round_: int, index: int, size: int) -> float:
        """From 0 at the first image of the run to 1 at its last, linearly over the images."""
        seen = (round_ - 1) * size + index
        return min(1.0, seen / max(1, self._total_rounds * size - 1))

    def _best(
        self, batch: ImageBatch, judgements: Mapping[ImageId, Judgement], verdicts: Mapping[ImageId, Verdict]
    ) -> tuple[ImageId, ...]:
        good: dict[str, list[ImageId]] = {}
        for id_, prompt in zip(batch.ids, batch.prompts, strict=True):
            if verdicts[id_] is Verdict.GOOD:
                good.setdefault(prompt, []).append(id_)
        kept = {best.prompt: best for best in batch.best}
        chosen: list[ImageId] = []
        for prompt in dict.fromkeys([*batch.prompts, *kept]):
            candidates = good.get(prompt, [])
            if not candidates:
                chosen += [kept[prompt].id] if prompt in kept else []
            elif self._settings.best == "random":
                # Quality plays no part here, nor in keeping the old best: a new good image replaces it.
                chosen.append(self._random(candidates, batch.round, batch.prompts.index(prompt)))
            else:
                pick = max(candidates, key=lambda id_: judgements[id_].quality)
                stays = prompt in kept and (self._judge(kept[prompt].image).quality >= judgements[pick].quality)
                chosen.append(kept[prompt].id if stays else pick)
        return tuple(chosen)

    def _random(self, candidates: list[ImageId], round_: int, index: int) -> ImageId:
        source = generator(self._seed, Stage.ORACLE_BEST, round_, index)
        return candidates[int(torch.randint(len(candidates), (), generator=source))]
