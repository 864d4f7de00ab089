"""Success before and after: the figures of the task's judge, and of people who saw the images blind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hero.report.paired import Paired
from hero.report.words import percent

__all__ = ["BlindFigures", "Tile", "chosen_among", "finding", "outdated", "paired_of", "people_of", "tiles_of"]

_ALPHA = 0.05

_SETS = {
    "base": ("Base model", "fresh noise"),
    "tuned_fresh": ("Tuned model", "fresh noise"),
    "tuned_refined": ("Tuned model", "refined noise"),
}


@dataclass(frozen=True)
class Tile:
    """One success figure; shares in [0, 1]."""

    model: str
    noise: str
    value: float | None
    low: float = 0.0
    high: float = 1.0
    count: str = ""


@dataclass(frozen=True)
class BlindFigures:
    """What people (or the evaluator named instead) saw.

    Attributes:
        who: their names.
        tiles: as for the task's judge.
        agreement: with that judge: `images`, `share`, `alpha`, `good_by_people_only`, `good_by_oracle_only`; None
            without one.
        paired: the same noises before and after, image by image; None if they cannot be paired.
    """

    who: str
    tiles: tuple[Tile, ...]
    agreement: Mapping[str, Any] | None
    paired: Paired | None


def tiles_of(figures: Mapping[str, Any], counts: Mapping[str, int], best_of: int) -> tuple[Tile, ...]:
    """A tile for each image set, from `success` and `success_interval`; none if base success is unknown.

    `counts` says how many images of each set were judged, `best_of` among how many candidates each image of the tuned
    model was chosen.
    """
    if figures["success"]["base"] is None:
        return ()
    tiles = []
    for name, (model, noise) in _SETS.items():
        value, n = figures["success"][name], counts[name]
        if best_of > 1 and name != "base":
            noise += f", best of {best_of}"
        if value is None:
            tiles.append(Tile(model, noise, None))
        else:
            low, high = figures["success_interval"][name]
            tiles.append(Tile(model, noise, value, low, high, f"{round(value * n)} of {n} images"))
    return tuple(tiles)


def chosen_among(evaluation: Mapping[str, Any]) -> int:
    """Of how many candidates each image of the tuned model is the best; 1: there was no choice."""
    return int(evaluation.get("details", {}).get("best_of", 1))


def people_of(evaluation: Mapping[str, Any]) -> BlindFigures | None:
    """The part of people in an evaluation; None if nobody was asked."""
    people = evaluation.get("people")
    if people is None:
        return None
    tiles = tiles_of(people, people["judged"], chosen_among(evaluation))
    names = [name for name in people["evaluators"] if name != "me"]  # how a page calls somebody who gave no name
    who = ", ".join(names) or "one evaluator"
    return BlindFigures(who, tiles, people["agreement"], paired_of(people.get("verdicts"), chosen_among(evaluation)))


def paired_of(verdicts: Mapping[str, Any] | None, best_of: int) -> Paired | None:
    """Base and tuned on fresh noise, which start from the same noises; None without verdicts on both, or where the
    tuned model's images were chosen among several, so that they have no partner."""
    before, after = ((verdicts or {}).get(name) for name in ("base", "tuned_fresh"))
    return Paired.of(before, after) if before and after and best_of == 1 else None


def finding(tiles: tuple[Tile, ...], labels: int, paired: Paired | None, *, who: str = "") -> str:
    """The headline: success on fresh noise before and after, and whether chance could explain it.

    Base and tuned images share their noises, so the images that changed say more than two intervals side by side.
    """
    if not tiles or tiles[0].value is None or tiles[1].value is None:
        return ""
    before, after = tiles[0], tiles[1]
    assert before.value is not None
    assert after.value is not None
    subject = f"Success on fresh noise, as {who} saw it," if who else "Success on fresh noise"
    verb = "rose" if after.value > before.value else "fell" if after.value < before.value else "stayed"
    text = f"{subject} {verb} from {percent(before.value)} to {percent(after.value)}"
    if verb == "stayed":
        text = f"{subject} stayed at {percent(before.value)}"
    text += f" after {labels} labels." if labels else "."
    if paired is not None:
        chance = f"p {'< 0.001' if paired.p < 0.001 else f'= {paired.p:.3f}'}"
        text += f" From the same noises, {_images(paired.better)} got better and {paired.worse} worse"
        text += f" (McNemar’s exact test, {chance})."
        uncertain = paired.p >= _ALPHA
        reason = "Chance alone could do that"
    else:
        uncertain = max(before.low, after.low) <= min(before.high, after.high)
        reason = "The two intervals overlap"
    return f"{text} {reason}: measure on more images before relying on the difference." if uncertain else text


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"


def outdated(measured_at: int, labels: int) -> str:
    """Why an evaluation after `measured_at` labels does not describe a run that has now spent `labels` labels."""
    if measured_at < labels:
        return f"These figures are of the model after {measured_at} labels; it has learnt from {labels} since."
    if measured_at > labels:
        return f"These figures are of a model after {measured_at} labels; this run has spent {labels}."
    return "These figures were measured with another sampler or seed, or another best-of, than the settings now name."
