"""Makes docs/images/page-*.png from a real run whose page the task's judge labels: `make page-pictures`."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from .conftest import CHROMIUM, FLAGS
from .desk import PHONE, ROOT
from .run import judged, start_run

FOLDER = ROOT / "docs" / "images"
ROUNDS, IMAGES = 4, 64
MOST_BYTES = 200_000


def until(page: Page, expression: str) -> None:
    """Waits for a JavaScript expression. `wait_for_function` evaluates it in the page, whose policy forbids that."""
    while not page.evaluate(expression):
        page.wait_for_timeout(200)


def shoot(page: Page, name: str) -> None:
    """Writes a picture with a palette, which is a third of the size and looks the same."""
    until(page, "[...document.images].every(image => image.complete)")
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    path = FOLDER / f"page-{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = os.path.getsize(path)
    print(f"{path.relative_to(ROOT)}  {size} bytes")
    assert size <= MOST_BYTES


def label(page: Page, out: Path, round_: int) -> str:
    """Marks what the judge calls a success, in every round but the second a new best; the best's id."""
    ids, verdicts = judged(page, out, round_, IMAGES)
    good = [one for one, success in zip(ids, verdicts, strict=True) if success]
    for one in good:
        page.locator(f'.tile[data-id="{one}"]').click()
    page.locator(f'.tile[data-id="{good[0]}"]').focus()
    page.keyboard.press("b")
    return good[0]


def main() -> None:
    """Trains, labels and takes the pictures; minutes."""
    found = next(path for name in CHROMIUM if (path := shutil.which(name)))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        out = Path(folder) / "hand-hero-s0"
        run = start_run(out, rounds=ROUNDS, images=IMAGES, previews=8)
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS, timeout=600_000)
        page = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce").new_page()
        page.set_default_timeout(1_200_000)
        try:
            page.goto(run.address)
            for round_ in range(1, ROUNDS):
                label(page, out, round_)
                page.evaluate("scrollTo(0, 0)")
                if round_ == 2:
                    shoot(page, "round")
                    phone = browser.new_context(**PHONE, color_scheme="dark").new_page()
                    phone.goto(run.address)
                    expect(phone.locator(".tile.best")).to_be_visible(timeout=1_200_000)
                    shoot(phone, "phone")
                    phone.close()
                page.get_by_role("button", name="Submit round").click()
                page.get_by_role("button", name="Submit", exact=True).click()
                if round_ == 3:
                    expect(page.get_by_text("Improving the model")).to_be_visible(timeout=1_200_000)
                    until(page, "document.querySelector('.meter')?.ariaValueNow >= 30")
                    shoot(page, "learning")
        finally:
            run.kill()
            browser.close()


if __name__ == "__main__":
    main()
