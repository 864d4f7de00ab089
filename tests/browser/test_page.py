"""The labelling page in a real browser: clicks and keys, undo, reload, several people, a server that goes away."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from hero.feedback import Mark

from .desk import PHONE

Make = Callable[..., Any]


def tiles(page: Page) -> Any:
    return page.locator(".grid .tile[data-id]")


def tile(page: Page, image: str) -> Any:
    return page.locator(f'.grid .tile[data-id="{image}"]')


def until(check: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def counts(page: Page) -> list[int]:
    """Good, best, bad and unmarked images, as the bar counts them (in a blind evaluation there is no best)."""
    return [int(text) for text in page.locator(".counts > span:visible b").all_inner_texts()]


class Keys:
    """A keyboard that counts."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.pressed = 0

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
            self.pressed += 1


def test_images_come_as_they_are_drawn_and_can_be_marked_at_once(
    make_desk: Make, serve: Make, visit: Make, shoot: Make
) -> None:
    desk = make_desk()
    desk.phase("starting", 0, step="loading")
    page = visit(serve(desk).address)
    expect(page.get_by_role("heading", name="Starting")).to_be_visible()
    assert "token" not in page.url
    desk.begin(1, 12)
    expect(page.locator(".tile.awaited")).to_have_count(12)
    first = desk.draw(1, 0, 4, 12)
    expect(tiles(page)).to_have_count(4)
    expect(tile(page, first[0])).to_be_focused()
    expect(page.get_by_role("button", name="Drawing 4 of 12")).to_have_attribute("aria-disabled", "true")
    tile(page, first[2]).click()
    expect(tile(page, first[2])).to_have_attribute("aria-selected", "true")
    until(lambda: desk.verdicts(1) == {first[2]: "good"})
    shoot(page, "drawing")
    desk.draw(1, 4, 12, 12)
    expect(tiles(page)).to_have_count(12)
    expect(page.get_by_text("Everything you leave unmarked counts as bad.")).to_be_visible()
    assert counts(page) == [1, 0, 0, 11]
    page.get_by_role("button", name="Drawing").wait_for(state="hidden")


def test_marks_undo_best_and_submit_with_the_mouse(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(12)
    tile(page, ids[0]).click()
    tile(page, ids[1]).click()
    tile(page, ids[1]).click()
    tile(page, ids[3]).hover()
    page.get_by_role("button", name="Best: image 4", exact=True).click()
    assert counts(page) == [2, 1, 0, 10]
    page.get_by_role("button", name="Undo").click()
    assert counts(page) == [1, 0, 0, 11]
    page.get_by_role("button", name="Redo").click()
    assert counts(page) == [2, 1, 0, 10]
    page.get_by_role("button", name="All good").click()
    assert counts(page) == [12, 1, 0, 0]
    page.get_by_role("button", name="Undo").click()
    assert counts(page) == [2, 1, 0, 10]
    page.get_by_role("button", name="Submit round").click()
    expect(page.get_by_text("2 images count as good, 10 as bad.")).to_be_visible()
    shoot(page, "confirming")
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.get_by_role("heading", name="Your answer is stored")).to_be_visible()
    until(lambda: desk.submitters(1) == {"me"})
    assert desk.verdicts(1) == {image: "good" if image in (ids[0], ids[3]) else "bad" for image in ids}
    assert desk.best(1) == {ids[3]}


def test_that_none_is_good_is_asked_for_before_it_counts(make_desk: Make, serve: Make, visit: Make) -> None:
    """By key and by button; one press of either closes nothing."""
    desk = make_desk()
    desk.begin(1, 12)
    desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(page.get_by_text("If none is good, all 12 count as bad.")).to_be_visible()
    expect(tiles(page).first).to_be_focused()
    for ask in (lambda: page.keyboard.press("Enter"), page.get_by_role("button", name="None is good").click):
        ask()
        expect(page.get_by_text("No image is good: all 12 count as bad.")).to_be_visible()
        assert desk.submitters(1) == set()
        page.get_by_role("button", name="Back").click()
    page.get_by_role("button", name="None is good").dblclick()
    page.wait_for_timeout(300)
    assert desk.submitters(1) == set(), "the second half of a double click confirms nothing"
    page.get_by_role("button", name="None is good").click()
    until(lambda: desk.submitters(1) == {"me"})
    assert set(desk.verdicts(1).values()) == {"bad"}


def test_what_was_never_looked_at_is_counted_and_said(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk(images_per_round=96)
    desk.begin(1, 96)
    ids = desk.draw(1, 0, 96, 96)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(96)
    page.get_by_role("slider", name="Size of the images").fill("200")
    unseen = page.locator(".unseen-count b")
    tile(page, ids[0]).click()
    until(lambda: 40 < int(unseen.inner_text()) < 90)
    page.wait_for_timeout(800)
    left = int(unseen.inner_text())
    shoot(page, "not-seen")
    page.keyboard.press("Enter")
    expect(page.get_by_text(f"95 as bad. You have not looked at {left} of them yet.")).to_be_visible()
    shoot(page, "not-seen-confirming")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="not seen").click()
    until(lambda: int(unseen.inner_text()) < left)
    page.wait_for_timeout(800)
    left = int(unseen.inner_text())
    page.reload()
    expect(tiles(page)).to_have_count(96)
    page.wait_for_timeout(800)
    assert int(unseen.inner_text()) <= left, "what was seen stays so"
    page.keyboard.press("End")
    page.wait_for_timeout(800)
    left = int(unseen.inner_text())
    for _ in range(2):
        page.keyboard.press("Enter")
    until(lambda: desk.submitters(1) == {"me"})
    rest = desk.store.own(1, "me").asides.rest
    assert len(rest) == 95
    assert sum(how == "unseen" for how in rest.values()) == left
    assert rest[ids[1]] == "unmarked"


