"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from hero.errors import ConfigError
from hero.web.listening import Listening

__all__ = [
    "CLOSING_SECONDS",
    "AllowHost",
    "AsJson",
    "Host",
    "Lora",
    "MergeLora",
    "NoBrowser",
    "NoPage",
    "Port",
    "Prefix",
    "Processes",
    "Prompts",
    "Publish",
    "PublishKeep",
    "Revision",
    "Round",
    "Run",
    "Settings",
    "Token",
    "Variant",
    "hub_settings",
    "listening_lines",
    "listening_of",
    "lora_settings",
    "not_empty",
    "prompts_in",
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
Lora = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Start from this LoRA (diffusers', kohya's or ComfyUI's layout) and train it on."
    ),
]
MergeLora = Annotated[
    bool, typer.Option("--merge-lora", help="With --lora: add it to the base model, and train a new one on top.")
]
Token = Annotated[
    str | None, typer.Option(metavar="TOKEN", help="Hub token, for this process only; it is never stored.")
]
Round = Annotated[
    int | None,
    typer.Option("--round", metavar="N", min=1, help="The run as it was after round N; default: the newest."),
]
Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Address on which the labelling page listens; any but the default lets other machines see it.",
    ),
]
Port = Annotated[int | None, typer.Option(metavar="N", help="Port of the labelling page; default: 8420 if it is free.")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Another name by which browsers reach the labelling page, e.g. a proxy's; .example.org: all names that "
        "end so. Repeatable.",
    ),
]
Prefix = Annotated[
    str,
    typer.Option(
        metavar="PATH",
        help="Path below which a proxy passes requests on to the labelling page unchanged, e.g. /hero; one that takes "
        "it off needs none.",
    ),
]
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


def listening_of(host: str, port: int | None, no_browser: bool, allow_host: list[str] | None, prefix: str) -> Listening:
    """Where a page is to be served; fails at once if it cannot be, before anything slow is done.

    Raises:
        ConfigError: the port that was named is taken, or a name or the prefix is not one.
    """
    listening = Listening(host, port, not no_browser, tuple(allow_host or ()), prefix.rstrip("/"))
    listening.check()
    return listening


def listening_lines(listening: Listening) -> list[str]:
    """What to know about a page that other machines can reach; nothing for one that they cannot."""
    if not listening.open_to_others:
        return []
    return [
        f"warning: the page listens on {listening.host}. Whoever has the address can see the images, label, and stop",
        "  the run, and the connection is not encrypted: use it in a network that you trust, or leave --host out and",
        "  use a tunnel (docs/labelling.md)",
    ]


def hub_settings(revision: str | None, variant: str | None, token: str | None) -> dict[str, Any]:
    """Where on the hub the model is, as settings; the token goes only to the hub's client."""
    if token is not None:
        os.environ["HF_TOKEN"] = token
    given = {key: value for key, value in (("revision", revision), ("variant", variant)) if value is not None}
    return {"model": given} if given else {}  # an empty table would hide a `model` that is not a table


def lora_settings(file: str | None, merged: bool) -> dict[str, Any]:
    """The LoRA that a run starts from, as settings.

    Raises:
        ConfigError: it is to be merged, and there is none.
    """
    if merged and file is None:
        raise ConfigError("--merge-lora: there is nothing to merge; give --lora FILE")
    return {} if file is None else {"lora": {"start": os.path.abspath(Path(file).expanduser()), "merge_start": merged}}


def prompts_in(file: Path) -> list[str]:
    """The prompts in a text file, one a line; empty lines do not count.

    Raises:
        ConfigError: it cannot be read, or holds none.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {file}: cannot be read: {error}") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ConfigError(f"--prompts {file}: it holds no prompt; write one on each line")
    return prompts


def not_empty(prompts: list[str] | None) -> list[str] | None:
    if prompts and not all(prompt.strip() for prompt in prompts):
        raise ConfigError("--prompt is empty; give the text to draw")
    return prompts or None
