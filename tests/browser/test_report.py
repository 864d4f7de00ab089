"""The report of a run in a real browser: on a phone, nothing of it is wider than the screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hero.report import write_report
from test_report import make_run

from .desk import PHONE

Make = Callable[..., Any]


def test_the_report_fits_a_phone(tmp_path: Path, visit: Make, shoot: Make) -> None:
    run = tmp_path / "a_run_with_a_name_that_is_long_and_has_no_place_to_break_it_anywhere"
    make_run(run)
    page = visit(write_report(run).as_uri(), **PHONE)
    for fold in page.locator("details").all():
        fold.evaluate("fold => { fold.open = true; }")
    shoot(page, "report-phone", full=True)
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, svg, .hidden')"
        " && e.getBoundingClientRect().right > 391).map(e => `${e.tagName}.${e.className}`)"
    )
    assert wide == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