def test_an_image_is_bad_or_unsure_by_a_key_and_the_next_one_comes(
    make_desk: Make, serve: Make, visit: Make, shoot: Make
) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(tile(page, ids[0])).to_be_focused()
    for key in ("x", "x", "s", "Space", "ArrowRight", "x", "s"):
        page.keyboard.press(key)
    expect(tile(page, ids[6])).to_be_focused()
    assert counts(page) == [1, 0, 3, 2, 6]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("s")  # it was unsure: unsaid again, and it stays
    expect(tile(page, ids[5])).to_be_focused()
    page.keyboard.press("Control+z")
    assert counts(page) == [1, 0, 3, 2, 6]
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("x")
    tile(page, ids[8]).hover()
    page.get_by_role("button", name="Bad: image 9", exact=True).click()
    expect(tile(page, ids[8])).to_have_class("tile bad")
    shoot(page, "three-states")
    page.keyboard.press("Enter")
    expect(
        page.get_by_text("1 image counts as good, 10 as bad; 1 unsure one is left out. 5 of the bad are merely")
    ).to_be_visible()
    page.keyboard.press("Enter")
    until(lambda: desk.submitters(1) == {"me"})
    assert desk.verdicts(1) == {one: "good" if one == ids[3] else "bad" for one in ids if one != ids[2]}
    assert set(desk.store.own(1, "me").asides.rest) == {ids[6], ids[7], *ids[9:]}


