"""A reward model as an evaluator: CLIP, PickScore, BLIP's image–text matching, the Stable Diffusion safety checker.

It answers as people do (`RewardModel.__call__`: verdicts, best, scores), or estimates how likely each image is good
(`suggest`), for suggestions. The scores themselves are computed in reward_scores.py.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TypedDict

from PIL import Image

from hero.errors import ConfigError, nearest
from hero.evaluators.reward_scores import KINDS, Scorer, load_scorer
from hero.types import Feedback, ImageBatch, ImageId, Verdict

__all__ = ["DEFAULT_TOP", "RewardModel", "is_reward_model", "load_reward_model", "require_threshold"]

DEFAULT_TOP = 0.25
"""Share of each prompt's images that is good if there is no threshold."""


class _Options(TypedDict, total=False):
    threshold: float
    top: float
    processor: str


class RewardModel:
    """Judges images by a model's score.

    With a `threshold` an image is good if its score reaches it; else the best share `top` of each prompt's images
    of the round is good, however bad they all are. The best image of a prompt is the good one of highest score,
    unless the best kept from before scores at least as high.

    Args:
        scorer: images and prompts to scores, higher is better.
        name: as given to `--evaluator`.
        threshold: in units of the score; None: `top` decides.
        top: share in (0, 1]; at least one image of each prompt is good.
    """

    def __init__(self, scorer: Scorer, name: str, *, threshold: float | None = None, top: float = DEFAULT_TOP) -> None:
        self._scorer = scorer
        self.name = name
        self.threshold = threshold
        self.top = top

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """One finite number per image; its unit depends on the kind of model."""
        return self._scorer(images, prompts)

    def __call__(self, batch: ImageBatch) -> Feedback:
        """Verdicts and scores of all of `batch`, and the best of each prompt that has one."""
        scores = dict(zip(batch.ids, self.score(batch.images, batch.prompts), strict=True))
        cut = self._cuts(batch, scores)
        prompt_of = dict(zip(batch.ids, batch.prompts, strict=True))
        verdicts = {i: Verdict.GOOD if scores[i] >= cut[prompt_of[i]] else Verdict.BAD for i in batch.ids}
        return Feedback(verdicts, best=self._best(batch, scores, verdicts), scores=scores)

    def suggest(self, batch: ImageBatch) -> dict[ImageId, float]:
        """How likely each image of `batch` is good, in (0, 1): ½ at the line between good and bad.

        The logistic function of the distance from that line, in standard deviations of the batch's scores. It ranks
        images and shows which are uncertain; it is not a calibrated probability.
        """
        scores = dict(zip(batch.ids, self.score(batch.images, batch.prompts), strict=True))
        cut = self._cuts(batch, scores)
        spread = statistics.pstdev(scores.values()) or 1.0
        distance = {i: (scores[i] - cut[prompt]) / spread for i, _, prompt in batch}
        return {i: 1 / (1 + math.exp(-2 * max(-15.0, min(15.0, d)))) for i, d in distance.items()}

    def _cuts(self, batch: ImageBatch, scores: Mapping[ImageId, float]) -> dict[str, float]:
        """Prompt → the score from which on an image is good."""
        if self.threshold is not None:
            return dict.fromkeys(batch.prompts, self.threshold)
        cuts = {}
        for prompt in dict.fromkeys(batch.prompts):
            mine = sorted((scores[i] for i, _, own in batch if own == prompt), reverse=True)
            cuts[prompt] = mine[max(1, round(self.top * len(mine))) - 1]
        return cuts

    def _best(
        self, batch: ImageBatch, scores: Mapping[ImageId, float], verdicts: Mapping[ImageId, Verdict]
    ) -> tuple[ImageId, ...]:
        kept = {best.prompt: best for best in batch.best}
        old = self.score([best.image for best in batch.best], list(kept)) if kept else []
        old_score = dict(zip(kept, old, strict=True))
        chosen = []
        for prompt in dict.fromkeys([*batch.prompts, *kept]):
            good = [i for i, _, own in batch if own == prompt and verdicts[i] is Verdict.GOOD]
            pick = max(good, key=scores.__getitem__) if good else None
            if prompt in kept and (pick is None or old_score[prompt] >= scores[pick]):
                pick = kept[prompt].id
            chosen += [] if pick is None else [pick]
        return tuple(chosen)


def is_reward_model(name: str) -> bool:
    """Whether `name` names a reward model: "clip", "clip:MODEL", "safety:MODEL,threshold=0.01", …"""
    return name.partition(":")[0].partition(",")[0] in KINDS


def load_reward_model(name: str, device: str = "auto") -> RewardModel:
    """The reward model that `name` names: KIND[:MODEL][,threshold=X][,top=SHARE][,processor=ID].

    MODEL is a folder or a hub id, by default the kind's usual one. `processor` says where the tokenizer and the image
    processor are, if not with the model.

    Raises:
        ConfigError: an unknown kind or option, or a value out of range.
        ModelError: the model cannot be loaded.
    """
    kind, model, options = _parse(name)
    scorer = load_scorer(kind, model or KINDS[kind].model, options.get("processor"), device)
    return RewardModel(scorer, name, threshold=_threshold(kind, options), top=options.get("top", DEFAULT_TOP))


def require_threshold(name: str) -> None:
    """Raises ConfigError if `name` has no threshold: its share of good images is then fixed and means nothing."""
    kind, _, options = _parse(name)
    if _threshold(kind, options) is None:
        raise ConfigError(f"--evaluator {name}: to judge success, say what is good, e.g. {kind},threshold=25")


def _threshold(kind: str, options: _Options) -> float | None:
    return options.get("threshold", None if "top" in options else KINDS[kind].threshold)


def _parse(name: str) -> tuple[str, str, _Options]:
    head, *assignments = name.split(",")
    kind, _, model = head.partition(":")
    if kind not in KINDS:
        raise ConfigError(f"unknown reward model {kind!r}; {nearest(kind, KINDS)}")
    return kind, model, _options(name, assignments)


def _options(name: str, assignments: Sequence[str]) -> _Options:
    options: _Options = {}
    for assignment in assignments:
        key, _, value = assignment.partition("=")
        if key == "processor":
            options["processor"] = value
        elif key == "threshold":
            options["threshold"] = _number(name, key, value)
        elif key == "top":
            options["top"] = _number(name, key, value)
        else:
            known = nearest(key, _Options.__annotations__)
            raise ConfigError(f"evaluator {name!r}: unknown option {key!r}; {known}")
    if "threshold" in options and "top" in options:
        raise ConfigError(f"evaluator {name!r}: threshold or top, not both")
    if not 0 < options.get("top", 1.0) <= 1:
        raise ConfigError(f"evaluator {name!r}: top is a share; it must lie in (0, 1]")
    return options


def _number(name: str, key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"evaluator {name!r}: {key} must be a number, not {text!r}")
    return value
