"""Everybody can use the page: every control has a name, text has contrast, the keyboard reaches everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from .desk import PHONE

Make = Callable[..., Any]

NAMED = {
    *("button", "switch", "slider", "textbox", "combobox", "link", "image"),
    *("grid", "gridcell", "progressbar", "dialog"),
}

CONTRAST = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")


def nameless(page: Page) -> list[str]:
    """Controls that a screen reader would have no name for."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        f"{node['role']['value']} {node.get('properties')}"
        for node in nodes
        if not node.get("ignored")
        and node.get("role", {}).get("value") in NAMED
        and not node.get("name", {}).get("value", "").strip()
    ]


def check(page: Page) -> None:
    page.wait_for_timeout(250)  # transitions
    assert nameless(page) == []
    assert page.evaluate(CONTRAST) == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    small = page.evaluate(
        "[...document.querySelectorAll('button')].filter(b => b.checkVisibility()).map(b => b.getBoundingClientRect())"
        ".filter(r => r.width && (r.width < 24 || r.height < 24)).length"
    )
    assert small == 0, "a button is smaller than 24 by 24 pixels"


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, PHONE], ids=["light", "dark", "phone"])
def test_every_view_has_names_and_contrast(make_desk: Make, serve: Make, visit: Make, options: dict[str, Any]) -> None:
    desk = make_desk(prompts=["1 hand", "a hand at night"], evaluators=2, sensitive=True)
    for round_ in (1, 2):
        desk.previews(round_ - 1)
        desk.begin(round_, 12)
        best = desk.draw(round_, 0, 12, 12)[0]
        desk.learn(round_, 4 * round_, 12 - 4 * round_, (best,), evaluators=["Ana", "Ben"], disagreements=[best])
    desk.begin(3, 12, (best,))
    desk.draw(3, 0, 8, 12)
    page = visit(serve(desk).address, **options)
    expect(page.get_by_role("dialog", name="Who evaluates?")).to_be_visible()
    check(page)
    page.locator("#name-field").fill("Ana")
    page.keyboard.press("Enter")
    check(page)  # blurred, being drawn
    page.keyboard.press("b")
    page.keyboard.press("z")
    check(page)
    page.keyboard.press("z")
    page.keyboard.press("?")
    check(page)
    page.keyboard.press("Escape")
    desk.draw(3, 8, 12, 12)
    expect(page.locator(".tile[data-id]")).to_have_count(12)
    desk.tell("suggestions", 3, images={f"r0003-i{k:04d}": {"verdict": "good", "score": 0.6} for k in range(6)})
    page.get_by_role("switch", name="Suggestions").click()
    expect(page.locator(".tile.suggested").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the screen"
    page.get_by_role("button", name="Run", exact=True).click()
    check(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Past rounds").click()
    expect(page.locator(".past-words")).to_contain_text("good")
    check(page)
    page.get_by_role("button", name="Back to round 3").click()
    page.locator(".tile[data-id]").nth(3).focus()
    page.keyboard.press("Enter")
    check(page)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Your answer is stored")).to_be_visible()
    desk.phase("learning", 3, step="update", done=1, total=4, eta_seconds=3.0)
    expect(page.get_by_role("progressbar")).to_be_visible()
    check(page)
    desk.phase("failed", 3, message="The disk is full.")
    expect(page.get_by_role("heading", name="The run has failed")).to_be_visible()
    check(page)


def test_the_keyboard_reaches_every_control_and_sees_where_it_is(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(page.locator(".tile[data-id]")).to_have_count(12)
    expect(page.locator(".tile[data-id]").first).to_be_focused()
    seen = []
    for _ in range(24):
        page.keyboard.press("Tab")
        here = page.evaluate(
            """() => {
              const here = document.activeElement;
              if (here === document.body) return ["", ""];
              const shown = here.matches(".tile") ? here.firstChild : here;
              return [here.getAttribute("aria-label") || here.textContent.trim(), getComputedStyle(shown).outlineStyle];
            }"""
        )
        seen.append(here[0])
        if here[0]:
            assert here[1] != "none", f"{here[0]} does not show that it has the focus"
    named = " ".join(seen)
    for control in ("Skip to the images", "change your name", "Light or dark", "Help", "Size of the images", "Run"):
        assert control in named
    for control in ("Undo", "All good", "None is good", "Image 1 of 12"):
        assert control in named
    assert sum("Image" in name and "of 12" in name for name in seen) <= 2, "the grid is one tab stop"


def test_marks_are_told_to_those_who_listen(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(page.locator(".tile[data-id]").first).to_be_focused()
    page.keyboard.press("b")
    expect(page.locator("#announcer")).to_have_text("Best. 1 good")
    expect(page.locator(".tile[data-id]").first).to_have_attribute("aria-label", "Image 1 of 12, best, good")
    page.keyboard.press("Space")
    expect(page.locator("#announcer")).to_have_text("Not good. 0 good")
    page.keyboard.press("x")
    expect(page.locator("#announcer")).to_have_text("Bad. 0 good")
