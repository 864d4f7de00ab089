"""What flows through the loop: noise → rollout → images → feedback → reward → update.

Frozen dataclasses only. This module does not import torch at run time, because the labelling page uses it
too. Image `i` of round `r` always has the id `image_id(r, i)`, and feedback refers to images by id alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from hero.errors import FeedbackError
from hero.ids import ImageId, image_id

if TYPE_CHECKING:
    import torch
    from PIL import Image

__all__ = [
    "Answer",
    "BestImage",
    "Feedback",
    "ImageBatch",
    "ImageChunk",
    "ImageId",
    "Judge",
    "Judged",
    "Judgement",
    "Labelled",
    "RoundStart",
    "RoundStats",
    "Score",
    "Trajectory",
    "UpdateStats",
    "Verdict",
    "image_id",
]


class Verdict(StrEnum):
    """An evaluator's verdict on one image."""

    GOOD = "good"
    BAD = "bad"


@dataclass(frozen=True)
class Judgement:
    """A judge's answer.

    Attributes:
        success: whether the picture shows what the task asks for.
        quality: in [0, 1], how well it does so; a simulated evaluator picks its best success by it.
    """

    success: bool
    quality: float


class Judge(Protocol):
    """Plain image analysis that decides a task's success, written without looking at the model."""

    def __call__(self, image: Image.Image) -> Judgement: ...


@dataclass(frozen=True)
class Trajectory:
    """N denoising trajectories of T steps under one policy.

    Attributes:
        latents: (N, T + 1, C, h, w); `latents[:, 0]` is the initial noise z_T, `latents[:, T]` the final
            latent z_0, in the storage dtype of the policy.
        log_probs: (N, T) fp32; log π(z_{t-1} | z_t, c), the mean over latent dimensions. Steps without
            a density (σ = 0) hold 0 and are False in `trainable`.
        trainable: (T,) bool; whether step k has a density.
        prompt_index: (N,) int64; which of the run's prompts each trajectory belongs to.
    """

    latents: torch.Tensor
    log_probs: torch.Tensor
    trainable: torch.Tensor
    prompt_index: torch.Tensor

    def __len__(self) -> int:
        return int(self.latents.shape[0])

    @property
    def initial_noise(self) -> torch.Tensor:
        """(N, C, h, w): z_T."""
        return self.latents[:, 0]

    @property
    def final_latents(self) -> torch.Tensor:
        """(N, C, h, w): z_0, the feature of each image (and no earlier latent)."""
        return self.latents[:, -1]

    def rows(self, chosen: Sequence[int]) -> Trajectory:
        """Some of the trajectories, in that order."""
        rows = list(chosen)
        return Trajectory(self.latents[rows], self.log_probs[rows], self.trainable, self.prompt_index[rows])


@dataclass(frozen=True)
class ImageChunk:
    """The images of one micro-batch, handed over as soon as they are drawn.

    Attributes:
        round: from 1.
        ids, images, prompts: equally long; `images` are PIL RGB images.
        total: how many images the whole round will have.
        final_latents: (n, C, h, w), z_0 of each image, if the run drew them itself; else None.
    """

    round: int
    ids: tuple[ImageId, ...]
    images: tuple[Image.Image, ...]
    prompts: tuple[str, ...]
    total: int
    final_latents: torch.Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class BestImage:
    """The best image so far of one prompt; it is shown beside the new ones and may remain the best."""

    id: ImageId
    image: Image.Image
    prompt: str


@dataclass(frozen=True)
class RoundStart:
    """What an evaluator that watches images being drawn is given before the first chunk of a round.

    Attributes:
        round: from 1.
        total: how many images the round will have.
        prompts: those of the round, in the run's order.
        best: the best image so far of each prompt that has one.
        criterion: what makes an image good, in words.
    """

    round: int
    total: int
    prompts: tuple[str, ...]
    best: tuple[BestImage, ...] = ()
    criterion: str = ""


