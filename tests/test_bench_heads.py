"""The study of what a head learns from n labels, on features whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hero.bench import heads
from hero.bench.heads import CHOICES, JudgedImages, calibration, counting, foresight_of, selection
from hero.config import RewardConfig
from hero.reward.logistic import fit_logistic


def images(apart: float, n: int = 420) -> JudgedImages:
    """Two Gaussian clouds in 20 dimensions, `apart` standard deviations from each other along one of them."""
    rng = np.random.default_rng(0)
    good = rng.random(n) < 0.4
    features = rng.normal(size=(n, 20))
    features[:, 0] += apart * good
    return JudgedImages(features, good)


def test_more_labels_foresee_more_and_none_foresees_nothing() -> None:
    found = {row.labels: row.mean for row in foresight_of(images(2.0), 6) if row.variant == "λ = 30"}
    assert 0.7 < found[16] < found[32] < found[64] < found[128] < 0.93  # at best Φ(√2) = .92
    nothing = {row.labels: row.mean for row in foresight_of(images(0.0), 6) if row.variant == "λ = 30"}
    assert nothing[128] == pytest.approx(0.5, abs=0.06)


def test_every_choice_asks_about_as_many_distinct_images() -> None:
    known = images(2.0)
    head = fit_logistic(known.features[:40], known.good[:40], 30.0)
    for choose in CHOICES.values():
        for given in (None, head):
            chosen = choose(given, known.features[40:104], 16, np.random.default_rng(1))
            assert len(set(chosen.tolist())) == 16
            assert set(chosen.tolist()) <= set(range(64))


def test_likely_good_images_are_more_often_good() -> None:
    known = images(2.0)
    head = fit_logistic(known.features[:40], known.good[:40], 30.0)
    drawn = slice(40, 104)
    chosen = CHOICES["likely good"](head, known.features[drawn], 16, np.random.default_rng(1))
    assert known.good[drawn][chosen].mean() > known.good[drawn].mean() + 0.2


def test_each_choice_is_measured_at_each_number_of_labels() -> None:
    rows = list(selection(images(2.0), 3))
    assert {(row.variant, row.labels) for row in rows} == {(name, n) for name in CHOICES for n in (16, 32, 64)}
    assert all(0.5 < row.mean < 1 for row in rows)


def test_the_share_is_counted_where_the_head_tells_good_from_bad() -> None:
    rows = {(row.variant, row.labels, row.figure): row.mean for row in counting(images(4.0), 8)}
    for variant in ("as drawn", "80 % good"):
        assert rows[variant, 64, "rms error"] < 0.12
        assert rows[variant, 64, "standard error it states"] == pytest.approx(rows[variant, 64, "rms error"], abs=0.06)
    blurred = {(row.variant, row.labels, row.figure): row.mean for row in counting(images(0.5), 8)}
    assert blurred["80 % good", 32, "standard error it states"] > 0.2  # it says that it does not know


def test_calibration_is_measured_against_what_needs_none() -> None:
    """With images that one feature tells apart: the calibrated p is far better than the timid one; with images that
    nothing tells apart, no better than the share."""
    rows = {(row.variant, row.labels, row.figure): row.mean for row in calibration(images(6.0), 6)}
    calibrated, timid, share = (
        rows[variant, 64, "Brier score"]
        for variant in ("calibrated", "as the prior leaves it", "the share of good ones, for each")
    )
    assert calibrated < 0.7 * timid < timid < share
    assert rows["the likely good", 64, "share of good ones"] > 0.85
    assert (
        rows["the likelier half of them", 64, "share of good ones"] >= rows["the likely good", 64, "share of good ones"]
    )
    blurred = {(row.variant, row.labels, row.figure): row.mean for row in calibration(images(0.0), 6)}
    assert blurred["calibrated", 64, "Brier score"] > blurred["the share of good ones, for each", 64, "Brier score"]


def test_results_are_written_with_what_made_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        heads, "draw_judged", lambda task, n: images(2.0, n)
    )  # drawing is what the loop's own tests are about
    command = ["heads", "--task", "hand", "--images", "420", "--repetitions", "2", "--out", str(tmp_path / "o")]
    monkeypatch.setattr("sys.argv", command)
    heads.main()
    written = json.loads((tmp_path / "o" / "hand.json").read_text())
    assert (written["task"], written["images"], written["repetitions"]) == ("hand", 420, 2)
    assert len(written["rows"]) == len(capsys.readouterr().out.splitlines())


def test_its_prior_is_that_of_a_head() -> None:
    assert RewardConfig(kind="head").model_dump()["head"]["prior"] == heads.PRIOR
