"""The application: how it handles mistakes and Ctrl-C, and the functions with which every command prints."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import hero
from hero.errors import HeroError

__all__ = ["Group", "app", "interruptible", "interruptible_bench", "main", "print_json"]

_INTERRUPTED = 130


class Group(TyperGroup):
    """Turns the errors that `hero` raises on purpose into one line on stderr and their exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HeroError as error:
            if os.environ.get("HERO_TRACEBACK") == "1":
                traceback.print_exc()
            _complain(str(error))
            raise typer.Exit(error.exit_status) from None
        except KeyboardInterrupt:
            _complain("interrupted")
            raise typer.Exit(_INTERRUPTED) from None


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Teach text-to-image diffusion models from a person's own judgement, online.",
)


@app.callback(invoke_without_command=True)
def hero_(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE",
            help="Your own module that registers noises, rewards, updates or methods; it may be in the current "
            "directory. Repeatable.",
        ),
    ] = None,
) -> None:
    if plugin:
        from hero.own_code import import_own

        for module in plugin:
            import_own(module, f"--plugin {module}")
    if version:
        print(f"hero {hero.__version__}")
        raise typer.Exit


@contextmanager
def interruptible(run: Path, command: str = "") -> Iterator[None]:
    """On Ctrl-C within it, prints that `command` (default: `hero resume`) continues."""
    try:
        yield
    except KeyboardInterrupt:
        begun, command = (run / "config.toml").exists(), command or f"hero resume {run}"
        _complain(f"stopped; `{command}` continues from here" if begun else "stopped; nothing was written")
        raise typer.Exit(_INTERRUPTED) from None


@contextmanager
def interruptible_bench(out: Path) -> Iterator[None]:
    """On Ctrl-C within it, prints how to continue."""
    try:
        yield
    except KeyboardInterrupt:
        _complain(f"stopped; the same command with --out {out} continues from here")
        raise typer.Exit(_INTERRUPTED) from None


def _complain(message: str) -> None:
    print(f"hero: {message}", file=sys.stderr)


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))


def main() -> None:
    """The entry point `hero`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show ✓ still gets its output
    app()
