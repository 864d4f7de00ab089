"""A real run with people, for the browser's tests and the pictures in the docs: started as anybody would start it."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect

from hero.tasks import TASKS

from .desk import Served

__all__ = ["judged", "start_run"]


def start_run(out: Path, *settings: str, rounds: int, images: int, previews: int) -> Served:
    """`hero train` on the tiny world's hand task, with the page as evaluator; `settings` as for --set."""
    return Served(
        "hero",
        *("train", "--task", "hand", "--evaluator", "web", "--no-browser", "--port", "0", "--no-evaluate"),
        *("--rounds", str(rounds), "--images-per-round", str(images), "--out", str(out)),
        *("--set", "model.threads=1", "--set", f"evaluator.previews={previews}"),
        *(word for setting in settings for word in ("--set", setting)),
    )


def judged(page: Page, out: Path, round_: int, total: int) -> tuple[list[str], list[bool]]:
    """The ids of a round, once all are shown, in the page's order; and what the task's judge says of each."""
    cells = page.locator(f'.grid .tile[data-id^="r{round_:04d}-"]')
    expect(cells).to_have_count(total, timeout=1_200_000)
    ids = cells.evaluate_all("cells => cells.map(cell => cell.dataset.id)")
    judge = TASKS["hand"].judge
    assert judge is not None
    verdicts = []
    for one in ids:
        with Image.open(out / "rounds" / f"{round_:04d}" / "images" / f"{one}.png") as image:
            verdicts.append(judge(image.convert("RGB")).success)
    return ids, verdicts
