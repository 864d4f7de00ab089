"""Three rounds of a real run, labelled through the page by clicks and by keys, to the LoRA on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from hero.feedback import LabelStore
from hero.tinyworld import model_path

from .run import judged, start_run

Make = Callable[..., Any]
IMAGES = 12
QUICK = ("sampling.num_steps=8", "update.ppo.timesteps_per_image=2", "reward.similarity.epochs=20")


@pytest.mark.learns
@pytest.mark.skipif(not model_path().exists(), reason="the tiny world's weights are not there")
def test_three_rounds_of_a_real_run(tmp_path: Path, visit: Make, shoot: Make) -> None:
    out = tmp_path / "hand"
    run = start_run(out, *QUICK, rounds=3, images=IMAGES, previews=2)
    try:
        page = visit(run.address)
        bests = []
        for round_ in (1, 2, 3):
            ids, verdicts = judged(page, out, round_, IMAGES)
            assert len(ids) == IMAGES
            good = [one for one, success in zip(ids, verdicts, strict=True) if success] or ids[:1]
            if round_ == 1:
                for one in good:
                    page.locator(f'.tile[data-id="{one}"]').click()
            else:
                expect(page.locator(".grid .tile[data-id]").first).to_be_focused()
                for place, one in enumerate(ids):
                    if one in good:
                        page.keyboard.press("Space")
                    if place < IMAGES - 1:
                        page.keyboard.press("ArrowRight")
            if round_ != 2:
                page.locator(f'.tile[data-id="{good[0]}"]').focus()
                page.keyboard.press("b")
                bests.append(good[0])
            else:
                page.reload()  # in the middle of a round
                expect(page.locator(".grid .tile.good")).to_have_count(len(good))
                expect(page.get_by_text("Stays the best unless you choose another")).to_be_visible()
                bests.append(bests[0])
            shoot(page, f"run-round-{round_}")
            page.get_by_role("button", name="Submit round").click()
            page.get_by_role("button", name="Submit", exact=True).click()
            expect(page.get_by_role("button", name="Submit", exact=True)).to_be_hidden()
        expect(page.get_by_role("heading", name="Finished after 3 rounds")).to_be_visible(timeout=1_200_000)
        expect(page.locator(".preview-rows li")).to_have_count(4)
        shoot(page, "run-finished", full=True)
        page.get_by_role("button", name="Finish", exact=True).click()
        page.get_by_role("button", name="Close", exact=True).click(timeout=180_000)
        assert run.process.wait(timeout=180) == 0
    finally:
        run.kill()
    assert (out / "lora" / "pytorch_lora_weights.safetensors").is_file()
    rounds = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [one["good"] + one["bad"] for one in rounds] == [IMAGES] * 3
    assert [one["best"] for one in rounds] == [[best] for best in bests]
    with LabelStore(out / "feedback.db") as store:
        assert all(label.seconds is not None for label in store.labels(1) if label.value == "good")