@dataclass(frozen=True)
class ImageBatch:
    """What `Tuner.ask` returns: the images of one round.

    Attributes:
        round: from 1.
        ids, images, prompts: equally long; `images` are PIL RGB images.
        best: the best image so far of each prompt that has one (empty in the first round).
        criterion: what makes an image good, in words ("" if the run has none).
    """

    round: int
    ids: tuple[ImageId, ...]
    images: tuple[Image.Image, ...]
    prompts: tuple[str, ...]
    best: tuple[BestImage, ...] = ()
    criterion: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[tuple[ImageId, Image.Image, str]]:
        return iter(zip(self.ids, self.images, self.prompts, strict=True))


@dataclass(frozen=True, init=False)
class Feedback:
    """An evaluator's answer to one `ImageBatch`. It refers to images by id.

    Attributes:
        verdicts: id → good or bad; images left out are unlabelled, not bad.
        best: the best image: a good one of this batch, or the best one kept from before; with several
            prompts, at most one per prompt. Given as an id, several ids or None; always held as a tuple.
        scores: id → real number, for evaluators and methods that use scores.
        pairs: (winner, loser) ids, for evaluators and methods that use comparisons.
    """

    verdicts: Mapping[ImageId, Verdict] = field(default_factory=dict)
    best: tuple[ImageId, ...] = ()
    scores: Mapping[ImageId, float] = field(default_factory=dict)
    pairs: tuple[tuple[ImageId, ImageId], ...] = ()

    def __init__(
        self,
        verdicts: Mapping[ImageId, Verdict | str] | None = None,
        best: ImageId | Sequence[ImageId] | None = None,
        scores: Mapping[ImageId, float] | None = None,
        pairs: Iterable[tuple[ImageId, ImageId]] = (),
    ) -> None:
        try:
            given = {key: Verdict(value) for key, value in (verdicts or {}).items()}
        except ValueError as error:
            raise FeedbackError(f"feedback: {error}; a verdict is 'good' or 'bad'") from None
        bests = () if best is None else (best,) if isinstance(best, str) else tuple(best)
        object.__setattr__(self, "verdicts", given)
        object.__setattr__(self, "best", bests)
        object.__setattr__(self, "scores", {key: float(value) for key, value in (scores or {}).items()})
        object.__setattr__(self, "pairs", tuple((winner, loser) for winner, loser in pairs))

    @classmethod
    def from_good(
        cls,
        batch: ImageBatch,
        good_ids: Iterable[ImageId],
        best_id: ImageId | Sequence[ImageId] | None = None,
    ) -> Feedback:
        """The short form: `good_ids` are good, every other image of `batch` is bad.

        Raises:
            FeedbackError: an id is not in this batch, or is given twice.
        """
        listed = list(good_ids)
        good = set(listed)
        if len(good) != len(listed):
            repeated = sorted({i for i in listed if listed.count(i) > 1})
            raise FeedbackError(f"feedback for round {batch.round}: image id given twice: {', '.join(repeated)}")
        _require_known(good, batch.ids, batch.round, "good")
        verdicts = {i: Verdict.GOOD if i in good else Verdict.BAD for i in batch.ids}
        return cls(verdicts, best=best_id)

    @property
    def good(self) -> tuple[ImageId, ...]:
        """Ids marked good, in the order given."""
        return tuple(i for i, verdict in self.verdicts.items() if verdict is Verdict.GOOD)

    @property
    def bad(self) -> tuple[ImageId, ...]:
        """Ids marked bad, in the order given."""
        return tuple(i for i, verdict in self.verdicts.items() if verdict is Verdict.BAD)

    def ordered(self, batch: ImageBatch) -> Feedback:
        """Its part on `batch`, in that order, so that what is learnt does not depend on the order of clicks."""
        place = {i: k for k, i in enumerate([*(best.id for best in batch.best), *batch.ids])}
        return Feedback(
            {i: self.verdicts[i] for i in batch.ids if i in self.verdicts},
            sorted((i for i in self.best if i in place), key=place.__getitem__),
            {i: self.scores[i] for i in batch.ids if i in self.scores},
            sorted(
                (p for p in self.pairs if p[0] in place and p[1] in place), key=lambda p: (place[p[0]], place[p[1]])
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict."""
        return {
            "verdicts": {i: str(verdict) for i, verdict in self.verdicts.items()},
            "best": list(self.best),
            "scores": dict(self.scores),
            "pairs": [list(pair) for pair in self.pairs],
        }

    def check(self, batch: ImageBatch) -> None:
        """Raises FeedbackError if this does not answer `batch`: an unknown image id, a best that is neither
        good in this batch nor kept from before, two bests for one prompt, a pair across prompts, or a score
        that is not finite."""
        where = batch.round
        _require_known(self.verdicts, batch.ids, where, "labelled")
        _require_known(self.scores, batch.ids, where, "scored")
        prompt_of = dict(zip(batch.ids, batch.prompts, strict=True))
        _require_known({i for pair in self.pairs for i in pair}, batch.ids, where, "compared")
        for winner, loser in self.pairs:
            if winner == loser or prompt_of[winner] != prompt_of[loser]:
                raise FeedbackError(
                    f"feedback for round {where}: the pair ({winner}, {loser}) must name two images of one prompt"
                )
        for key, value in self.scores.items():
            if value != value or value in (float("inf"), float("-inf")):
                raise FeedbackError(f"feedback for round {where}: the score of {key} is {value}; give a finite number")
        kept = {best.id: best.prompt for best in batch.best}
        prompts: set[str] = set()
        for best in self.best:
            if best not in kept:
                _require_known([best], batch.ids, where, "best")
                if self.verdicts.get(best) is not Verdict.GOOD:
                    raise FeedbackError(
                        f"feedback for round {where}: the best image {best} is not marked good; "
                        "mark it good or name another best"
                    )
            prompt = kept[best] if best in kept else prompt_of[best]
            if prompt in prompts:
                raise FeedbackError(
                    f"feedback for round {where}: two best images for the prompt {prompt!r}; name one per prompt"
                )
            prompts.add(prompt)


@dataclass(frozen=True, init=False)
class Answer(Feedback):
    """What the run learns from in a round, combined from what evaluators submitted to the label store.

    Attributes:
        evaluators: whose submissions.
        rule: how they were combined: "majority", "unanimity" or "lead:NAME".
        disagreements: images on which their verdicts differ.
    """

    evaluators: tuple[str, ...] = ()
    rule: str = "majority"
    disagreements: tuple[ImageId, ...] = ()

    def __init__(
        self,
        feedback: Feedback,
        evaluators: Sequence[str],
        rule: str = "majority",
        disagreements: Sequence[ImageId] = (),
    ) -> None:
        super().__init__(feedback.verdicts, feedback.best, feedback.scores, feedback.pairs)
        object.__setattr__(self, "evaluators", tuple(evaluators))
        object.__setattr__(self, "rule", rule)
        object.__setattr__(self, "disagreements", tuple(disagreements))

    @classmethod
    def of(cls, feedback: Feedback, evaluator: str) -> Answer:
        """The answer of one evaluator alone."""
        return cls(feedback, (evaluator,))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict of the feedback and of the disagreements."""
        return {**super().to_dict(), "disagreements": list(self.disagreements)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], evaluators: Sequence[str], rule: str) -> Answer:
        """The inverse of `to_dict`."""
        pairs = [(winner, loser) for winner, loser in values["pairs"]]
        feedback = Feedback(values["verdicts"], values["best"], values["scores"], pairs)
        return cls(feedback, evaluators, rule, values["disagreements"])


def _require_known(ids: Iterable[ImageId], known: Collection[ImageId], round_: int, what: str) -> None:
    unknown = [i for i in ids if i not in set(known)]
    if unknown:
        shown = ", ".join(map(str, unknown[:3]))
        raise FeedbackError(
            f"feedback for round {round_}: {what} image id not in this batch: {shown}; "
            f"ids run from {next(iter(known), '(none)')} on, see ImageBatch.ids"
        )


@dataclass(frozen=True)
class Labelled:
    """The images of one round with their labels: what a reward learns from.

    Attributes:
        round: from 1; 0 for imported images.
        ids: of the N images.
        prompt_index: (N,) int64; which of the run's prompts each was drawn for.
        final_latents: (N, C, h, w), z_0, in the policy's storage dtype.
        feedback: on `ids`, and possibly on best images kept from earlier rounds.
        initial_noise: (N, C, h, w), z_T; None where it is not known.
    """

    round: int
    ids: tuple[ImageId, ...]
    prompt_index: torch.Tensor
    final_latents: torch.Tensor
    feedback: Feedback
    initial_noise: torch.Tensor | None = None

    @cached_property
    def row_of(self) -> dict[ImageId, int]:
        """Id → row."""
        return {i: k for k, i in enumerate(self.ids)}

    @cached_property
    def rows_by_prompt(self) -> dict[int, list[int]]:
        """Prompt index → rows, both ascending."""
        rows: dict[int, list[int]] = {}
        for row, prompt in enumerate(self.prompt_index.tolist()):
            rows.setdefault(prompt, []).append(row)
        return dict(sorted(rows.items()))

    def rows_labelled(self, prompt: int, verdict: Verdict) -> list[int]:
        """Rows of one prompt with that verdict, in the order of the feedback."""
        mine = {self.ids[row] for row in self.rows_by_prompt.get(prompt, ())}
        labelled = self.feedback.good if verdict is Verdict.GOOD else self.feedback.bad
        return [self.row_of[i] for i in labelled if i in mine]


@dataclass(frozen=True)
class Score:
    """A reward's estimate for N images whose labels it has not seen.

    Attributes:
        mean: (N,) fp32, higher is better; NaN where it has no estimate.
        uncertainty: (N,) fp32, one standard deviation of `mean`; None where the reward does not estimate it.
    """

    mean: torch.Tensor
    uncertainty: torch.Tensor | None = None


@dataclass(frozen=True)
class Judged:
    """What an update learns from: images with their rewards.

    Attributes:
        trajectory: N images and how they were drawn.
        rewards: (N,) fp32; NaN where an image has no reward (unlabelled under a label reward).
        advantages: (N,) fp32; 0 where there is no reward or no variance.
        pairs: (winner, loser) rows, each pair within one prompt: the comparisons that were given, or else every good
            image with every bad one.
    """

    trajectory: Trajectory
    rewards: torch.Tensor
    advantages: torch.Tensor
    pairs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class UpdateStats:
    """What an update did: optimizer steps, their mean loss and mean gradient norm before clipping, and the method's own
    figures, which its class lists in `FIGURES`."""

    steps: int
    loss: float
    grad_norm: float
    figures: Mapping[str, float] = field(default_factory=dict)


_FIGURES_OF_0_1 = ("triplet_loss", "ratio_mean", "first_ratio_deviation", "kl", "clip_fraction")
"""Figures that version 0.1 wrote at the top level of a line of metrics.jsonl."""


@dataclass(frozen=True)
class RoundStats:
    """One line of metrics.jsonl; documented key by key in docs/metrics.md.

    `None` means that there is no such figure (no update took place, or the task has no judge). `figures` are those
    of the method's own reward and update.
    """

    round: int
    labels: int
    images: int
    good: int
    bad: int
    best: tuple[ImageId, ...]
    reward_mean: float | None
    reward_std: float | None
    steps: int
    loss: float | None
    grad_norm: float | None
    figures: Mapping[str, float]
    success_shown: float | None
    note: str
    seconds_sampling: float
    seconds_waiting: float
    seconds_updating: float
    seconds_judging: float = 0.0
    draws: int = 0
    seconds_practising: float = 0.0

    WALL_CLOCK: ClassVar[tuple[str, ...]] = (
        "seconds_sampling",
        "seconds_waiting",
        "seconds_updating",
        "seconds_judging",
        "seconds_practising",
    )

    @property
    def seconds(self) -> float:
        """Wall clock of the whole round but for judging, which is no part of the method."""
        return self.seconds_sampling + self.seconds_waiting + self.seconds_updating + self.seconds_practising

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict with the keys in field order."""
        return {**asdict(self), "best": list(self.best), "figures": dict(self.figures)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoundStats:
        """The inverse of `to_dict`; also reads a line of version 0.1, which kept its figures at the top level."""
        names = {f.name for f in fields(cls)}
        figures = {k: values[k] for k in _FIGURES_OF_0_1 if values.get(k) is not None} | values.get("figures", {})
        return cls(
            **{k: v for k, v in values.items() if k in names and k not in ("best", "figures")},
            best=tuple(values["best"]),
            figures=figures,
        )
