"""A run that starts from existing labels.

Where the new run draws the very images that were labelled, it learns from the labels as if they were given now, round
by round. Labels of other images are imported as round 0: they train the representation and provide the best image to
compare with. They cannot change the LoRA or the initial noise, because it is not known from which noise and through
which steps those images came.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image, ImageOps

from hero.config import Config
from hero.errors import FeedbackError, ModelError, RunError
from hero.feedback.importing import ImportedLabels, ImportedMark, ImportedPicture, open_picture, restore
from hero.feedback.marks import Mark
from hero.tuner import Tuner
from hero.types import Answer, Feedback, ImageBatch, ImageId, Labelled, image_id

__all__ = ["Started", "start_from_labels"]

_TOLERANCE = 4
"""Largest difference (of 255) in any channel of a pixel at which two images count as the same: rounding may differ
between machines."""


@runtime_checkable
class EncodesImages(Protocol):
    """A policy that can encode images into final latents."""

    image_size: tuple[int, int]
    latent_shape: tuple[int, int, int]

    def latents_of(self, images: Sequence[Image.Image]) -> torch.Tensor: ...


@dataclass(frozen=True)
class Started:
    """What was done with imported labels.

    Attributes:
        replayed: rounds that the run learnt from as if they were labelled now.
        seeded: images imported as round 0; 0 if rounds were replayed.
        unused: labelled images that the run cannot learn from.
        fitted: of the seeded ones, those that were not of the model's size: cropped to its shape about the centre, and
            scaled.
    """

    replayed: int
    seeded: int
    unused: int
    fitted: int = 0


def start_from_labels(
    labels: ImportedLabels, config: Config, out: Path, *, on_round: Callable[[int], None] | None = None
) -> Started:
    """Creates the run `out` and lets it learn what it can from `labels`; `hero resume` continues it.

    Raises:
        RunError: `out` is not empty, or an image cannot be read. As after any other failure, no folder is left that
            was not there before.
        FeedbackError: none of the labels is for a prompt of this run.
        ModelError: the model cannot encode images.
    """
    existed = out.is_dir()
    tuner = Tuner(config, out)  # leaves nothing behind itself if it fails
    try:
        with tuner:
            return _learn(tuner, labels, on_round)
    except Exception:
        for left in out.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if not existed:
            out.rmdir()
        raise


def _learn(tuner: Tuner, labels: ImportedLabels, on_round: Callable[[int], None] | None) -> Started:
    feedback = labels.feedback()
    labelled = {i for given in feedback.values() for i in given.verdicts}
    replayed = 0
    for round_, given in feedback.items():
        if round_ != tuner.round or tuner.done or not _same_images(tuner.ask(), given, labels):
            break
        marks = [m for m in labels.marks if m.round == round_]
        submissions = [s for s in labels.submissions if s["round"] == round_]
        restore(tuner.store, marks, submissions, round_)
        tuner.tell(given if isinstance(given, Answer) else Answer(given, sorted({m.evaluator for m in marks})))
        replayed += 1
        if on_round is not None:
            on_round(round_)
    learnt = {i for round_ in list(feedback)[:replayed] for i in feedback[round_].verdicts}
    seeded, fitted = (0, 0) if replayed else _seed(tuner, feedback, labels)
    return Started(replayed, seeded, len(labelled - learnt) - seeded, fitted)


def _same_images(batch: ImageBatch, given: Feedback, labels: ImportedLabels) -> bool:
    """Whether the images that `given` refers to are those of `batch`, in prompts and pixels."""
    kept = {best.id for best in batch.best}
    drawn = {i: (image, prompt) for i, image, prompt in batch}
    for name in {*given.verdicts, *given.best} - kept:
        if name not in drawn or name not in labels.images or labels.prompts[name] != drawn[name][1]:
            return False
        with open_picture(labels.images[name]) as stored:
            before, now = (np.asarray(image.convert("RGB"), dtype=np.int16) for image in (stored, drawn[name][0]))
        if before.shape != now.shape or np.abs(before - now).max() > _TOLERANCE:
            return False
    return bool(given.verdicts)


def _seed(tuner: Tuner, feedback: Mapping[int, Feedback], labels: ImportedLabels) -> tuple[int, int]:
    """Round 0: labelled images that this run did not draw. Returns how many, and how many were fitted to the size."""
    prompts, policy, learner = tuner.config.task.prompts, tuner.policy, tuner.learner
    verdicts = {i: v for given in feedback.values() for i, v in given.verdicts.items()}
    usable = [i for i in verdicts if i in labels.images and labels.prompts[i] in prompts]
    if not usable:
        wanted = ", ".join(map(repr, prompts))
        raise FeedbackError(
            f"no label is for an image with a prompt of this run ({wanted}); see `hero feedback import`"
        )
    if not isinstance(policy, EncodesImages):
        raise ModelError(f"{tuner.config.model.path} cannot encode images into latents; import into another model")
    new = _new_ids(usable, labels, prompts)
    height, width = policy.image_size
    loaded = [_fitted(i, labels.images[i], (width, height)) for i in usable]
    pictures, fitted = [picture for picture, _ in loaded], sum(was_fitted for _, was_fitted in loaded)
    batch = tuner.config.sampling.micro_batch
    chunks = [policy.latents_of(pictures[k : k + batch]).cpu() for k in range(0, len(pictures), batch)]
    latents = torch.cat(chunks)
    if tuple(latents.shape[1:]) != tuner.policy.latent_shape:
        raise ModelError(f"the model's VAE gives latents {tuple(latents.shape[1:])}, not {policy.latent_shape}")
    ids = [new[i] for i in usable]
    index = torch.tensor([prompts.index(labels.prompts[i]) for i in usable])
    bests = {labels.prompts[i]: new[i] for given in feedback.values() for i in given.best if i in new}
    given = Feedback({new[i]: verdicts[i] for i in usable}, best=tuple(bests.values()))

    tuner.directory.write_images(dict(zip(ids, pictures, strict=True)))
    marks = [replace(m, mark=_renamed(m, new)) for m in labels.marks if _refers_to(m, new)]
    restore(tuner.store, marks, (), 0)
    labelled = Labelled(0, tuple(ids), index, latents, given)
    learner.memory.update_best(labelled)
    learner.reward.fit(labelled)
    learner.memory.update_good(labelled, replay_rounds=learner.reward.replay_rounds)
    learner.save()
    return len(usable), fitted


def _new_ids(images: Sequence[ImageId], labels: ImportedLabels, prompts: Sequence[str]) -> dict[ImageId, ImageId]:
    """Ids of round 0, in which image i has prompt i modulo their number, as in every round."""
    used = dict.fromkeys(prompts, 0)
    new = {}
    for image in images:
        prompt = labels.prompts[image]
        new[image] = image_id(0, prompts.index(prompt) + len(prompts) * used[prompt])
        used[prompt] += 1
    return new


def _refers_to(mark: ImportedMark, images: Mapping[ImageId, ImageId]) -> bool:
    return mark.mark.image_id in images and (mark.mark.other is None or mark.mark.other in images)


def _renamed(mark: ImportedMark, new: Mapping[ImageId, ImageId]) -> Mark:
    other = mark.mark.other
    return replace(mark.mark, image_id=new[mark.mark.image_id], other=None if other is None else new[other])


def _fitted(name: ImageId, picture: ImportedPicture, size: tuple[int, int]) -> tuple[Image.Image, bool]:
    """The image upright, as RGB and of `size` (width, height), and whether it was of another size before."""
    file = picture if isinstance(picture, Path) else name
    try:
        with open_picture(picture) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError:
        raise RunError(f"the image {file} has too many pixels to be opened safely; make it smaller") from None
    except (OSError, SyntaxError, ValueError) as error:  # what formats raise for broken files
        raise RunError(f"the image {file} cannot be read ({error})") from None
    if upright.size == size:
        return upright, False
    return ImageOps.fit(upright, size, Image.Resampling.LANCZOS), True