def test_a_submitted_round_can_be_taken_back(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    tile(page, ids[0]).click()
    for _ in range(2):
        page.keyboard.press("Enter")
    until(lambda: desk.submitters(1) == {"me"})
    desk.phase("waiting", 1, step="settling")
    expect(page.get_by_role("button", name="Change my answer")).to_be_visible()
    shoot(page, "sent")
    page.keyboard.press("u")
    expect(tile(page, ids[0])).to_have_class("tile good")
    assert counts(page) == [1, 0, 0, 11], "what was left unmarked is unmarked again"
    assert desk.submitters(1) == set()
    tile(page, ids[1]).click()
    for _ in range(2):
        page.keyboard.press("Enter")
    until(lambda: desk.submitters(1) == {"me"})
    page.get_by_role("button", name="Change my answer").click()
    expect(tile(page, ids[1])).to_have_class("tile good")
    for _ in range(2):
        page.keyboard.press("Enter")
    until(lambda: desk.submitters(1) == {"me"})
    desk.learn(1, 2, 10)
    expect(page.get_by_role("button", name="Change my answer")).to_have_count(0)


def test_two_windows_of_one_person_stay_in_step(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    address = serve(desk).address
    laptop, phone = visit(address), visit(address, **PHONE)
    expect(tiles(laptop)).to_have_count(12)
    expect(tiles(phone)).to_have_count(12)
    tile(laptop, ids[0]).click()
    expect(tile(phone, ids[0])).to_have_class("tile good")
    tile(phone, ids[1]).tap()
    phone.get_by_role("button", name="Best: image 2", exact=True).tap()
    expect(tile(laptop, ids[1])).to_have_class("tile good best")
    phone.get_by_role("button", name="Submit").tap()
    phone.get_by_role("button", name="Submit").tap()
    expect(laptop.get_by_role("heading", name="Your answer is stored")).to_be_visible()
    laptop.get_by_role("button", name="Change my answer").click()
    expect(tile(phone, ids[1])).to_have_class("tile good best")


def test_a_stale_answer_is_refused_and_the_difference_shown(make_desk: Make, serve: Make, visit: Make) -> None:
    """What another window stored while this one was cut off from the news."""
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    tile(page, ids[0]).click()
    until(lambda: desk.verdicts(1) == {ids[0]: "good"})
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 image counts as good, 11 as bad.")).to_be_visible()
    page.route(
        "**/api/rounds/1/submit",
        lambda route: (desk.store.mark(1, "me", Mark(ids[3], "verdict", "good")), route.continue_()),
    )
    page.keyboard.press("Enter")
    expect(page.locator(".toast.error")).to_contain_text(f"{ids[3]} is good, here it was unmarked")
    expect(tile(page, ids[3])).to_have_class(re.compile("good"))
    assert desk.submitters(1) == set()
    assert counts(page) == [2, 0, 0, 10]


def test_one_image_at_a_time_by_keys_and_as_they_are_drawn(
    make_desk: Make, serve: Make, visit: Make, shoot: Make
) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 4, 12)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(4)
    page.keyboard.press("v")
    picture = page.locator(".single-frame img")
    expect(picture).to_have_attribute("src", re.compile(ids[0]))
    shoot(page, "one-by-one")
    for key, following in (("ArrowLeft", 1), ("ArrowRight", 2), ("ArrowUp", 3)):
        page.keyboard.press(key)
        expect(picture).to_have_attribute("src", re.compile(ids[following]))
    page.keyboard.press("ArrowDown")
    expect(page.get_by_text("8 images are still being drawn.")).to_be_visible()
    until(lambda: desk.verdicts(1) == {ids[0]: "bad", ids[1]: "good", ids[2]: "good"})
    assert desk.best(1) == {ids[2]}
    page.keyboard.press("u")
    expect(picture).to_have_attribute("src", re.compile(ids[3]))
    page.keyboard.press("Space")
    ids += desk.draw(1, 4, 12, 12)
    for place in range(4, 12):
        expect(picture).to_have_attribute("src", re.compile(ids[place]))
        page.keyboard.press("ArrowLeft")
    expect(page.get_by_text("Every image is decided.")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_text("3 images count as good, 9 as bad.")).to_be_visible()
    page.keyboard.press("Enter")
    until(lambda: desk.submitters(1) == {"me"})
    assert desk.store.own(1, "me").asides.rest == {}
    assert all(label.seconds is not None for label in desk.store.labels(1) if label.value == "bad")
    page.reload()
    desk.learn(1, 3, 9, (ids[2],))
    desk.begin(2, 12, (ids[2],))
    desk.draw(2, 0, 12, 12)
    expect(picture).to_be_visible()  # the view is remembered
    page.keyboard.press("v")
    expect(tiles(page)).to_have_count(12)


def swipe(page: Page, selector: str, x: int, y: int) -> None:
    """A finger that moves by (x, y) from the middle of an element."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    start = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    session = page.context.new_cdp_session(page)
    session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [start]})
    for part in (0.5, 1.0):
        moved = {"x": start["x"] + part * x, "y": start["y"] + part * y}
        session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [moved]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    session.detach()


def test_one_image_at_a_time_by_swipes_on_a_phone(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address, **PHONE)
    expect(tiles(page)).to_have_count(12)
    page.get_by_role("button", name="One image at a time").tap()
    picture = page.locator(".single-frame img")
    expect(picture).to_be_visible()
    shoot(page, "phone-one-by-one")
    assert page.evaluate("document.documentElement.scrollHeight") <= 844, "all of it is in view"
    for place, (x, y) in enumerate([(-120, 4), (120, -6), (5, -120), (0, 120)]):
        expect(picture).to_have_attribute("src", re.compile(ids[place]))
        swipe(page, ".single-frame", x, y)
    expect(picture).to_have_attribute("src", re.compile(ids[4]))
    page.wait_for_timeout(500)  # a tap that follows a swipe at once is taken for a part of it
    page.get_by_role("group", name="This image is").get_by_role("button", name="Good").tap()
    until(lambda: len(desk.verdicts(1)) == 4)
    assert desk.verdicts(1) == {ids[0]: "bad", ids[1]: "good", ids[2]: "good", ids[4]: "good"}
    assert desk.best(1) == {ids[2]}
    assert desk.store.own(1, "me").asides.unsure == (ids[3],)


def test_a_reason_is_kept_with_its_image(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(tile(page, ids[0])).to_be_focused()
    page.keyboard.press("w")
    page.get_by_role("textbox", name="Reason").fill("six fingers")
    shoot(page, "reason")
    page.keyboard.press("Enter")
    until(lambda: desk.store.own(1, "me").asides.reasons == {ids[0]: "six fingers"})
    expect(tile(page, ids[0])).to_contain_text("six fingers")
    page.keyboard.press("u")
    until(lambda: desk.store.own(1, "me").asides.reasons == {})
    page.keyboard.press("z")
    page.keyboard.press("w")
    page.get_by_role("textbox", name="Reason").fill("torn thumb")
    page.get_by_role("button", name="Keep it").click()
    expect(page.locator(".zoom-caption")).to_have_text("“torn thumb”")


def test_a_range_by_shift_and_what_can_be_undone_after_a_reload(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    tile(page, ids[2]).click()
    tile(page, ids[6]).click(modifiers=["Shift"])
    assert counts(page) == [5, 0, 0, 7]
    until(lambda: len(desk.verdicts(1)) == 5)
    page.reload()
    expect(tile(page, ids[6])).to_have_class("tile good")
    page.keyboard.press("u")
    assert counts(page) == [1, 0, 0, 11]
    page.keyboard.press("Shift+u")
    assert counts(page) == [5, 0, 0, 7]


def test_the_browser_s_back_closes_what_lies_over_the_page(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    (old, *_) = desk.draw(1, 0, 12, 12)
    desk.learn(1, 4, 8, (old,))
    desk.begin(2, 12, (old,))
    desk.draw(2, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(12)
    dialog = page.get_by_role("dialog", name="One image, large")
    for _ in range(2):
        page.keyboard.press("z")
        expect(dialog).to_be_visible()
        page.go_back()
        expect(dialog).to_be_hidden()
    for key in ("z", "z", "?", "Escape", "z", "z", "z", "z"):  # quicker than the browser goes back
        page.keyboard.press(key)
    expect(dialog).to_be_hidden()
    expect(tiles(page)).to_have_count(12)
    page.get_by_role("button", name="Past rounds").click()
    expect(page.locator(".past-words")).to_be_visible()
    page.go_back()
    expect(page.locator(".past-words")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Help")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("dialog", name="Help")).to_be_hidden()
    expect(tiles(page)).to_have_count(12)


def test_an_image_in_its_real_size(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk()
    desk.begin(1, 4)
    desk.draw(1, 0, 4, 4, size=1400)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(4)
    page.keyboard.press("z")
    picture = page.locator(".zoom-frame img")
    page.keyboard.press("1")
    until(lambda: picture.evaluate("image => image.naturalWidth") == 1400)
    until(lambda: picture.evaluate("image => image.getBoundingClientRect().width") == 1400)
    scrolled = "document.querySelector('.zoom-frame').scrollLeft"
    before = page.evaluate(scrolled)
    assert before > 0, "it begins in the middle"
    box = page.locator(".zoom-frame").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 300)
    page.mouse.up()
    assert page.evaluate(scrolled) == before + 100
    shoot(page, "real-size")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".zoom-frame.actual")).to_have_count(0)


def test_the_arrow_keys_after_the_slider_and_into_a_short_last_row(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(12)
    slider = page.get_by_role("slider", name="Size of the images")
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
    size = slider.input_value()
    expect(tile(page, ids[0])).to_be_focused()
    columns = page.evaluate("document.querySelector('.row').children.length")
    assert 12 % columns, "the last row is a short one"
    for place in range(columns - 1):
        page.keyboard.press("ArrowRight")
        expect(tile(page, ids[place + 1])).to_be_focused()
    for _ in range(12 // columns):
        page.keyboard.press("ArrowDown")
    expect(tile(page, ids[11])).to_be_focused()
    assert slider.input_value() == size


def test_suggestions_are_asked_for_in_each_run_anew(make_desk: Make, serve: Make, visit: Make) -> None:
    served = None
    for number in range(2):
        desk = make_desk()
        desk.begin(2, 12)
        ids = desk.draw(2, 0, 12, 12)
        desk.tell("suggestions", 2, images={one: {"verdict": "good", "score": 0.6} for one in ids})
        if served is None:
            served = serve(desk)
            page = visit(served.address)
            page.get_by_role("switch", name="Suggestions").click()
            page.reload()
            expect(page.get_by_role("switch", name="Suggestions")).to_have_attribute("aria-checked", "true")
            served.kill()
        else:
            serve(desk, served.port)
            page.goto(served.address)
        expect(page.get_by_role("switch", name="Suggestions")).to_have_attribute(
            "aria-checked", ["true", "false"][number]
        )


def test_the_rest_as_suggested_in_one_key(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(2, 12)
    ids = desk.draw(2, 0, 12, 12)
    desk.tell(
        "suggestions",
        2,
        images={
            one: {"verdict": "good" if k < 4 else "bad", "score": 0.6 if k < 4 else 0.2} for k, one in enumerate(ids)
        },
    )
    page = visit(serve(desk).address)
    expect(tile(page, ids[0])).to_be_focused()
    page.keyboard.press("x")
    page.keyboard.press("s")
    page.keyboard.press("r")
    expect(page.get_by_text("10 images marked as the model suggests")).to_be_visible()
    assert counts(page) == [2, 0, 9, 1, 0] or counts(page)[0] == 2
    until(lambda: len(desk.verdicts(2)) == 11)
    told = {label.image_id: label.suggested for label in desk.store.labels(2) if label.kind == "verdict"}
    assert told == {ids[0]: None, **{one: "good" if k < 4 else "bad" for k, one in enumerate(ids) if k > 1}}
    page.keyboard.press("u")
    assert counts(page)[0] == 0


def test_sixty_four_images_by_keyboard_alone(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk(images_per_round=64)
    desk.begin(1, 64)
    ids = desk.draw(1, 0, 64, 64)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(64)
    good = [0, *range(3, 64, 4)]
    keys = Keys(page)
    for place in range(64):
        if place in good:
            keys.press("b" if place == 7 else "Space")
        if place < 63:
            keys.press("ArrowRight")
    assert counts(page) == [len(good), 1, 0, 64 - len(good)]
    shoot(page, "marked-64")
    keys.press("Enter", "Enter")
    until(lambda: desk.submitters(1) == {"me"})
    assert keys.pressed <= 64 + len(good) + 2
    assert desk.verdicts(1) == {image: "good" if place in good else "bad" for place, image in enumerate(ids)}
    assert desk.best(1) == {ids[7]}


def test_keys_undo_zoom_all_none_and_help(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(tile(page, ids[0])).to_be_focused()
    keys = Keys(page)
    keys.press("a")
    assert counts(page)[0] == 12
    keys.press("n")
    assert counts(page)[0] == 0
    keys.press("u")
    assert counts(page)[0] == 12
    keys.press("Shift+U", "End", "Space")
    assert counts(page)[0] == 1
    expect(tile(page, ids[11])).to_be_focused()
    keys.press("Home", "z")
    dialog = page.get_by_role("dialog", name="One image, large")
    expect(dialog).to_be_visible()
    keys.press("ArrowRight", "ArrowRight", "b")
    expect(dialog.get_by_role("button", name="Best")).to_have_attribute("aria-pressed", "true")
    shoot(page, "zoom")
    keys.press("z")
    expect(dialog).to_be_hidden()
    expect(tile(page, ids[2])).to_be_focused()
    assert counts(page) == [2, 1, 0, 10]
    keys.press("?")
    expect(page.get_by_role("dialog", name="Help")).to_be_visible()
    shoot(page, "help")
    keys.press("Escape", "Enter")
    expect(page.get_by_role("button", name="Back")).to_be_visible()
    keys.press("Escape")
    expect(page.get_by_role("button", name="Back")).to_be_hidden()
    until(lambda: desk.best(1) == {ids[2]})


def test_a_reload_in_the_middle_shows_the_half_done_round(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 8, 12)
    page = visit(serve(desk).address)
    tile(page, ids[1]).click()
    tile(page, ids[5]).click()
    page.keyboard.press("b")
    until(lambda: desk.best(1) == {ids[5]})
    page.reload()
    expect(tile(page, ids[1])).to_have_class("tile good")
    expect(tile(page, ids[5])).to_have_class("tile good best")
    desk.draw(1, 8, 12, 12)
    expect(tiles(page)).to_have_count(12)
    assert counts(page) == [2, 1, 0, 10]


def test_the_best_so_far_stays_or_is_replaced_and_kept(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    (old, *_) = desk.draw(1, 0, 12, 12)
    desk.learn(1, 4, 8, (old,))
    desk.begin(2, 12, (old,))
    ids = desk.draw(2, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(page.get_by_text("Stays the best unless you choose another")).to_be_visible()
    expect(tile(page, ids[0])).to_be_focused()
    page.keyboard.press("b")
    expect(page.get_by_text("Your new best")).to_be_visible()
    page.get_by_role("button", name="Keep the earlier best").click()
    expect(page.get_by_text("Stays the best", exact=True)).to_be_visible()
    page.keyboard.press("b")
    page.keyboard.press("k")
    shoot(page, "best-stays")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    until(lambda: desk.submitters(2) == {"me"})
    assert desk.best(2) == {old}
    assert desk.verdicts(2)[ids[0]] == "good"


def test_marks_survive_a_server_that_dies_and_the_page_says_so(
    make_desk: Make, serve: Make, visit: Make, shoot: Make
) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    served = serve(desk)
    page = visit(served.address)
    tile(page, ids[0]).click()
    until(lambda: ids[0] in desk.verdicts(1))
    served.kill()
    tile(page, ids[1]).click()
    tile(page, ids[2]).click()
    expect(page.get_by_role("alert")).to_contain_text("The server is away. 2 changes are kept in this browser")
    expect(tile(page, ids[2])).to_have_class("tile good unsent")
    shoot(page, "server-away")
    page.keyboard.press("u")
    serve(desk, served.port)
    expect(page.get_by_role("alert")).to_be_hidden()
    until(lambda: set(desk.verdicts(1)) == {ids[0], ids[1]})
    expect(tile(page, ids[1])).to_have_class("tile good")


def test_unsent_marks_survive_even_a_closed_page(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    served = serve(desk)
    page = visit(served.address)
    expect(tiles(page)).to_have_count(12)
    served.kill()
    tile(page, ids[4]).click()
    expect(page.get_by_role("alert")).to_contain_text("1 change is kept")
    again = serve(desk, served.port)
    page.context.new_page().goto(again.address)
    until(lambda: set(desk.verdicts(1)) == {ids[4]})


def test_a_refused_mark_is_taken_back_in_sight(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(12)
    desk.store.submit(1, "me")  # from another window, say
    tile(page, ids[0]).click()
    expect(page.locator(".toast.error")).to_contain_text("Not stored")
    expect(page.get_by_role("heading", name="Your answer is stored")).to_be_visible()
    assert desk.verdicts(1) == {}


def test_two_evaluators_at_once(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk(evaluators=2)
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    address = serve(desk).address
    pages = {}
    for name in ("Ana", "Ben"):
        page = pages[name] = visit(address)
        page.get_by_role("textbox", name="Name").or_(page.get_by_role("combobox", name="Name")).fill(name)
        page.get_by_role("button", name="Go on").click()
    tile(pages["Ana"], ids[0]).click()
    tile(pages["Ben"], ids[1]).click()
    tile(pages["Ben"], ids[2]).click()
    expect(pages["Ana"].get_by_label("Evaluators")).to_contain_text("Ben2 marked")
    expect(tile(pages["Ana"], ids[1])).to_have_attribute("aria-selected", "false")
    shoot(pages["Ana"], "two-evaluators")
    for key in ("Enter", "Enter"):
        pages["Ben"].keyboard.press(key)
    expect(
        pages["Ben"].get_by_text("You found 2 of 12 good. Waiting for 1 more evaluator. Ana is at it.")
    ).to_be_visible()
    expect(pages["Ana"].get_by_label("Evaluators")).to_contain_text("Bendone")
    shoot(pages["Ben"], "waiting-for-others")
    assert desk.submitters(1) == {"Ben"}
    assert set(desk.verdicts(1, "Ana")) == {ids[0]}


def test_suggestions_order_mark_and_are_remembered(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk()
    desk.begin(2, 12)
    ids = desk.draw(2, 0, 12, 12)
    scores = {image: (place + 0.5) / 12 for place, image in enumerate(ids)}
    suggested = {image: {"verdict": "good" if p > 0.5 else "bad", "score": p} for image, p in scores.items()}
    desk.tell("suggestions", 2, images=suggested)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(12)
    assert counts(page) == [0, 0, 0, 12]
    page.get_by_role("switch", name="Suggestions").click()
    assert counts(page)[0] == 6
    shown = [cell.get_attribute("data-id") for cell in tiles(page).all()]
    assert [abs(scores[image] - 0.5) for image in shown] == sorted(abs(p - 0.5) for p in scores.values())
    shoot(page, "suggestions")
    tile(page, ids[11]).click()
    tile(page, ids[0]).click()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    until(lambda: desk.submitters(2) == {"me"})
    good = {image for image, verdict in desk.verdicts(2).items() if verdict == "good"}
    assert good == {ids[0], *ids[6:11]}
    stored = {label.image_id: label.suggested for label in desk.store.labels(2) if label.kind == "verdict"}
    assert stored == {image: one["verdict"] for image, one in suggested.items()}


def test_training_end_and_commands(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk()
    desk.previews(0)
    for round_, good in enumerate((3, 6, 9), start=1):
        desk.begin(round_, 12)
        (best, *_) = desk.draw(round_, 0, 12, 12)
        if round_ < 3:
            desk.learn(round_, good, 12 - good, (best,))
            desk.previews(round_)
    address = serve(desk).address
    page = visit(address)
    expect(tiles(page)).to_have_count(12)
    page.get_by_role("button", name="Past rounds").click()
    expect(page.locator(".past-words")).to_have_text("6 good, 6 bad.")
    shoot(page, "past-round")
    page.get_by_role("button", name="Back to round 3").click()
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    until(lambda: desk.submitters(3) == {"me"})
    desk.phase("learning", 3, step="update", done=30, total=80, eta_seconds=42.0)
    expect(page.get_by_role("heading", name="Learning from round 3")).to_be_visible()
    expect(page.get_by_text("about 40 s left", exact=True)).to_be_visible()
    bar = page.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", "38")
    expect(page.get_by_role("img", name="round 2: 50 %").first).to_be_visible()
    shoot(page, "learning", full=True)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("button", name="Pause").click()
    until(lambda: [command.kind for command in desk.channel.commands()] == ["pause"])
    desk.phase("paused", 3)
    page.get_by_role("button", name="Go on").click()
    until(lambda: [command.kind for command in desk.channel.commands()] == ["pause", "resume"])
    desk.learn(3, 12, 0)
    desk.previews(3)
    desk.tell("run", 0, **{**desk.run, "rounds": 3, "lora": "runs/hand-hero-s0/lora/pytorch_lora_weights.safetensors"})
    desk.phase("finished", 3)
    expect(page.get_by_role("heading", name="Finished after 3 rounds")).to_be_visible()
    expect(page.get_by_text("pytorch_lora_weights.safetensors")).to_be_visible()
    shoot(page, "finished", full=True)
    page.locator(".extra").get_by_role("button", name="More rounds").click()
    page.get_by_label("Rounds to add").fill("5")
    shoot(page, "more-rounds")
    page.get_by_role("button", name="Add them").click()
    until(lambda: desk.channel.commands()[-1].body == {"rounds": 5})
    desk.phase("stopped", 3)
    expect(page.get_by_role("heading", name="Stopped and saved")).to_be_visible()


def test_the_end_shows_what_was_learnt_and_where_it_is(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    lora = "/home/ada/runs/hand/lora/pytorch_lora_weights.safetensors"
    desk = make_desk(rounds=2, refined=True, folder="/home/ada/runs/hand", lora=lora)
    (desk.folder / "report.html").write_text("<p>the report")
    (desk.folder / "lora").mkdir()
    (desk.folder / "lora" / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    desk.previews(0)
    for round_ in (1, 2):
        desk.begin(round_, 12)
        desk.draw(round_, 0, 12, 12)
        desk.learn(round_, 4 * round_, 12 - 4 * round_)
        desk.previews(round_)
    figures = {"images": 48, "labels": 24, "diversity": {}, "drift": None, "people": None, "report": True}
    sets = {"base": (0.25, [0.15, 0.39]), "tuned_fresh": (0.75, [0.61, 0.85]), "tuned_refined": (None, None)}
    success = {name: value for name, (value, _) in sets.items()}
    desk.tell("result", 0, success=success, success_interval={name: i for name, (_, i) in sets.items()}, **figures)
    desk.phase("stopped", 2, step="complete", message="`hero resume /home/ada/runs/hand --rounds 4` adds rounds.")
    served = serve(desk)
    page = visit(served.address)
    expect(page.get_by_role("heading", name="Finished after 2 rounds")).to_be_visible()
    expect(page.get_by_role("row", name="Tuned, fresh noise 75 % 61–85 %")).to_be_visible()
    expect(page.locator(".lead code")).to_have_text("hero resume /home/ada/runs/hand --rounds 4")
    expect(page.get_by_text("this curve is ahead of what other programs draw")).to_be_visible()
    assert "A1111" not in page.locator("body").inner_text(), "which cannot read this layout"
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Open the report").click()
    expect(opened.value.get_by_text("the report")).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download the LoRA").click()
    assert saved.value.path().read_bytes() == b"weights"
    shoot(page, "end", full=True)
    page.get_by_role("button", name="Close").click()
    until(lambda: [command.kind for command in desk.channel.commands()] == ["finish"])
    served.kill()
    expect(page.locator(".notice")).to_contain_text(
        "its page is closed. hero label /home/ada/runs/hand shows it again."
    )
    expect(page.get_by_role("button", name="Close")).to_have_count(0)
    expect(page.get_by_role("link", name="Download the LoRA")).to_have_count(0)
    shoot(page, "end-closed", full=True)


def test_where_no_judge_can_say_the_end_names_what_would_tell(
    make_desk: Make, serve: Make, visit: Make, shoot: Make
) -> None:
    desk = make_desk(rounds=1, folder="/home/ada/my runs/lake", criterion="It is calm.")
    desk.begin(1, 12)
    desk.draw(1, 0, 12, 12)
    desk.learn(1, 4, 8)
    unknown = dict.fromkeys(("base", "tuned_fresh", "tuned_refined"))
    desk.tell("result", 0, images=48, labels=12, success=unknown, success_interval=unknown, people=None, report=True)
    desk.phase("stopped", 1, step="complete", message="")
    page = visit(serve(desk).address)
    expect(page.get_by_text("Success is unknown")).to_be_visible()
    expect(page.locator(".result code")).to_have_text("hero evaluate '/home/ada/my runs/lake' --evaluator web")
    shoot(page, "end-unknown", full=True)


def test_another_server_at_the_same_address_is_told_from_none(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    desk.draw(1, 0, 12, 12)
    served = serve(desk)
    page = visit(served.address)
    expect(tiles(page)).to_have_count(12)
    served.kill()
    expect(page.get_by_role("alert")).to_contain_text("The server is away")
    serve(desk, served.port, token="another-token-for-tests-0123")
    expect(page.get_by_role("alert")).to_contain_text("Another server answers here")


def test_a_proxy_below_a_path_of_its_own(make_desk: Make, serve: Make, visit: Make, prefixed: Make) -> None:
    """Nothing in the page names an address from the root: all of it works where a proxy puts it."""
    desk = make_desk()
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    address = prefixed(serve(desk), "/user/ada/proxy/8420")
    page = visit(address)
    assert page.url.endswith("/user/ada/proxy/8420/")
    expect(tiles(page)).to_have_count(12)
    until(lambda: page.evaluate("[...document.querySelectorAll('.tile img')].every(image => image.naturalWidth > 0)"))
    tile(page, ids[0]).click()
    until(lambda: desk.verdicts(1) == {ids[0]: "good"})
    desk.phase("drawing", 1, done=3, total=12)
    expect(page.locator(".doing")).to_contain_text("Drawing")  # the stream of events comes through
    for _ in range(2):
        page.keyboard.press("Enter")
    until(lambda: desk.submitters(1) == {"me"})


def test_a_blind_evaluation_asks_for_good_or_bad_alone(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk(mode="evaluation", rounds=1)
    desk.begin(1, 24)
    ids = desk.draw(1, 0, 24, 24, letter="e")
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(24)
    expect(page.get_by_role("heading", name="Blind evaluation")).to_be_visible()
    expect(page.get_by_role("button", name="Best")).to_have_count(0)
    page.keyboard.press("b")
    page.keyboard.press("Space")
    shoot(page, "blind-evaluation")
    assert counts(page) == [1, 0, 23]
    until(lambda: desk.verdicts(1) == {ids[0]: "good"})


def test_a_sensitive_task_is_blurred_until_asked(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    prompts = ["a person posing", "a person in a park", "a person dancing"]
    desk = make_desk(task="modest-figure", prompts=prompts, sensitive=True, criterion="The person is dressed.")
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    picture = tile(page, ids[0]).locator("img")
    expect(picture).to_have_css("filter", "blur(22px) saturate(0.35)")
    expect(tile(page, ids[1]).get_by_text("a person in a park")).to_be_visible()
    shoot(page, "blurred")
    page.locator(".notice").get_by_role("button", name="Show images").click()
    expect(picture).to_have_css("filter", "none")
    for place in (0, 1, 2):
        tile(page, ids[place]).hover()
        page.get_by_role("button", name=f"Best: image {place + 1}", exact=True).click()
    assert counts(page) == [3, 3, 0, 9]
    shoot(page, "several-prompts")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone(make_desk: Make, serve: Make, visit: Make, shoot: Make, scheme: str) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    (old, *_) = desk.draw(1, 0, 12, 12)
    desk.learn(1, 4, 8, (old,))
    desk.begin(2, 12, (old,))
    ids = desk.draw(2, 0, 12, 12)
    page = visit(serve(desk).address, color_scheme=scheme, **PHONE)
    expect(tiles(page)).to_have_count(12)
    tile(page, ids[0]).tap()
    page.get_by_role("button", name="Best: image 2", exact=True).tap()
    assert counts(page) == [2, 1, 0, 10]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "the page is wider than the phone"
    picture, lens = (page.locator(f'[data-id="{ids[0]}"] {part}').bounding_box() for part in ("img", ".zoom"))
    assert lens["y"] >= picture["y"] + picture["height"], "the tools lie under the picture, not on it"
    head, switches = (page.locator(one).bounding_box() for one in (".round-head", ".switches"))
    beside = switches["x"] >= head["x"] + head["width"]
    assert beside or switches["y"] >= head["y"] + head["height"], "the switches lie on the title"
    bar = page.locator(".bar").bounding_box()
    assert abs(bar["y"] + bar["height"] - 844) < 2, "the bar is not at the bottom"
    assert bar["height"] < 844 / 5
    shoot(page, f"phone-{scheme}")
    page.get_by_role("button", name="Submit").tap()
    shoot(page, f"phone-{scheme}-confirming")
    page.get_by_role("button", name="Submit").tap()
    until(lambda: desk.submitters(2) == {"me"})
    desk.learn(2, 2, 10, (ids[1],))
    desk.phase("learning", 2, step="representation", done=3, total=10, eta_seconds=9.0)
    expect(page.get_by_role("heading", name="Learning from round 2")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_be_in_viewport()
    shoot(page, f"phone-{scheme}-learning")


def test_the_zoom_on_a_phone_has_its_arrows_beside_each_other(
    make_desk: Make, serve: Make, visit: Make, shoot: Make
) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address, **PHONE)
    expect(tiles(page)).to_have_count(12)
    page.get_by_role("button", name="Zoom: image 3", exact=True).tap()
    frame, before, after = (
        page.locator(one).bounding_box() for one in (".zoom-frame", ".zoom-step >> nth=0", ".zoom-step >> nth=1")
    )
    assert before["y"] == after["y"] >= frame["y"] + frame["height"]
    assert before["x"] < after["x"]
    shoot(page, "phone-zoom")
    swipe(page, ".zoom-frame", -120, 0)
    expect(page.locator(".zoom-place")).to_have_text("4 of 12")
    page.go_back()
    expect(page.get_by_role("dialog", name="One image, large")).to_be_hidden()
    expect(tiles(page)).to_have_count(12)


def test_the_theme_can_be_chosen_and_is_remembered(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(12)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(250, 249, 246)"
    page.get_by_role("button", name="Light or dark").click()
    page.reload()
    expect(tiles(page)).to_have_count(12)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 22)"
    page.keyboard.press("b")
    shoot(page, "dark")


def test_many_large_images(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    desk = make_desk(images_per_round=128)
    desk.begin(1, 128)
    desk.draw(1, 0, 128, 128, size=512)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(128)
    widths = page.evaluate(
        "[...document.querySelectorAll('.tile img')].map(i => new URL(i.src).searchParams.get('width'))"
    )
    assert set(widths) == {"128"}
    page.get_by_role("slider", name="Size of the images").fill("320")
    page.wait_for_function("[...document.querySelectorAll('.tile img')].every(i => i.src.endsWith('width=512'))")
    assert page.evaluate("document.querySelector('.row').children.length") <= 4
    page.keyboard.press("Home")
    shoot(page, "512-pixels")


def test_an_open_page_moves_nothing_while_nothing_happens(make_desk: Make, serve: Make, visit: Make) -> None:
    """Whatever is animated without an end is drawn sixty times a second: two fifths of a core, measured."""
    desk = make_desk(images_per_round=64)
    desk.begin(1, 64)
    desk.draw(1, 0, 8, 64)
    page = visit(serve(desk).address, reduced_motion="no-preference")
    expect(page.locator(".tile.awaited")).to_have_count(56)
    moving = "document.getAnimations({subtree: true}).filter(one => one.playState === 'running').length"
    until(lambda: page.evaluate(moving) == 0)
    desk.draw(1, 8, 64, 64)
    expect(tiles(page)).to_have_count(64)
    until(lambda: page.evaluate(moving) == 0)
    page.keyboard.press("v")
    until(lambda: page.evaluate(moving) == 0)
    desk.learn(1, 20, 44)
    desk.phase("learning", 1, step="update", done=0, total=0)  # how far it is, is not known
    expect(page.get_by_role("progressbar")).to_be_visible()
    until(lambda: page.evaluate(moving) == 0)


def test_many_images_scroll_smoothly(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk(images_per_round=256)
    desk.begin(1, 256)
    desk.draw(1, 0, 256, 256, size=512)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(256)
    page.get_by_role("slider", name="Size of the images").fill("160")
    until(lambda: page.evaluate("[...document.querySelectorAll('.tile img')].every(image => image.complete)"))
    skipped = page.evaluate(
        "[...document.querySelectorAll('.tile')]"
        ".filter(tile => !tile.checkVisibility({contentVisibilityAuto: true})).length"
    )
    assert skipped > 100, "rows out of sight are neither laid out nor painted"
    frames = page.evaluate(
        """() => new Promise(resolve => {
          const times = [];
          const step = now => {
            times.push(now);
            window.scrollBy(0, 60);
            if (times.length < 60) requestAnimationFrame(step);
            else resolve(times.slice(1).map((time, at) => time - times[at]).sort((a, b) => a - b));
          };
          requestAnimationFrame(step);
        })"""
    )
    assert page.evaluate("scrollY") > 2000
    print(f"scrolling: median {frames[29]:.0f} ms a frame, longest {frames[-1]:.0f} ms")
    assert frames[29] < 100, "half of the frames came this soon, on a busy machine without a graphics processor"


def test_the_images_of_one_prompt_alone(make_desk: Make, serve: Make, visit: Make, shoot: Make) -> None:
    prompts = ["1 hand", "a hand that holds a rather long and winding description of what it should look like"]
    desk = make_desk(prompts=prompts)
    desk.begin(1, 12)
    ids = desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(tiles(page)).to_have_count(12)
    page.get_by_role("combobox", name="Images of which prompt").select_option(prompts[1])
    expect(tiles(page)).to_have_count(6)
    caption = tile(page, ids[1]).locator(".caption")
    assert caption.evaluate("one => one.scrollWidth <= one.clientWidth && one.clientHeight > 30"), "two lines, not one"
    page.keyboard.press("a")
    shoot(page, "one-prompt")
    assert counts(page) == [6, 0, 0, 6]
    until(lambda: set(desk.verdicts(1)) == set(ids[1::2]))
    page.get_by_role("combobox", name="Images of which prompt").select_option("All prompts")
    expect(tiles(page)).to_have_count(12)


def test_who_looks_elsewhere_is_told_when_a_round_is_ready(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    desk.draw(1, 0, 4, 12)
    page = visit(serve(desk).address, permissions=["notifications"])
    expect(tiles(page)).to_have_count(4)
    page.evaluate(
        "window.told = []; window.Notification = class { static permission = 'granted';"
        " constructor(title, more) { window.told.push(more.body); } }; document.hasFocus = () => false;"
    )
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("button", name="Sound when ready").click()
    assert page.evaluate("told") == []
    desk.draw(1, 4, 12, 12)
    until(lambda: page.evaluate("told") == ["Round 1 is ready."])
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("button", name="No sound when ready").click()
    desk.learn(1, 4, 8)
    desk.begin(2, 12)
    desk.draw(2, 0, 12, 12)
    expect(page.get_by_role("heading", name="Round 2 of 6")).to_be_visible()
    assert page.evaluate("told") == ["Round 1 is ready."]
