"""Makes docs/images/studio-*.png from real runs of the tiny world, which the tasks' judges label."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from hero.tasks import TASKS

from .conftest import CHROMIUM, FLAGS
from .desk import PHONE, ROOT, TOKEN, Served

FOLDER = ROOT / "docs" / "images"
MOST_BYTES = 260_000
ROUNDS, IMAGES = 4, 32
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
FEW: dict[str, Any] = {"model.threads": 1, "evaluation.images": 48, "evaluator.linger": 0}


class Api:
    """The studio as a program uses it."""

    def __init__(self, page: Page, address: str) -> None:
        self._page = page
        self._root = address.split("/?")[0]

    def get(self, path: str) -> Any:
        return self._page.request.get(f"{self._root}/{path}", headers=HEADERS).json()

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = self._page.request.post(f"{self._root}/{path}", data=body, headers=HEADERS)
        assert answer.ok, answer.text()
        return answer.json()

    def until(self, name: str, *what: str) -> str:
        """Waits until a run does one of these."""
        while (doing := self.get(f"api/runs/{name}")["doing"])["what"] not in what:
            assert doing["what"] != "failed", doing["message"]
            time.sleep(1)
        return str(doing["what"])


def label(api: Api, root: Path, name: str, task: str) -> None:
    """Labels the open round of a run as the task's judge would, and waits until it is learnt from."""
    judge = TASKS[task].judge
    assert judge is not None
    state = api.get(f"runs/{name}/label/api/state?evaluator=me")
    number = state["round"]["round"]
    good = []
    for image in state["round"]["images"]:
        with Image.open(root / name / "rounds" / f"{number:04d}" / "images" / f"{image['id']}.png") as picture:
            judgement = judge(picture.convert("RGB"))
        if judgement.success:
            good.append((judgement.quality, image["id"]))
    marks = [{"image_id": one, "kind": "verdict", "value": "good"} for _, one in good]
    if good:
        marks.append({"image_id": max(good)[1], "kind": "best", "value": "yes"})
        api.post(f"runs/{name}/label/api/rounds/{number}/marks", {"evaluator": "me", "marks": marks})
    body = {"evaluator": "me", "seen_none_good": not good}
    api.post(f"runs/{name}/label/api/rounds/{number}/submit", body)
    print(f"{name}, round {number}: {len(good)} of {len(state['round']['images'])} good", flush=True)
    while api.get(f"api/runs/{name}")["doing"]["what"] == "waiting":
        time.sleep(1)


def shoot(page: Page, name: str) -> None:
    """Writes a picture with a palette, which is a third of the size and looks the same."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(1500)
    path = FOLDER / f"studio-{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = os.path.getsize(path)
    print(f"{path.relative_to(ROOT)}  {size} bytes", flush=True)
    assert size <= MOST_BYTES


def main() -> None:
    """Trains, labels and takes the pictures; minutes."""
    found = next(path for name in CHROMIUM if (path := shutil.which(name)))
    os.environ["HERO_STUDIO_TOKEN"] = TOKEN
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        root = Path(folder) / "runs"
        served = Served("hero", "studio", "--runs", str(root), "--port", "0", "--no-browser")
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS, timeout=600_000)
        page = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce").new_page()
        page.set_default_timeout(600_000)
        try:
            page.goto(served.address)
            api = Api(page, served.address)
            wish = {"method": "heron", "rounds": ROUNDS, "images_per_round": IMAGES, "settings": FEW}
            for name, task, start in (
                ("cat-in-the-box", "black-cat", True),
                ("one-blue-rose", "blue-rose", True),
                ("five-fingers", "hand", False),
            ):
                body = {"name": name, "prompts": list(TASKS[task].prompts), "criterion": TASKS[task].criterion}
                api.post("api/runs", {"wish": {**wish, "task": task, **body, "prompts": []}, "start": start})
            while api.until("cat-in-the-box", "waiting", "finished") == "waiting":
                label(api, root, "cat-in-the-box", "black-cat")
            api.until("one-blue-rose", "waiting")
            page.goto(served.address.split("?")[0])
            page.locator(".run-card").nth(2).wait_for()
            shoot(page, "list")
            page.evaluate("location.hash = '#/run/cat-in-the-box'")
            page.locator(".compare .slider").wait_for()
            page.set_viewport_size({"width": 1280, "height": 1500})
            shoot(page, "run")
            page.set_viewport_size({"width": 1280, "height": 800})
            page.evaluate("location.hash = '#/new'")
            page.get_by_label("Prompts", exact=True).fill("a lighthouse at dusk")
            page.get_by_label("The wish in words").fill("One lighthouse, and its light is on.")
            shoot(page, "new")
            phone = browser.new_context(**{**PHONE, "device_scale_factor": 1}, color_scheme="dark").new_page()
            phone.goto(served.address)
            phone.locator(".run-card").nth(2).wait_for()
            shoot(phone, "phone")
            api.post("api/runs/one-blue-rose/do", {"do": "kill"})
        finally:
            served.kill()
            browser.close()


if __name__ == "__main__":
    main()
