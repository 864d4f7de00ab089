"""`hero tasks` and `hero doctor`: which tasks there are, and whether everything works here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from hero.cli.app import print_json
from hero.cli.options import AsJson, Revision, Run, Settings, Token, Variant, hub_settings
from hero.config import merge, parse_assignments
from hero.console import quiet_libraries, say, table_lines

if TYPE_CHECKING:
    from hero.run.finished import FinishedRun

__all__ = ["doctor", "rounds", "tasks"]


def tasks(as_json: AsJson = False) -> None:
    """List the built-in tasks."""
    from hero.tasks import TASKS

    fields = ("name", "title", "kind", "criterion", "base_success", "judge_model", "sensitive")
    if as_json:
        print_json(
            [
                {key: getattr(task, key) for key in fields}
                | {"prompts": list(task.prompts), "transfer_prompts": list(task.transfer_prompts)}
                for task in TASKS.values()
            ]
        )
        return
    rows = [("task", "what is wanted", "kind", "before training", "prompt")]
    for task in TASKS.values():
        more = f" (and {len(task.prompts) - 1} more)" if len(task.prompts) > 1 else ""
        rows.append((task.name, task.title, task.kind, task.base_success, task.prompts[0] + more))
    say(Console(), *table_lines(rows), "", "hero train --task NAME")


def rounds(run: Run, as_json: AsJson = False) -> None:
    """List the finished rounds of a run, and which of them can be evaluated, exported or gone back to."""
    from hero.run.finished import FinishedRun

    finished = FinishedRun(run)
    kept = finished.kept_rounds
    lines = [
        {
            "round": stats.round,
            "labels": stats.labels,
            "images": stats.images,
            "good": stats.good,
            "kept": stats.round in kept,
            "success": _success(FinishedRun(run, round_=stats.round)) if stats.round in kept else None,
        }
        for stats in finished.history
    ]
    if lines and (newest := finished.current_evaluation) is not None:
        lines[-1]["success"] = newest["success"]["tuned_fresh"]
    if as_json:
        print_json(lines)
        return
    rows = [("round", "labels", "marked good", "kept", "success")]
    for line in lines:
        success = "" if line["success"] is None else f"{line['success']:.0%}"
        good = f"{line['good']} of {line['images']}"
        rows.append((str(line["round"]), str(line["labels"]), good, "yes" if line["kept"] else "", success))
    say(Console(), *table_lines(rows))


def _success(finished: FinishedRun) -> float | None:
    """Of the tuned model from fresh noise, as it was evaluated; None if it was not, or has no judge."""
    evaluation = finished.current_evaluation
    return None if evaluation is None else evaluation["success"]["tuned_fresh"]


def doctor(
    model: Annotated[
        str, typer.Option(metavar="PATH_OR_ID", help="The model to try: tinyworld, a pipeline folder or a hub id.")
    ] = "tinyworld",
    evaluator: Annotated[
        str | None, typer.Option(metavar="MODULE:CALLABLE", help="An evaluator of your own to try on one batch.")
    ] = None,
    revision: Revision = None,
    variant: Variant = None,
    token: Token = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation, a model and an evaluator; exit status 1 if anything is wrong."""
    own = merge(parse_assignments(settings or []), hub_settings(revision, variant, token))
    quiet_libraries()
    from hero.doctor import diagnose

    console = Console()
    checks = []
    for check in diagnose(model, evaluator, settings=own):
        checks.append(check)
        if not as_json:
            say(console, f"{'✓' if check.ok else '✗'} {check.name}: {check.detail}")
            if not check.ok:
                say(console, f"  → {check.remedy}")
    healthy = all(check.ok for check in checks)
    if as_json:
        print_json({"ok": healthy, "checks": [vars(check) for check in checks]})
    if not healthy:
        raise typer.Exit(1)
