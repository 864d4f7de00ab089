"""The studio in a real browser: from a wish to a LoRA by clicks, and how its views behave."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from safetensors.torch import load_file

from hero.web.app import STATIC as PAGE
from studios import OnDisk, config_of

from .desk import PHONE, TOKEN, Served

Make = Callable[..., Any]
LONG = 900_000
QUICK = {
    "sampling.num_steps": "4",
    "sampling.height": "32",
    "sampling.width": "32",
    "lora.rank": "2",
    "update.ppo.timesteps_per_image": "2",
    "reward.similarity.width": "16",
    "reward.similarity.epochs": "5",
    "evaluator.linger": "0",
    "evaluation.images": "2",
    "model.threads": "1",
}
absolute = 'href="/static' in (PAGE / "index.html").read_text(encoding="utf-8")
"""Whether the labelling page can only stand at the root of its server."""


class Studio(Served):
    def __init__(self, root: Path, *arguments: str) -> None:
        os.environ["HERO_STUDIO_TOKEN"] = TOKEN
        super().__init__("hero", "studio", "--runs", str(root), "--port", "0", "--no-browser", *arguments)


@pytest.fixture
def studio() -> Iterator[Callable[..., Studio]]:
    running: list[Studio] = []

    def start(root: Path, *arguments: str) -> Studio:
        running.append(Studio(root, *arguments))
        return running[-1]

    yield start
    for served in running:
        served.kill()


def set_to(page: Page, key: str, value: str) -> None:
    """Gives a setting a value, as somebody would who knows its name."""
    page.get_by_label("Find a setting").fill(key)
    page.get_by_label(key, exact=True).fill(value)


@pytest.mark.learns
def test_from_a_wish_to_a_lora(
    tmp_path: Path, random_pipeline: Path, studio: Callable[..., Studio], visit: Make, shoot: Make
) -> None:
    root = tmp_path / "runs"
    page: Page = visit(studio(root, "--models", str(random_pipeline.parent)).address)
    expect(page.get_by_role("heading", name="Teach a model what you like")).to_be_visible()
    page.get_by_role("link", name="New run").first.click()

    page.get_by_role("button", name="Start").click()  # nothing is said yet
    expect(page.locator("#p-prompts")).to_have_text("Write at least one prompt.")
    expect(page.get_by_label("Prompts", exact=True)).to_be_focused()
    page.get_by_label("Prompts", exact=True).fill("1 hand")
    page.get_by_label("The wish in words").fill("A hand with five fingers.")
    page.get_by_label("Model", exact=True).select_option(str(random_pipeline))
    page.get_by_label("Method", exact=True).select_option("hero")
    page.get_by_label("Rounds", exact=True).fill("many")
    expect(page.get_by_text("rounds = 'many': Input should be a valid integer")).to_be_visible()
    shoot(page, "studio-new", full=True)
    page.get_by_label("Rounds", exact=True).fill("1")
    page.get_by_label("Images a round", exact=True).fill("4")
    page.get_by_text("All settings").click()
    for key, value in QUICK.items():
        set_to(page, key, value)
    expect(page.get_by_text("4 labels in all")).to_be_visible()
    page.get_by_label("Name", exact=True).fill("five fingers")
    page.get_by_role("button", name="Start").click()

    expect(page.get_by_role("heading", name="A hand with five fingers.")).to_be_visible()
    label = page.get_by_role("link", name="Label", exact=True)
    expect(label).to_be_visible(timeout=LONG)
    expect(page.get_by_text("Waits for marks, round 1 of 1", exact=True)).to_be_visible(timeout=LONG)
    if absolute:
        marks = [{"image_id": f"r0001-i000{k}", "kind": "verdict", "value": "good"} for k in (0, 1)]
        marks.append({"image_id": "r0001-i0000", "kind": "best", "value": "yes"})
        below = f"http://127.0.0.1:{page.url.split(':')[2].split('/')[0]}/runs/five%20fingers/label/api/rounds/1"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert page.request.post(f"{below}/marks", data={"evaluator": "me", "marks": marks}, headers=headers).ok
        assert page.request.post(f"{below}/submit", data={"evaluator": "me"}, headers=headers).ok
    else:
        label.click()
        for image in ("r0001-i0000", "r0001-i0001"):
            page.locator(f'.tile[data-id="{image}"]').click()
        page.locator('.tile[data-id="r0001-i0000"]').focus()
        page.keyboard.press("b")
        shoot(page, "studio-label")
        page.get_by_role("button", name="Submit round").click()
        page.get_by_role("button", name="Submit", exact=True).click()
        page.get_by_role("link", name="All runs").click()
        page.get_by_role("link", name="A hand with five fingers.").click()

    expect(page.get_by_text("Finished after 1 round", exact=True)).to_be_visible(timeout=LONG)
    expect(page.get_by_role("heading", name="Before and after")).to_be_visible(timeout=LONG)
    slider = page.locator(".compare .slider")
    slider.get_by_role("slider").press("End")
    assert slider.evaluate("box => getComputedStyle(box).getPropertyValue('--at')") == "100%"
    expect(page.get_by_role("heading", name="Watch it learn")).to_be_visible()
    page.get_by_text("Labels", exact=True).click()
    expect(page.locator(".marked.good")).to_have_count(2)
    expect(page.locator(".marked.is-best")).to_have_count(1)
    shoot(page, "studio-results", full=True)
    with page.expect_download() as downloading:
        page.get_by_role("link", name="LoRA for diffusers", exact=True).click()
    lora = load_file(downloading.value.path())
    assert len(lora) > 8
    assert all(name.startswith("unet.") for name in lora)
    page.get_by_role("button", name="Make: Labels, with their images").click()
    with page.expect_download(timeout=LONG) as downloading:
        page.locator("li", has_text="Labels, with their images").get_by_role("link", name="Download .zip").click(
            timeout=LONG
        )
    assert downloading.value.suggested_filename == "five_fingers-labels.zip"


def test_the_list_on_a_desk_and_a_phone(
    tmp_path: Path, studio: Callable[..., Studio], visit: Make, shoot: Make
) -> None:
    root = tmp_path / "runs"
    cup = OnDisk(root, "cup", rounds=3, config=config_of(criterion="The cup is red."))
    cup.evaluate()
    waiting = OnDisk(root, "mug", rounds=1)
    waiting.say("waiting", done=6, total=6)
    waiting.directory.lock()
    served = studio(root)
    page: Page = visit(served.address)
    expect(page.locator(".run-card")).to_have_count(2)
    expect(page.locator('[data-name="mug"]').get_by_role("link", name="Label")).to_be_visible()
    expect(page).to_have_title("(1) hero studio")
    waiting.say("learning", done=1, total=4)
    expect(page.locator('[data-name="mug"]')).to_contain_text("Learning")  # by itself
    page.locator('[data-name="cup"]').get_by_role("button", name="More").click()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    page.locator('[data-name="cup"]').get_by_role("button", name="More").click()
    page.get_by_role("button", name="Rename…").click()
    page.get_by_label("Name", exact=True).fill("red cup")
    page.get_by_role("button", name="Rename", exact=True).click()
    expect(page.locator('[data-name="red cup"]')).to_be_visible()
    assert (root / "red cup").is_dir()
    waiting.directory.unlock()

    phone: Page = visit(served.address, **PHONE, color_scheme="dark")
    expect(phone.locator(".run-card")).to_have_count(2)
    for view, shown in (("#/", "list"), ("#/new", "form"), ("#/run/red cup", "run")):
        phone.evaluate("view => { location.hash = view; }", view)
        expect(
            phone.locator({"list": ".run-card", "form": ".form-side", "run": ".part-downloads"}[shown]).first
        ).to_be_visible()
        phone.wait_for_timeout(300)
        assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth"), shown
        shoot(phone, f"studio-phone-{shown}", full=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_idle_page_rests(tmp_path: Path, studio: Callable[..., Studio], visit: Make) -> None:
    """Neither the page nor the server computes anything to speak of while nothing happens."""
    root = tmp_path / "runs"
    for name in ("a", "b", "c"):
        OnDisk(root, name, rounds=1)
    served = studio(root)
    page: Page = visit(served.address)
    expect(page.locator(".run-card")).to_have_count(3)
    page.wait_for_timeout(1000)
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable")

    def spent() -> tuple[float, float]:
        metrics = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
        fields = Path(f"/proc/{served.process.pid}/stat").read_text().rpartition(")")[2].split()
        return metrics["TaskDuration"], (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = spent()
    page.wait_for_timeout(8000)
    renderer, server = (after - start for after, start in zip(spent(), before, strict=True))
    assert renderer < 0.08, f"{renderer / 8:.1%} of a processor"
    assert server < 0.16, f"{server / 8:.1%} of a processor"
