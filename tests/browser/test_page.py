"""The labelling page in a real browser: clicks and keys, undo, reload, several people, a server that goes away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

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
    return [int(text) for text in page.locator(".count:visible b").all_inner_texts()]


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
    assert counts(page) == [1, 0, 11]
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
    assert counts(page) == [2, 1, 10]
    page.get_by_role("button", name="Undo").click()
    assert counts(page) == [1, 0, 11]
    page.get_by_role("button", name="Redo").click()
    assert counts(page) == [2, 1, 10]
    page.get_by_role("button", name="All good").click()
    assert counts(page) == [12, 1, 0]
    page.get_by_role("button", name="Undo").click()
    assert counts(page) == [2, 1, 10]
    page.get_by_role("button", name="Submit round").click()
    expect(page.get_by_text("2 images count as good, the other 10 as bad.")).to_be_visible()
    shoot(page, "confirming")
    page.get_by_role("button", name="Submit", exact=True).click()
    expect(page.get_by_role("heading", name="Your answer is stored")).to_be_visible()
    until(lambda: desk.submitters(1) == {"me"})
    assert desk.verdicts(1) == {image: "good" if image in (ids[0], ids[3]) else "bad" for image in ids}
    assert desk.best(1) == {ids[3]}


def test_none_is_good_takes_one_click(make_desk: Make, serve: Make, visit: Make) -> None:
    desk = make_desk()
    desk.begin(1, 12)
    desk.draw(1, 0, 12, 12)
    page = visit(serve(desk).address)
    expect(page.get_by_text("If none is good, all 12 count as bad.")).to_be_visible()
    page.get_by_role("button", name="None is good").click()
    until(lambda: desk.submitters(1) == {"me"})
    assert set(desk.verdicts(1).values()) == {"bad"}


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
    assert counts(page) == [len(good), 1, 64 - len(good)]
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
    assert counts(page) == [2, 1, 10]
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
    assert counts(page) == [2, 1, 10]


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
    assert counts(page) == [0, 0, 12]
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
    assert counts(page) == [1, 23]
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
    assert counts(page) == [3, 3, 9]
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
    assert counts(page) == [2, 1, 10]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the phone"
    bar = page.locator(".bar").bounding_box()
    assert abs(bar["y"] + bar["height"] - 844) < 2, "the bar is not at the bottom"
    assert bar["height"] < 844 / 5
    shoot(page, f"phone-{scheme}")
    page.get_by_role("button", name="Submit").tap()
    shoot(page, f"phone-{scheme}-confirming")
    page.get_by_role("button", name="Submit").tap()
    until(lambda: desk.submitters(2) == {"me"})
    desk.phase("learning", 2, step="representation", done=3, total=10, eta_seconds=9.0)
    expect(page.get_by_role("heading", name="Learning from round 2")).to_be_visible()
    shoot(page, f"phone-{scheme}-learning")


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
