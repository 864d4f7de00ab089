"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hero.errors import ConfigError

__all__ = [
    "CLOSING_SECONDS",
    "AsJson",
    "Host",
    "NoBrowser",
    "NoPage",
    "Port",
    "Processes",
    "Prompts",
    "Publish",
    "PublishKeep",
    "Revision",
    "Run",
    "Settings",
    "Token",
    "Variant",
    "hub_settings",
    "not_empty",
]

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="STAGE.FIELD=VALUE", help="Any setting, e.g. sampling.eta=0.5. Repeatable."),
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompt", metavar="TEXT", help="A prompt; default: those trained on. Repeatable."),
]
Processes = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Processes that share the work on this machine; what is learnt is the same."),
]
Revision = Annotated[str | None, typer.Option(metavar="REF", help="Hub revision: a branch, tag or commit.")]
Variant = Annotated[str | None, typer.Option(metavar="NAME", help="Weight variant of the model's files, e.g. fp16.")]
Token = Annotated[
    str | None, typer.Option(metavar="TOKEN", help="Hub token, for this process only; it is never stored.")
]
Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Address on which the labelling page listens; any but the default lets other machines see it.",
    ),
]
Port = Annotated[int | None, typer.Option(metavar="N", help="Port of the labelling page; default: 8420 if it is free.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Print the page's address without opening it.")]
NoPage = Annotated[
    bool,
    typer.Option("--no-page", help="Serve no labelling page: `hero studio` or `hero label` does, in another process."),
]
Publish = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Put the newest LoRA into this folder after each round, e.g. ComfyUI's models/loras."
    ),
]
PublishKeep = Annotated[int, typer.Option(metavar="N", min=1, help="With --publish: how many of its LoRAs stay.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else on stderr.")]
CLOSING_SECONDS = 2.0
"""Seconds for which the page of a finished run is still served, so that it can show the end."""


def hub_settings(revision: str | None, variant: str | None, token: str | None) -> dict[str, Any]:
    """Where on the hub the model is, as settings; the token goes only to the hub's client."""
    if token is not None:
        os.environ["HF_TOKEN"] = token
    given = {key: value for key, value in (("revision", revision), ("variant", variant)) if value is not None}
    return {"model": given} if given else {}  # an empty table would hide a `model` that is not a table


def not_empty(prompts: list[str] | None) -> list[str] | None:
    if prompts and not all(prompt.strip() for prompt in prompts):
        raise ConfigError("--prompt is empty; give the text to draw")
    return prompts or None
