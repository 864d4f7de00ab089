"""`hero tasks` and `hero doctor`: which tasks there are, and whether everything works here."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from hero.cli.app import print_json
from hero.cli.options import AsJson, Revision, Settings, Token, Variant, hub_settings
from hero.config import merge, parse_assignments
from hero.console import quiet_libraries, say, table_lines

__all__ = ["doctor", "tasks"]


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
